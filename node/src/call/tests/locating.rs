//! Which session a call belongs to.

use super::world::{Event, F, G, Plan, World, bounded, read, until};
use futures::future::join_all;
use h2::Reason;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{RegionId, RequestId};
use pontoon_raft::catalog::command::{Pin, VersionPolicy};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn opens(world: &World) -> usize {
    let opened = |event: &Event| matches!(event, Event::Opened(_));
    world.sessions.events().into_iter().filter(opened).count()
}

fn cookie(id: RequestId) -> String {
    format!("nvcf-request-id={id}")
}

#[tokio::test]
async fn c_pin_1_one_connection_one_session_and_two_connections_two() {
    let world = World::new().await;
    let mut one = world.connect().await;
    let mut other = world.connect().await;
    let first = one.unary(&[]).await.session();
    assert_eq!(one.unary(&[]).await.session(), first);
    let second = other.unary(&[]).await.session();
    assert_ne!(first, second);
    assert_eq!(opens(&world), 2);
}

#[tokio::test]
async fn c_pin_1_principal_function_and_version_as_sent_have_sessions_of_their_own() {
    let world = World::new().await;
    let mut alice = world.connect().await;
    let mut bob = alice.with_key(&world.keys.bob);
    let version = "2f2f2f2f-2f2f-2f2f-2f2f-2f2f2f2f2f2f";
    let mut ids = vec![
        alice.unary(&[]).await.session(),
        bob.unary(&[]).await.session(),
        alice
            .unary(&[("function-id", &G.to_string())])
            .await
            .session(),
        alice
            .unary(&[("function-version-id", version)])
            .await
            .session(),
    ];
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    assert_eq!(opens(&world), 4);
}

#[tokio::test]
async fn c_pin_1_a_version_may_want_a_session_per_call() {
    let world = World::with(Plan {
        policy: VersionPolicy {
            pin: Pin::Never,
            ..VersionPolicy::default()
        },
        ..Plan::default()
    })
    .await;
    let mut client = world.connect().await;
    let first = client.unary(&[]).await.session();
    assert_ne!(client.unary(&[]).await.session(), first);
}

#[tokio::test]
async fn c_pin_2_ten_racing_calls_share_one_open_and_other_keys_do_not_wait() {
    let world = World::with(Plan {
        opens: 0,
        ..Plan::default()
    })
    .await;
    let client = world.connect().await;
    let racing = join_all((0..10).map(|_| {
        let mut client = client.twin();
        async move { client.unary(&[]).await }
    }));
    let racing = crate::tasks::spawn(crate::tasks::Kind::Worker, "racers", racing);
    until("the open has begun", || {
        world.sessions.open_starts.load(Ordering::Relaxed) == 1
    })
    .await;
    until("all ten are in", || world.counters.calls.get() == 10).await;
    let mut bob = client.with_key(&world.keys.bob);
    let other = crate::tasks::spawn(crate::tasks::Kind::Worker, "other", async move {
        bob.unary(&[]).await.session()
    });
    until("the other open has begun too", || {
        world.sessions.open_starts.load(Ordering::Relaxed) == 2
    })
    .await;
    world.sessions.gate.add_permits(2);
    let answers = bounded(racing).await.unwrap();
    let id = answers[0].session();
    let cookies: usize = answers.iter().map(|answer| answer.cookies().len()).sum();
    assert!(answers.iter().all(|answer| answer.session() == id));
    assert_eq!(cookies, 1, "c_rsp_2: once per session and connection");
    assert_ne!(bounded(other).await.unwrap(), id);
    assert_eq!(opens(&world), 2);
}

#[tokio::test]
async fn c_pin_2_a_failed_open_is_not_cached() {
    let world = World::new().await;
    let mut client = world.connect().await;
    world
        .sessions
        .fail_opens
        .lock()
        .unwrap()
        .push(Fault::RateExceeded);
    assert_eq!(client.unary(&[]).await.fault().0, "8");
    assert_eq!(client.unary(&[]).await.fault().0, "0");
}

