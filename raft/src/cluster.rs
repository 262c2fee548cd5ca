//! The groups of one node: the catalog, and one directory per region.
//!
//! First boot: the first members are a list of names. The catalog is born by the voters that
//! placement names for that list; its leader writes the list's regions into it; a node starts a
//! region's group when it sees the region in its catalog, and that region's first voters, written
//! there too, give birth to it. So no group can be born twice with different members (H-2, H-3).

use crate::autopilot;
use crate::catalog::Catalog;
use crate::catalog::command::{self as catalog, Region, Survive};
use crate::directory::Directory;
use crate::group::network::Transport;
use crate::group::serve::{Refused, Registry};
use crate::group::{Group, GroupError, Setup, Timing};
use crate::identity::{Identity, IdentityError};
use crate::placement::{self, Place};
use crate::presence;
use crate::store::{Store, StoreError};
use crate::tasks::Loops;
use arc_swap::ArcSwap;
use futures::stream::BoxStream;
use pontoon_proto::id::{GroupId, NodeBoot, NodeId, RegionId};
use pontoon_proto::peer as pb;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// Entries between two snapshots: a replay of as many takes well under a second.
const SNAPSHOT_EVERY: u64 = 20_000;

/// How long one of this file's own proposals may take before it is made anew.
const WITHIN: Duration = Duration::from_secs(5);

/// One of the first members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number: its place in the list, from 1.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The name of its region.
    pub region: String,
}

/// What a node's groups need to know.
pub struct Options {
    /// The folder that the identity has locked.
    pub data_dir: PathBuf,
    /// This node's name.
    pub name: String,
    /// The name of its region.
    pub region: String,
    /// The first members; regions are numbered by first appearance, from 1.
    pub members: Vec<Member>,
    /// Derived from the join token and the first members.
    pub cluster_id: [u8; 16],
    /// How fast groups notice things; the same on all nodes.
    pub timing: Timing,
    /// What the groups of the first regions outlive.
    pub survive: Survive,
    /// How long a node may be silent before it is given up.
    pub node_lost_after: Duration,
    /// The way to other nodes.
    pub transport: Arc<dyn Transport>,
}

/// Why a node's groups did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log engine.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalog's group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The list of first members.
    #[error("the list of first members {0}")]
    Members(String),
}

/// This node's boots: the present one, and how another begins.
pub(crate) struct Boots {
    identity: Arc<Identity>,
    present: watch::Sender<NodeBoot>,
    raising: Mutex<()>,
}

impl Boots {
    /// The present boot.
    pub(crate) fn at(&self) -> NodeBoot {
        *self.present.borrow()
    }

    /// The present boot, as it rises.
    pub(crate) fn watch(&self) -> watch::Receiver<NodeBoot> {
        self.present.subscribe()
    }

    /// Begins another life, once, when `over` is the present one. It is durable before it is shown.
    pub(crate) async fn raise(&self, over: NodeBoot) {
        let _alone = self.raising.lock().await;
        if self.at() != over {
            return;
        }
        let identity = self.identity.clone();
        match tokio::task::spawn_blocking(move || identity.raise_boot()).await {
            Ok(Ok(next)) => {
                tracing::warn!(%over, %next, "this node was given up: it begins another life");
                self.present.send_replace(next);
            }
            Ok(Err(error)) => self.raise_failed(&error).await,
            Err(error) => tracing::error!(%error, "raising the boot panicked"),
        }
    }

