//! A worker's health, and what its sidecar shows of itself.

use crate::support::cli;
use crate::support::client::Client;
use crate::support::cluster::Node;
use crate::support::member::free;
use crate::support::ops::{page, series};
use crate::support::process::Process;
use crate::support::wait;
use crate::support::worker::{Function, Sidecar, Worker, find, text};
use crate::{SOON, becomes, finds_nobody, hurried, is_gone, queued, shared, show};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn k_hlt_1_a_worker_that_is_not_serving_keeps_its_sessions_and_gets_new_ones_when_it_is_back() {
    let cluster = shared();
    let _witness = cluster.witness();
    let Some(worker) = Worker::start("moody", &cluster.data().join("logs")) else {
        return;
    };
    let Some(client) = Client::start() else {
        return;
    };
    let function = Function::create(cluster, "moody", &["--slots", "4", "--wait", "60s"]);
    let _sidecar = Sidecar::attach(cluster, &function, "moody", "us-west", &worker);
    let before = find(cluster, "moody").expect("attached");
    client.connect("open", cluster.client_address("us-east"));
    let id = client.echo("open", &function.keys(&[]), "one").session();

    let becomes = |state: &str| {
        wait::until(SOON, state, || {
            let moody = find(cluster, "moody")?;
            (moody["state"] == state).then_some(moody)
        })
    };
    worker.process().write_line("not serving");
    becomes("draining (health)");
    let again = client.echo("open", &function.keys(&[]), "two");
    assert_eq!(again.session(), id);
    assert_eq!(again.json()["count"], 2);
    client.connect("resume", cluster.client_address("us-west"));
    let resume = function.keys(&[("nvcf-reqid", &id)]);
    assert_eq!(client.echo("resume", &resume, "three").json()["count"], 3);
    finds_nobody(&hurried(cluster, "us-west", &function));
    client.connect("waits", cluster.client_address("eu-central"));
    let waits = client.begin_echo("waits", "Unary", &function.keys(&[]), "waits", 60.0);
    queued(cluster, &function, 1);

    worker.process().write_line("serving");
    let after = becomes("ready");
    assert_eq!(after["id"], before["id"], "the same life");
    assert_eq!(waits.call().json()["count"], 1);
    assert_eq!(
        client.echo("open", &function.keys(&[]), "four").json()["count"],
        4
    );
}

#[test]
fn k_hlt_1_h_21_a_worker_that_leaves_three_checks_without_an_answer_is_dead_and_comes_back_as_another()
 {
    let cluster = shared();
    let _witness = cluster.witness();
    let Some(worker) = Worker::start("dazed", &cluster.data().join("logs")) else {
        return;
    };
    let Some(client) = Client::start() else {
        return;
    };
    let function = Function::create(cluster, "dazed", &["--slots", "1", "--wait", "60s"]);
    let _sidecar = Sidecar::attach(cluster, &function, "dazed", "us-east", &worker);
    let before = find(cluster, "dazed").expect("attached")["id"].clone();
    client.connect("open", cluster.client_address("us-west"));
    let id = client.echo("open", &function.keys(&[]), "one").session();
    worker.process().signal(Signal::STOP);
    // Checks that each wait for 2 s.
    becomes(cluster, &id, "ended (worker lost)", 3 * SOON);
    is_gone(cluster, "eu-central", &function, &id);
    client.connect("waits", cluster.client_address("us-east"));
    let waits = client.begin_echo("waits", "Unary", &function.keys(&[]), "waits", 60.0);
    queued(cluster, &function, 1);
    worker.process().signal(Signal::CONT);
    let served = waits.call();
    assert_eq!(served.json()["count"], 1);
    let after = show(cluster, &served.session());
    assert_ne!(after["worker_id"], before, "{after}");
}

/// `/readyz` of a sidecar.
fn ready(ops: &str) -> Option<(u16, u64)> {
    let (status, body) = page(ops, "/readyz")?;
    let said: Value = serde_json::from_str(&body).ok()?;
    assert_eq!(said["ready"], status == 200, "{said}");
    Some((status, said["attached"].as_u64()?))
}