#[tokio::test]
async fn c_pin_2_the_open_goes_on_while_anybody_waits_and_ends_with_the_last() {
    let world = World::with(Plan {
        opens: 0,
        ..Plan::default()
    })
    .await;
    let mut client = world.connect().await;
    let request = client.request("/unary");
    let (_first, mut leaver) = client.start(request, true).await;
    until("the open has begun", || {
        world.sessions.open_starts.load(Ordering::Relaxed) == 1
    })
    .await;
    let request = client.request("/unary");
    let (second, _stream) = client.start(request, true).await;
    until("both are in", || world.counters.calls.get() == 2).await;
    leaver.send_reset(Reason::CANCEL);
    until("the first has left", || world.counters.calls.get() == 1).await;
    world.sessions.gate.add_permits(1);
    assert_eq!(bounded(read(second)).await.unwrap().get("grpc-status"), "0");
    assert_eq!(world.sessions.open_starts.load(Ordering::Relaxed), 1);

    // Nobody waits for this one any more: it is given up, and leaves the gate alone.
    let mut bob = client.with_key(&world.keys.bob);
    let request = bob.request("/unary");
    let (_third, mut leaver) = bob.start(request, true).await;
    until("it has begun", || {
        world.sessions.open_starts.load(Ordering::Relaxed) == 2
    })
    .await;
    leaver.send_reset(Reason::CANCEL);
    until("it is over", || world.counters.calls.get() == 0).await;
    world.sessions.gate.add_permits(1);
    assert_eq!(bob.unary(&[]).await.get("grpc-status"), "0");
    assert_eq!(opens(&world), 2);
}

#[tokio::test]
async fn c_pin_2_a_racer_with_more_time_opens_again_when_the_first_one_ran_out() {
    let world = World::with(Plan {
        opens: 0,
        ..Plan::default()
    })
    .await;
    let mut hasty = world.connect().await;
    let mut patient = hasty.twin();
    let hasty = async move { hasty.unary(&[("grpc-timeout", "100m")]).await };
    let patient = async {
        until("the open has begun", || {
            world.sessions.open_starts.load(Ordering::Relaxed) == 1
        })
        .await;
        patient.unary(&[]).await
    };
    let release = async {
        until("the hasty one has gone", || {
            world
                .counters
                .faults()
                .any(|(fault, n)| fault == Fault::NoWorkerInTime && n == 1)
        })
        .await;
        world.sessions.gate.add_permits(1);
    };
    let (hasty, patient, ()) = bounded(async { tokio::join!(hasty, patient, release) }).await;
    assert_eq!(hasty.fault(), ("4", "failed to establish link to worker"));
    assert_eq!(patient.get("grpc-status"), "0");
}

#[tokio::test]
async fn c_pin_3_after_the_pinned_session_ended_a_call_without_an_id_opens_another() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let first = client.unary(&[]).await.session();
    world.sessions.end(first);
    let with_id = client.unary(&[("nvcf-reqid", &first.to_string())]).await;
    assert_eq!(with_id.fault(), ("5", "no existing session found"));
    let second = client.unary(&[]).await.session();
    assert_ne!(first, second);
    assert_eq!(client.unary(&[]).await.session(), second);
}

#[tokio::test]
async fn c_rid_1_and_4_a_header_beats_the_pin_and_the_pin_stays() {
    let world = World::new().await;
    let mut one = world.connect().await;
    let mut other = world.connect().await;
    let first = one.unary(&[]).await.session();
    let second = other.unary(&[]).await.session();
    let resumed = other.unary(&[("nvcf-reqid", &first.to_string())]).await;
    assert_eq!(resumed.session(), first);
    assert_eq!(
        resumed.cookies().len(),
        1,
        "its first answer on this connection"
    );
    assert_eq!(other.unary(&[]).await.session(), second);
    let item = format!("nvcf-reqid.{first}");
    let resumed = other.unary(&[("sec-websocket-protocol", &item)]).await;
    assert_eq!(resumed.session(), first);
    assert!(resumed.cookies().is_empty());
}

#[tokio::test]
async fn c_rid_3_an_id_that_nobody_minted_opens_nothing() {
    let world = World::new().await;
    let mut client = world.connect().await;
    for id in [
        "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned(),
        RequestId::mint(RegionId(1), [0x77; 16]).to_string(),
    ] {
        let answer = client.unary(&[("nvcf-reqid", &id)]).await;
        assert_eq!(answer.fault(), ("5", "no existing session found"));
        assert!(answer.cookies().is_empty(), "c_rsp_3: a header id was sent");
        assert_eq!(answer.get("nvcf-reqid"), "");
    }
    assert_eq!(opens(&world), 0);
    let answer = client.unary(&[("nvcf-reqid", "not an id")]).await;
    assert_eq!(answer.get("grpc-status"), "0");
    assert_eq!(world.counters.malformed_request_ids.get(), 1);
}

