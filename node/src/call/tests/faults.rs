//! What is refused, in which order, and with what certainty.

use super::world::{F, Plan, World, until};
use pontoon_proto::fault::Fault;
use pontoon_proto::key::{self, KeyClass};
use pontoon_raft::catalog::command::VersionPolicy;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn c_key_1_the_credential_comes_first_then_the_function_then_the_rest() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let mut bad = vec![
        ("authorization", "nonsense"),
        ("function-id", ""),
        ("function-version-id", "nope"),
    ];
    let (status, text) = ("16", "no authorization was passed in the metadata");
    assert_eq!(client.unary(&bad).await.fault(), (status, text));
    bad[0].1 = "Bearer garbage";
    assert_eq!(
        client.unary(&bad).await.fault(),
        ("16", "invalid credential")
    );
    bad.remove(0);
    let text = "no function-id was passed in the metadata";
    assert_eq!(client.unary(&bad).await.fault(), ("3", text));
    bad[0].1 = "nope";
    assert_eq!(
        client.unary(&bad).await.fault(),
        ("3", "malformed function-id")
    );
    bad.remove(0);
    let text = "malformed function-version-id";
    assert_eq!(client.unary(&bad).await.fault(), ("3", text));
    assert!(world.sessions.events().is_empty());
}

#[tokio::test]
async fn c_err_1_plain_http_gets_a_status_and_a_challenge() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = http::Request::builder().uri("http://gateway.test/");
    let answer = client.send(request, b"").await.unwrap();
    assert_eq!(answer.head.status(), 401);
    assert_eq!(answer.get("www-authenticate"), "Bearer");
    assert_eq!(answer.get("cache-control"), "no-store");
    assert_eq!(answer.body, "no authorization was passed in the metadata");
}

#[tokio::test]
async fn c_err_2_and_h_7_an_unknown_key_is_confirmed_before_it_is_refused() {
    let world = World::new().await;
    let client = world.connect().await;
    let answer = client.with_key(&world.keys.fresh).unary(&[]).await;
    assert_eq!(
        answer.get("grpc-status"),
        "0",
        "another node has just made it"
    );
    assert_eq!(world.catalog.reads.load(Ordering::Relaxed), 1);

    let nobody = key::mint(KeyClass::Client, [99; key::RANDOM_LEN]);
    let answer = client.with_key(nobody.expose()).unary(&[]).await;
    assert_eq!(answer.fault(), ("16", "invalid credential"));
    assert_eq!(world.catalog.reads.load(Ordering::Relaxed), 2);

    let answer = client.with_key("pnt_c_mistyped").unary(&[]).await;
    assert_eq!(answer.fault(), ("16", "invalid credential"));
    assert_eq!(world.catalog.reads.load(Ordering::Relaxed), 2, "unasked");
}

#[tokio::test]
async fn c_err_3_a_scope_that_does_not_cover_the_function() {
    let world = World::new().await;
    let client = world.connect().await;
    let answer = client.with_key(&world.keys.scoped).unary(&[]).await;
    assert_eq!(answer.fault(), ("7", "not authorized to invoke function"));
}

