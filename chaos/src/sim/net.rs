//! The simulated network: latency, loss, duplicates, cuts in one direction, clogged nodes.
//!
//! A message that asks once may be lost on either way, late, overtaken by a later one, and arrive
//! twice. A stream keeps its order, as TCP does: while its way is cut it waits. It breaks as a real one
//! does: at once when the process at one end dies, and by the PINGs of HTTP/2 when nothing comes from the
//! other side any more, because a way is cut, or that process stands still, or its machine lost its power.

use super::Bug;
use super::consensus::Sender;
use super::random::Random;
use super::watch::Watch;
use super::world::{World, spawn};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use pontoon_proto::id::{NodeId, RegionId, RequestId};
use pontoon_proto::peer as pb;
use pontoon_raft::clock::{self, Instant};
use pontoon_raft::cluster::Cluster;
use pontoon_raft::group::network::{Transport, Unreachable};
use pontoon_raft::group::serve::Refused;
use pontoon_raft::host::Host;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often a stream whose way is cut looks whether it is mended.
const LOOK: Duration = Duration::from_millis(100);

/// How often a silent stream looks whether a PING was missed.
const PING_LOOK: Duration = Duration::from_millis(500);

/// How long a connection stays open on which nothing comes back: nodes send a PING after 2 s of silence,
/// and wait 3 s for its answer.
const PING: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5));

/// Messages of one stream that may be on their way.
const PIPE: usize = 1024;

/// How the network is now.
#[derive(Debug, Default)]
struct Weather {
    /// What does not get through, and since when.
    cut: BTreeMap<(NodeId, NodeId), Instant>,
    /// How often all ways were mended.
    mends: u64,
    /// Nodes whose messages take so much longer, both ways.
    clogged: BTreeMap<NodeId, Duration>,
    base: Duration,
    jitter: Duration,
    loss_permille: usize,
    twice_permille: usize,
}

#[derive(Clone)]
struct End {
    host: Host,
    cluster: Cluster,
}

