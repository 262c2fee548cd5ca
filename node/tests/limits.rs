//! Limits on new sessions, as clients of three regions and an operator see them (C-ERR-8).
//!
//! Sessions are opened by absorbed calls, which need no worker's answer. All tests limit the demo
//! function, so that one of them runs at a time.

mod support;

use std::time::Duration;
use support::client::{Client, keys};
use support::cluster::Cluster;
use support::raw::{self, Answer};
use support::worker::text;
use support::{alone, cli, wait};

const REGIONS: [&str; 3] = ["us-east", "us-west", "eu-central"];

/// How soon what an operator or another node did is known at each node.
const SOON: Duration = Duration::from_secs(1);

/// Asks for a session of the demo version at a region's node.
fn open(cluster: &Cluster, region: &str, more: &[(&str, &str)]) -> Answer {
    let version = cluster.ready().function_version_id.as_str();
    let more = [more, &[("function-version-id", version)]].concat();
    open_any(cluster, region, &more)
}

/// Asks for a session of any version of the demo function.
fn open_any(cluster: &Cluster, region: &str, more: &[(&str, &str)]) -> Answer {
    let mut headers = keys(cluster, more);
    let own = headers
        .iter()
        .position(|key| key.0 == "function-version-id");
    headers.remove(own.expect("the demo's keys name its version"));
    headers.push(("x-nvcf-absorb", "true"));
    raw::exchange(cluster.client_address(region), "POST", "/", &headers)
}

/// The session that was opened, if none was refused for a limit.
#[track_caller]
fn opened(answer: &Answer) -> Option<String> {
    if answer.status == 429 {
        refused(answer);
        return None;
    }
    assert!(answer.status.is_success(), "{answer:?}");
    Some(answer.header("nvcf-reqid").to_owned())
}

/// Checks a refusal; how many seconds it says.
#[track_caller]
fn refused(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(answer.text(), "exceeded rate limit");
    assert_eq!(answer.header("nvcf-reqid"), "", "no session began");
    let seconds = answer.header("retry-after").parse();
    let seconds = seconds.expect("retry-after in seconds");
    assert!(seconds >= 1, "{answer:?}");
    seconds
}

/// Ends sessions at the end of a test, and lifts what it had limited.
#[track_caller]
fn clear(cluster: &Cluster, noun: &str, of: &str, sessions: &[String]) {
    cluster.ask(&[noun, "limit", of, "--sessions", "none", "--rate", "none"]);
    for id in sessions {
        cluster.ask(&["session", "end", id]);
    }
}

/// Waits until every node counts so many sessions of the demo tenant.
#[track_caller]
fn until_all_count(cluster: &Cluster, wanted: u64) {
    let ready = cluster.ready();
    for node in &ready.nodes {
        wait::until(5 * SOON, "a node counts the sessions", || {
            let show = ["tenant", "limit", &ready.tenant];
            let shown = cli::ask(&node.admin, &ready.admin_token, &show);
            (shown["sessions_now"] == wanted).then_some(())
        });
    }
}

/// Limits need the newest entry format, which rises soon after a first start.
#[track_caller]
fn ready() -> &'static Cluster {
    let cluster = Cluster::shared();
    wait::until(Duration::from_secs(20), "the format has risen", || {
        let format = cluster.ask(&["cluster", "show"])["format"].as_u64()?;
        (format >= 2).then_some(())
    });
    cluster
}

