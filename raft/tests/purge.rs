//! How long an append waits while 20,000 entries are purged.
//!
//! `cargo test --release -p pontoon-raft --test purge -- --ignored --nocapture`
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "this measures the machine's time; a measurement that fails has no figure"
)]

use bytes::Bytes;
use pontoon_proto::id::GroupId;
use pontoon_raft::codec::{Role, frame};
use pontoon_raft::store::{Log, Store};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const ENTRIES: u64 = 20_000;

/// Appends that are timed, before the purge and while it goes on.
const TIMED: u64 = 1_000;

fn record(index: u64) -> (u64, Bytes) {
    (index, frame(Role::Entry, 0, index, &[7; 300]).unwrap())
}

async fn append(log: &Log, records: Vec<(u64, Bytes)>) {
    let (sender, done) = oneshot::channel();
    let callback = Box::new(move |result| {
        sender.send(result).ok();
    });
    log.append(records, callback).await.unwrap();
    done.await.unwrap().unwrap();
}

/// Appends one by one; prints how long each took.
async fn timed(log: &Log, from: u64, what: &str) {
    let mut spans = Vec::new();
    for index in from..from + TIMED {
        let begun = Instant::now();
        append(log, vec![record(index)]).await;
        spans.push(begun.elapsed());
    }
    spans.sort();
    let at = |part: f64| spans[((TIMED - 1) as f64 * part) as usize];
    let sum: Duration = spans.iter().sum();
    println!(
        "{what}: median {:?}, p99 {:?}, longest {:?}; {:?} in all",
        at(0.5),
        at(0.99),
        at(1.0),
        sum
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn appends_while_a_log_is_purged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("log")).unwrap();
    let (log, _) = store.log(GroupId::Catalog).await.unwrap();
    for from in (0..ENTRIES).step_by(100) {
        append(&log, (from..from + 100).map(record).collect()).await;
    }
    timed(&log, ENTRIES, "before a purge").await;
    let mark = frame(Role::Mark, 0, ENTRIES - 1, b"").unwrap();
    log.purge(ENTRIES - 1, mark).await.unwrap();
    timed(&log, ENTRIES + TIMED, "during it     ").await;
    timed(&log, ENTRIES + 2 * TIMED, "after it      ").await;
    store.close().await;
}