#[test]
fn k_ops_1_a_sidecar_says_whether_it_lives_is_attached_and_what_it_carries() {
    let cluster = shared();
    let _witness = cluster.witness();
    let logs = cluster.data().join("logs");
    let Some(client) = Client::start() else {
        return;
    };
    for node in &cluster.ready().nodes {
        let health = page(&node.worker, "/health").map(|(status, _)| status);
        assert_eq!(health, Some(200), "{}", node.name);
    }
    let function = Function::create(cluster, "shown", &["--slots", "4", "--wait", "60s"]);
    let (address, ops) = (free(), free());
    let key = &function.worker_key;
    let mut command = Sidecar::command(cluster, "shown", "us-east", &address, key);
    let _sidecar = Process::start("shown-sidecar", &logs, command.args(["--ops", &ops]));
    // It lives, and waits for its worker.
    wait::until(SOON, "it listens", || {
        (ready(&ops)? == (503, 0)).then_some(())
    });
    let (status, body) = page(&ops, "/livez").expect("an answer");
    assert_eq!((status, body.as_str()), (200, r#"{"alive":true}"#));
    assert_eq!(page(&ops, "/").map(|(status, _)| status), Some(404));
    let shows = |name: &str| series(&ops, &format!("pontoon_sidecar_{name}"));
    assert_eq!(shows("worker_lives_total"), 0.0);

    let port = address.rsplit(':').next().expect("a port");
    let Some(worker) = Worker::start_at("shown", &logs, port) else {
        return;
    };
    wait::until(SOON, "it is attached", || {
        (ready(&ops)? == (200, 2)).then_some(())
    });
    client.connect("shown", cluster.client_address("eu-central"));
    let call = client.echo("shown", &function.keys(&[]), "one");
    call.answer();
    let shown = || {
        [
            "worker_lives_total",
            "tunnels_open",
            "tunnels_opened_total",
            "sessions_ended_total",
        ]
        .map(shows)
    };
    assert_eq!(shown(), [1.0, 1.0, 1.0, 0.0]);
    cluster.ask(&["session", "end", &call.session()]);
    wait::until(SOON, "it carries nothing", || {
        (shown() == [1.0, 0.0, 1.0, 1.0]).then_some(())
    });

    worker.process().signal(Signal::KILL);
    wait::until(SOON, "it has nothing to attach", || {
        (ready(&ops)? == (503, 0)).then_some(())
    });
    let Some(_again) = Worker::start_at("shown-again", &logs, port) else {
        return;
    };
    wait::until(SOON, "it is attached", || {
        (ready(&ops)? == (200, 2)).then_some(())
    });
    assert_eq!(shows("worker_lives_total"), 2.0);
}

#[test]
fn k_cls_1_any_node_says_why_tunnels_and_sidecars_were_closed_at_whatever_node() {
    let cluster = shared();
    let _witness = cluster.witness();
    let Some(client) = Client::start() else {
        return;
    };
    let Some(worker) = Worker::start("closing", &cluster.data().join("logs")) else {
        return;
    };
    let function = Function::create(cluster, "closing", &["--slots", "4"]);
    let _sidecar = Sidecar::attach(cluster, &function, "closing", "us-east", &worker);
    let attached = find(cluster, "closing").expect("attached");
    let id = text(&attached, "id");
    let nodes = &cluster.ready().nodes;
    let ids: Vec<String> = ["us-east", "us-west"]
        .iter()
        .map(|region| {
            let channel = format!("closing at {region}");
            client.connect(&channel, cluster.client_address(region));
            client.echo(&channel, &function.keys(&[]), "?").session()
        })
        .collect();
    let closes = |at: &Node, of: &[&str]| -> Vec<Value> {
        let verb = [&["worker", "closes"], of].concat();
        let closes = cli::ask(&at.admin, &cluster.ready().admin_token, &verb);
        closes.as_array().expect("a list").clone()
    };
    for at in nodes {
        assert_eq!(closes(at, &["--worker", &id]), [Value::Null; 0]);
    }
    cluster.ask(&["session", "end", &ids[0]]);
    worker.process().signal(Signal::KILL);
    let told = wait::until(SOON, "all of it has closed", || {
        let told = closes(&nodes[2], &["--worker", &id]);
        (told.len() >= 4).then_some(told)
    });
    let of = |what: &str, field: &str| -> Vec<String> {
        let of = told.iter().filter(|one| one["what"] == what);
        of.map(|one| text(one, field)).collect()
    };
    assert_eq!(of("tunnel", "request_id"), [&*ids[1], &*ids[0]], "{told:?}");
    assert_eq!(of("tunnel", "reason")[1], "session_ended");
    // It is the worker's end that is seen first, or the directory's word of it.
    let second = &of("tunnel", "reason")[0];
    let seen = ["worker_closed", "broken", "session_ended"];
    assert!(seen.contains(&second.as_str()), "{told:?}");
    let regions: Vec<String> = of("tunnel", "node");
    assert_eq!(regions, ["us-west-1", "us-east-1"]);
    let streams = of("sidecar", "reason");
    let ends = ["worker_dead", "sidecar_closed"];
    let nodes_attached = attached["attached_at"].as_array().expect("a list").len();
    assert_eq!(streams.len(), nodes_attached, "{told:?}");
    assert!(streams.iter().all(|one| ends.contains(&one.as_str())));
    assert!(streams.iter().any(|one| one == "worker_dead"), "{told:?}");
    // At every node, of one session too; and for people.
    for at in nodes {
        let one = closes(at, &["--session", &ids[0]]);
        assert_eq!(one.len(), 1, "{one:?}");
        assert_eq!(one[0]["reason"], "session_ended");
        assert!(one[0]["lasted_ms"].as_u64() > Some(0), "{one:?}");
    }
    let table = ["worker", "closes", "--session", &ids[0]];
    let (admin, token) = (&nodes[0].admin, &cluster.ready().admin_token);
    let table = cli::run(&mut cli::pontoon(admin, token, &table));
    assert!(table.contains("session_ended"), "{table}");
}