#[test]
fn c_err_8_a_rate_holds_over_the_nodes_of_three_regions_and_resumes_are_free() {
    const RATE: f64 = 2.0;
    const BURST: usize = 4;
    let _alone = alone();
    let cluster = ready();
    let _witness = cluster.witness();
    let version = &cluster.ready().function_version_id;
    let set = ["version", "limit", version, "--rate", "2", "--burst", "4"];
    let shown = cluster.ask(&set);
    assert_eq!(shown["limit"]["rate"], RATE, "{shown}");
    assert_eq!(shown["limit"]["burst"], BURST, "{shown}");
    let began = pontoon::clock::now();
    let (mut sessions, mut refusals) = (Vec::new(), 0);
    for region in REGIONS.into_iter().cycle() {
        match opened(&open(cluster, region, &[])) {
            Some(id) => sessions.push(id),
            None => refusals += 1,
        }
        if began.elapsed() >= Duration::from_secs(4) {
            break;
        }
    }
    let gained = (RATE * began.elapsed().as_secs_f64()) as usize;
    // Each of the two other nodes may admit one before it has heard of the last one.
    let most = BURST + gained + 2;
    let count = sessions.len();
    assert!(count <= most, "{count} of at most {most}");
    assert!(count + 3 >= BURST + gained, "{count} of {gained} and more");
    assert!(refusals > 0, "somebody was refused");
    // Slow down, so that nothing more comes while the resumes are tried: what is left of a token may
    // still become one, and then the next is a thousand seconds away.
    let slow = ["--rate", "0.001", "--burst", "1"];
    cluster.ask(&[&["version", "limit", version][..], &slow].concat());
    wait::until(10 * SOON, "the last token is gone", || {
        let answers = REGIONS.map(|region| open(cluster, region, &[]));
        sessions.extend(answers.iter().filter_map(opened));
        let long = |answer: &Answer| answer.status == 429 && refused(answer) > 100;
        answers.iter().all(long).then_some(())
    });
    let grpc = [("content-type", "application/grpc")];
    for region in REGIONS {
        let answer = open(cluster, region, &grpc);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("grpc-status"), "8");
        assert_eq!(answer.header("grpc-message"), "exceeded rate limit");
        let wait: u64 = answer.header("retry-after").parse().expect("seconds");
        assert!((100..=3_600).contains(&wait), "{wait}");
    }
    if let Some(client) = Client::start() {
        for (turn, region) in REGIONS.into_iter().enumerate() {
            client.connect(region, cluster.client_address(region));
            let resume = keys(cluster, &[("nvcf-reqid", &sessions[0])]);
            let call = client.sum(region, &resume, 1);
            assert_eq!(call.answer()["sum"], turn + 1, "one session, one worker");
        }
        client.connect("new", cluster.client_address("us-east"));
        let call = client.sum("new", &keys(cluster, &[]), 1);
        call.fails(8, "exceeded rate limit");
        assert_eq!(call.metadata("retry-after").len(), 1, "{call:?}");
    }
    clear(cluster, "version", version, &sessions);
}

#[test]
fn c_err_8_at_the_quota_one_session_must_end_before_another_begins_and_a_raised_limit_counts_at_once()
 {
    let _alone = alone();
    let cluster = ready();
    let _witness = cluster.witness();
    let tenant = &cluster.ready().tenant;
    until_all_count(cluster, 0);
    cluster.ask(&["tenant", "limit", tenant, "--sessions", "3"]);
    let mut sessions = Vec::new();
    for (count, region) in (1..).zip(REGIONS) {
        let id = opened(&open(cluster, region, &[]));
        sessions.push(id.expect("there is room"));
        until_all_count(cluster, count);
    }
    for region in REGIONS {
        refused(&open(cluster, region, &[]));
    }
    cluster.ask(&["session", "end", &sessions.remove(0)]);
    let id = wait::until(SOON, "the place of an ended session is free", || {
        opened(&open(cluster, "eu-central", &[]))
    });
    sessions.push(id);
    until_all_count(cluster, 3);
    let raise = ["tenant", "limit", tenant, "--sessions", "4"];
    cluster.ask(&[&raise[..], &["--dry-run"]].concat());
    refused(&open(cluster, "us-west", &[]));
    cluster.ask(&raise);
    let id = wait::until(SOON, "a raised limit is in force", || {
        opened(&open(cluster, "us-west", &[]))
    });
    sessions.push(id);
    until_all_count(cluster, 4);
    for region in REGIONS {
        refused(&open(cluster, region, &[]));
    }
    clear(cluster, "tenant", tenant, &sessions);
    let id = opened(&open(cluster, "us-east", &[])).expect("no limit");
    cluster.ask(&["session", "end", &id]);
}

