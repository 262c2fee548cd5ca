//! Directories that lose their leader in a storm, nodes that stop for a while, a region that is cut
//! off and recovered elsewhere, a node that lags. Each test has its own cluster.

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use support::client::{Call, Client, Pending, keys};
use support::cluster::{self, Cluster, Node, RECOVERED_WITHIN};
use support::load::Promise;
use support::process::send;
use support::worker::{Function, Sidecar, Worker};
use support::{alone, cli, groups, wait};

/// How many opens are under way at the moment of a kill.
const STORM: usize = 64;

/// How many times the leader is killed in a storm; forty by hand: PONTOON_STORMS=40.
fn storms() -> usize {
    std::env::var("PONTOON_STORMS").map_or(2, |text| text.parse().expect("a number"))
}

/// The leader of a group as a node sees it.
fn leader(cluster: &Cluster, asked: &Node, group: &str) -> Option<String> {
    let all = groups::seen(&asked.admin, &cluster.ready().admin_token)?;
    let seen = all.get(group)?;
    (seen.connected && !seen.leader.is_empty()).then(|| seen.leader.clone())
}

/// A call that adds 1 in a session, which is held for as long as any test runs.
fn begin(client: &Client, cluster: &Cluster, channel: &str, id: Option<&str>) -> Pending {
    let mut more = vec![("x-nvcf-reconnect-window-secs", "300")];
    more.extend(id.map(|id| ("nvcf-reqid", id)));
    client.begin_sum(channel, &keys(cluster, &more), 1)
}

/// Every session resumes at a node, with its worker and its sum.
#[track_caller]
fn all_resume(client: &Client, cluster: &Cluster, node: &Node, promises: &mut [Promise]) {
    let channel = format!("resumes at {}", node.name);
    client.connect(&channel, &node.client);
    for promise in promises {
        wait::until(RECOVERED_WITHIN, "a session resumes", || {
            let call = begin(client, cluster, &channel, Some(&promise.id)).call();
            promise
                .judge(&call)
                .unwrap_or_else(|wrong| panic!("{wrong}"));
            (call.code() == 0).then_some(())
        });
    }
    client.close(&channel);
}

#[test]
fn s_1_a_leader_that_is_killed_among_64_opens_takes_no_acknowledged_session_with_it() {
    let _alone = alone();
    let folder = cluster::folder();
    let size = ["--nodes-per-region", "2", "--slots", "4096"];
    let cluster = Cluster::start_in(&folder, &size);
    let Some(client) = Client::start() else {
        return;
    };
    let far = cluster.ready().node("eu-central-1").clone();
    let mut promises: Vec<Promise> = Vec::new();
    for storm in 0..storms() {
        let killed = wait::until(RECOVERED_WITHIN, "the leader is at home", || {
            leader(&cluster, &far, "us-east").filter(|name| name.starts_with("us-east"))
        });
        let killed = cluster.now().node(&killed).clone();
        let nodes = cluster.now().nodes;
        let other = nodes
            .iter()
            .find(|node| node.region == "us-east" && node.name != killed.name)
            .expect("two nodes of the region");
        // Most enter beside the leader, so that their answers can come after its end.
        let channels: Vec<String> = (0..STORM).map(|n| format!("storm {storm}.{n}")).collect();
        for (number, channel) in channels.iter().enumerate() {
            let entry = if number % 4 == 0 { &killed } else { other };
            client.connect(channel, &entry.client);
        }
        let mut opens: Vec<Pending> = channels
            .iter()
            .map(|channel| begin(&client, &cluster, channel, None))
            .collect();
        wait::until(RECOVERED_WITHIN, "the first opens are answered", || {
            opens.iter_mut().any(Pending::is_done).then_some(())
        });
        send(killed.pid, Signal::KILL);
        let done = opens.iter_mut().map(Pending::is_done);
        let under_way = done.filter(|done| !done).count();
        assert!(
            under_way >= STORM / 4,
            "only {under_way} opens were under way at the kill"
        );
        let (mut acknowledged, mut unknown) = (0, 0);
        for open in opens {
            let call = open.call();
            match call.code() {
                0 => {
                    promises.push(Promise::of(&call));
                    acknowledged += 1;
                }
                4 | 14 => unknown += 1,
                _ => panic!("{call:?}"),
            }
        }
        println!(
            "storm {storm}: {under_way} under way, {acknowledged} acknowledged, {unknown} not"
        );
        for channel in &channels {
            client.close(channel);
        }
        // While it is still gone.
        all_resume(&client, &cluster, other, &mut promises);
        cluster.start_again(&killed.name);
        all_resume(&client, &cluster, &killed, &mut promises);
    }
    all_resume(&client, &cluster, &far, &mut promises);
    let ids: BTreeSet<&str> = promises.iter().map(|promise| promise.id.as_str()).collect();
    assert_eq!(ids.len(), promises.len(), "no id was given twice");
    no_slot_twice(&cluster, &ids);
    let admins: Vec<String> = cluster
        .now()
        .nodes
        .into_iter()
        .map(|node| node.admin)
        .collect();
    groups::agree(&admins, &cluster.ready().admin_token);
}