/// The network between all nodes.
pub(super) struct Net {
    world: Arc<World>,
    watch: Arc<Watch>,
    nodes: Vec<NodeId>,
    random: Random,
    weather: Mutex<Weather>,
    ends: Mutex<BTreeMap<NodeId, End>>,
    /// Nodes that stand still or lost their power, and since when: they answer nothing, not even that
    /// nobody is there.
    mute: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Net {
    pub(super) fn new(world: Arc<World>, watch: Arc<Watch>, nodes: Vec<NodeId>) -> Net {
        let random = world.random.fork();
        let net = Net {
            world,
            watch,
            nodes,
            random,
            weather: Mutex::default(),
            ends: Mutex::default(),
            mute: Mutex::default(),
        };
        net.calm();
        net
    }

    /// Everything arrives, soon and once.
    pub(super) fn calm(&self) {
        let mut weather = self.weather();
        *weather = Weather {
            base: Duration::from_micros(300),
            jitter: Duration::from_micros(700),
            mends: weather.mends + 1,
            ..Weather::default()
        };
    }

    pub(super) fn storm(&self, loss: usize, twice: usize, base: Duration, jitter: Duration) {
        let mut weather = self.weather();
        weather.loss_permille = loss;
        weather.twice_permille = twice;
        weather.base = base;
        weather.jitter = jitter;
    }

    pub(super) fn cut(&self, from: NodeId, to: NodeId) {
        let mut weather = self.weather();
        weather.cut.entry((from, to)).or_insert_with(clock::now);
    }

    pub(super) fn mend(&self) {
        let mut weather = self.weather();
        weather.mends += 1;
        weather.cut.clear();
        weather.clogged.clear();
    }

    /// Since which mending a node can neither reach any of the others nor be reached; none when it can.
    pub(super) fn isolated(&self, node: NodeId) -> Option<u64> {
        let weather = self.weather();
        let others = self.nodes.iter().filter(|other| **other != node);
        let cut = |from, to| weather.cut.contains_key(&(from, to));
        let mut cuts = others.map(|other| cut(node, *other) && cut(*other, node));
        cuts.all(|both| both).then_some(weather.mends)
    }

    pub(super) fn clog(&self, node: NodeId, by: Duration) {
        self.weather().clogged.insert(node, by);
    }

    pub(super) fn add(&self, node: NodeId, host: Host, cluster: Cluster) {
        self.ends().insert(node, End { host, cluster });
        self.set_mute(node, false);
    }

    /// From now on nothing comes from a node, and nobody says so; or again what it says.
    pub(super) fn set_mute(&self, node: NodeId, mute: bool) {
        if mute {
            self.mute().entry(node).or_insert_with(clock::now);
        } else {
            self.mute().remove(&node);
        }
    }

    pub(super) fn remove(&self, node: NodeId) {
        self.ends().remove(&node);
    }

    /// The run is over.
    pub(super) fn clear(&self) {
        self.ends().clear();
    }

    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<NodeId, End>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mute(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.mute.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_mute(&self, node: NodeId) -> bool {
        self.mute().contains_key(&node)
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.weather().cut.contains_key(&(from, to))
    }

    /// Whether nothing has come back between two nodes for longer than this.
    fn silent(&self, one: NodeId, other: NodeId, patience: Duration) -> bool {
        let cuts = {
            let weather = self.weather();
            [(one, other), (other, one)].map(|way| weather.cut.get(&way).copied())
        };
        let mute = {
            let mute = self.mute();
            [one, other].map(|node| mute.get(&node).copied())
        };
        let now = clock::now();
        let since = cuts.into_iter().chain(mute).flatten().min();
        since.is_some_and(|since| now.saturating_duration_since(since) > patience)
    }

    /// How long a message takes that sets out now.
    fn trip(&self, from: NodeId, to: NodeId) -> Duration {
        let weather = self.weather();
        let clogged = [from, to].map(|node| weather.clogged.get(&node).copied());
        let clogged: Duration = clogged.into_iter().flatten().sum();
        weather.base + clogged + self.random.between(Duration::ZERO, weather.jitter)
    }

    /// Whether a message that sets out now is lost.
    fn loses(&self, from: NodeId, to: NodeId) -> bool {
        let loss = self.weather().loss_permille;
        let lost = self.is_cut(from, to) || self.random.chance(loss);
        if lost {
            self.world.count("messages lost");
        }
        lost
    }

    fn twice(&self) -> bool {
        let twice = self.weather().twice_permille;
        self.random.chance(twice)
    }

    /// Waits until a message of a stream may arrive; false when the stream breaks instead.
    async fn arrives(&self, (from, to): Way, at: Instant, patience: Duration) -> bool {
        tokio::time::sleep_until(at).await;
        while self.is_cut(from, to) {
            self.world.count("streams stalled");
            if self.silent(from, to, patience) {
                self.world.count("streams broken");
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// Hands on what a stream carries, until it ends or breaks.
    async fn carry<T>(
        self: Arc<Self>,
        way: Way,
        mut arrived: mpsc::Receiver<(Instant, T)>,
        out: mpsc::Sender<T>,
    ) {
        let patience = self.random.between(PING.0, PING.1);
        loop {
            match tokio::time::timeout(PING_LOOK, arrived.recv()).await {
                Ok(Some((at, item))) => {
                    if !self.arrives(way, at, patience).await || out.send(item).await.is_err() {
                        return;
                    }
                }
                // A machine without power says no goodbye.
                Ok(None) if self.is_mute(way.0) => {
                    if self.silent(way.0, way.1, patience) {
                        return;
                    }
                    tokio::time::sleep(LOOK).await;
                }
                Ok(None) => return,
                Err(_) if self.silent(way.0, way.1, patience) => {
                    self.world.count("streams broken");
                    return;
                }
                Err(_) => {}
            }
        }
    }
}

/// From one node to another.
type Way = (NodeId, NodeId);

/// One node's end of the network.
pub(super) struct Port {
    pub(super) from: NodeId,
    /// How often the node was started.
    pub(super) life: u64,
    pub(super) host: Host,
    pub(super) net: Arc<Net>,
}

impl Port {
    /// Asks once: there, served by the other process, and back.
    fn ask<Q, T, F>(
        &self,
        to: NodeId,
        request: Q,
        within: Duration,
        serve: impl Fn(Cluster, Q) -> F + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, Unreachable>>
    where
        Q: Clone + Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T, Refused>> + Send + 'static,
    {
        let (from, net) = (self.from, self.net.clone());
        async move {
            let Some(end) = net.ends().get(&to).cloned() else {
                if net.is_mute(to) {
                    tokio::time::sleep(within).await;
                }
                return Err(lost(to, "it is down", true));
            };
            let (answer, mut answers) = mpsc::channel(2);
            let serve = Arc::new(serve);
            for copy in 0..1 + usize::from(net.twice()) {
                if copy > 0 {
                    net.world.count("duplicates delivered");
                }
                let (net, end) = (net.clone(), end.clone());
                let (request, serve, answer) = (request.clone(), serve.clone(), answer.clone());
                let served = async move {
                    tokio::time::sleep(net.trip(from, to)).await;
                    if net.loses(from, to) {
                        return;
                    }
                    let Ok(served) = end.host.spawn(serve(end.cluster, request)).await else {
                        return;
                    };
                    tokio::time::sleep(net.trip(to, from)).await;
                    if !net.loses(to, from) {
                        answer.try_send(served).ok();
                    }
                };
                spawn(served);
            }
            let patience = net.random.between(PING.0, PING.1);
            let deadline = clock::now() + within;
            loop {
                let look = deadline.min(clock::now() + PING_LOOK);
                match tokio::time::timeout_at(look, answers.recv()).await {
                    Ok(Some(Ok(served))) => return Ok(served),
                    Ok(Some(Err(refused))) => return Err(lost(to, &refused.to_string(), false)),
                    Ok(None) => return Err(lost(to, "no answer", false)),
                    Err(_) if look == deadline => return Err(lost(to, "too late", false)),
                    Err(_) if net.silent(from, to, patience) => {
                        return Err(lost(to, "no PING came back", false));
                    }
                    Err(_) => {}
                }
            }
        }
        .boxed()
    }

    /// Lays one direction of a stream: what comes out of `source` in `host` arrives in order.
    fn pipe<T: Send + 'static>(
        &self,
        way: Way,
        host: &Host,
        mut source: BoxStream<'static, T>,
    ) -> BoxStream<'static, T> {
        let (sender, arrived) = mpsc::channel::<(Instant, T)>(PIPE);
        let net = self.net.clone();
        host.spawn(async move {
            let mut last = clock::now();
            while let Some(item) = source.next().await {
                last = last.max(clock::now() + net.trip(way.0, way.1));
                if sender.send((last, item)).await.is_err() {
                    return;
                }
            }
        });
        let (out, mut items) = mpsc::channel(1);
        spawn(self.net.clone().carry(way, arrived, out));
        futures::stream::poll_fn(move |context| items.poll_recv(context)).boxed()
    }
}

fn lost(node: NodeId, cause: &str, unsent: bool) -> Unreachable {
    Unreachable {
        node,
        cause: cause.into(),
        unsent,
    }
}

/// The sessions that a node's replicas show, by region, and whether each is bound.
type Shown = BTreeMap<RegionId, BTreeMap<RequestId, bool>>;

fn sessions(node: &Cluster) -> Shown {
    let each = node.regions().into_iter().map(|(region, group)| {
        let state = group.state();
        let bound = state
            .sessions()
            .map(|one| (one.id, one.binding().is_some()));
        (region, bound.collect())
    });
    each.collect()
}

/// Whether some region's replica shows a binding that it did not, and not any more a session that it did.
fn brought_both(before: &Shown, after: &Shown) -> bool {
    after.iter().any(|(region, after)| {
        let Some(before) = before.get(region) else {
            return false;
        };
        let mut bound = after.iter().filter(|(_, bound)| **bound);
        let is_new = |(id, _): (&RequestId, &bool)| before.get(id) != Some(&true);
        bound.any(is_new) && before.keys().any(|id| !after.contains_key(id))
    })
}

/// The answer of a node that has all that a message carries.
fn has_all(request: &pb::AppendRequest) -> pb::AppendReply {
    let last = request.entries.last().and_then(|entry| entry.log_id);
    let result = match last.or(request.prev_log_id) {
        Some(id) => pb::append_reply::Result::Partial(id),
        None => pb::append_reply::Result::Success(true),
    };
    pb::AppendReply {
        result: Some(result),
    }
}

type Replies = BoxStream<'static, Result<pb::AppendReply, Unreachable>>;

/// What was said instead of the replies, for as long as there are replies.
fn but_said(
    mut replies: Replies,
    mut said: mpsc::Receiver<Result<pb::AppendReply, Unreachable>>,
) -> Replies {
    futures::stream::poll_fn(move |context| {
        while let Poll::Ready(reply) = replies.poll_next_unpin(context) {
            if reply.is_none() {
                return Poll::Ready(None);
            }
        }
        said.poll_recv(context)
    })
    .boxed()
}

impl Transport for Port {
    fn vote(
        &self,
        to: NodeId,
        request: pb::VoteRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::VoteReply, Unreachable>> {
        let blind = self.net.world.bug == Some(Bug::VoteTwice);
        if request.pre_vote && self.net.world.bug == Some(Bug::NoPreVote) {
            let reply = pb::VoteReply {
                vote: request.vote,
                granted: true,
                last_log_id: None,
            };
            return async move { Ok(reply) }.boxed();
        }
        self.ask(to, request, within, move |node, request| async move {
            let asked = request.vote;
            let mut reply = node.serve_vote(request).await?;
            if blind {
                (reply.granted, reply.vote) = (true, asked);
            }
            Ok(reply)
        })
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
        let port = Port {
            from,
            life: self.life,
            host: self.host.clone(),
            net: net.clone(),
        };
        async move {
            let end = net.ends().get(&to).cloned();
            let end = match end {
                Some(end) => end,
                None if net.is_mute(to) => {
                    tokio::time::sleep(within).await;
                    return Err(lost(to, "no connection", true));
                }
                None => return Err(lost(to, "it is down", true)),
            };
            if net.is_cut(from, to) || net.is_cut(to, from) {
                tokio::time::sleep(within).await;
                return Err(lost(to, "no connection", true));
            }
            let watch = net.watch.clone();
            let mut sender = Sender {
                node: from,
                life: port.life,
                of: None,
            };
            let early = net.world.bug == Some(Bug::AckEarly);
            let (said, early_replies) = mpsc::channel(PIPE);
            let requests = requests.inspect(move |request| {
                if let Some(first) = &request.envelope {
                    sender.of = Some((first.group, first.generation));
                }
                watch.appends(&sender, request);
                if early {
                    said.try_send(Ok(has_all(request))).ok();
                }
            });
            let requests = port.pipe((from, to), &port.host, requests.boxed());
            let (opened, opening) = oneshot::channel();
            let cluster = end.cluster.clone();
            end.host.spawn(async move {
                opened.send(cluster.serve_append(requests).await).ok();
            });
            match tokio::time::timeout(within, opening).await {
                Ok(Ok(Ok(replies))) => {
                    let replies = port.pipe((to, from), &end.host, replies);
                    let replies = replies.map(Ok).boxed();
                    Ok(match early {
                        true => but_said(replies, early_replies),
                        false => replies,
                    })
                }
                Ok(Ok(Err(refused))) => Err(lost(to, &refused.to_string(), false)),
                Ok(Err(_)) | Err(_) => Err(lost(to, "too late", false)),
            }
        }
        .boxed()
    }

    fn install_snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, pb::SnapshotChunk>,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Unreachable>> {
        let chunks = self.pipe((self.from, to), &self.host, chunks);
        let chunks = Arc::new(Mutex::new(Some(chunks)));
        let net = self.net.clone();
        self.ask(to, chunks, within, move |node, chunks| {
            let chunks = chunks.lock().unwrap_or_else(PoisonError::into_inner).take();
            let net = net.clone();
            async move {
                let chunks = chunks.ok_or(Refused::Malformed("a stream is not sent twice"))?;
                let before = sessions(&node);
                let installed = node.serve_install_snapshot(chunks).await;
                if installed.is_ok() {
                    net.world.count("snapshots installed");
                    if brought_both(&before, &sessions(&node)) {
                        net.world.count("H-17");
                    }
                }
                installed
            }
        })
    }

    fn transfer_leader(
        &self,
        to: NodeId,
        request: pb::TransferLeaderRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::TransferLeaderReply, Unreachable>> {
        self.net.world.count("leader transfers");
        self.ask(to, request, within, |node, request| async move {
            node.serve_transfer_leader(request).await
        })
    }

    fn propose(
        &self,
        to: NodeId,
        request: pb::ProposeRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::ProposeReply, Unreachable>> {
        self.net.world.count("proposals forwarded");
        self.ask(to, request, within, |node, request| async move {
            Ok(node.serve_propose(request).await)
        })
    }

    fn read_index(
        &self,
        to: NodeId,
        request: pb::ReadIndexRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::ReadIndexReply, Unreachable>> {
        let blind = self.net.world.bug == Some(Bug::StaleNegative);
        self.ask(to, request, within, move |node, request| async move {
            match blind {
                true => Ok(pb::ReadIndexReply::default()),
                false => Ok(node.serve_read_index(request).await),
            }
        })
    }

    fn beat(
        &self,
        to: NodeId,
        request: pb::BeatRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::BeatReply, Unreachable>> {
        self.ask(to, request, within, |node, request| async move {
            Ok(node.serve_beat(request).await)
        })
    }
}
