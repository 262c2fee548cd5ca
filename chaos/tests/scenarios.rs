//! Scenarios in small: real processes, real faults, emulated round trips between regions.

mod support;

use pontoon_chaos::cluster::Error;
use pontoon_chaos::run::{self, Options};
use support::left_out;

/// One at a time: each has a dozen processes, and judges how long faults are seen.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn keeps(scenario: &str, set: &[&str]) -> Result<(), Error> {
    let _alone = ALONE.lock().await;
    let options = Options {
        scenario: scenario.into(),
        seed: None,
        set: set.iter().map(|&set| set.to_owned()).collect(),
        history: None,
        report: None,
        pontoon: None,
        loopback: true,
        apart: false,
    };
    let report = run::report(&options).await?;
    println!("{}", report.text);
    assert!(report.kept(), "{}", report.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_resumed_at_the_farthest_node_at_once() -> Result<(), Error> {
    let set = [
        "workload.count=200",
        "expect.opens=200",
        "expect.resumes=200",
    ];
    keeps("race", &set).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_node_killed_in_mid_stream_costs_no_session() -> Result<(), Error> {
    keeps("entry_killed", &["workload.run_ms=16000"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_takes_its_sessions_along_and_no_other() -> Result<(), Error> {
    keeps("worker_killed", &["workload.run_ms=12000"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_does_not_stop_a_storm_of_opens() -> Result<(), Error> {
    keeps("leader_killed", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_and_goes_leaves_nothing_behind() -> Result<(), Error> {
    let set = [
        "topology.workers=1",
        "workload.run_ms=40000",
        "nemesis.until_ms=34000",
        "nemesis.every_ms=7000",
        "nemesis.for_ms=3000",
        "expect.opens=50",
        "expect.worker_kills=1",
        "expect.node_kills=1",
        "expect.hurt=2",
    ];
    keeps("soak", &set).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_10_while_dns_fails_the_last_good_answers_count() -> Result<(), Error> {
    keeps("names_fail", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_certificates_are_refused_and_what_stands_goes_on() -> Result<(), Error> {
    keeps("certificate_expired", &[]).await
}

/// Runs the command itself, as a user does; whether it said that all was kept, and what it printed.
async fn ran(words: &[&str]) -> (bool, String, String) {
    let _alone = ALONE.lock().await;
    let report = tempfile::NamedTempFile::new().expect("a file");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pontoon-chaos"));
    command.arg("run").args(words);
    let output = command.arg("--report").arg(report.path()).output();
    let output = output.await.expect("it runs");
    let [out, err] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
    (output.status.success(), out, err)
}

/// It makes the namespaces, and nothing of them is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unplugged_cable_costs_no_session() {
    let (kept, out, err) = ran(&["unplugged"]).await;
    if err.contains("loopback: ") {
        return left_out("no namespaces without root");
    }
    println!("{out}");
    assert!(kept, "{err}");
    assert!(err.contains("each node has a network namespace"), "{err}");
    let here = std::process::Command::new("ip")
        .args(["link", "show"])
        .output();
    let here = String::from_utf8(here.unwrap().stdout).unwrap();
    assert!(!here.contains("pontoon"), "{here}");
}

/// The net catches fish: a disk that keeps nothing, under the schedule that is for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_only_says_that_it_is_synced_is_noticed() {
    let planted = ["minority_paused", "--set", "topology.skip_fsync=true"];
    let (kept, out, err) = ran(&planted).await;
    if err.contains("needs root") || err.contains("leave libeatmydata1 out") {
        return left_out(&err);
    }
    assert!(!kept, "{out}");
    assert!(err.contains("BROKEN  no wrong NOT_FOUND"), "{err}");
}
