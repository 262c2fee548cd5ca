//! Scenarios in small: real processes, real faults, emulated round trips between regions.

use pontoon_chaos::cluster::Error;
use pontoon_chaos::run::{self, Options};

/// One at a time: each has a dozen processes, and judges how long faults are seen.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn keeps(scenario: &str, set: &[&str]) -> Result<(), Error> {
    let _alone = ALONE.lock().await;
    let options = Options {
        scenario: scenario.into(),
        seed: None,
        set: set.iter().map(|&set| set.to_owned()).collect(),
        history: None,
        pontoon: None,
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
