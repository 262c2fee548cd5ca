//! The benchmarks in small: what they count as acknowledged is there, in every replica.

use pontoon_chaos::bench::failover::Cluster;
use pontoon_chaos::bench::opens;
use pontoon_chaos::cluster::pontoon::{self, Pontoon};
use pontoon_chaos::cluster::{Error, folder};

async fn cluster() -> Result<Pontoon, Error> {
    Pontoon::start(&folder::home()?, &pontoon::program(None)?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_open_is_in_every_replica_and_the_replicas_are_equal()
-> Result<(), Error> {
    let opened = opens::prove(cluster().await?, 16, 1_000).await?;
    assert!(opened > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_go_on_through_the_others_after_the_leader_was_killed() -> Result<(), Error> {
    let mut cluster = Cluster::pontoon(cluster().await?).await?;
    for _ in 0..2 {
        cluster.outage().await?;
    }
    Ok(())
}
