//! Where a new session goes (docs/openings.md): to which version, in which region, and behind whom.
//!
//! Sessions that only have to be somewhere are opened by absorbed calls, which ask nothing of a worker.

mod support;

use pontoon_proto::id::RequestId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use support::client::Client;
use support::cluster::Cluster;
use support::raw::{self, Answer};
use support::wait;
use support::worker::{Function, Sidecar, Worker, find, text};

const REGIONS: [&str; 3] = ["us-east", "us-west", "eu-central"];

/// How soon what one node knows is known at another one, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// Weights and regions need entry format 3, sharing needs 4; it rises soon after a first start.
#[track_caller]
fn ready() -> &'static Cluster {
    let cluster = Cluster::shared();
    wait::until(Duration::from_secs(20), "the format has risen", || {
        let format = cluster.ask(&["cluster", "show"])["format"].as_u64()?;
        (format >= 4).then_some(())
    });
    cluster
}

/// A Python worker of a version, attached.
fn serve(cluster: &Cluster, of: &Function, name: &str, region: &str) -> Option<(Worker, Sidecar)> {
    let worker = Worker::start(name, &cluster.data().join("logs"))?;
    let sidecar = Sidecar::attach(cluster, of, name, region, &worker);
    Some((worker, sidecar))
}

/// Opens a session at a region's node.
fn open(cluster: &Cluster, region: &str, keys: &[(&str, &str)]) -> Answer {
    let keys = [keys, &[("x-nvcf-absorb", "true")]].concat();
    raw::exchange(cluster.client_address(region), "POST", "/", &keys)
}

/// The id of a session that was opened.
#[track_caller]
fn opened(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("nvcf-reqid").to_owned()
}

/// A session's record at its home group.
#[track_caller]
fn show(cluster: &Cluster, id: &str) -> Value {
    cluster.ask(&["session", "show", id])
}

/// Opens so many sessions of any version, at each region's node in turn; how many each version got.
#[track_caller]
fn drawn(cluster: &Cluster, of: &Function, count: usize) -> BTreeMap<String, usize> {
    let keys = of.keys_of_any(&[]);
    let regions = REGIONS.iter().cycle().take(count);
    let ids: Vec<String> = regions
        .map(|region| opened(&open(cluster, region, &keys)))
        .collect();
    let list = cluster.ask(&["session", "list"]);
    let mut found = BTreeMap::new();
    for session in list.as_array().expect("a list") {
        if ids.contains(&text(session, "request_id")) {
            *found.entry(text(session, "version_id")).or_default() += 1;
        }
    }
    assert_eq!(found.values().sum::<usize>(), count, "{list}");
    found
}

