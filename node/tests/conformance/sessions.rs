//! C-PIN, C-ABS, C-RSM: how sessions open, are shared, resumed and ended.

use crate::caller::{Conn, ask};
use crate::ids::{STRANGER, open};
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Behind, Checked, Target};
use crate::twin::{Flaw, Twin};
use crate::{check, ensure, same};
use futures::future::try_join_all;
use http::HeaderValue;

pub const ROWS: &[Row] = &[
    Row {
        id: "C-PIN-1",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(pinned),
        twin: Twin::Flaw(Flaw::Shared),
    },
    Row {
        id: "C-PIN-1/never",
        wires: Wires::Both,
        needs: Needs::Cluster,
        check: check!(never_pinned),
        twin: Twin::Request(|request| {
            // A bug that pins in spite of the version.
            let id = HeaderValue::from_static(STRANGER);
            request.headers.insert("nvcf-reqid", id);
        }),
    },
    Row {
        id: "C-PIN-1/subject",
        wires: Wires::Both,
        needs: Needs::Cluster,
        check: check!(subjects),
        twin: Twin::Answer(|_, answer| {
            // A bug that pins by connection and function alone.
            let id = HeaderValue::from_static(STRANGER);
            answer.headers.insert("nvcf-reqid", id);
        }),
    },
    Row {
        id: "C-PIN-2",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(racing),
        twin: Twin::Flaw(Flaw::Fresh),
    },
    Row {
        id: "C-PIN-3",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(after_the_end),
        twin: Twin::Answer(|asked, answer| {
            // A bug that ends a pin with its session, and remembers that for calls without an id too.
            if asked.uri.path() == "/again" {
                answer.status = http::StatusCode::NOT_FOUND;
            }
        }),
    },
    Row {
        id: "C-PIN-4",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(absorbed_apart),
        twin: Twin::Request(|request| {
            // A bug that takes an absorbed call for an ordinary one.
            request.headers.remove("x-nvcf-absorb");
        }),
    },
    Row {
        id: "C-ABS-1",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(absorbed),
        twin: Twin::Request(|request| {
            // A bug that lets the worker see an absorbed call.
            if request.method == http::Method::POST {
                request.headers.remove("x-nvcf-absorb");
            }
        }),
    },
    Row {
        id: "C-ABS-2",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(deleted),
        twin: Twin::Answer(|asked, answer| {
            // A bug that says of every end that it was the first.
            if asked.method == http::Method::DELETE {
                answer.status = http::StatusCode::OK;
            }
        }),
    },
    Row {
        id: "C-ABS-3",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(asked_after),
        twin: Twin::Request(|request| {
            // A bug that opens a session when it was only asked after one.
            request.headers.remove("nvcf-reqid");
        }),
    },
    Row {
        id: "C-RSM-1",
        wires: Wires::Both,
        needs: Needs::Cluster,
        check: check!(anywhere),
        twin: Twin::Answer(|asked, answer| {
            // A bug that opens a new session where it should resume.
            if asked.headers.contains_key("nvcf-reqid") {
                let id = HeaderValue::from_static(STRANGER);
                answer.headers.insert("nvcf-reqid", id);
            }
        }),
    },
    Row {
        id: "C-RSM-2",
        wires: Wires::Both,
        needs: Needs::Cluster,
        check: check!(at_once),
        twin: Twin::Answer(|asked, answer| {
            // A bug that needs a moment until a session is known elsewhere.
            if asked.headers.contains_key("nvcf-reqid") {
                answer.status = http::StatusCode::NOT_FOUND;
            }
        }),
    },
    Row {
        id: "C-RSM-3",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(shared),
        twin: Twin::Answer(|asked, answer| {
            // A bug that lets a session have one connection.
            if asked.uri.path() == "/second" {
                answer.status = http::StatusCode::CONFLICT;
            }
        }),
    },
];

async fn pinned(target: Target) -> Checked {
    let mut one = Conn::open(&target).await?;
    let mut two = Conn::open(&target).await?;
    let call = target.ask("POST", "/pinned");
    let first = one.ask(&call).await?.session()?;
    let other = two.ask(&call).await?.session()?;
    ensure!(first != other, "two connections have two sessions");
    for _ in 0..3 {
        same!(
            one.ask(&call).await?.session()?,
            first,
            "one connection has one session"
        );
    }
    if target.world.version.is_some() {
        let unversioned = call.clone().without("function-version-id");
        let apart = one.ask(&unversioned).await?.session()?;
        ensure!(apart != first, "without a version it is another pin");
    }
    Ok(())
}

