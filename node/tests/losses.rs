//! Nodes that are killed: the directory's leader, a majority, all of them. Each test has its own
//! cluster.

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::client::{Call, Client, keys};
use support::cluster::{Cluster, RECOVERED_WITHIN};
use support::process::{is_alive, send};
use support::wait;

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

/// One test of this file at a time: a node that was killed wants its ports again, and a cluster that
/// starts meanwhile could draw them.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
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