#[test]
fn c_rsm_1_c_pin_1_weights_divide_new_sessions_and_leave_open_ones_where_they_are() {
    let cluster = ready();
    let _witness = cluster.witness();
    let Some(client) = Client::start() else {
        return;
    };
    let policy = ["--slots", "200"];
    let blue = Function::create(cluster, "weighed", &policy);
    let green = blue.another(cluster, &policy);
    let Some(_workers) =
        serve(cluster, &blue, "blue", "us-east").zip(serve(cluster, &green, "green", "us-west"))
    else {
        return;
    };
    let weigh = |blues: u32, greens: u32| {
        let [blues, greens] = [(&blue, blues), (&green, greens)]
            .map(|(one, weight)| format!("{}={weight}", one.version));
        cluster.ask(&["function", "weigh", &blue.function, &blues, &greens]);
    };

    // Outside of these bounds would be one run in a hundred million.
    weigh(50, 50);
    let halves = drawn(cluster, &blue, 60);
    println!("of 60 sessions: {halves:?}");
    for one in [&blue, &green] {
        let got = halves.get(&one.version).copied().unwrap_or(0);
        assert!((9..=51).contains(&got), "{halves:?}");
    }

    weigh(100, 0);
    client.connect("open", cluster.client_address("us-east"));
    let first = client.echo("open", &blue.keys_of_any(&[]), "one");
    assert_eq!(first.json()["worker"], "blue");
    let id = first.session();
    client.run(json!({
        "do": "stream_open", "channel": "open", "stream": "s", "method": "/test.Echo/Bidi",
        "metadata": blue.keys_of_any(&[]),
    }));
    let echoes = |message: &str| {
        client.run(json!({"do": "stream_send", "stream": "s", "message": message}));
        let echoed = client.run(json!({"do": "stream_next", "stream": "s"}));
        assert_eq!(echoed["message"], format!("echo {message}"));
    };
    echoes("before");

    weigh(0, 100);
    let all = drawn(cluster, &blue, 20);
    assert_eq!(all, BTreeMap::from([(green.version.clone(), 20)]));
    echoes("after");
    client.connect("other", cluster.client_address("eu-central"));
    let by_id = [("nvcf-reqid", id.as_str())];
    for (channel, keys) in [
        ("open", blue.keys_of_any(&[])),
        ("other", blue.keys_of_any(&by_id)),
    ] {
        let call = client.echo(channel, &keys, "goes on");
        assert_eq!(
            (call.session(), &call.json()["worker"]),
            (id.clone(), &"blue".into())
        );
    }
    // Who names the version without a weight still gets it.
    client.connect("named", cluster.client_address("us-west"));
    let named = client.echo("named", &blue.keys(&[]), "named");
    assert_eq!(named.json()["worker"], "blue");
    client.connect("unnamed", cluster.client_address("us-east"));
    let unnamed = client.echo("unnamed", &blue.keys_of_any(&[]), "unnamed");
    assert_eq!(unnamed.json()["worker"], "green");
    client.run(json!({"do": "stream_finish", "stream": "s"}));
    let ended = client.run(json!({"do": "stream_next", "stream": "s"}));
    assert_eq!(ended["code"], 0, "{ended}");

    // Without weights the nearest free slot counts.
    cluster.ask(&["function", "weigh", &blue.function, "--none"]);
    for (region, version) in [("us-east", &blue.version), ("us-west", &green.version)] {
        let answer = open(cluster, region, &blue.keys_of_any(&[]));
        let session = show(cluster, &opened(&answer));
        assert_eq!(session["version_id"], version.as_str(), "{session}");
    }
}

