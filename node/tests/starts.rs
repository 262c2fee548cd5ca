//! Starting and ending whole clusters: the first call, a second start, and what stays behind.

mod support;

use rustix::process::Signal;
use std::time::Duration;
use support::client::{Client, keys};
use support::cluster::{self, Cluster};
use support::process::{Life, descendants};
use support::{cli, wait};

/// How long all processes may take to end: a clean stop has 10 s, then they are killed.
const GONE_WITHIN: Duration = Duration::from_secs(20);

#[track_caller]
fn nothing_is_left(lives: &[Life]) {
    assert!(
        lives.len() >= 9,
        "three nodes, sidecars and workers: {lives:?}"
    );
    wait::until(GONE_WITHIN, "every process has ended", || {
        lives.iter().all(|life| !life.goes_on()).then_some(())
    });
}

#[test]
fn the_first_call_after_ready_succeeds_each_time_and_an_end_leaves_nothing_behind() {
    // Twenty by hand: PONTOON_STARTS=20.
    let wanted = std::env::var("PONTOON_STARTS").map_or(5, |text| text.parse().expect("a number"));
    let Some(client) = Client::start() else {
        return;
    };
    for number in 0..wanted {
        let cluster = Cluster::start();
        let region = ["us-east", "us-west", "eu-central"][number % 3];
        let name = format!("start {number}");
        client.connect(&name, cluster.client_address(region));
        let call = client.sum(&name, &keys(&cluster, &[]), 42);
        assert_eq!(call.answer()["sum"], 42, "start {number}");
        let lives = descendants(cluster.dev().pid());
        if number % 2 == 0 {
            cluster.dev().signal(Signal::INT);
            let status = cluster.dev().wait(GONE_WITHIN);
            assert!(status.success(), "Ctrl-C is a clean end: {status}");
        } else {
            cluster.dev().signal(Signal::KILL);
        }
        nothing_is_left(&lives);
    }
}

#[test]
fn c_rsm_7_a_second_start_finds_everything_but_the_sessions_of_workers_that_ended() {
    let folder = cluster::folder();
    let Some(client) = Client::start() else {
        return;
    };
    let first = Cluster::start_in(&folder, &[]);
    client.connect("first", first.client_address("us-east"));
    let old = client.sum("first", &keys(&first, &[]), 7);
    assert_eq!(old.answer()["sum"], 7);
    let before = first.ready().clone();

    // Nobody else may use the folder, and nothing is damaged by the attempt.
    let second = cluster::begin(&folder, &[]);
    let status = second.wait(Duration::from_secs(10));
    assert!(!status.success());
    assert!(
        second.output().contains("--data-dir"),
        "{}",
        second.output()
    );
    assert_eq!(
        client.sum("first", &keys(&first, &[]), 1).answer()["sum"],
        8
    );

    let lives = descendants(first.dev().pid());
    first.dev().signal(Signal::INT);
    first.dev().wait(GONE_WITHIN);
    nothing_is_left(&lives);
    drop(first);

    let again = Cluster::start_in(&folder, &[]);
    let after = again.ready();
    assert_eq!(after.tenant, before.tenant);
    assert_eq!(after.function_id, before.function_id);
    assert_eq!(after.function_version_id, before.function_version_id);
    assert_eq!(after.api_key, before.api_key);
    for region in ["us-east", "us-west", "eu-central"] {
        client.connect(region, again.client_address(region));
        let id = old.session();
        // A worker that could tell nobody of its end is waited for, for as long as a call waits for its link.
        let call = wait::until(Duration::from_secs(30), "the session is over", || {
            let call = client.sum(region, &keys(&again, &[("nvcf-reqid", &id)]), 1);
            assert!([5, 14].contains(&call.code()), "{call:?}");
            (call.code() == 5).then_some(call)
        });
        call.fails(5, "no existing session found");
    }
    let new = client.sum("us-west", &keys(&again, &[]), 1);
    assert_eq!(new.answer()["sum"], 1);
    assert_ne!(new.session(), old.session());
    // Everything that ran before is still known to the command line.
    let functions = again.ask(&["function", "list"]);
    assert!(functions.to_string().contains(&before.function_id));
    let text = cli::run(&mut cli::pontoon(
        &again.admin(),
        &after.admin_token,
        &["key", "list"],
    ));
    assert!(!text.contains(&before.api_key), "a secret is shown once");
}

#[test]
fn a_cluster_of_nine_nodes_serves_a_session_at_each_of_them() {
    let folder = cluster::folder();
    let Some(client) = Client::start() else {
        return;
    };
    let cluster = Cluster::start_in(&folder, &["--nodes-per-region", "3"]);
    assert_eq!(cluster.ready().nodes.len(), 9);
    client.connect("first", &cluster.ready().node("us-east-1").client);
    let id = client.sum("first", &keys(&cluster, &[]), 0).session();
    for (number, node) in cluster.ready().nodes.iter().enumerate() {
        client.connect(&node.name, &node.client);
        let call = client.sum(&node.name, &keys(&cluster, &[("nvcf-reqid", &id)]), 1);
        assert_eq!(call.answer()["sum"], number + 1, "{}", node.name);
    }
    let groups = cluster.ask(&["group", "list"]);
    for group in groups.as_array().expect("a list") {
        assert_eq!(group["voters"].as_array().map(Vec::len), Some(5), "{group}");
        assert_eq!(
            group["learners"].as_array().map(Vec::len),
            Some(4),
            "{group}"
        );
    }
}
