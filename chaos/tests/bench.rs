//! The benchmarks in small: what they count as acknowledged is there, in every replica.

use pontoon_chaos::bench::failover::Cluster;
use pontoon_chaos::bench::opens;
use pontoon_chaos::cluster::folder;
use pontoon_chaos::cluster::pontoon::{self, Pontoon};

async fn cluster() -> Pontoon {
    let program = pontoon::program(None).unwrap();
    Pontoon::start(&folder::home().unwrap(), &program)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_open_is_in_every_replica_and_the_replicas_are_equal() {
    let opened = opens::prove(cluster().await, 16, 1_000).await.unwrap();
    assert!(opened > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_go_on_through_the_others_after_the_leader_was_killed() {
    let mut cluster = Cluster::pontoon(cluster().await).await.unwrap();
    for _ in 0..2 {
        cluster.outage().await.unwrap();
    }
}