#[tokio::test]
async fn c_err_5_a_function_that_the_tenant_does_not_have() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let text = ("5", "function not found");
    let answer = client.with_key(&world.keys.stranger).unary(&[]).await;
    assert_eq!(answer.fault(), text);
    let other = uuid::Uuid::from_bytes([9; 16]).to_string();
    assert_eq!(client.unary(&[("function-id", &other)]).await.fault(), text);
    let headers = [("function-version-id", &*other)];
    assert_eq!(client.unary(&headers).await.fault(), text);
    // A version of another function is as good as unknown.
    let of_g = "3f3f3f3f-3f3f-3f3f-3f3f-3f3f3f3f3f3f";
    let headers = [("function-version-id", of_g)];
    assert_eq!(client.unary(&headers).await.fault(), text);
    assert_eq!(world.catalog.reads.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn c_err_7_no_worker_within_the_deadline() {
    let world = World::with(Plan {
        opens: 0,
        policy: VersionPolicy {
            wait_ms: 200,
            ..VersionPolicy::default()
        },
        ..Plan::default()
    })
    .await;
    let mut client = world.connect().await;
    let text = ("4", "failed to establish link to worker");
    assert_eq!(client.unary(&[("grpc-timeout", "50m")]).await.fault(), text);
    assert_eq!(client.unary(&[("grpc-timeout", "1H")]).await.fault(), text);
}

#[tokio::test]
async fn c_err_8_a_full_queue_says_when_to_come_back() {
    let world = World::new().await;
    let mut client = world.connect().await;
    world
        .sessions
        .fail_opens
        .lock()
        .unwrap()
        .push(Fault::RateExceeded);
    let answer = client.unary(&[]).await;
    assert_eq!(answer.fault(), ("8", "exceeded rate limit"));
    assert_eq!(answer.get("retry-after"), "1");
    assert_eq!(answer.get("nvcf-reqid"), "", "it is bound to nothing");
}

#[tokio::test]
async fn c_err_11_ignorance_without_a_quorum_is_not_a_refusal() {
    let world = World::new().await;
    world.catalog.reachable.store(false, Ordering::Relaxed);
    let mut client = world.connect().await;
    let text = ("14", "session directory unavailable");
    let fresh = client.with_key(&world.keys.fresh).unary(&[]).await;
    assert_eq!(fresh.fault(), text);
    assert_eq!(fresh.get("retry-after"), "1");
    let other = uuid::Uuid::from_bytes([9; 16]).to_string();
    assert_eq!(client.unary(&[("function-id", &other)]).await.fault(), text);
    assert_eq!(
        client.unary(&[]).await.get("grpc-status"),
        "0",
        "known: unasked"
    );
}

#[tokio::test]
async fn c_err_14_connect_is_not_supported() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = http::Request::builder()
        .method("CONNECT")
        .uri("example.com:443");
    let answer = client.send(request, b"").await.unwrap();
    assert_eq!(answer.head.status(), 501);
    assert_eq!(answer.body, "not supported");
}

#[tokio::test]
async fn a_flood_of_refused_calls_is_counted_and_not_logged_one_by_one() {
    let world = World::new().await;
    let mut client = world.connect().await;
    for _ in 0..100 {
        let request = http::Request::builder().uri("http://gateway/");
        assert_eq!(client.send(request, b"").await.unwrap().head.status(), 401);
    }
    until("all are counted", || {
        let mut faults = world.counters.faults();
        faults.any(|(fault, count)| fault == Fault::NoCredential && count == 100)
    })
    .await;
    // Three lines a second, however long this took; it takes milliseconds.
    assert!(world.counters.calls_unlogged.get() > 0);
}

#[tokio::test]
async fn c_hlt_health_and_info_are_answered_here_without_a_credential() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let get = |path: &str| http::Request::builder().uri(format!("http://gateway.test{path}"));
    let answer = client.send(get("/info"), b"").await.unwrap();
    assert_eq!(answer.get("content-type"), "application/json");
    assert_eq!(
        client
            .send(get("/health"), b"")
            .await
            .unwrap()
            .head
            .status(),
        200
    );
    let check = get("/grpc.health.v1.Health/Check")
        .method("POST")
        .header("content-type", "application/grpc");
    let answer = client.send(check, &[0, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(answer.body[..], [0, 0, 0, 0, 2, 8, 1]);
    assert_eq!(answer.trailers["grpc-status"], "0");

    let with_function = get("/health").header("function-id", F.to_string());
    let answer = client.send(with_function, b"").await.unwrap();
    assert_eq!(answer.head.status(), 401, "this one goes to a worker");
}

#[tokio::test]
async fn faults_are_counted_by_their_label() {
    let world = World::new().await;
    let mut client = world.connect().await;
    client.unary(&[("authorization", "")]).await;
    client.unary(&[("authorization", "Bearer x")]).await;
    client.unary(&[("authorization", "Bearer x")]).await;
    super::world::until("all are counted", || {
        let count = |wanted| {
            let mut all = world.counters.faults();
            all.find(|(fault, _)| *fault == wanted).unwrap().1
        };
        count(Fault::NoCredential) == 1 && count(Fault::InvalidCredential) == 2
    })
    .await;
}
