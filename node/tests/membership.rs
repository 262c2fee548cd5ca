//! Nodes that die, come, go and lose their disks while clients call. Each test has its own cluster.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use support::cluster::{self, Cluster, RECOVERED_WITHIN};
use support::groups::{Seen, Terms};
use support::load::Load;
use support::member::Settings;
use support::process::is_alive;
use support::{alone, groups, wait};

/// The least silence after which a node's places are given to others. Restarts here take less.
const DEAD_SOON: &[(&str, &str)] = &[("PONTOON__CLUSTER__NODE_DEAD_AFTER_MS", "10000")];

/// How many calls must have been answered while something was broken, for the run to say anything.
const CALLS_MIN: u64 = 200;

fn members(group: &Seen) -> BTreeSet<&str> {
    let all = group.voters.iter().chain(&group.learners);
    all.map(String::as_str).collect()
}

/// How many of a group's voters are of a region, by their names.
fn voters_of(group: &Seen, region: &str) -> usize {
    let all = group.voters.iter();
    all.filter(|voter| voter.starts_with(region)).count()
}

/// Whether a group has five voters, outlives any two of them and any region.
fn is_spread(group: &Seen) -> bool {
    let held = ["us-east", "us-west", "eu-central"].map(|region| voters_of(group, region));
    group.connected
        && group.voters.len() == 5
        && group.failure_tolerance == 2
        && held.iter().all(|count| *count <= 2)
}

#[test]
fn s_1_s_8_nodes_die_come_go_and_lose_their_disks_under_load_and_every_session_stays() {
    let _alone = alone();
    let folder = cluster::folder();
    let size = ["--nodes-per-region", "3", "--slots", "600"];
    let cluster = Cluster::start_with(&folder, &size, DEAD_SOON);
    let Some(load) = Load::start(cluster.ready()) else {
        return;
    };
    let token = cluster.ready().admin_token.clone();
    let admin = cluster.ready().node("us-east-1").admin.clone();
    let mut terms = Terms::default();
    let see = |what: &str, is_so: &dyn Fn(&std::collections::BTreeMap<String, Seen>) -> bool| {
        groups::settle(&admin, &token, what, is_so)
    };
    load.goes_on(CALLS_MIN);
    terms.only_rise(&see("five voters each", &|all| all.values().all(is_spread)));

    // A node, and the leader of a region, at once. The one that is asked stays.
    let leader = see("there is a leader", &|all| {
        !all["us-west"].leader.is_empty()
    })["us-west"]
        .leader
        .clone();
    assert!(
        leader.starts_with("us-west"),
        "a leader is at home: {leader}"
    );
    let before = load.calls();
    cluster.kill_node(&leader);
    cluster.kill_node("eu-central-2");
    load.opens_go_on();
    load.goes_on(CALLS_MIN);
    cluster.start_again(&leader);
    cluster.start_again("eu-central-2");
    let after = load.calls();
    println!("kills: {before:?} to {after:?} calls (answered, unknown)");
    only_fails_at(&load, &[&leader, "eu-central-2"]);
    let ready = see("all voters live again", &|all| all.values().all(is_spread));
    terms.only_rise(&ready);

    // A region's group comes home; a tenth node comes while it does.
    cluster.ask(&["region", "survive", "us-west", "zone"]);
    let settings = Settings::of(&cluster, "us-west-1")
        .joining("us-west-4", "us-west", &folder)
        .with("cluster.node_dead_after_ms", 10_000);
    let tenth = settings.start("us-west-4", &folder);
    tenth.joins(&token);
    load.enter_at("us-west-4", &tenth.client);
    let at_home = see(
        "us-west has its voters at home, and all know the tenth node",
        &|all| {
            voters_of(&all["us-west"], "us-west") == all["us-west"].voters.len()
                && all["us-west"].voters.len() == 3
                && all
                    .values()
                    .all(|group| members(group).contains("us-west-4"))
        },
    );
    terms.only_rise(&at_home);

    // A node is taken out while it runs.
    load.leave("eu-central-3");
    let pid = cluster.now().node("eu-central-3").pid;
    cluster.ask(&["node", "remove", "eu-central-3"]);
    wait::until(RECOVERED_WITHIN, "a removed node ends", || {
        (!is_alive(pid)).then_some(())
    });
    let log = fs::read_to_string(cluster.data().join("logs/eu-central-3.log")).expect("its log");
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains("was removed from the cluster") && last.contains("empty data folder"),
        "{last}"
    );
    let without = see("nobody counts on the removed node", &|all| {
        let mut all = all.values();
        all.all(|group| group.connected && !members(group).contains("eu-central-3"))
    });
    terms.only_rise(&without);

    // A node loses its disk.
    let before = cluster.ask(&["node", "show", "us-east-3"]);
    cluster.kill_node("us-east-3");
    fs::remove_dir_all(cluster.data().join("nodes/us-east-3")).expect("removed");
    load.goes_on(CALLS_MIN);
    cluster.start_again("us-east-3");
    let after = cluster.ask(&["node", "show", "us-east-3"]);
    assert_eq!(
        (&after["name"], &after["id"]),
        (&before["name"], &before["id"])
    );
    assert_eq!(
        (before["life"].as_u64(), after["life"].as_u64()),
        (Some(1), Some(2))
    );
    assert!(
        number(&after["boot"]) > number(&before["boot"]),
        "{before} {after}"
    );

    // The region's group spreads again, and everything comes to rest.
    cluster.ask(&["region", "survive", "us-west", "region"]);
    let names: Vec<String> = cluster
        .ready()
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .filter(|name| name != "eu-central-3")
        .chain(["us-west-4".to_owned()])
        .collect();
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let end = see("all groups are whole", &|all| {
        let mut all = all.values();
        all.all(|group| is_spread(group) && members(group) == names)
    });
    terms.only_rise(&end);
    load.goes_on(CALLS_MIN);
    only_fails_at(&load, &["eu-central-3", "us-east-3"]);
    let mut promises = load.finish();
    for region in ["us-east", "us-west", "eu-central"] {
        promises.hold_at(cluster.client_address(region));
    }
    let mut admins: Vec<String> = cluster
        .ready()
        .nodes
        .iter()
        .filter(|node| node.name != "eu-central-3")
        .map(|node| node.admin.clone())
        .collect();
    admins.push(tenth.admin.clone());
    groups::agree(&admins, &token);
    told_of(
        &cluster,
        &["admit node us-west-4", "remove node eu-central-3", "life 2"],
    );
}

