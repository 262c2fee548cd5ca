//! Nodes that are killed: the directory's leader, a majority, all of them. Each test has its own
//! cluster.

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::time::Duration;
use support::client::{Call, Client, keys};
use support::cluster::{Cluster, RECOVERED_WITHIN};
use support::process::{is_alive, send};
use support::worker::{Function, Sidecar, Worker, find};
use support::{alone, wait};

/// The leader's name of a group, as a node knows it that lives.
fn leader(cluster: &Cluster, group: &str) -> Option<String> {
    let groups = cluster.ask(&["group", "list"]);
    let all = groups.as_array().expect("a list").clone();
    let group = all.iter().find(|found| found["name"] == group)?;
    let name = group["leader"].as_str()?.to_owned();
    (!name.is_empty()).then_some(name)
}

/// Opens a session through a channel of its own.
fn open(client: &Client, cluster: &Cluster, node: &str, name: &str) -> Call {
    client.connect(name, &cluster.ready().node(node).client);
    client.sum(name, &keys(cluster, &[]), 1)
}

/// Every session resumes through this node, with the sum that it must have.
#[track_caller]
fn all_resume(
    client: &Client,
    cluster: &Cluster,
    node: &str,
    sessions: &[(String, String)],
    sum: i64,
) {
    client.connect("resume", &cluster.ready().node(node).client);
    for (id, worker) in sessions {
        let call = client.sum("resume", &keys(cluster, &[("nvcf-reqid", id)]), 1);
        assert_eq!(call.answer()["worker"], worker.as_str());
        assert_eq!(
            (call.session(), call.answer()["sum"].as_i64()),
            (id.clone(), Some(sum))
        );
    }
}

fn known(call: &Call) -> (String, String) {
    let worker = call.answer()["worker"].as_str().expect("text");
    (call.session(), worker.to_owned())
}

#[test]
fn k_att_2_c_rsm_1_opens_go_on_and_nothing_is_lost_when_the_directorys_leader_is_killed() {
    let _alone = alone();
    let cluster = Cluster::start();
    let Some(client) = Client::start() else {
        return;
    };
    let leader = leader(&cluster, "us-east").expect("a ready cluster has leaders");
    let survivor = cluster
        .ready()
        .nodes
        .iter()
        .find(|node| node.name != leader)
        .expect("three nodes")
        .name
        .clone();
    let mut sessions = Vec::new();
    for number in 0..10 {
        let call = open(&client, &cluster, &survivor, &format!("before {number}"));
        sessions.push(known(&call));
    }
    let killed = pontoon::clock::now();
    cluster.kill_node(&leader);
    let mut number = 0;
    let first = wait::until(RECOVERED_WITHIN, "an open succeeds", || {
        number += 1;
        let call = open(&client, &cluster, &survivor, &format!("during {number}"));
        if call.code() == 0 {
            return Some(call);
        }
        assert!([4, 14].contains(&call.code()), "{call:?}");
        None
    });
    println!(
        "the first open succeeded {:?} after the leader was killed",
        killed.elapsed()
    );
    sessions.push(known(&first));
    for number in 0..5 {
        let call = open(&client, &cluster, &survivor, &format!("after {number}"));
        sessions.push(known(&call));
    }
    let other = cluster
        .ready()
        .nodes
        .iter()
        .find(|node| node.name != leader && node.name != survivor)
        .expect("three nodes");
    all_resume(&client, &cluster, &other.name, &sessions, 2);
}

