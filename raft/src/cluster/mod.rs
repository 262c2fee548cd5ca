//! The groups of one node: the catalog, and one directory per region.
//!
//! First boot: the first members are a list of names. The catalog is born by the voters that
//! placement names for that list; its leader writes the list's regions into it; a node starts a
//! region's group when it sees the region in its catalog, and that region's first voters, written
//! there too, give birth to it. So no group can be born twice with different members (H-2, H-3).
//!
//! `founding` has the list of first members, `replica` starts one group's replica as the member that
//! it may be, `follow` keeps the replicas as the catalog wants them.

mod follow;
mod founding;
mod replica;

use crate::autopilot::{self, Scene};
use crate::catalog::Catalog;
use crate::catalog::command::Survive;
use crate::clock;
use crate::directory::Directory;
use crate::group::network::Transport;
use crate::group::serve::{Refused, Registry};
use crate::group::{Group, GroupError, Timing};
use crate::identity::{Identity, IdentityError};
use crate::placement::Place;
use crate::presence;
use crate::store::{Store, StoreError};
use crate::tasks::{Loops, blocking};
use arc_swap::ArcSwap;
use futures::stream::BoxStream;
use pontoon_proto::id::{NodeBoot, NodeId, RegionId};
use pontoon_proto::peer as pb;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, watch};

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

/// The measured round trip to a node; none while it does not answer.
pub type Distance = Arc<dyn Fn(NodeId) -> Option<Duration> + Send + Sync>;

/// What a node's groups need to know.
pub struct Options {
    /// The folder that the identity has locked.
    pub data_dir: PathBuf,
    /// The first members; regions are numbered by first appearance, from 1.
    pub members: Vec<Member>,
    /// Derived from the join token and the first members.
    pub cluster_id: [u8; 16],
    /// How fast groups notice things, the same on all nodes; none: by measured round trips.
    pub timing: Option<Timing>,
    /// What the groups of the first regions outlive.
    pub survive: Survive,
    /// How long a node may be silent before its boot is given up.
    pub node_lost_after: Duration,
    /// How long a node may be silent before its places are given to others.
    pub node_dead_after: Duration,
    /// The way to other nodes.
    pub transport: Arc<dyn Transport>,
    /// The measured round trips to them.
    pub distance: Distance,
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
    /// The data folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The list of first members.
    #[error("the list of first members {0}")]
    Members(String),
    /// The folder belongs to nobody yet.
    #[error("the data folder has no number yet")]
    Unsettled,
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
        match blocking(move || Ok(identity.raise_boot())).await {
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
    founders: Vec<Place>,
    boots: Arc<Boots>,
    keeper: replica::Keeper,
    registry: Registry,
    catalog: Group<Catalog>,
    regions: ArcSwap<BTreeMap<RegionId, Group<Directory>>>,
    loops: Loops,
}

/// The groups of one node. Clones share them; they end with [`Cluster::stop`] or the last clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

impl Cluster {
    /// Opens the log and starts the catalog's group; those of the regions follow as the catalog
    /// names them.
    pub async fn start(identity: Arc<Identity>, options: Options) -> Result<Cluster, StartError> {
        let path = options.data_dir.join("log");
        let store = blocking(move || Ok(Store::open(&path)))
            .await
            .map_err(StoreError::Engine)??;
        Self::start_over(identity, options, store, replica::SNAPSHOT_EVERY).await
    }

    /// The same over a log that is open, with another number of entries between two snapshots.
    pub async fn start_over(
        identity: Arc<Identity>,
        options: Options,
        store: Store,
        snapshot_every: u64,
    ) -> Result<Cluster, StartError> {
        let founders = founding::places(&options.members)?;
        let Some((me, life)) = identity.settled() else {
            return Err(StartError::Unsettled);
        };
        let boots = Arc::new(Boots {
            present: watch::channel(identity.at()).0,
            identity: identity.clone(),
            raising: Mutex::default(),
        });
        let roster: Vec<NodeId> = options.members.iter().map(|member| member.node).collect();
        let keeper = replica::Keeper {
            me,
            life,
            identity,
            boots: boots.clone(),
            store,
            snapshot_every,
            cluster_id: options.cluster_id,
            timing: options.timing,
            transport: options.transport.clone(),
            data_dir: options.data_dir.clone(),
            roster: Arc::new(ArcSwap::from_pointee(roster)),
            format: Arc::new(AtomicU16::new(1)),
        };
        let wanted = founding::catalog(&founders, options.survive);
        let catalog = keeper.start(&wanted, Catalog::new()).await?;
        let registry = Registry::new(options.cluster_id);
        registry.add(&catalog);
        let inner = Arc::new(Inner {
            options,
            founders,
            boots,
            keeper,
            registry,
            catalog,
            regions: ArcSwap::default(),
            loops: Loops::default(),
        });
        let weak = || Arc::downgrade(&inner);
        inner.loops.spawn(founding::found(weak()));
        inner.loops.spawn(follow::follow(weak()));
        inner.loops.spawn(pilot(weak()));
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

    /// This node's data folder.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.0.keeper.identity
    }

