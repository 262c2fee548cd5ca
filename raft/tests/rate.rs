//! How many proposals a group takes, every one of them synced to disk before it is answered.
//!
//! `cargo test --release -p pontoon-raft --test rate -- --ignored --nocapture`
#![expect(clippy::unwrap_used, reason = "a measurement that fails has no figure")]

mod world;

use pontoon_raft::group::Group;
use std::time::{Duration, Instant};
use world::ledger::{Ledger, write};
use world::{LONG, World};

const SPAN: Duration = Duration::from_secs(4);

/// Keeps `width` proposals under way; returns how many were answered per second.
#[expect(
    clippy::disallowed_methods,
    reason = "this measures the machine's time"
)]
async fn rate(group: &Group<Ledger>, width: u64) -> f64 {
    let from = Instant::now();
    let lane = |lane: u64| async move {
        let mut count = 0;
        while from.elapsed() < SPAN {
            // Few ids, so that the state stays small and only the path is measured.
            group.propose(write(lane), LONG).await.unwrap();
            count += 1;
        }
        count
    };
    let counts: Vec<u64> = futures::future::join_all((0..width).map(lane)).await;
    counts.iter().sum::<u64>() as f64 / from.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn proposals_per_second() {
    for nodes in [1, 3] {
        let world = World::start(nodes, 100_000).await;
        let group = world.group(world.leader().await);
        for width in [1, 16, 64, 256] {
            let before = group.status().last_log;
            let rate = rate(&group, width).await;
            let entries = (group.status().last_log - before) as f64 / SPAN.as_secs_f64();
            println!(
                "{nodes} nodes, {width:>3} at once: {rate:>8.0} proposals/s in {entries:>6.0} entries/s"
            );
        }
    }
}
