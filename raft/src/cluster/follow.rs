//! Keeps this node's replicas as the catalog wants them: started, of the right incarnation, with the
//! right timing, and gone when their region is.

use super::replica::Wanted;
use super::{Inner, presence, watch_nodes};
use crate::catalog::command::{Region, Standing};
use crate::directory::Directory;
use crate::group::{Group, GroupError};
use crate::machine::Machine;
use pontoon_proto::id::{GroupId, NodeId, RegionId};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often turns are looked at, and what failed is tried again.
const LOOK: Duration = Duration::from_millis(200);

/// Follows the catalog for as long as the node runs.
pub(super) async fn follow(inner: Weak<Inner>) {
    let mut failing = BTreeMap::new();
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let mut changed = inner.catalog.changed();
        changed.mark_unchanged();
        let state = inner.catalog.state();
        inner.keeper.format.store(state.format(), Ordering::Release);
        let roster: Vec<NodeId> = inner.wanted_peers().into_iter().collect();
        inner.keeper.roster.store(Arc::new(roster));
        for region in state.all_regions() {
            let followed = inner.follow_region(region).await;
            report(&mut failing, region, followed);
        }
        inner.catalog_turn().await;
        drop(inner);
        tokio::time::timeout(LOOK, changed.changed()).await.ok();
    }
}

/// Says once what is wrong with a region's replica, and once that it is well again.
fn report(
    failing: &mut BTreeMap<RegionId, String>,
    region: &Region,
    followed: Result<(), GroupError>,
) {
    let Err(error) = followed else {
        if failing.remove(&region.number).is_some() {
            tracing::info!(
                region = region.name,
                "this node runs the region's group again"
            );
        }
        return;
    };
    let text = error.to_string();
    if failing.get(&region.number) != Some(&text) {
        tracing::error!(region = region.name, %error, "this node goes on without the region's group");
        failing.insert(region.number, text);
    }
}

impl Inner {
    async fn follow_region(self: &Arc<Self>, region: &Arc<Region>) -> Result<(), GroupError> {
        let running = self.regions.load().get(&region.number).cloned();
        match running {
            None if region.gone => Ok(()),
            None => self.begin(region).await,
            Some(group) if region.gone => self.end(region, &group).await,
            Some(group) => self.keep(region, &group).await,
        }
    }

    /// Starts a region's group.
    async fn begin(self: &Arc<Self>, region: &Region) -> Result<(), GroupError> {
        let wanted = self.wanted(region);
        let empty = Directory::new(region.number);
        let group = self.keeper.start(&wanted, empty).await?;
        self.registry.add(&group);
        let mut regions = BTreeMap::clone(&self.regions.load());
        regions.insert(region.number, group.clone());
        self.regions.store(Arc::new(regions));
        self.loops
            .spawn(presence::live(group.clone(), self.boots.clone()));
        self.loops.spawn(watch_nodes(Arc::downgrade(self), group));
        Ok(())
    }

    /// The region was removed: so is all that this node has of it.
    async fn end(
        self: &Arc<Self>,
        region: &Region,
        group: &Group<Directory>,
    ) -> Result<(), GroupError> {
        tracing::info!(region = region.name, "the region was removed");
        self.registry.remove(group.id());
        let mut regions = BTreeMap::clone(&self.regions.load());
        regions.remove(&region.number);
        self.regions.store(Arc::new(regions));
        group.stop().await;
        self.keeper.wipe(group.id()).await
    }

    /// Starts a region's group again where its incarnation or, when it is this node's turn, its
    /// timing is another one.
    async fn keep(&self, region: &Region, group: &Group<Directory>) -> Result<(), GroupError> {
        let reborn = group.generation() < region.generation;
        let paced = region.pace != group.pace() && group.has_turn();
        if !reborn && !paced && !group.ended() {
            return Ok(());
        }
        let wanted = self.wanted(region);
        tracing::info!(
            region = region.name,
            generation = region.generation,
            pace = ?region.pace,
            "the region's group starts again on this node"
        );
        if reborn {
            // What the old incarnation still says is not heard any more.
            self.registry.remove(group.id());
        }
        self.restart(&wanted, group).await
    }

    /// The catalog's own group, when it is this node's turn.
    async fn catalog_turn(&self) {
        let pace = self.catalog.state().settings().pace;
        if self.catalog.pace() == pace || !self.catalog.has_turn() {
            return;
        }
        tracing::info!(?pace, "the catalog's group starts again on this node");
        let wanted = Wanted {
            pace,
            ..super::founding::catalog(&self.founders, self.options.survive)
        };
        if let Err(error) = self.restart(&wanted, &self.catalog).await {
            tracing::error!(%error, "this node goes on without the catalog's group");
        }
    }

    async fn restart<M: Machine>(
        &self,
        wanted: &Wanted,
        group: &Group<M>,
    ) -> Result<(), GroupError> {
        self.keeper.restart(wanted, group).await?;
        self.registry.add(group);
        Ok(())
    }

    fn wanted(&self, region: &Region) -> Wanted {
        Wanted {
            id: GroupId::Region(region.number),
            generation: region.generation,
            voters: region.voters.clone(),
            seeded: region.seeded,
            stands_first: self.first_candidate(region),
            pace: region.pace,
        }
    }

    /// Who stands for election first in a new group: the lowest voter at home, else the lowest.
    fn first_candidate(&self, region: &Region) -> Option<NodeId> {
        let state = self.catalog.state();
        let at_home = |node: &NodeId| {
            let founder = self.founders.iter().find(|place| place.node == *node);
            let known = state.node(*node).map(|node| node.region);
            known.or(founder.map(|place| place.region)) == Some(region.number)
        };
        let voters = region.voters.iter().map(|voter| voter.node);
        voters.clone().find(at_home).or(voters.min())
    }
}

/// Whether a node was removed from the cluster.
pub(super) fn is_removed(state: &crate::catalog::Catalog, node: NodeId) -> bool {
    state
        .node(node)
        .is_some_and(|node| node.standing == Standing::Removed)
}