/// Sessions were resumed without an error at every node but those that were meant to fail.
#[track_caller]
fn only_fails_at(load: &Load, nodes: &[&str]) {
    let failures = load.failures();
    let elsewhere = failures.iter().filter(|(failure, _)| {
        let there = |node: &&str| failure.starts_with(&format!("resume at {node}:"));
        failure.starts_with("resume") && !nodes.iter().any(there)
    });
    let elsewhere: Vec<_> = elsewhere.collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?} of {failures:#?}");
    // A node that takes calls again waits for its replicas itself.
    let unsure = |failure: &&String| {
        failure.starts_with("resume") && failure.contains("session directory unavailable")
    };
    assert_eq!(failures.keys().find(unsure), None, "{failures:#?}");
    println!("{failures:#?}");
}

/// The audit trail has it all.
#[track_caller]
fn told_of(cluster: &Cluster, wanted: &[&str]) {
    let audit = cluster
        .ask(&["audit", "list", "--limit", "1000"])
        .to_string();
    for what in wanted {
        assert!(audit.contains(what), "{what}: {audit}");
    }
}

/// A number, which JSON may carry as text.
fn number(value: &serde_json::Value) -> u64 {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    text.parse().expect("a number")
}

#[test]
fn a_silent_nodes_places_are_given_to_others_and_it_is_welcome_when_it_comes_back() {
    let _alone = alone();
    let folder = cluster::folder();
    let size = ["--nodes-per-region", "2", "--slots", "64"];
    let cluster = Cluster::start_with(&folder, &size, DEAD_SOON);
    let token = cluster.ready().admin_token.clone();
    let admin = cluster.ready().node("us-east-1").admin.clone();
    groups::settle(&admin, &token, "five voters each", |all| {
        all.values().all(is_spread)
    });
    cluster.kill_node("us-west-2");
    let standing = |wanted: &str| {
        let what = format!("us-west-2 is {wanted}");
        wait::until(Duration::from_secs(40), &what, || {
            let node = cluster.ask(&["node", "show", "us-west-2"]);
            (node["standing"] == wanted).then_some(())
        });
    };
    standing("dead");
    let without = groups::settle(
        &admin,
        &token,
        "five voters each, and it is forgotten",
        |all| {
            let mut all = all.values();
            all.all(|group| group.voters.len() == 5 && !members(group).contains("us-west-2"))
        },
    );
    // Whom it knew as the leader of a group leads no more: it has to ask its way.
    let leader = &without["eu-central"].leader;
    cluster.kill_node(leader);
    groups::settle(&admin, &token, "eu-central has another leader", |all| {
        let group = &all["eu-central"];
        group.connected && !group.leader.is_empty() && group.leader != *leader
    });
    cluster.start_again(leader);
    cluster.start_again("us-west-2");
    standing("member");
    groups::settle(&admin, &token, "it is a member of all groups", |all| {
        let mut all = all.values();
        all.all(|group| is_spread(group) && members(group).contains("us-west-2"))
    });
    let admins: Vec<String> = cluster
        .now()
        .nodes
        .into_iter()
        .map(|node| node.admin)
        .collect();
    groups::agree(&admins, &token);
}

#[test]
fn a_node_that_is_gone_costs_the_others_a_few_lines_of_log() {
    let _alone = alone();
    let cluster = Cluster::start();
    let lines = || {
        let logs = ["us-east-1", "eu-central-1"].map(|node| {
            let log = cluster.data().join(format!("logs/{node}.log"));
            fs::read_to_string(log).expect("its log").lines().count()
        });
        logs.into_iter().sum::<usize>()
    };
    let before = lines();
    cluster.kill_node("us-west-1");
    // Four groups, two nodes, ten seconds, two tries a second, and for each of them two lines of the
    // stream and one of a heartbeat. Without a pause between tries it was 600,000.
    let flood = wait::within(Duration::from_secs(10), || {
        let more = lines() - before;
        (more > 480).then_some(more)
    });
    assert_eq!(flood, None, "lines within 10 s of a node's death");
}
