//! What the catalog is told about the network: who is dead, and how far apart the regions are.

use super::Scene;
use crate::catalog::Catalog;
use crate::catalog::command::{Command, Reply, Standing};
use crate::cluster::Distance;
use crate::directory::Directory;
use crate::group::{FORMAT, Group};
use pontoon_proto::id::RegionId;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one proposal of this file may take before it is made anew.
const WITHIN: Duration = Duration::from_secs(5);

/// Another order of regions must have been measured so often in a row, a second apart, before it is
/// written down: half a minute outlasts a congested link.
const STEADY: u32 = 30;

/// At the catalog's leader: marks nodes that have been silent for long as dead, and those that are
/// heard again as alive, and raises the entry format when every build knows a newer one.
pub(crate) async fn mark(catalog: &Group<Catalog>, dead_after: Duration) {
    if !catalog.leads() || !catalog.connected() {
        return;
    }
    let state = catalog.state();
    for node in state.members() {
        let Some(silent) = catalog.silent_for(node.at.node) else {
            return;
        };
        let dead = match node.standing {
            Standing::Member => silent >= dead_after,
            // Two beats in a row: the same bound as elsewhere for being connected.
            Standing::Dead => silent >= crate::group::beat::CONNECTED,
            Standing::Removed => continue,
        };
        if dead == (node.standing == Standing::Dead) {
            continue;
        }
        let command = Command::MarkNode {
            node: node.at.node,
            dead,
        };
        match catalog
            .propose(command, WITHIN)
            .await
            .map(|done| done.reply)
        {
            Ok(Reply::Done) if dead => tracing::warn!(
                node = node.name,
                "silent for {silent:?}: its places in all groups are given to other nodes"
            ),
            Ok(Reply::Done) => tracing::info!(node = node.name, "it is heard again"),
            Ok(refused) => tracing::debug!(node = node.name, ?refused, "not marked"),
            Err(error) => tracing::debug!(node = node.name, %error, "not marked"),
        }
    }
    let oldest = state.members().map(|node| node.format).min().unwrap_or(0);
    if oldest.min(FORMAT) > state.format() {
        let command = Command::RaiseFormat {
            format: oldest.min(FORMAT),
        };
        catalog.propose(command, WITHIN).await.ok();
    }
}

/// The order of regions from one group's home, as it settles.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// The last order that was measured, and how often in a row.
    seen: (Vec<RegionId>, u32),
}

impl Order {
    /// At a group's leader at home: measures once, and writes another order down once it is steady.
    pub(crate) async fn look(&mut self, group: &Group<Directory>, scene: &Scene<'_>) {
        let state = scene.catalog.state();
        let home = group.id();
        let Some(region) = state
            .regions()
            .find(|one| pontoon_proto::id::GroupId::Region(one.number) == home)
        else {
            return;
        };
        let at_home = state
            .node(group.core().me)
            .is_some_and(|node| node.region == region.number);
        if !group.leads() || !at_home {
            self.seen = Default::default();
            return;
        }
        let measured = measure(&state, region.number, scene.distance);
        let Some(order) = crate::placement::reorder(&region.nearest, &measured) else {
            self.seen = Default::default();
            return;
        };
        if self.seen.0 == order {
            self.seen.1 += 1;
        } else {
            self.seen = (order, 1);
        }
        if self.seen.1 >= STEADY {
            let command = Command::SetNearest {
                region: region.number,
                nearest: std::mem::take(&mut self.seen.0),
            };
            self.seen.1 = 0;
            scene.catalog.propose(command, WITHIN).await.ok();
        }
    }
}

/// The round trip to the nearest answering node of each other region.
fn measure(state: &Catalog, home: RegionId, distance: &Distance) -> BTreeMap<RegionId, Duration> {
    let mut measured = BTreeMap::new();
    for node in state.members().filter(|node| node.region != home) {
        if let Some(far) = distance(node.at.node) {
            let nearest = measured.entry(node.region).or_insert(far);
            *nearest = far.min(*nearest);
        }
    }
    measured
}