    /// The nodes that this one may have to reach; removed ones are among them while a group that may
    /// need them can't be seen to have let go of them.
    pub fn wanted_peers(&self) -> BTreeSet<NodeId> {
        self.0.wanted_peers()
    }

    /// The numbers that the first members have, with their regions.
    pub fn founders(&self) -> &[Place] {
        &self.0.founders
    }

    /// Why nothing more is written to this node's disk, if so: the process must be started again.
    pub fn storage_failure(&self) -> Option<String> {
        self.0.keeper.store.failure()
    }

    /// Says to all groups whether this node is about to leave: others lead them instead, while there
    /// are others. It stays a member. A group that starts later has to be told again.
    pub fn set_leaving(&self, leaving: bool) {
        self.0.catalog.set_leaving(leaving);
        for group in self.0.regions.load().values() {
            group.set_leaving(leaving);
        }
    }

    /// How many groups this node believes to lead.
    pub fn groups_led(&self) -> usize {
        let regions = self.0.regions.load();
        let led = regions.values().filter(|group| group.leads()).count();
        led + usize::from(self.0.catalog.leads())
    }

    /// Ends the groups, and writes what is still to be written.
    pub async fn stop(&self) {
        self.0.loops.stop();
        self.0.catalog.stop().await;
        for group in self.0.regions.load().values() {
            group.stop().await;
        }
        self.0.registry.stop().await;
        self.0.keeper.store.close().await;
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
    /// Whom this node may have to reach: the nodes of the cluster, and removed ones while a group has
    /// them. A group that has not taken this node in does not show it who its members are, and the
    /// one that leads it may be any of those that were removed.
    fn wanted_peers(&self) -> BTreeSet<NodeId> {
        let state = self.catalog.state();
        let regions = self.regions.load();
        let of_regions = regions.values().map(Group::status);
        let mut members = BTreeSet::new();
        let mut outside = false;
        for status in of_regions.chain([self.catalog.status()]) {
            let all: BTreeSet<NodeId> = status.voters.into_iter().chain(status.learners).collect();
            outside |= !all.contains(&self.boots.at().node);
            members.extend(all);
        }
        let wanted =
            |node: &NodeId| outside || members.contains(node) || !follow::is_removed(&state, *node);
        self.ever_known().into_iter().filter(wanted).collect()
    }

    /// Whoever may have something in a directory: a node that was removed leaves it behind.
    fn ever_known(&self) -> BTreeSet<NodeId> {
        let state = self.catalog.state();
        let founders = self.founders.iter().map(|place| place.node);
        founders
            .chain(state.nodes().map(|node| node.at.node))
            .collect()
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            catalog: &self.catalog,
            founders: &self.founders,
            distance: &self.options.distance,
            fixed: self.options.timing.is_some(),
        }
    }
}

/// The autopilot of all groups that this node leads.
async fn pilot(inner: Weak<Inner>) {
    let mut orders: BTreeMap<RegionId, autopilot::watch::Order> = BTreeMap::new();
    let mut ordered = clock::now();
    loop {
        tokio::time::sleep(autopilot::EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let scene = inner.scene();
        autopilot::watch::mark(&inner.catalog, inner.options.node_dead_after).await;
        autopilot::step(&inner.catalog, &scene).await;
        let regions = inner.regions.load_full();
        for group in regions.values() {
            autopilot::step(group, &scene).await;
        }
        if ordered.elapsed() >= Duration::from_secs(1) {
            ordered = clock::now();
            for (region, group) in regions.iter() {
                orders.entry(*region).or_default().look(group, &scene).await;
            }
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
            .look(&group, &inner.ever_known(), inner.options.node_lost_after)
            .await;
    }
}