#[test]
fn h_26_c_err_7_a_session_lives_in_a_region_of_its_versions_policy_or_nowhere() {
    let cluster = ready();
    let _witness = cluster.witness();
    let Some(client) = Client::start() else {
        return;
    };
    let policy = ["--slots", "40", "--wait", "25s"];
    let function = Function::create(cluster, "placed", &policy);
    let Some(_workers) = serve(cluster, &function, "in-the-east", "us-east").zip(serve(
        cluster,
        &function,
        "in-the-west",
        "us-west",
    )) else {
        return;
    };
    let regions = |arguments: &[&str]| {
        let version = ["version", "regions", &function.version];
        cluster.ask(&[&version, arguments].concat());
    };
    let keys = function.keys(&[]);
    let number = |region: &str| {
        let all = cluster.ask(&["region", "list"]);
        let mut all = all.as_array().expect("a list").iter();
        let found = all.find(|one| one["name"] == region).expect("a region");
        found["number"].as_u64().expect("a number")
    };
    let lives = |answer: &Answer, region: &str, worker: &str| {
        let id = opened(answer);
        let session = show(cluster, &id);
        let serving = find(cluster, worker).expect("attached");
        assert_eq!(session["region"], region, "{session}");
        assert_eq!(session["worker_id"], serving["id"], "{session}");
        let home = id.parse::<RequestId>().expect("an id").region();
        let home = home.map(|home| u64::from(home.0));
        assert_eq!(home, Some(number(region)), "{id} says where it lives");
        id
    };
    let at_home = lives(&open(cluster, "us-east", &keys), "us-east", "in-the-east");

    regions(&["us-west", "eu-central"]);
    for region in REGIONS {
        lives(&open(cluster, region, &keys), "us-west", "in-the-west");
    }

    regions(&["--home"]);
    lives(&open(cluster, "us-west", &keys), "us-west", "in-the-west");
    lives(&open(cluster, "us-east", &keys), "us-east", "in-the-east");
    let free = find(cluster, "in-the-east").expect("attached");
    assert!(free["slots_used"].as_u64() < free["slots"].as_u64());
    let hurried = function.keys(&[("grpc-timeout", "2S")]);
    let began = pontoon::clock::now();
    let late = open(cluster, "eu-central", &hurried);
    assert_eq!(late.status, 504, "{late:?}");
    assert!(late.text().starts_with("failed to establish link"));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1_900), "{took:?}");

    // One that waits at home is served elsewhere as soon as it may be.
    client.connect("waits", cluster.client_address("eu-central"));
    let mut waits = client.begin_echo("waits", "Unary", &keys, "one", 25.0);
    wait::until(SOON, "it is in the queue at home", || {
        let all = cluster.ask(&["session", "list", "--region", "eu-central"]);
        let mut all = all.as_array()?.iter();
        let found = all.find(|one| one["version_id"] == function.version.as_str())?;
        (found["state"] == "queued").then_some(())
    });
    assert!(!waits.is_done());
    regions(&["us-west"]);
    let served = waits.call();
    assert_eq!(served.json()["worker"], "in-the-west");
    // A policy moves nobody.
    let resumed = function.keys(&[("nvcf-reqid", &at_home)]);
    let resumed = client.echo("waits", &resumed, "at home");
    assert_eq!(resumed.json()["worker"], "in-the-east");
    assert_eq!(resumed.session(), at_home);
}

#[test]
fn k_slot_1_c_err_7_opens_that_are_given_up_leave_the_queue_and_hold_up_nobody() {
    let cluster = ready();
    let _witness = cluster.witness();
    let Some(client) = Client::start() else {
        return;
    };
    let policy = ["--slots", "1", "--wait", "40s"];
    let function = Function::create(cluster, "narrow", &policy);
    let Some(_worker) = serve(cluster, &function, "narrow", "us-east") else {
        return;
    };
    let keys = function.keys(&[]);
    client.connect("first", cluster.client_address("us-east"));
    let first = client.echo("first", &keys, "first").session();
    let queued = |wanted: usize| {
        wait::until(SOON, &format!("{wanted} opens wait"), || {
            let all = cluster.ask(&["session", "list"]);
            let of = |session: &&Value| {
                session["version_id"] == function.version.as_str() && session["state"] == "queued"
            };
            (all.as_array()?.iter().filter(of).count() == wanted).then_some(())
        });
    };
    let wait_in_line = |name: &str, region: &str, seconds: f64, wanted: usize| {
        client.connect(name, cluster.client_address(region));
        let call = client.begin_echo(name, "Unary", &keys, name, seconds);
        queued(wanted);
        call
    };
    let gone = wait_in_line("gone", "us-west", 40.0, 1);
    let late = wait_in_line("late", "us-east", 8.0, 2);
    let patient = wait_in_line("patient", "eu-central", 40.0, 3);
    let last = wait_in_line("last", "us-west", 40.0, 4);
    client.close("gone");
    queued(3);
    drop(gone);
    assert_eq!(late.call().code(), 4);
    queued(2);
    cluster.ask(&["session", "end", &first]);
    let patient = patient.call();
    assert_eq!(patient.json()["count"], 1, "a session of its own");
    let narrow = find(cluster, "narrow").expect("attached");
    assert_eq!(narrow["slots_used"], 1, "{narrow}");
    queued(1);
    cluster.ask(&["session", "end", &patient.session()]);
    assert_eq!(last.call().json()["count"], 1);
    queued(0);
}