#[tokio::test]
async fn c_rid_4_a_live_cookie_beats_the_pin() {
    let world = World::new().await;
    let mut one = world.connect().await;
    let mut other = world.connect().await;
    let first = one.unary(&[]).await.session();
    let second = other.unary(&[]).await.session();
    assert_eq!(
        other.unary(&[("cookie", &cookie(first))]).await.session(),
        first
    );
    assert_eq!(other.unary(&[]).await.session(), second);
    let both = format!(
        "{}; {}",
        cookie(RequestId::mint(RegionId(1), [0x66; 16])),
        cookie(first)
    );
    assert_eq!(other.unary(&[("cookie", &both)]).await.session(), first);
}

#[tokio::test]
async fn c_rid_4_a_live_cookie_counts_also_where_the_replica_lags() {
    let world = World::new().await;
    let first = world.connect().await.unary(&[]).await.session();
    world.sessions.lags.store(true, Ordering::Relaxed);
    let mut other = world.connect().await;
    assert_eq!(
        other.unary(&[("cookie", &cookie(first))]).await.session(),
        first
    );
}

#[tokio::test]
async fn h_31_a_cookie_of_another_function_counts_as_absent_and_is_not_cleared() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let f = client.unary(&[]).await.session();
    let header = ("function-id", &*G.to_string());
    let g = client.unary(&[header, ("cookie", &cookie(f))]).await;
    assert_eq!(g.get("grpc-status"), "0");
    assert_ne!(g.session(), f);
    assert!(
        !g.cookies()
            .iter()
            .any(|cookie| cookie.contains("Max-Age=0"))
    );
    // Also when a dead one of the same name comes along.
    let dead = RequestId::mint(RegionId(1), [0x66; 16]);
    let both = format!("{}; {}", cookie(dead), cookie(f));
    let mut fresh = world.connect().await;
    let answer = fresh.unary(&[header, ("cookie", &both)]).await;
    assert_eq!(answer.get("grpc-status"), "0");
}

#[tokio::test]
async fn h_31_a_dead_cookie_counts_as_absent_while_there_is_a_live_pin() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let dead = cookie(RequestId::mint(RegionId(1), [0x66; 16]));
    let answer = client.unary(&[("cookie", &dead)]).await;
    assert_eq!(answer.fault(), ("5", "no existing session found"));
    assert_eq!(
        answer.cookies(),
        [
            "nvcf-request-id=; Max-Age=0",
            "nvcf-request-id=; Max-Age=0; Path=/; SameSite=Lax"
        ]
    );
    assert_eq!(opens(&world), 0);
    let pinned = client.unary(&[]).await.session();
    let answer = client.unary(&[("cookie", &dead)]).await;
    assert_eq!(answer.session(), pinned);
    assert!(answer.cookies().is_empty());
}

#[tokio::test]
async fn h_31_a_dead_header_id_leaves_a_live_cookie_alone() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let live = client.unary(&[]).await.session();
    let dead = RequestId::mint(RegionId(1), [0x66; 16]);
    let answer = client
        .unary(&[("nvcf-reqid", &dead.to_string()), ("cookie", &cookie(live))])
        .await;
    assert_eq!(answer.fault().0, "5");
    assert!(answer.cookies().is_empty());
    let answer = client
        .unary(&[("nvcf-reqid", &dead.to_string()), ("cookie", &cookie(dead))])
        .await;
    assert_eq!(
        answer.cookies().len(),
        2,
        "the cookie names the same session"
    );
}

#[tokio::test]
async fn c_err_6_another_tenants_or_functions_session_is_not_found_even_on_its_connection() {
    let world = World::new().await;
    let mut alice = world.connect().await;
    let id = alice.unary(&[]).await.session().to_string();
    let answer = alice
        .unary(&[("nvcf-reqid", &id), ("function-id", &G.to_string())])
        .await;
    assert_eq!(answer.fault(), ("5", "no existing session found"));
    // Another user of the same tenant may: the id is the key.
    let mut bob = alice.with_key(&world.keys.bob);
    let answer = bob.unary(&[("nvcf-reqid", &id)]).await;
    assert_eq!(answer.get("grpc-status"), "0");
    let answer = bob.unary(&[("function-id", &F.to_string())]).await;
    assert_ne!(answer.get("nvcf-reqid"), id);
}