async fn never_pinned(target: Target) -> Checked {
    let own = target.world.own_cluster()?;
    let never = own.function(
        "never-pinned",
        &["--slots", "200", "--pin", "never"],
        Behind::Echo,
    );
    let mut conn = Conn::open(&target).await?;
    let call = target.ask_of(&never.function, "POST", "/never");
    let one = conn.ask(&call).await?.session()?;
    let two = conn.ask(&call).await?.session()?;
    ensure!(one != two, "every call without an id opens a session");
    Ok(())
}

async fn subjects(target: Target) -> Checked {
    let other = target.world.own_cluster()?.second_key()?;
    let mut conn = Conn::open(&target).await?;
    let call = target.ask("POST", "/subjects");
    let theirs = call.clone().without("authorization");
    let theirs = theirs.with("authorization", &format!("Bearer {other}"));
    let one = conn.ask(&call).await?.session()?;
    let two = conn.ask(&theirs).await?.session()?;
    ensure!(
        one != two,
        "two subjects on one connection have two sessions"
    );
    same!(conn.ask(&call).await?.session()?, one, "the first one's");
    same!(conn.ask(&theirs).await?.session()?, two, "the second one's");
    Ok(())
}

async fn racing(target: Target) -> Checked {
    let conn = crate::caller::h2::Conn::open(&target.address).await?;
    let call = target.ask("POST", "/racing");
    let replies = try_join_all((0..10).map(|_| conn.ask(&call))).await?;
    let mut ids = Vec::new();
    let mut cookies = 0;
    for reply in &replies {
        ids.push(reply.session()?);
        cookies += reply.all("set-cookie").len();
    }
    ids.dedup();
    same!(ids.len(), 1, "ten first calls open one session: {ids:?}");
    same!(cookies, 1, "and one of them sets the cookie");
    Ok(())
}

async fn end(target: &Target, id: &str) -> Checked {
    let end = target
        .ask("DELETE", "/")
        .with("x-nvcf-absorb", "true")
        .with("nvcf-reqid", id);
    let ended = ask(target, &end).await?;
    same!(ended.status, 200, "DELETE ends {id}");
    Ok(())
}

async fn after_the_end(target: Target) -> Checked {
    let mut conn = Conn::open(&target).await?;
    let call = target.ask("POST", "/first");
    let first = conn.ask(&call).await?.session()?;
    end(&target, &first).await?;
    let named = conn.ask(&call.clone().with("nvcf-reqid", &first)).await?;
    named.refuses(404, "no existing session found")?;
    let again = conn.ask(&target.ask("POST", "/again")).await?;
    ensure!(
        again.status == 200,
        "the next call opens a session: {again:?}"
    );
    ensure!(again.session()? != first, "a new one");
    Ok(())
}

async fn absorbed_apart(target: Target) -> Checked {
    let mut conn = Conn::open(&target).await?;
    let call = target.ask("POST", "/apart");
    let absorb = call.clone().with("x-nvcf-absorb", "true");
    let before = conn.ask(&absorb).await?.session()?;
    let pinned = conn.ask(&call).await?.session()?;
    let after = conn.ask(&absorb).await?.session()?;
    ensure!(
        before != pinned && after != pinned && before != after,
        "three sessions"
    );
    same!(conn.ask(&call).await?.session()?, pinned, "the pin stays");
    Ok(())
}

async fn absorbed(target: Target) -> Checked {
    let mut conn = Conn::open(&target).await?;
    let absorb = target
        .ask("POST", "/absorbed")
        .with("x-nvcf-absorb", "true");
    let absorb = absorb.with("x-echo-tag", "absorbed");
    let before = target.world.worker.notes("absorbed").len();
    let one = conn.ask(&absorb).await?;
    let two = conn.ask(&absorb).await?;
    ensure!(
        one.status == 200 && one.body.is_empty(),
        "200 without a body: {one:?}"
    );
    ensure!(
        one.session()? != two.session()?,
        "a session of its own, every time"
    );
    for reply in [&one, &two] {
        let cookie = format!("nvcf-request-id={}; Path=/; SameSite=Lax", reply.session()?);
        same!(
            reply.all("set-cookie"),
            [cookie],
            "the cookie of an absorbed call"
        );
    }
    same!(
        target.world.worker.notes("absorbed").len(),
        before,
        "calls that the worker saw"
    );
    let used = target
        .ask("POST", "/used")
        .with("nvcf-reqid", &one.session()?);
    same!(
        ask(&target, &used).await?.session()?,
        one.session()?,
        "the session is held"
    );
    Ok(())
}