/// All these sessions are listed, and no two have one slot.
#[track_caller]
fn no_slot_twice(cluster: &Cluster, ids: &BTreeSet<&str>) {
    let sessions = cluster.ask(&["session", "list", "--limit", "10000"]);
    let all = sessions.as_array().expect("a list");
    let mut places = BTreeSet::new();
    let mut listed = BTreeSet::new();
    for session in all {
        let shown = cluster.ask(&[
            "session",
            "show",
            session["request_id"].as_str().expect("text"),
        ]);
        let place = format!("{} {}", shown["worker_id"], shown["slot"]);
        assert!(places.insert(place), "a slot is given twice: {shown}");
        listed.insert(session["request_id"].as_str().expect("text"));
    }
    let lost: Vec<&&str> = ids.difference(&listed).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn s_1_c_rsm_1_a_resume_waits_out_5_s_without_a_leader_and_finds_its_session() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--slots", "64"]);
    let Some(client) = Client::start() else {
        return;
    };
    let [stays, others @ ..] = &cluster.ready().nodes[..] else {
        panic!("three nodes");
    };
    for node in &cluster.ready().nodes {
        client.connect(&node.name, &node.client);
    }
    let opened = begin(&client, &cluster, &others[0].name, None).call();
    let promise = Promise::of(&opened);
    wait::until(RECOVERED_WITHIN, "every group has its quorum", || {
        let groups = groups::seen(&stays.admin, &cluster.ready().admin_token)?;
        let mut all = groups.values();
        all.all(|group| group.connected && group.voters.len() == 3)
            .then_some(())
    });
    // What is known may be answered from memory; what is unknown has to be asked for, of a quorum.
    client.close(&others[0].name);
    for node in others {
        send(node.pid, Signal::STOP);
    }
    let stopped = pontoon::clock::now();
    let resumed = begin(&client, &cluster, &stays.name, Some(&promise.id));
    let unknown = unknown_of(&promise.id);
    let mut missed = begin(&client, &cluster, &stays.name, Some(&unknown));
    let early = wait::within(Duration::from_secs(6), || {
        let over = stopped.elapsed() >= Duration::from_millis(4_800);
        (over || missed.is_done()).then_some(over)
    });
    for node in others {
        send(node.pid, Signal::CONT);
    }
    assert_eq!(early, Some(true), "nobody is told anything yet");
    let resumed = resumed.call();
    assert_eq!(resumed.session(), promise.id);
    assert_eq!(resumed.answer()["sum"], 2, "{resumed:?}");
    missed.call().fails(5, "no existing session found");
}