    async fn raise_failed(&self, error: &IdentityError) {
        tracing::error!(%error, "the next boot can't be written");
        // The caller tries again; a full disk must not make it spin.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

struct Inner {
    options: Options,
    boots: Arc<Boots>,
    store: Store,
    registry: Registry,
    catalog: Group<Catalog>,
    regions: ArcSwap<BTreeMap<RegionId, Group<Directory>>>,
    roster: Arc<ArcSwap<Vec<NodeId>>>,
    loops: Loops,
}

/// The groups of one node. Clones share them; they end with [`Cluster::stop`] or the last clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

impl Cluster {
    /// Opens the log and starts the catalog's group; those of the regions follow as the catalog
    /// names them.
    pub async fn start(identity: Identity, options: Options) -> Result<Cluster, StartError> {
        let places = places(&options.members)?;
        let path = options.data_dir.join("log");
        let store = tokio::task::spawn_blocking(move || Store::open(&path))
            .await
            .map_err(|error| StoreError::Engine(std::io::Error::other(error)))??;
        let boots = Arc::new(Boots {
            present: watch::channel(identity.at()).0,
            identity: Arc::new(identity),
            raising: Mutex::default(),
        });
        let roster: Vec<NodeId> = options.members.iter().map(|member| member.node).collect();
        let roster = Arc::new(ArcSwap::from_pointee(roster));
        let voters =
            placement::desired(None, options.survive, &places, &BTreeSet::new(), &[]).voters;
        let setup = setup(
            &options,
            &boots,
            &store,
            &roster,
            GroupId::Catalog,
            1,
            voters,
        );
        let catalog = Group::start(setup, Catalog::new()).await?;
        let registry = Registry::new(options.cluster_id);
        registry.add(&catalog);
        let inner = Arc::new(Inner {
            options,
            boots,
            store,
            registry,
            catalog,
            regions: ArcSwap::default(),
            roster,
            loops: Loops::default(),
        });
        inner.loops.spawn(found(Arc::downgrade(&inner)));
        inner.loops.spawn(follow(Arc::downgrade(&inner)));
        inner.loops.spawn(pilot(Arc::downgrade(&inner)));
        Ok(Cluster(inner))
    }

    /// The cluster-wide group.
    pub fn catalog(&self) -> &Group<Catalog> {
        &self.0.catalog
    }

    /// A region's group; none when the catalog of this node does not name the region yet.
    pub fn region(&self, region: RegionId) -> Option<Group<Directory>> {
        self.0.regions.load().get(&region).cloned()
    }

    /// All regions' groups, by number.
    pub fn regions(&self) -> Vec<(RegionId, Group<Directory>)> {
        let regions = self.0.regions.load();
        regions
            .iter()
            .map(|(region, group)| (*region, group.clone()))
            .collect()
    }

    /// This node's present boot. It rises when the node reads of its own loss.
    pub fn at(&self) -> NodeBoot {
        self.0.boots.at()
    }

    /// The present boot as it rises: whoever carries something re-enters and re-attaches it then.
    pub fn boots(&self) -> watch::Receiver<NodeBoot> {
        self.0.boots.watch()
    }

    /// Ends the groups, and writes what is still to be written.
    pub async fn stop(&self) {
        self.0.loops.stop();
        self.0.registry.stop().await;
        self.0.store.close().await;
    }

    /// A vote or a pre-vote of another node.
    pub async fn serve_vote(&self, request: pb::VoteRequest) -> Result<pb::VoteReply, Refused> {
        self.0.registry.serve_vote(request).await
    }

    /// Another node's replication stream.
    pub async fn serve_append(
        &self,
        requests: BoxStream<'static, pb::AppendRequest>,
    ) -> Result<BoxStream<'static, pb::AppendReply>, Refused> {
        self.0.registry.serve_append(requests).await
    }

    /// A snapshot from a leader.
    pub async fn serve_install_snapshot(
        &self,
        chunks: BoxStream<'static, pb::SnapshotChunk>,
    ) -> Result<pb::SnapshotReply, Refused> {
        self.0.registry.serve_install_snapshot(chunks).await
    }

    /// A leader's wish that this node lead.
    pub async fn serve_transfer_leader(
        &self,
        request: pb::TransferLeaderRequest,
    ) -> Result<pb::TransferLeaderReply, Refused> {
        self.0.registry.serve_transfer_leader(request).await
    }

    /// Commands of a node that does not lead.
    pub async fn serve_propose(&self, request: pb::ProposeRequest) -> pb::ProposeReply {
        self.0.registry.serve_propose(request).await
    }

    /// Another node's linearizable read.
    pub async fn serve_read_index(&self, request: pb::ReadIndexRequest) -> pb::ReadIndexReply {
        self.0.registry.serve_read_index(request).await
    }

    /// Another node's sign of life.
    pub async fn serve_beat(&self, request: pb::BeatRequest) -> pb::BeatReply {
        self.0.registry.serve_beat(request).await
    }
}

impl Inner {
    /// All nodes of the cluster: the first members and those of the catalog.
    fn known(&self) -> BTreeSet<NodeId> {
        let state = self.catalog.state();
        let members = self.options.members.iter().map(|member| member.node);
        members
            .chain(state.nodes().map(|node| node.at.node))
            .collect()
    }

