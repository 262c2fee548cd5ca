//! A cluster of groups in one process: real storage in temporary folders, no network.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part of it"
)]

pub mod ledger;
pub mod nodes;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use ledger::Ledger;
use pontoon_proto::id::{GroupId, NodeBoot, NodeId, RegionId};
use pontoon_proto::peer as pb;
use pontoon_raft::catalog::command::Pace;
use pontoon_raft::cluster::Cluster;
use pontoon_raft::group::network::{Transport, Unreachable};
use pontoon_raft::group::serve::{Refused, Registry};
use pontoon_raft::group::{Birth, Group, Setup, Timing};
use pontoon_raft::member::member;
use pontoon_raft::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;

pub const CLUSTER: [u8; 16] = [7; 16];
pub const GROUP: GroupId = GroupId::Region(RegionId(1));

/// Far longer than anything here takes; a test that needs it has failed.
pub const LONG: Duration = Duration::from_secs(60);

/// Who can be reached.
#[derive(Default)]
pub struct Net {
    nodes: Mutex<BTreeMap<NodeId, End>>,
    /// (from, to) pairs over which nothing goes.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// How many messages with forwarded commands set out.
    forwarded: AtomicUsize,
    /// How long everything from or to a node takes, one way.
    far: Mutex<BTreeMap<NodeId, Duration>>,
}

impl Net {
    pub fn add(&self, node: NodeId, registry: Arc<Registry>) {
        self.nodes
            .lock()
            .unwrap()
            .insert(node, End::Registry(registry));
    }

    pub fn add_cluster(&self, node: NodeId, cluster: Cluster) {
        self.nodes
            .lock()
            .unwrap()
            .insert(node, End::Cluster(cluster));
    }

    pub fn remove(&self, node: NodeId) {
        self.nodes.lock().unwrap().remove(&node);
    }

    /// Cuts or mends one direction.
    pub fn cut(&self, from: NodeId, to: NodeId, cut: bool) {
        let mut cuts = self.cut.lock().unwrap();
        if cut {
            cuts.insert((from, to));
        } else {
            cuts.remove(&(from, to));
        }
    }

    /// How many messages with forwarded commands set out so far.
    pub fn forwarded(&self) -> usize {
        self.forwarded.load(Ordering::Relaxed)
    }

    /// Puts a node far away: every message from or to it takes so long.
    pub fn far(&self, node: NodeId, one_way: Duration) {
        self.far.lock().unwrap().insert(node, one_way);
    }

    /// Waits for as long as a message takes.
    async fn travel(&self, from: NodeId, to: NodeId) {
        let one_way = {
            let far = self.far.lock().unwrap();
            far.get(&from).max(far.get(&to)).copied()
        };
        if let Some(one_way) = one_way {
            tokio::time::sleep(one_way).await;
        }
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.lock().unwrap().contains(&(from, to))
    }

    fn reach(&self, from: NodeId, to: NodeId) -> Result<End, Unreachable> {
        let node = self.nodes.lock().unwrap().get(&to).cloned();
        node.filter(|_| !self.is_cut(from, to))
            .ok_or_else(|| lost(to, "it is down", true))
    }
}

/// Who serves a node's messages.
#[derive(Clone)]
pub enum End {
    Registry(Arc<Registry>),
    Cluster(Cluster),
}

/// Calls the same method on either.
macro_rules! at {
    ($end:expr, $method:ident($request:expr)) => {
        match $end {
            End::Registry(end) => end.$method($request).await,
            End::Cluster(end) => end.$method($request).await,
        }
    };
}

/// One node's end of the net.
pub struct Port {
    pub from: NodeId,
    pub net: Arc<Net>,
}

impl Port {
    /// Carries a message there and its answer back.
    fn carry<T: Send + 'static, F>(
        &self,
        to: NodeId,
        within: Duration,
        serve: impl FnOnce(End) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Unreachable>>
    where
        F: Future<Output = Result<T, Refused>> + Send,
    {
        let (from, net) = (self.from, self.net.clone());
        async move {
            let registry = net.reach(from, to)?;
            let exchange = async {
                net.travel(from, to).await;
                let answer = serve(registry).await;
                net.travel(to, from).await;
                answer
            };
            let served = tokio::time::timeout(within, exchange).await;
            if net.is_cut(to, from) {
                return Err(lost(to, "the answer is lost", false));
            }
            match served {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(refused)) => Err(lost(to, &refused.to_string(), false)),
                Err(_) => Err(lost(to, "too late", false)),
            }
        }
        .boxed()
    }
}