#[test]
fn c_err_11_c_rsm_4_without_a_quorum_pinned_calls_go_on_and_nothing_is_called_not_found() {
    let _alone = alone();
    let cluster = Cluster::start();
    let Some(client) = Client::start() else {
        return;
    };
    let survivor = "us-west-1";
    let pinned = open(&client, &cluster, survivor, "pinned");
    let known_here = known(&pinned);
    let ended = open(&client, &cluster, survivor, "to end").session();
    cluster.ask(&["session", "end", &ended]);
    cluster.kill_node("us-east-1");
    cluster.kill_node("eu-central-1");
    let says = "session directory unavailable";
    client.connect("late", &cluster.ready().node(survivor).client);
    let refused = client.sum("late", &keys(&cluster, &[]), 1);
    refused.fails(14, says);
    assert!(refused.seconds() < 10.0, "refused fast: {refused:?}");
    let unknown = "01234567-89ab-8001-8123-456789abcdef";
    client
        .sum("late", &keys(&cluster, &[("nvcf-reqid", unknown)]), 1)
        .fails(14, says);
    // Certain without asking anybody: one that this replica saw end, and one that is not ours.
    for gone in [ended.as_str(), "67e55044-10b1-426f-9247-bb680e5fe0c8"] {
        client
            .sum("late", &keys(&cluster, &[("nvcf-reqid", gone)]), 1)
            .fails(5, "no existing session found");
    }
    let goes_on = client.sum("pinned", &keys(&cluster, &[]), 1);
    assert_eq!(goes_on.answer()["sum"], 2);
    cluster.start_again("us-east-1");
    wait::until(RECOVERED_WITHIN, "opens work again", || {
        let call = client.sum("late", &keys(&cluster, &[]), 1);
        (call.code() == 0).then_some(())
    });
    for gone in [ended.as_str(), unknown] {
        client
            .sum("late", &keys(&cluster, &[("nvcf-reqid", gone)]), 1)
            .fails(5, "no existing session found");
    }
    all_resume(&client, &cluster, survivor, &[known_here], 3);
}

/// A Python worker of us-west, and a client whose channel `entry` leads to a node.
struct Echo {
    worker: Worker,
    sidecar: Sidecar,
    function: Function,
    client: Client,
}

impl Echo {
    fn start(cluster: &Cluster, entry: &str) -> Option<Echo> {
        Echo::with_slots(cluster, entry, "8")
    }

    fn with_slots(cluster: &Cluster, entry: &str, slots: &str) -> Option<Echo> {
        let worker = Worker::start("echo", &cluster.data().join("logs"))?;
        let client = Client::start()?;
        let function = Function::create(cluster, "echo", &["--slots", slots]);
        let sidecar = Sidecar::attach(cluster, &function, "echo", "us-west", &worker);
        client.connect("entry", &cluster.ready().node(entry).client);
        Some(Echo {
            worker,
            sidecar,
            function,
            client,
        })
    }
}

/// Sends a signal to every node but one.
fn to_others(cluster: &Cluster, but: &str, signal: Signal) {
    let nodes = cluster.ready().nodes.iter();
    for node in nodes.filter(|node| node.name != but) {
        send(node.pid, signal);
    }
}