#[tokio::test]
async fn c_rsp_2_the_cookie_comes_once_per_connection() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let first = client.unary(&[]).await;
    let id = first.session();
    assert_eq!(
        first.cookies(),
        [format!("nvcf-request-id={id}; Path=/; SameSite=Lax")]
    );
    assert!(client.unary(&[]).await.cookies().is_empty());
    let mut other = world.connect().await;
    let resumed = other.unary(&[("nvcf-reqid", &id.to_string())]).await;
    assert_eq!(resumed.cookies().len(), 1);
}

#[tokio::test]
async fn c_abs_1_an_absorbed_post_opens_a_session_of_its_own_and_reaches_no_worker() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let pinned = client.unary(&[]).await.session();
    let calls = world.seen().heads.lock().unwrap().len();
    let first = client.unary(&[("x-nvcf-absorb", "true")]).await;
    let second = client.unary(&[("x-nvcf-absorb", "true")]).await;
    for answer in [&first, &second] {
        assert_eq!(answer.head.status(), 200);
        assert!(answer.body.is_empty());
        assert_eq!(answer.cookies().len(), 1);
    }
    assert_ne!(first.session(), second.session());
    assert_eq!(world.seen().heads.lock().unwrap().len(), calls);
    assert_eq!(client.unary(&[]).await.session(), pinned);
    let absorbed = |event: &&Event| matches!(event, Event::Absorbed(_));
    assert_eq!(world.sessions.events().iter().filter(absorbed).count(), 2);
}

#[tokio::test]
async fn c_abs_2_and_3_an_absorbed_session_can_be_asked_for_and_ended() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let id = client.unary(&[("x-nvcf-absorb", "true")]).await.session();
    let id = id.to_string();
    let headers = [("x-nvcf-absorb", "true"), ("nvcf-reqid", &*id)];
    assert_eq!(client.unary(&headers).await.get("nvcf-reqid"), id);

    let delete = |client: &super::world::Client| {
        client
            .request("/unary")
            .method("DELETE")
            .header("x-nvcf-absorb", "true")
            .header("nvcf-reqid", &*id)
    };
    let answer = client.send(delete(&client), b"").await.unwrap();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.get("grpc-status"), "");
    let answer = client.send(delete(&client), b"").await.unwrap();
    assert_eq!(answer.fault(), ("5", "no existing session found"));
    let answer = client.unary(&headers).await;
    assert_eq!(answer.fault(), ("5", "no existing session found"));
}

#[tokio::test]
async fn a_session_without_a_call_is_left_after_its_idle_time_and_entered_again() {
    let world = World::with(Plan {
        policy: VersionPolicy {
            idle_ms: 50,
            ..VersionPolicy::default()
        },
        ..Plan::default()
    })
    .await;
    let mut client = world.connect().await;
    let id = client.unary(&[]).await.session();
    let left = Event::Left(id, false);
    until("it is left", || world.sessions.events().contains(&left)).await;
    assert_eq!(client.unary(&[]).await.session(), id, "the pin stays");
    assert!(world.sessions.events().contains(&Event::Resumed(id)));
    // An open call keeps it, however long.
    let request = client.request("/hang");
    let (_response, _stream) = client.start(request, true).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let lefts = world.sessions.events();
    assert_eq!(lefts.iter().filter(|event| **event == left).count(), 1);
}

#[tokio::test]
async fn c_rsm_6_a_close_is_clean_only_without_an_open_call() {
    let world = World::new().await;
    let mut one = world.connect().await;
    let id = one.unary(&[]).await.session();
    drop(one);
    until("it is left cleanly", || {
        world.sessions.events().contains(&Event::Left(id, true))
    })
    .await;

    let mut other = world.connect().await;
    let id = other.unary(&[]).await.session();
    let request = other.request("/hang");
    let (_response, _stream) = other.start(request, true).await;
    until("the worker has it", || {
        world.seen().heads.lock().unwrap().len() == 3
    })
    .await;
    other.ended.abort();
    until("it is left uncleanly", || {
        world.sessions.events().contains(&Event::Left(id, false))
    })
    .await;
}