#[test]
fn s_2_c_rsm_4_a_session_that_a_node_last_saw_waiting_is_found_there_once_it_was_given_a_slot() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--slots", "64"]);
    let Some(client) = Client::start() else {
        return;
    };
    let function = Function::create(&cluster, "waits", &["--slots", "1"]);
    let Some(worker) = Worker::start("waits-worker", &folder) else {
        return;
    };
    let _sidecar = Sidecar::attach(&cluster, &function, "waits", "us-east", &worker);
    // The group of the worker's region goes on while the node of another region stands still.
    let [entry, sleeper] = ["us-east", "us-west"].map(|region| {
        let nodes = &cluster.ready().nodes;
        nodes.iter().find(|node| node.region == region).unwrap()
    });
    wait::until(RECOVERED_WITHIN, "its group is led from its region", || {
        let leader = leader(&cluster, sleeper, "us-east")?;
        (leader == entry.name).then_some(())
    });
    let at = |channel: &str, node: &Node| client.connect(channel, &node.client);
    at("first", entry);
    at("second", entry);
    let first = client.echo("first", &function.keys(&[]), "first");
    let waits = client.begin_echo("second", "Unary", &function.keys(&[]), "second", 60.0);
    let token = &cluster.ready().admin_token;
    wait::until(RECOVERED_WITHIN, "the other node sees it wait", || {
        let sessions = cli::ask(&sleeper.admin, token, &["session", "list"]);
        let mut all = sessions.as_array()?.iter();
        all.any(|one| one["state"] == "queued").then_some(())
    });
    at("resume", sleeper);
    send(sleeper.pid, Signal::STOP);
    let stopped = pontoon::clock::now();
    cli::ask(&entry.admin, token, &["session", "end", &first.session()]);
    let second = waits.call();
    assert_eq!(second.json()["count"], 1, "{second:?}");
    let second_id = second.session();
    let keys = function.keys(&[("nvcf-reqid", &second_id)]);
    let resumed = client.begin_echo("resume", "Unary", &keys, "resume", 60.0);
    // Until the others have closed their connections to it: when it wakes it has to be told anew.
    wait::until(RECOVERED_WITHIN, "it has slept for 8 s", || {
        (stopped.elapsed() >= Duration::from_secs(8)).then_some(())
    });
    send(sleeper.pid, Signal::CONT);
    // It may say that it doesn't know yet, and nothing that is wrong.
    let mut answer = resumed.call();
    let resumed = wait::until(RECOVERED_WITHIN, "it resumes", || {
        match answer.code() {
            0 => return Some(answer.clone()),
            14 => {}
            _ => panic!("{answer:?}"),
        }
        answer = client.echo("resume", &keys, "again");
        None
    });
    assert_eq!(resumed.json()["count"], 2, "{resumed:?}");
    assert_eq!(resumed.session(), second_id);
}

#[test]
fn s_2_h_10_an_entry_node_that_stops_for_12_s_enters_its_streams_again_before_their_hold_ends() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--nodes-per-region", "2", "--slots", "64"]);
    let Some(client) = Client::start() else {
        return;
    };
    // The hold begins when the node is given up, 5 s after it stopped, and lasts 10 s and 5 s.
    let function = Function::create(&cluster, "stops", &["--slots", "4", "--window", "1s"]);
    let Some(worker) = Worker::start("stops-worker", &folder) else {
        return;
    };
    let _sidecar = Sidecar::attach(&cluster, &function, "stops", "us-east", &worker);
    let entry = cluster.ready().node("us-west-2").clone();
    client.connect("stream", &entry.client);
    let exchange = |message: &str| {
        client.run(json!({"do": "stream_send", "stream": "s", "message": message}));
        client.begin(json!({"do": "stream_next", "stream": "s"}))
    };
    client.run(json!({
        "do": "stream_open", "channel": "stream", "stream": "s", "method": "/test.Echo/Bidi",
        "metadata": function.keys(&[]), "timeout": 60,
    }));
    let first = exchange("one").wait();
    assert_eq!(first["message"], "echo one", "{first}");
    let id = first["initial"].as_array().expect("a list").iter();
    let mut id = id.filter(|pair| pair[0] == "nvcf-reqid");
    let id = id.next().expect("an id")[1]
        .as_str()
        .expect("text")
        .to_owned();
    let session = || cluster.ask(&["session", "show", &id]);
    assert_eq!(session()["entered_at"], json!(["us-west-2"]));

    let stopped = pontoon::clock::now();
    send(entry.pid, Signal::STOP);
    wait::until(RECOVERED_WITHIN, "the node is given up", || {
        (session()["entered_at"] == json!([])).then_some(())
    });
    assert_eq!(session()["state"], "held");
    let mut late = exchange("two");
    wait::until(RECOVERED_WITHIN, "12 s are over", || {
        (stopped.elapsed() >= Duration::from_secs(12)).then_some(())
    });
    assert!(!late.is_done(), "a stopped node passes nothing on");
    send(entry.pid, Signal::CONT);
    let late = late.wait();
    assert_eq!(late["message"], "echo two", "the stream goes on: {late}");
    wait::until(RECOVERED_WITHIN, "the session is entered again", || {
        (session()["entered_at"] == json!(["us-west-2"])).then_some(())
    });
    assert_eq!(session()["state"], "bound");
    // Beyond every hold that can have begun meanwhile.
    let mut number = 0;
    wait::until(Duration::from_secs(60), "25 s are over", || {
        number += 1;
        let answer = exchange(&format!("more {number}")).wait();
        assert_eq!(answer["message"], format!("echo more {number}"), "{answer}");
        (stopped.elapsed() >= Duration::from_secs(25)).then_some(())
    });
    assert_eq!(session()["entered_at"], json!(["us-west-2"]));
    client.connect("elsewhere", &cluster.ready().node("us-east-1").client);
    let elsewhere = client.echo("elsewhere", &function.keys(&[("nvcf-reqid", &id)]), "x");
    assert_eq!(elsewhere.session(), id);
    assert_eq!(elsewhere.json()["worker"], "stops-worker");
}