#[test]
fn c_err_11_h_5_the_loss_of_the_directory_cuts_no_stream_and_opens_are_refused_fast() {
    let _alone = alone();
    let cluster = Cluster::start();
    let entry = "us-west-1";
    let Some(echo) = Echo::start(&cluster, entry) else {
        return;
    };
    let (client, function) = (&echo.client, &echo.function);
    let first = client.echo("entry", &function.keys(&[]), "one");
    let keys = function.keys(&[]);
    client.run(json!({
        "do": "stream_open", "channel": "entry", "stream": "s", "method": "/test.Echo/Bidi",
        "metadata": keys, "timeout": 120,
    }));
    let echoes = |message: &str| {
        client.run(json!({"do": "stream_send", "stream": "s", "message": message}));
        let echoed = client.run(json!({"do": "stream_next", "stream": "s"}));
        assert_eq!(echoed["message"], format!("echo {message}"));
    };
    echoes("before");

    to_others(&cluster, entry, Signal::STOP);
    let stopped = pontoon::clock::now();
    let goes_on = |message: &str| {
        echoes(message);
        let call = client.echo("entry", &keys, message);
        assert_eq!(call.json()["message"], message);
        assert_eq!(call.session(), first.session());
    };
    client.connect("new", &cluster.ready().node(entry).client);
    let mut new = client.begin_echo("new", "Unary", &keys, "new", 60.0);
    let mut rounds = 0;
    while stopped.elapsed() < Duration::from_secs(11) || !new.is_done() {
        goes_on(&format!("{rounds} without a quorum"));
        rounds += 1;
    }
    assert!(rounds > 50, "only {rounds} rounds");
    let says = "session directory unavailable";
    let first_refusal = new.call();
    first_refusal.fails(14, says);
    // 7 s of silence might have been an election; from then on it is known.
    assert!(first_refusal.seconds() < 10.0, "{first_refusal:?}");
    for _ in 0..3 {
        let refused = client.echo("new", &keys, "new");
        refused.fails(14, says);
        assert!(refused.seconds() < 2.0, "{refused:?}");
    }
    goes_on("last without a quorum");

    to_others(&cluster, entry, Signal::CONT);
    wait::until(RECOVERED_WITHIN, "opens work again", || {
        let call = client.echo("new", &keys, "new");
        assert!([0, 14].contains(&call.code()), "{call:?}");
        (call.code() == 0).then_some(())
    });
    goes_on("after");
    client.run(json!({"do": "stream_finish", "stream": "s"}));
    let ended = client.run(json!({"do": "stream_next", "stream": "s"}));
    assert_eq!(ended["code"], 0, "{ended}");
    client.connect("other", &cluster.ready().node("eu-central-1").client);
    let id = first.session();
    let by_id = function.keys(&[("nvcf-reqid", &id)]);
    // A node that was stopped for so long counts as cut off until it has heard of a quorum.
    let resumed = wait::until(RECOVERED_WITHIN, "the session resumes elsewhere", || {
        let call = client.echo("other", &by_id, "resumed");
        assert!([0, 14].contains(&call.code()), "{call:?}");
        (call.code() == 0).then_some(call)
    });
    assert_eq!(resumed.session(), id);
    let count = |call: &Call| call.json()["count"].as_i64();
    assert!(count(&resumed) > count(&first), "one memory");
}

#[test]
fn c_rsm_4_h_20_an_isolated_node_never_calls_a_dead_workers_session_not_found_until_it_is_certain()
{
    let _alone = alone();
    let cluster = Cluster::start();
    let entry = "us-west-1";
    let Some(echo) = Echo::start(&cluster, entry) else {
        return;
    };
    let (client, function) = (&echo.client, &echo.function);
    let id = client.echo("entry", &function.keys(&[]), "one").session();
    to_others(&cluster, entry, Signal::STOP);
    // Nobody can say so to a quorum: the replica goes on naming the worker.
    echo.sidecar.process().signal(Signal::KILL);
    echo.worker.process().signal(Signal::KILL);
    client.connect("again", &cluster.ready().node(entry).client);
    let by_id = function.keys(&[("nvcf-reqid", &id)]);
    for _ in 0..4 {
        let call = client.echo("again", &by_id, "two");
        assert_eq!(call.code(), 14, "nobody knows yet: {call:?}");
    }
    to_others(&cluster, entry, Signal::CONT);
    wait::until(RECOVERED_WITHIN, "the session is known to be over", || {
        let call = client.echo("again", &by_id, "three");
        assert!([14, 5].contains(&call.code()), "{call:?}");
        (call.code() == 5).then_some(())
    });
    let call = client.echo("again", &by_id, "four");
    call.fails(5, "no existing session found");
}

