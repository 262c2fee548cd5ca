//! What crosses, and how exchanges end.

use super::world::{Plan, World, bounded, frame, read, until};
use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use pontoon_raft::catalog::command::VersionPolicy;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn c_fwd_5_a_unary_call_crosses_with_its_trailers() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let answer = client.unary(&[]).await;
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.body, "hello");
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(answer.trailers["x-after"], "all");
    assert!(!answer.trailers.contains_key("nvcf-reqid"));
    assert_eq!(world.counters.bytes_up.get(), 5);
}

#[tokio::test]
async fn c_fwd_5_request_trailers_cross() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/unary").header("x-trailers", "1");
    let (response, mut stream) = client.start(request, false).await;
    stream
        .send_data(Bytes::from_static(b"body"), false)
        .unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-mine", "kept".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    let answer = bounded(read(response)).await.unwrap();
    assert_eq!(answer.trailers["x-echo"], "kept");
}

#[tokio::test]
async fn c_fwd_5_server_streaming_crosses_frame_by_frame() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let answer = client.send(client.request("/many"), b"go").await.unwrap();
    assert_eq!(answer.body.len(), 10_000);
    assert_eq!(answer.get("grpc-status"), "0");
}

#[tokio::test]
async fn c_fwd_5_client_streaming_crosses_in_order() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/unary");
    let (response, mut stream) = client.start(request, false).await;
    let mut whole = Vec::new();
    for n in 0..200_u8 {
        let part = vec![n; 1 + usize::from(n) * 3];
        whole.extend_from_slice(&part);
        stream.send_data(part.into(), n == 199).unwrap();
    }
    assert_eq!(bounded(read(response)).await.unwrap().body, whole);
}

#[tokio::test]
async fn c_fwd_5_bidi_answers_each_message_while_the_request_is_open() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/bidi");
    let (response, mut stream) = client.start(request, false).await;
    let mut body = bounded(response).await.unwrap().into_body();
    for n in 0..50_u8 {
        stream.send_data(Bytes::from(vec![n; 10]), false).unwrap();
        let echo = bounded(frame(&mut body)).await.unwrap().unwrap();
        assert_eq!(echo, vec![n; 10]);
    }
    // Half-close: the worker ends only after it has seen ours.
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(bounded(frame(&mut body)).await.is_none());
    let trailers = bounded(body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn c_fwd_5_trailers_only_stays_trailers_only() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/trailers-only");
    let (response, _stream) = client.start(request, true).await;
    let response = bounded(response).await.unwrap();
    assert!(response.body().is_end_stream());
    assert_eq!(response.headers()["grpc-status"], "9");
    let ids: Vec<_> = response.headers().get_all("nvcf-reqid").iter().collect();
    assert_eq!(ids.len(), 1);
    assert_ne!(ids[0], "the worker's");
    let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies[0], "theirs=1");
    assert_eq!(cookies.len(), 2);
}

