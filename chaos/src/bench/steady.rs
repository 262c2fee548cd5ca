//! Leader changes while nothing is wrong: there should be none, idle or loaded.

use super::load::{self, Client, Writer};
use crate::clock;
use crate::cluster::directory::Version;
use crate::cluster::pontoon::Pontoon;
use crate::cluster::{Error, NODES};
use serde::Serialize;
use std::time::Duration;

/// What was counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Changes {
    /// For how long.
    pub minutes: u64,
    /// How many clients opened and ended sessions meanwhile.
    pub clients: usize,
    /// How many sessions they opened and ended.
    pub writes: usize,
    /// New terms of the region's group and of the catalog.
    pub changes: u64,
}

/// Watches for a span. Each session is ended at once, so that the directory stays small.
pub(super) async fn watch(
    cluster: &mut Pontoon,
    version: Version,
    span: Duration,
    clients: usize,
) -> Result<Changes, Error> {
    let before = cluster.settled().await?;
    let mut writers = Vec::new();
    for number in 0..clients {
        let mut nodes = Vec::new();
        for node in 0..NODES {
            nodes.push(Writer::Pontoon(cluster.directory(node).await?, version));
        }
        writers.push(Client::new(nodes, number).ending());
    }
    let from = clock::now();
    let (_, seen) = load::closed(writers, from, from + span).await?;
    tokio::time::sleep_until(from + span).await;
    if let Some(error) = &seen.error {
        eprintln!("{} writes failed: {error}", seen.errors);
    }
    let after = cluster.settled().await?;
    let terms = |one: u64, next: u64| next.saturating_sub(one);
    Ok(Changes {
        minutes: span.as_secs() / 60,
        clients,
        writes: seen.took_us.len(),
        changes: terms(before.term, after.term) + terms(before.catalog_term, after.catalog_term),
    })
}