#[test]
fn c_err_8_a_call_for_any_version_is_refused_only_when_every_version_is_exhausted() {
    let _alone = alone();
    let cluster = ready();
    let _witness = cluster.witness();
    let ready = cluster.ready();
    let demo = &ready.function_version_id;
    // It has no worker, so that a call that is left with it finds none in time.
    let other = cluster.ask(&["version", "create", "--function", &ready.function_id]);
    let other = text(&other, "id");
    let mut sessions = Vec::new();
    sessions.extend(opened(&open(cluster, "us-east", &[])));
    cluster.ask(&["version", "limit", demo, "--sessions", "1"]);
    cluster.ask(&[
        "version", "limit", &other, "--rate", "0.001", "--burst", "1",
    ]);
    refused(&open(cluster, "us-east", &[]));
    let brief = [("grpc-timeout", "500m")];
    let answer = open_any(cluster, "us-east", &brief);
    assert_eq!(answer.status, 504, "{answer:?}");
    refused(&open_any(cluster, "us-east", &brief));
    cluster.ask(&["version", "set-state", &other, "inactive"]);
    clear(cluster, "version", demo, &sessions);
}

#[test]
fn c_err_8_limits_are_shown_and_audited_and_a_wrong_one_says_what_to_do() {
    let _alone = alone();
    let cluster = ready();
    let _witness = cluster.witness();
    let (admin, token) = (cluster.admin(), &cluster.ready().admin_token);
    let tenant = text(&cluster.ask(&["tenant", "create", "limited"]), "id");
    let set = ["tenant", "limit", "limited", "--sessions", "9", "--rate"];
    let shown = cluster.ask(&[&set[..], &["0.5"]].concat());
    for shown in [shown, cluster.ask(&["tenant", "limit", "limited"])] {
        assert_eq!(shown["limit"]["sessions_max"], 9, "{shown}");
        assert_eq!(shown["limit"]["rate"], 0.5, "{shown}");
        assert_eq!(shown["limit"]["burst"], 1, "{shown}");
    }
    let shown = cluster.ask(&[&set[..], &["none"]].concat());
    assert!(shown["limit"]["rate"].is_null(), "{shown}");
    let audit = cluster.ask(&["audit", "list"]).to_string();
    assert!(audit.contains(&format!("limit tenant {tenant} to 9 sessions, 0.500 new")));
    for (wrong, says) in [
        (&["--rate", "-1"][..], "none for no limit"),
        (&["--sessions", "many"], "none for no limit"),
        (&["--burst", "3"], "a burst needs a rate"),
        (&["--sessions", "1000000001"], "0 for no limit"),
    ] {
        let arguments = [&["tenant", "limit", "limited"][..], wrong].concat();
        let said = cli::fail(64, &mut cli::pontoon(&admin, token, &arguments));
        assert!(said.contains(says), "{said}");
    }
    let nobody = ["tenant", "limit", "nobody", "--sessions", "1"];
    let said = cli::fail(1, &mut cli::pontoon(&admin, token, &nobody));
    assert!(said.contains("pontoon tenant list"), "{said}");
    let viewer = cluster.ask(&["key", "create", "--kind", "viewer"]);
    let viewer = text(&viewer, "secret");
    let said = cli::finish(&mut cli::pontoon(
        &admin,
        &viewer,
        &["tenant", "limit", "limited", "--sessions", "1"],
    ));
    assert!(!said.status.success(), "{}", cli::both(&said));
    let seen = cli::ask(&admin, &viewer, &["tenant", "limit", "limited"]);
    assert_eq!(seen["limit"]["sessions_max"], 9, "{seen}");
}