fn lost(node: NodeId, cause: &str, unsent: bool) -> Unreachable {
    Unreachable {
        node,
        cause: cause.into(),
        unsent,
    }
}

impl Transport for Port {
    fn vote(
        &self,
        to: NodeId,
        request: pb::VoteRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::VoteReply, Unreachable>> {
        self.carry(
            to,
            within,
            |node| async move { at!(node, serve_vote(request)) },
        )
    }

    fn append(
        &self,
        to: NodeId,
        requests: BoxStream<'static, pb::AppendRequest>,
        within: Duration,
    ) -> BoxFuture<
        'static,
        Result<BoxStream<'static, Result<pb::AppendReply, Unreachable>>, Unreachable>,
    > {
        let (from, net) = (self.from, self.net.clone());
        let (out, road) = (net.clone(), net.clone());
        let requests = requests
            .take_while(move |_| futures::future::ready(!out.is_cut(from, to)))
            .map(move |request| {
                let road = road.clone();
                async move {
                    road.travel(from, to).await;
                    request
                }
            })
            // A long road, not a narrow one: what was sent later doesn't wait for what was sent before.
            .buffered(1024)
            .boxed();
        let opened = self.carry(to, within, |node| async move {
            at!(node, serve_append(requests))
        });
        async move {
            let replies = opened.await?;
            let road = net.clone();
            let replies = replies
                .map(move |reply| {
                    let road = road.clone();
                    async move {
                        road.travel(to, from).await;
                        Ok(reply)
                    }
                })
                .buffered(1024)
                .take_while(move |_| futures::future::ready(!net.is_cut(to, from)));
            Ok(replies.boxed())
        }
        .boxed()
    }

    fn install_snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, pb::SnapshotChunk>,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Unreachable>> {
        self.carry(to, within, |node| async move {
            at!(node, serve_install_snapshot(chunks))
        })
    }

    fn transfer_leader(
        &self,
        to: NodeId,
        request: pb::TransferLeaderRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::TransferLeaderReply, Unreachable>> {
        self.carry(to, within, |node| async move {
            at!(node, serve_transfer_leader(request))
        })
    }

    fn propose(
        &self,
        to: NodeId,
        request: pb::ProposeRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::ProposeReply, Unreachable>> {
        self.net.forwarded.fetch_add(1, Ordering::Relaxed);
        self.carry(to, within, |node| async move {
            Ok(at!(node, serve_propose(request)))
        })
    }

    fn read_index(
        &self,
        to: NodeId,
        request: pb::ReadIndexRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::ReadIndexReply, Unreachable>> {
        self.carry(to, within, |node| async move {
            Ok(at!(node, serve_read_index(request)))
        })
    }

    fn beat(
        &self,
        to: NodeId,
        request: pb::BeatRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::BeatReply, Unreachable>> {
        self.carry(to, within, |node| async move {
            Ok(at!(node, serve_beat(request)))
        })
    }
}

/// One running node with one group.
pub struct Running {
    pub group: Group<Ledger>,
    store: Store,
    registry: Arc<Registry>,
    _boot: watch::Sender<NodeBoot>,
}

/// Nodes that can be started, killed and started again.
pub struct World {
    pub net: Arc<Net>,
    dir: PathBuf,
    _temporary: Option<TempDir>,
    voters: BTreeSet<NodeId>,
    snapshot_every: u64,
    nodes: BTreeMap<NodeId, Running>,
}

impl World {
    /// `count` voters, all running.
    pub async fn start(count: u32, snapshot_every: u64) -> World {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::start_in(dir.path(), count, snapshot_every).await;
        world._temporary = Some(dir);
        world
    }

    /// As above, on what is in a folder.
    pub async fn start_in(dir: &Path, count: u32, snapshot_every: u64) -> World {
        let mut world = World::empty(dir, count, snapshot_every);
        for node in 1..=count {
            world.up(node).await;
        }
        world
    }

    /// As the first, with the last node on a storage of its own.
    pub async fn start_with(count: u32, snapshot_every: u64, last: Store) -> World {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::empty(dir.path(), count, snapshot_every);
        world._temporary = Some(dir);
        for node in 1..count {
            world.up(node).await;
        }
        world.up_on(count, last).await;
        world
    }

    fn empty(dir: &Path, count: u32, snapshot_every: u64) -> World {
        World {
            net: Arc::default(),
            dir: dir.into(),
            _temporary: None,
            voters: (1..=count).map(NodeId).collect(),
            snapshot_every,
            nodes: BTreeMap::new(),
        }
    }

    pub fn folder(&self, node: u32) -> PathBuf {
        self.dir.join(format!("node-{node}"))
    }

    /// Starts a node on what is in its folder.
    pub async fn up(&mut self, node: u32) {
        let store = open(&self.folder(node)).await;
        self.up_on(node, store).await;
    }

    async fn up_on(&mut self, node: u32, store: Store) {
        let id = NodeId(node);
        let dir = self.folder(node);
        let (boot, at) = watch::channel(NodeBoot { node: id, boot: 1 });
        let registry = Arc::new(Registry::new(CLUSTER));
        let setup = Setup {
            snapshot_every: self.snapshot_every,
            ..setup(at, &self.net, &dir, &store, &self.voters)
        };
        let group = Group::start(setup, Ledger::default()).await.unwrap();
        registry.add(&group);
        self.net.add(id, registry.clone());
        self.nodes.insert(
            id,
            Running {
                group,
                store,
                registry,
                _boot: boot,
            },
        );
    }

    /// Takes a node off the net and ends it.
    pub async fn down(&mut self, node: u32) {
        self.net.remove(NodeId(node));
        let running = self.nodes.remove(&NodeId(node)).unwrap();
        running.registry.stop().await;
        running.store.close().await;
    }

    /// What a node serves to others.
    pub fn registry(&self, node: u32) -> Arc<Registry> {
        self.nodes[&NodeId(node)].registry.clone()
    }

    pub fn group(&self, node: u32) -> Group<Ledger> {
        self.nodes[&NodeId(node)].group.clone()
    }

    pub fn groups(&self) -> impl Iterator<Item = (u32, Group<Ledger>)> + '_ {
        self.nodes
            .iter()
            .map(|(node, running)| (node.0, running.group.clone()))
    }

    /// A node that leads, as a quorum confirms.
    pub async fn leader(&self) -> u32 {
        eventually("a leader", || async {
            for (node, group) in self.groups() {
                if group.leads() && group.read(Duration::from_secs(1)).await.is_ok() {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// Cuts a node off from all others, or mends it.
    pub fn isolate(&self, node: u32, cut: bool) {
        for other in self.nodes.keys().filter(|other| other.0 != node) {
            self.net.cut(NodeId(node), *other, cut);
            self.net.cut(*other, NodeId(node), cut);
        }
    }
}

/// What one of some first voters starts its replica with.
pub fn setup(
    at: watch::Receiver<NodeBoot>,
    net: &Arc<Net>,
    dir: &Path,
    store: &Store,
    voters: &BTreeSet<NodeId>,
) -> Setup {
    let node = at.borrow().node;
    Setup {
        id: GROUP,
        generation: 1,
        cluster: CLUSTER,
        at,
        member: member(node, 1, 0),
        transport: Arc::new(Port {
            from: node,
            net: net.clone(),
        }),
        timing: Timing::LAN,
        pace: Pace::Lan,
        format: Arc::new(AtomicU16::new(1)),
        snapshot_every: 100_000,
        data_dir: dir.into(),
        store: store.clone(),
        birth: Birth::First {
            voters: voters.iter().map(|node| member(*node, 1, 0)).collect(),
            stands_first: node == NodeId(1),
        },
        roster: Arc::new(ArcSwap::from_pointee(voters.iter().copied().collect())),
    }
}

/// Opens the log engine once the last owner has let go of it.
pub async fn open(dir: &Path) -> Store {
    let path = dir.join("log");
    eventually("the log engine", || async { Store::open(&path).ok() }).await
}

/// Asks until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(LONG, asked).await {
        Ok(answer) => answer,
        Err(_) => panic!("{what}: not within {LONG:?}"),
    }
}