    /// The regions of the first list that this node's catalog does not have.
    fn unborn(&self) -> Vec<Region> {
        let state = self.catalog.state();
        let regions = first_regions(&self.options.members, self.options.survive);
        regions
            .into_iter()
            .filter(|region| state.region(region.number).is_none())
            .collect()
    }

    async fn start_region(self: &Arc<Self>, region: &Region) -> Result<(), GroupError> {
        let id = GroupId::Region(region.number);
        let voters = region.voters.iter().copied().collect();
        let setup = setup(
            &self.options,
            &self.boots,
            &self.store,
            &self.roster,
            id,
            region.generation,
            voters,
        );
        let group = Group::start(setup, Directory::new(region.number)).await?;
        self.registry.add(&group);
        let mut regions = BTreeMap::clone(&self.regions.load());
        regions.insert(region.number, group.clone());
        self.regions.store(Arc::new(regions));
        self.loops
            .spawn(presence::live(group.clone(), self.boots.clone()));
        self.loops.spawn(watch_nodes(Arc::downgrade(self), group));
        Ok(())
    }
}

fn setup(
    options: &Options,
    boots: &Boots,
    store: &Store,
    roster: &Arc<ArcSwap<Vec<NodeId>>>,
    id: GroupId,
    generation: u64,
    voters: BTreeSet<NodeId>,
) -> Setup {
    Setup {
        id,
        generation,
        cluster: options.cluster_id,
        at: boots.watch(),
        transport: options.transport.clone(),
        timing: options.timing,
        snapshot_every: SNAPSHOT_EVERY,
        data_dir: options.data_dir.clone(),
        store: store.clone(),
        stands_first: first_candidate(id, &voters, &options.members) == Some(boots.at().node),
        voters,
        roster: roster.clone(),
    }
}

/// Who stands for election first in a new group: the lowest voter at home, else the lowest.
fn first_candidate(id: GroupId, voters: &BTreeSet<NodeId>, members: &[Member]) -> Option<NodeId> {
    let places = places(members).unwrap_or_default();
    let home = |place: &&Place| GroupId::Region(place.region) == id && voters.contains(&place.node);
    let at_home = places.iter().find(home).map(|place| place.node);
    at_home.or(voters.first().copied())
}

/// Where the first members are.
fn places(members: &[Member]) -> Result<Vec<Place>, StartError> {
    let mut numbers: Vec<&str> = Vec::new();
    let mut places = Vec::new();
    for member in members {
        let known = numbers.iter().position(|name| *name == member.region);
        let number = known.unwrap_or(numbers.len());
        if known.is_none() {
            numbers.push(&member.region);
        }
        let region = u16::try_from(number + 1)
            .map(RegionId)
            .unwrap_or(RegionId(u16::MAX));
        if region > RegionId::MAX {
            return Err(StartError::Members("names more than 4095 regions".into()));
        }
        places.push(Place {
            node: member.node,
            region,
        });
    }
    if places.is_empty() {
        return Err(StartError::Members("is empty".into()));
    }
    Ok(places)
}

/// The regions of the first list, with their groups' first voters.
fn first_regions(members: &[Member], survive: Survive) -> Vec<Region> {
    let places = places(members).unwrap_or_default();
    let mut regions = BTreeMap::new();
    for (member, place) in members.iter().zip(&places) {
        regions.entry(place.region).or_insert_with(|| {
            let placement =
                placement::desired(Some(place.region), survive, &places, &BTreeSet::new(), &[]);
            Region {
                number: place.region,
                name: member.region.clone(),
                survive,
                generation: 1,
                voters: placement.voters.into_iter().collect(),
            }
        });
    }
    regions.into_values().collect()
}

/// Writes the first regions into the catalog, while this node leads it, until all are there.
async fn found(inner: Weak<Inner>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let unborn = inner.unborn();
        if unborn.is_empty() {
            return;
        }
        if inner.catalog.leads() {
            for region in unborn {
                let name = region.name.clone();
                match inner
                    .catalog
                    .propose(catalog::Command::AddRegion(region), WITHIN)
                    .await
                {
                    Ok(proposed) if proposed.reply == catalog::Reply::Done => {
                        tracing::info!(region = name, "the region is born");
                    }
                    Ok(proposed) => {
                        tracing::error!(region = name, answer = ?proposed.reply, "the catalog refuses the region")
                    }
                    Err(error) => {
                        tracing::info!(region = name, %error, "the region is not born yet")
                    }
                }
            }
        }
        let mut changed = inner.catalog.changed();
        drop(inner);
        // Also without a change: this node may come to lead.
        tokio::time::timeout(Duration::from_millis(200), changed.changed())
            .await
            .ok();
    }
}