#[test]
fn h_15_a_session_that_its_node_told_nobody_of_gives_its_slot_back_long_before_its_window() {
    let _alone = alone();
    let cluster = Cluster::start();
    let entry = "us-east-1";
    let Some(echo) = Echo::with_slots(&cluster, entry, "2") else {
        return;
    };
    let (client, function) = (&echo.client, &echo.function);
    let told = client.echo("entry", &function.keys(&[]), "told");
    let sessions = |count: u64| {
        wait::until(RECOVERED_WITHIN, "sessions of the worker", || {
            let worker = find(&cluster, "echo")?;
            (worker["slots_used"].as_u64() == Some(count)).then_some(())
        });
    };
    sessions(1);
    // The open is bound, and its tunnel can't come up; its node dies meanwhile.
    echo.sidecar.process().signal(Signal::STOP);
    client.connect("second", &cluster.ready().node(entry).client);
    let untold = client.begin_echo("second", "Unary", &function.keys(&[]), "untold", 30.0);
    sessions(2);
    let lost = pontoon::clock::now();
    cluster.kill_node(entry);
    // A process that ends may still be taking connections: what comes of a tunnel there is not certain.
    let door = &cluster.ready().node(entry).worker;
    wait::until(RECOVERED_WITHIN, "its port is shut", || {
        TcpStream::connect(door).is_err().then_some(())
    });
    echo.sidecar.process().signal(Signal::CONT);
    assert_eq!(untold.call().code(), 14);
    // Both slots are taken, and the window is 30 s: whoever waits gets the slot of the one all the same, ...
    client.connect("other", &cluster.ready().node("us-west-1").client);
    let next = client.echo("other", &function.keys(&[]), "next");
    assert_eq!(next.code(), 0, "{next:?}");
    let waited = lost.elapsed();
    assert!(waited < Duration::from_secs(15), "{waited:?}");
    // ... and the other one keeps its own.
    client.connect("back", &cluster.ready().node("eu-central-1").client);
    let id = told.session();
    let resumed = client.echo("back", &function.keys(&[("nvcf-reqid", &id)]), "resumed");
    assert_eq!((resumed.code(), resumed.session()), (0, id), "{resumed:?}");
}

#[test]
fn c_rsm_1_all_nodes_are_killed_and_started_again_and_every_session_resumes() {
    let _alone = alone();
    let cluster = Cluster::start();
    let Some(client) = Client::start() else {
        return;
    };
    let mut sessions = Vec::new();
    for (number, node) in cluster.ready().nodes.iter().enumerate() {
        for more in 0..3 {
            let call = open(&client, &cluster, &node.name, &format!("{number}.{more}"));
            sessions.push(known(&call));
        }
    }
    let nodes: Vec<(String, u32)> = cluster
        .ready()
        .nodes
        .iter()
        .map(|node| (node.name.clone(), node.pid))
        .collect();
    for (_, pid) in &nodes {
        send(*pid, Signal::KILL);
    }
    wait::until(Duration::from_secs(5), "no node is left", || {
        nodes.iter().all(|(_, pid)| !is_alive(*pid)).then_some(())
    });
    for sidecar in &cluster.ready().sidecars {
        assert!(
            is_alive(sidecar.pid) && is_alive(sidecar.worker_pid),
            "workers live on"
        );
    }
    // `dev start` returns when its node is ready, and one alone has no quorum: all at once.
    std::thread::scope(|scope| {
        for (name, _) in &nodes {
            scope.spawn(|| cluster.start_again(name));
        }
    });
    for (name, _) in &nodes {
        client.connect(name, &cluster.ready().node(name).client);
        let id: &str = &sessions[0].0;
        wait::until(RECOVERED_WITHIN, "a session resumes", || {
            let call = client.sum(name, &keys(&cluster, &[("nvcf-reqid", id)]), 0);
            assert_ne!(
                call.code(),
                5,
                "a wrong \"not found\" loses a session: {call:?}"
            );
            (call.code() == 0).then_some(())
        });
    }
    for (round, (name, _)) in nodes.iter().enumerate() {
        all_resume(&client, &cluster, name, &sessions, 2 + round as i64);
    }
    let new = wait::until(RECOVERED_WITHIN, "a session opens", || {
        let call = open(&client, &cluster, "eu-central-1", "new");
        (call.code() == 0).then_some(call)
    });
    assert_eq!(new.answer()["sum"], Value::from(1));
}