/// The sessions of a version in all regions.
#[track_caller]
fn sessions(cluster: &Cluster, of: &Function) -> Vec<Value> {
    let all = cluster.ask(&["session", "list"]);
    let mut all = all.as_array().expect("a list").clone();
    all.retain(|session| session["version_id"] == of.version.as_str());
    all
}

#[test]
fn c_err_6_a_guest_of_a_function_has_its_own_sessions_until_the_function_is_no_longer_shared() {
    const NOT_THERE: &str = "function not found";
    const NO_SESSION: &str = "no existing session found";
    let cluster = ready();
    let _witness = cluster.witness();
    let Some(client) = Client::start() else {
        return;
    };
    let policy = ["--slots", "20", "--window", "60s"];
    let owner = Function::create(cluster, "lender", &policy);
    let guest = owner.guest(cluster, "borrower");
    let Some(_worker) = serve(cluster, &owner, "lent", "us-west") else {
        return;
    };
    for region in REGIONS {
        client.connect(region, cluster.client_address(region));
    }
    let share = |verb: &str, more: &[&str]| {
        let share = ["function", verb, &owner.function, "--tenant", "borrower"];
        cluster.ask(&[&share, more].concat())
    };
    let refused_everywhere = |says: &str, keys: &[(&str, &str)]| {
        for region in REGIONS {
            client.echo(region, keys, "?").fails(5, says);
        }
    };
    refused_everywhere(NOT_THERE, &guest.keys(&[]));
    share("share", &["--dry-run"]);
    refused_everywhere(NOT_THERE, &guest.keys_of_any(&[]));

    let shown = share("share", &[]);
    assert_eq!(shown["shared_with"], json!([guest.tenant]), "{shown}");
    // Each region's node knows it when the verb answers.
    let ids: Vec<String> = REGIONS
        .iter()
        .map(|region| {
            let call = client.echo(region, &guest.keys_of_any(&[]), region);
            let headers = call.json()["headers"].clone();
            let headers = headers.as_array().expect("a list");
            assert!(headers.contains(&json!(["nvcf-ncaid", guest.tenant])));
            assert_eq!(call.json()["worker"], "lent");
            call.session()
        })
        .collect();
    let session = show(cluster, &ids[0]);
    assert_eq!(session["tenant_id"], guest.tenant.as_str(), "{session}");
    assert_eq!(session["function_id"], owner.function.as_str());

    // Neither side has anything of the other's, not even on the same connection.
    let owners = client.echo("us-east", &owner.keys(&[]), "mine").session();
    assert!(!ids.contains(&owners));
    for (of, id) in [(&owner, &ids[0]), (&guest, &owners)] {
        refused_everywhere(NO_SESSION, &of.keys(&[("nvcf-reqid", id)]));
        let keys = of.keys(&[("nvcf-reqid", id), ("x-nvcf-absorb", "true")]);
        let at = cluster.client_address("eu-central");
        let answer = raw::exchange(at, "DELETE", "/", &keys);
        assert_eq!((answer.status.as_u16(), answer.text()), (404, NO_SESSION));
    }
    assert_eq!(show(cluster, &owners)["state"], "bound");

    // What the guest opens counts for the guest.
    let limit = |sessions: &str| {
        cluster.ask(&["tenant", "limit", "borrower", "--sessions", sessions]);
    };
    limit("3");
    let over = open(cluster, "us-east", &guest.keys(&[]));
    assert_eq!(over.status, 429, "{over:?}");
    opened(&open(cluster, "us-east", &owner.keys(&[])));
    limit("none");

    // A stream goes on; the next call is refused as any unknown function, whatever it names.
    client.run(json!({
        "do": "stream_open", "channel": "us-east", "stream": "lent", "method": "/test.Echo/Bidi",
        "metadata": guest.keys_of_any(&[]),
    }));
    let echoes = |message: &str| {
        client.run(json!({"do": "stream_send", "stream": "lent", "message": message}));
        let echoed = client.run(json!({"do": "stream_next", "stream": "lent"}));
        assert_eq!(echoed["message"], format!("echo {message}"));
    };
    echoes("before");
    let shown = share("unshare", &[]);
    assert_eq!(shown["shared_with"], json!([]), "{shown}");
    for keys in [
        guest.keys(&[]),
        guest.keys_of_any(&[]),
        guest.keys(&[("nvcf-reqid", &ids[0])]),
    ] {
        refused_everywhere(NOT_THERE, &keys);
    }
    let nothing = [
        ("authorization", guest.bearer.as_str()),
        ("function-id", "67e55044-10b1-426f-9247-bb680e5fe0c8"),
    ];
    refused_everywhere(NOT_THERE, &nothing);
    echoes("after");
    client.echo("us-east", &owner.keys(&[]), "goes on").answer();

    // The session is there until its window ends; shared again in time, the guest has it back.
    share("share", &[]);
    let resumed = client.echo("us-west", &guest.keys(&[("nvcf-reqid", &ids[0])]), "again");
    assert_eq!(resumed.session(), ids[0]);
    assert_eq!(resumed.json()["count"], 3, "after a call and a stream");
}