#[tokio::test]
async fn c_fwd_5_interim_answers_cross() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/interim");
    let (mut response, _stream) = client.start(request, true).await;
    let interim = bounded(std::future::poll_fn(|cx| response.poll_informational(cx)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(interim.status(), 103);
    assert_eq!(interim.headers()["link"], "</style.css>");
    assert_eq!(bounded(response).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_worker_that_answers_early_is_no_failure() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/early");
    let (response, mut stream) = client.start(request, false).await;
    stream
        .send_data(Bytes::from_static(b"unread"), false)
        .unwrap();
    let answer = bounded(read(response)).await.unwrap();
    assert_eq!(answer.get("grpc-status"), "0");
    let reason = bounded(std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
    assert_eq!(reason.unwrap(), Reason::NO_ERROR);
}

#[tokio::test]
async fn c_fwd_8_a_clients_reset_reaches_the_worker_before_and_after_the_head() {
    let world = World::new().await;
    let mut client = world.connect().await;
    for (path, ends) in [
        ("/hang", false),
        ("/hang", true),
        ("/hang-open", false),
        ("/hang-open", true),
    ] {
        let heads = world.seen().heads.lock().unwrap().len();
        let request = client.request(path);
        let (_response, mut stream) = client.start(request, ends).await;
        until("the worker has the call", || {
            world.seen().heads.lock().unwrap().len() > heads
        })
        .await;
        stream.send_reset(Reason::CANCEL);
        until("the worker sees the reset", || {
            world.seen().resets.lock().unwrap().pop() == Some(Reason::CANCEL)
        })
        .await;
    }
    assert_eq!(world.counters.calls_cancelled.get(), 4);
}

#[tokio::test]
async fn c_fwd_8_a_client_that_vanishes_cancels_its_calls() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/hang");
    let (_response, _stream) = client.start(request, true).await;
    until("the worker has the call", || {
        !world.seen().heads.lock().unwrap().is_empty()
    })
    .await;
    client.ended.abort();
    until("the worker sees the reset", || {
        world.seen().resets.lock().unwrap().first() == Some(&Reason::CANCEL)
    })
    .await;
}

#[tokio::test]
async fn c_fwd_5_a_workers_reset_crosses_with_its_reason() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let error = client.send(client.request("/reset-before"), b"x").await;
    assert_eq!(error.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    let error = client.send(client.request("/reset-after"), b"x").await;
    assert_eq!(error.unwrap_err().reason(), Some(Reason::COMPRESSION_ERROR));
    // The session and its tunnel are as good as before.
    assert_eq!(client.unary(&[]).await.body, "hello");
    assert_eq!(world.seen().dials.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn c_err_9_a_tunnel_that_dies_before_the_answer_is_reported_and_replaced() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let id = client.unary(&[]).await.session();
    let answer = client.send(client.request("/die-before"), b"x").await;
    let answer = answer.unwrap();
    assert_eq!(answer.fault(), ("14", "worker connection lost"));
    assert_eq!(answer.session(), id);
    assert!(answer.cookies().is_empty(), "it was given before");
    assert_eq!(world.counters.calls_retried.get(), 0, "it had been written");
    // The session lives: the next call opens another tunnel.
    assert_eq!(client.unary(&[]).await.session(), id);
    assert_eq!(world.seen().dials.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn c_err_9_a_refused_call_is_repeated_once_with_its_whole_body() {
    let world = World::new().await;
    let mut client = world.connect().await;
    world.seen().refusals_left.store(1, Ordering::Relaxed);
    assert_eq!(client.unary(&[]).await.body, "hello");
    assert_eq!(world.counters.calls_retried.get(), 1);

    world.seen().refusals_left.store(2, Ordering::Relaxed);
    let answer = client.unary(&[]).await;
    assert_eq!(answer.fault(), ("14", "worker connection lost"));
    assert_eq!(world.seen().refusals_left.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn c_err_9_a_refused_stream_is_repeated_while_its_body_still_comes() {
    let world = World::new().await;
    let mut client = world.connect().await;
    world.seen().refusals_left.store(1, Ordering::Relaxed);
    let request = client.request("/bidi");
    let (response, mut stream) = client.start(request, false).await;
    stream
        .send_data(Bytes::from_static(b"first,"), false)
        .unwrap();
    until("the worker has it again", || {
        world.seen().heads.lock().unwrap().len() == 2
    })
    .await;
    stream
        .send_data(Bytes::from_static(b"second"), true)
        .unwrap();
    assert_eq!(bounded(read(response)).await.unwrap().body, "first,second");
}

#[tokio::test]
async fn c_err_10_a_tunnel_that_dies_after_the_answer_began_never_ends_cleanly() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let error = client.send(client.request("/die-after"), b"x").await;
    assert_eq!(error.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(world.counters.calls_broken.get(), 1);
}

#[tokio::test]
async fn c_fwd_1_to_9_the_worker_sees_the_request_as_the_contract_says() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let id = client
        .unary(&[
            ("grpc-timeout", "20S"),
            ("x-custom-bin", "AAEC"),
            ("nvcf-sub", "mallory"),
            ("x-forwarded-for", "6.6.6.6"),
            ("cookie", "a=1"),
        ])
        .await
        .session();
    let head = world.seen().last_head();
    assert_eq!(head.uri(), "http://gateway.test/unary");
    assert_eq!(head.method(), "POST");
    for (name, value) in [
        ("te", "trailers"),
        ("grpc-timeout", "20S"),
        ("x-custom-bin", "AAEC"),
        ("nvcf-reqid", &id.to_string()),
        ("nvcf-sub", "alice"),
        ("nvcf-region", "us-east"),
        ("nvcf-function-name", "function-15"),
        ("cookie", "a=1"),
    ] {
        assert_eq!(head.headers()[name], value, "{name}");
    }
    for gone in ["authorization", "x-forwarded-for"] {
        assert!(!head.headers().contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn c_fwd_2_a_guests_credentials_never_reach_the_owners_worker() {
    let world = World::with(Plan {
        policy: VersionPolicy {
            forward_credentials: true,
            ..VersionPolicy::default()
        },
        shared: true,
        ..Plan::default()
    })
    .await;
    let client = world.connect().await;
    let mut guest = client.with_key(&world.keys.stranger);
    let answer = guest.unary(&[("cookie", "a=1")]).await;
    assert_eq!(answer.get("grpc-status"), "0", "{answer:?}");
    let head = world.seen().last_head();
    assert_eq!(head.headers()["nvcf-sub"], "eve");
    let guests = "5f5f5f5f-5f5f-5f5f-5f5f-5f5f5f5f5f5f";
    assert_eq!(head.headers()["nvcf-ncaid"], guests);
    assert!(!head.headers().contains_key("authorization"));
}

#[tokio::test]
async fn c_err_6_owner_and_guest_of_one_function_never_meet_in_a_session() {
    let world = World::with(Plan {
        shared: true,
        ..Plan::default()
    })
    .await;
    let mut owner = world.connect().await;
    let mut guest = owner.with_key(&world.keys.stranger);
    let owners = owner.unary(&[]).await.session();
    let guests = guest.unary(&[]).await.session();
    assert_ne!(owners, guests, "one connection, two tenants");
    for (client, own, other) in [(&mut owner, owners, guests), (&mut guest, guests, owners)] {
        let answer = client.unary(&[("nvcf-reqid", &other.to_string())]).await;
        assert_eq!(answer.fault(), ("5", "no existing session found"));
        assert_eq!(client.unary(&[]).await.session(), own);
    }
}

#[tokio::test]
async fn c_fwd_2_a_version_may_want_credentials() {
    let world = World::with(Plan {
        policy: VersionPolicy {
            forward_credentials: true,
            ..VersionPolicy::default()
        },
        ..Plan::default()
    })
    .await;
    let mut client = world.connect().await;
    client.unary(&[]).await;
    let head = world.seen().last_head();
    assert_eq!(
        head.headers()["authorization"],
        format!("Bearer {}", world.keys.alice)
    );
}