#[test]
fn h_23_a_region_that_is_cut_off_and_recovered_elsewhere_gives_way_when_it_comes_back() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--nodes-per-region", "3", "--slots", "64"]);
    let Some(client) = Client::start() else {
        return;
    };
    let token = cluster.ready().admin_token.clone();
    let outside = cluster.ready().node("us-east-1").clone();
    let inside: Vec<Node> = cluster
        .ready()
        .nodes
        .iter()
        .filter(|node| node.region == "us-west")
        .cloned()
        .collect();
    cluster.ask(&["region", "survive", "us-west", "zone"]);
    groups::settle(&outside.admin, &token, "all voters are at home", |all| {
        let group = &all["us-west"];
        let mut voters = group.voters.iter();
        group.connected && group.voters.len() == 3 && voters.all(|name| name.starts_with("us-west"))
    });
    let mut promises: Vec<Promise> = Vec::new();
    for number in 0..12 {
        let channel = format!("open {number}");
        client.connect(&channel, &inside[number % 3].client);
        promises.push(Promise::of(
            &begin(&client, &cluster, &channel, None).call(),
        ));
    }
    for promise in &promises {
        assert_eq!(
            cluster.ask(&["session", "show", &promise.id])["region"],
            "us-west"
        );
    }
    wait::until(RECOVERED_WITHIN, "the seed has all of it", || {
        let applied = |node: &Node| Some(groups::seen(&node.admin, &token)?["us-west"].applied);
        (applied(&outside)? >= applied(&inside[0])?).then_some(())
    });
    for node in &inside {
        send(node.pid, Signal::STOP);
    }
    wait::until(
        RECOVERED_WITHIN,
        "nobody reaches the region's group",
        || {
            let group = groups::seen(&outside.admin, &token)?.remove("us-west")?;
            (!group.connected).then_some(())
        },
    );
    // Certain of nothing, it says so.
    let entry = cluster.ready().node("eu-central-1");
    client.connect("cut off", &entry.client);
    let unknown = unknown_of(&promises[0].id);
    client
        .sum("cut off", &keys(&cluster, &[("nvcf-reqid", &unknown)]), 1)
        .fails(14, "session directory unavailable");

    let recover = ["region", "recover", "us-west", "--seed", "us-east-1"];
    let refused = cli::fail(64, &mut cli::pontoon(&outside.admin, &token, &recover));
    assert!(refused.contains("--accept-loss"), "{refused}");
    let recover = [&recover[..], &["--accept-loss"]].concat();
    let dry = cli::ask(
        &outside.admin,
        &token,
        &[&recover[..], &["--dry-run"]].concat(),
    );
    assert_eq!(generation(&dry), 1);
    let recovered = cli::ask(&outside.admin, &token, &recover);
    assert_eq!(generation(&recovered), 2);
    for region in ["us-east", "eu-central"] {
        let node = cluster
            .ready()
            .nodes
            .iter()
            .find(|node| node.region == region);
        all_resume(&client, &cluster, node.expect("a node"), &mut promises);
    }
    client
        .sum("cut off", &keys(&cluster, &[("nvcf-reqid", &unknown)]), 1)
        .fails(5, "no existing session found");

    for node in &inside {
        send(node.pid, Signal::CONT);
    }
    let admins: Vec<String> = cluster
        .ready()
        .nodes
        .iter()
        .map(|node| node.admin.clone())
        .collect();
    for admin in &admins {
        groups::settle(admin, &token, "the recovered group is whole", |all| {
            let group = &all["us-west"];
            group.generation == 2 && group.connected
        });
    }
    for node in &inside {
        all_resume(&client, &cluster, node, &mut promises);
    }
    // The group goes home to its zone.
    groups::settle(
        &outside.admin,
        &token,
        "all voters are at home again",
        |all| {
            let group = &all["us-west"];
            let mut voters = group.voters.iter();
            group.connected
                && group.voters.len() == 3
                && voters.all(|name| name.starts_with("us-west"))
        },
    );
    all_resume(&client, &cluster, &outside, &mut promises);
    let generations = groups::agree(&admins, &token);
    assert_eq!(generations["us-west"], 2, "{generations:?}");
    let ids: BTreeSet<&str> = promises.iter().map(|promise| promise.id.as_str()).collect();
    no_slot_twice(&cluster, &ids);
}