async fn deleted(target: Target) -> Checked {
    let id = open(&target).await?;
    end(&target, &id).await?;
    let again = target
        .ask("DELETE", "/")
        .with("x-nvcf-absorb", "true")
        .with("nvcf-reqid", &id);
    same!(
        ask(&target, &again).await?.status,
        404,
        "a session that is gone"
    );
    let used = target.ask("POST", "/used").with("nvcf-reqid", &id);
    ask(&target, &used)
        .await?
        .refuses(404, "no existing session found")
}

async fn asked_after(target: Target) -> Checked {
    let id = open(&target).await?;
    let after = target.ask("POST", "/after").with("x-nvcf-absorb", "true");
    let alive = ask(&target, &after.clone().with("nvcf-reqid", &id)).await?;
    same!(alive.status, 200, "a session that lives");
    same!(alive.session()?, id, "its own id");
    let gone = ask(&target, &after.with("nvcf-reqid", STRANGER)).await?;
    gone.refuses(404, "no existing session found")
}

/// The same session through every node.
async fn through_all(target: &Target, id: &str) -> Checked {
    for node in &target.world.own_cluster()?.cluster.ready().nodes {
        let there = target.at(&node.client);
        let call = there.ask("POST", "/through").with("nvcf-reqid", id);
        let reply = ask(&there, &call).await?;
        ensure!(reply.status == 200, "{}: {reply:?}", node.name);
        same!(reply.session()?, id, "through {}", node.name);
    }
    Ok(())
}

async fn anywhere(target: Target) -> Checked {
    let id = open(&target).await?;
    through_all(&target, &id).await?;
    // The entry node itself, on a new connection; a twin in front of it has its say here.
    let reply = ask(
        &target,
        &target.ask("POST", "/back").with("nvcf-reqid", &id),
    )
    .await?;
    same!(reply.session()?, id, "back at the first node");
    Ok(())
}

async fn at_once(target: Target) -> Checked {
    let nodes = &target.world.own_cluster()?.cluster.ready().nodes;
    let far = &nodes.last().ok_or("no node")?.client;
    for _ in 0..10 {
        let there = target.at(far);
        let reply = ask(&there, &there.ask("POST", "/open")).await?;
        let id = reply.session()?;
        let call = target.ask("POST", "/resume").with("nvcf-reqid", &id);
        let resumed = ask(&target, &call).await?;
        ensure!(resumed.status == 200, "0 ms later: {resumed:?}");
        same!(resumed.session()?, id, "0 ms later");
    }
    Ok(())
}

async fn shared(target: Target) -> Checked {
    let mut first = Conn::open(&target).await?;
    let id = first.ask(&target.ask("POST", "/first")).await?.session()?;
    let mut second = Conn::open(&target).await?;
    let call = target.ask("POST", "/second").with("nvcf-reqid", &id);
    for _ in 0..3 {
        let reply = second.ask(&call).await?;
        ensure!(reply.status == 200, "a second connection: {reply:?}");
        same!(reply.session()?, id, "a second connection");
        same!(
            first.ask(&target.ask("POST", "/first")).await?.session()?,
            id,
            "the first goes on"
        );
    }
    Ok(())
}

#[test]
fn c_pin_1_calls_of_one_connection_share_a_session() {
    prove("C-PIN-1");
}

#[test]
fn c_pin_1_a_version_may_say_that_nothing_is_pinned() {
    prove("C-PIN-1/never");
}

#[test]
fn c_pin_1_two_subjects_on_one_connection_have_two_sessions() {
    prove("C-PIN-1/subject");
}

#[test]
fn c_pin_2_first_calls_that_race_share_one_open() {
    prove("C-PIN-2");
}

#[test]
fn c_pin_3_after_its_sessions_end_a_connection_opens_a_new_one() {
    prove("C-PIN-3");
}

#[test]
fn c_pin_4_absorbed_calls_neither_use_nor_set_a_pin() {
    prove("C-PIN-4");
}

#[test]
fn c_abs_1_an_absorbed_post_opens_a_session_that_is_held() {
    prove("C-ABS-1");
}

#[test]
fn c_abs_2_an_absorbed_delete_ends_a_session() {
    prove("C-ABS-2");
}

#[test]
fn c_abs_3_an_absorbed_post_with_an_id_asks_after_a_session() {
    prove("C-ABS-3");
}

#[test]
fn c_rsm_1_a_session_resumes_through_every_node() {
    prove("C-RSM-1");
}

#[test]
fn c_rsm_2_a_session_resumes_at_the_farthest_node_at_once() {
    prove("C-RSM-2");
}

#[test]
fn c_rsm_3_connections_share_a_session_at_once() {
    prove("C-RSM-3");
}