#[test]
fn c_err_8_a_flood_of_one_tenant_does_not_hold_up_another_that_shares_the_function() {
    const FLOOD: usize = 30;
    let cluster = ready();
    let _witness = cluster.witness();
    let Some(client) = Client::start() else {
        return;
    };
    let policy = ["--slots", "1", "--wait", "60s"];
    let owner = Function::create(cluster, "crowd", &policy);
    let guest = owner.guest(cluster, "lonely");
    let Some(_worker) = serve(cluster, &owner, "crowded", "us-east") else {
        return;
    };
    cluster.ask(&["function", "share", &owner.function, "--tenant", "lonely"]);
    let begin = |name: &str, region: &str, of: &Function| {
        client.connect(name, cluster.client_address(region));
        client.begin_echo(name, "Unary", &of.keys(&[]), name, 60.0)
    };
    let waiting = |wanted: usize| {
        wait::until(4 * SOON, &format!("{wanted} opens wait"), || {
            let all = sessions(cluster, &owner);
            let queued = all.iter().filter(|one| one["state"] == "queued").count();
            (queued == wanted).then_some(())
        });
    };
    let first = begin("first", "us-east", &owner).call();
    assert_eq!(first.json()["worker"], "crowded");
    let names: Vec<String> = (0..FLOOD).map(|n| format!("flood-{n}")).collect();
    let regions = REGIONS.iter().cycle();
    let flood: Vec<_> = names
        .iter()
        .zip(regions)
        .map(|(name, region)| begin(name, region, &owner))
        .collect();
    waiting(FLOOD);
    let alone = begin("alone", "eu-central", &guest);
    waiting(FLOOD + 1);

    // One slot, freed again and again: who has it?
    let mut served = Vec::new();
    let mut last = String::new();
    while served.len() < 4 {
        let bound = wait::until(4 * SOON, "somebody is served", || {
            let all = sessions(cluster, &owner);
            let mut bound = all.iter().filter(|one| one["state"] == "bound");
            let found = bound.next().filter(|one| one["request_id"] != last)?;
            assert!(bound.next().is_none(), "one slot: {all:?}");
            Some(found.clone())
        });
        served.push(text(&bound, "tenant_id"));
        last = text(&bound, "request_id");
        cluster.ask(&["session", "end", &last]);
    }
    let (owner, guest) = (&owner.tenant, &guest.tenant);
    assert_eq!(served, [owner, owner, guest, owner].map(String::clone));
    let alone = alone.call();
    assert_eq!(alone.json()["message"], "alone");
    println!(
        "alone behind {FLOOD} others: served third, after {:.1} s",
        alone.seconds()
    );
    for name in &names {
        client.close(name);
    }
    drop(flood);
}