fn generation(region: &Value) -> u64 {
    let value = &region["generation"];
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    text.parse().expect("a number")
}

/// An id of the same region that nobody has: its last digit is another one.
fn unknown_of(id: &str) -> String {
    let (rest, last) = id.split_at(id.len() - 1);
    let other = if last == "0" { "1" } else { "0" };
    format!("{rest}{other}")
}

#[test]
fn h_7_what_was_created_a_moment_ago_is_known_at_every_node_the_one_that_lags_most_included() {
    let _alone = alone();
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--slots", "256"]);
    let Some(client) = Client::start() else {
        return;
    };
    let ready = cluster.ready();
    let tenant = ready.tenant.clone();
    let nodes = &ready.nodes;
    for node in nodes {
        client.connect(&node.name, &node.client);
    }
    let new_key = |asked: &Node| {
        let create = ["key", "create", "--kind", "client", "--tenant", &tenant];
        let key = cli::ask(&asked.admin, &ready.admin_token, &create);
        format!("Bearer {}", key["secret"].as_str().expect("text"))
    };
    let call = |node: &Node, bearer: &str, function: &str, version: &str| {
        let keys = [
            ("authorization", bearer),
            ("function-id", function),
            ("function-version-id", version),
        ];
        client.begin(json!({
            "do": "unary", "channel": node.name, "metadata": keys, "x": 1, "timeout": 3,
            "wait_for_ready": true,
        }))
    };
    for round in 0..6 {
        let bearer = new_key(&nodes[round % 3]);
        let calls: Vec<Pending> = nodes
            .iter()
            .map(|node| {
                call(
                    node,
                    &bearer,
                    &ready.function_id,
                    &ready.function_version_id,
                )
            })
            .collect();
        for pending in calls {
            pending.call().answer();
        }
    }
    // A node that stands still learns of nothing, and is asked before it can have caught up.
    let lagging = &nodes[1];
    for round in 0..2 {
        let name = format!("new {round}");
        send(lagging.pid, Signal::STOP);
        let bearer = new_key(&nodes[0]);
        let ask = |arguments: &[&str]| {
            let answer = cli::ask(&nodes[0].admin, &ready.admin_token, arguments);
            answer["id"].as_str().expect("an id").to_owned()
        };
        let function = ask(&["function", "create", &name, "--tenant", &tenant]);
        let version = ask(&["version", "create", "--function", &function]);
        let known = call(
            lagging,
            &bearer,
            &ready.function_id,
            &ready.function_version_id,
        );
        let fresh = call(lagging, &bearer, &function, &version);
        send(lagging.pid, Signal::CONT);
        let is_no_refusal = |call: Call| {
            assert!([0, 4, 14].contains(&call.code()), "{call:?}");
            assert!(!call.details().contains("not found"), "{call:?}");
        };
        is_no_refusal(known.call());
        // There is no worker for it: all that can be said is that none took the call in time.
        is_no_refusal(fresh.call());
        wait::until(RECOVERED_WITHIN, "the new key opens the function", || {
            let again = call(
                lagging,
                &bearer,
                &ready.function_id,
                &ready.function_version_id,
            );
            let again = again.call();
            assert!([0, 4, 14].contains(&again.code()), "{again:?}");
            (again.code() == 0).then_some(())
        });
    }
}