/// Starts a region's group when the catalog names it.
async fn follow(inner: Weak<Inner>) {
    let mut tried = BTreeSet::new();
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let mut changed = inner.catalog.changed();
        changed.mark_unchanged();
        let state = inner.catalog.state();
        let fresh = |region: &&Arc<Region>| !tried.contains(&region.number);
        let fresh: Vec<Arc<Region>> = state.regions().filter(fresh).cloned().collect();
        for region in fresh {
            if let Err(error) = inner.start_region(&region).await {
                tracing::error!(region = region.name, %error, "this node goes on without the region's group");
            }
            tried.insert(region.number);
        }
        inner
            .roster
            .store(Arc::new(inner.known().into_iter().collect()));
        drop(inner);
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// The autopilot of all groups that this node leads.
async fn pilot(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(autopilot::EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let known = inner.known();
        autopilot::step(&inner.catalog, &known).await;
        let regions = inner.regions.load_full();
        for group in regions.values() {
            autopilot::step(group, &known).await;
        }
    }
}

/// Gives up silent nodes of one directory.
async fn watch_nodes(inner: Weak<Inner>, group: Group<Directory>) {
    let mut watch = presence::Watch::new();
    loop {
        tokio::time::sleep(presence::LOOK).await;
        let Some(inner) = inner.upgrade() else { return };
        watch
            .look(&group, &inner.known(), inner.options.node_lost_after)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(regions: &[&str]) -> Vec<Member> {
        (1..)
            .zip(regions)
            .map(|(number, region)| Member {
                node: NodeId(number),
                name: format!("{region}-{number}"),
                region: (*region).into(),
            })
            .collect()
    }

    #[test]
    fn regions_are_numbered_by_first_appearance() {
        let members = members(&["us-east", "us-west", "us-east", "eu-central"]);
        let regions = first_regions(&members, Survive::Region);
        let names: Vec<_> = regions
            .iter()
            .map(|region| (region.number.0, region.name.as_str()))
            .collect();
        assert_eq!(names, [(1, "us-east"), (2, "us-west"), (3, "eu-central")]);
        assert!(regions.iter().all(|region| region.voters.len() == 3));
    }

    #[test]
    fn h_3_every_node_computes_the_same_first_voters() {
        let members = members(&["a", "b", "c"]);
        assert_eq!(
            first_regions(&members, Survive::Region),
            first_regions(&members, Survive::Region)
        );
        assert!(places(&[]).is_err());
    }
}
