//! The simulated network: latency, loss, duplicates, cuts in one direction, clogged nodes.
//!
//! A message that asks once may be lost on either way, late, overtaken by a later one, and arrive
//! twice. A stream keeps its order, as TCP does: while its way is cut it waits, or breaks.

use super::Bug;
use super::random::Random;
use super::watch::Watch;
use super::world::{World, spawn};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use pontoon_raft::clock::{self, Instant};
use pontoon_raft::cluster::Cluster;
use pontoon_raft::group::network::{Transport, Unreachable};
use pontoon_raft::group::serve::Refused;
use pontoon_raft::host::Host;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often a stream whose way is cut looks whether it is mended.
const LOOK: Duration = Duration::from_millis(100);

/// Messages of one stream that may be on their way.
const PIPE: usize = 1024;

/// How the network is now.
#[derive(Debug, Default)]
struct Weather {
    cut: BTreeSet<(NodeId, NodeId)>,
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
    random: Random,
    weather: Mutex<Weather>,
    ends: Mutex<BTreeMap<NodeId, End>>,
}

impl Net {
    pub(super) fn new(world: Arc<World>, watch: Arc<Watch>) -> Net {
        let random = world.random.fork();
        let net = Net {
            world,
            watch,
            random,
            weather: Mutex::default(),
            ends: Mutex::default(),
        };
        net.calm();
        net
    }

    /// Everything arrives, soon and once.
    pub(super) fn calm(&self) {
        *self.weather() = Weather {
            base: Duration::from_micros(300),
            jitter: Duration::from_micros(700),
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

    pub(super) fn cut(&self, from: NodeId, to: NodeId, cut: bool) {
        match cut {
            true => self.weather().cut.insert((from, to)),
            false => self.weather().cut.remove(&(from, to)),
        };
    }

    pub(super) fn mend(&self) {
        self.weather().cut.clear();
        self.weather().clogged.clear();
    }

    pub(super) fn clog(&self, node: NodeId, by: Duration) {
        self.weather().clogged.insert(node, by);
    }

    pub(super) fn add(&self, node: NodeId, host: Host, cluster: Cluster) {
        self.ends().insert(node, End { host, cluster });
    }

    pub(super) fn remove(&self, node: NodeId) {
        self.ends().remove(&node);
    }

    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<NodeId, End>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.weather().cut.contains(&(from, to))
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
    async fn arrives(&self, from: NodeId, to: NodeId, at: Instant) -> bool {
        tokio::time::sleep_until(at).await;
        while self.is_cut(from, to) {
            self.world.count("streams stalled");
            if self.random.chance(30) {
                self.world.count("streams broken");
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }
}

/// One node's end of the network.
pub(super) struct Port {
    pub(super) from: NodeId,
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
            match tokio::time::timeout(within, answers.recv()).await {
                Ok(Some(Ok(served))) => Ok(served),
                Ok(Some(Err(refused))) => Err(lost(to, &refused.to_string(), false)),
                Ok(None) | Err(_) => Err(lost(to, "too late", false)),
            }
        }
        .boxed()
    }

    /// Lays one direction of a stream: what comes out of `source` in `host` arrives in order.
    fn pipe<T: Send + 'static>(
        &self,
        way: (NodeId, NodeId),
        host: &Host,
        mut source: BoxStream<'static, T>,
    ) -> BoxStream<'static, T> {
        let (sender, mut arrived) = mpsc::channel::<(Instant, T)>(PIPE);
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
        let net = self.net.clone();
        let (out, mut items) = mpsc::channel(1);
        spawn(async move {
            while let Some((at, item)) = arrived.recv().await {
                if !net.arrives(way.0, way.1, at).await || out.send(item).await.is_err() {
                    return;
                }
            }
        });
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

impl Transport for Port {
    fn vote(
        &self,
        to: NodeId,
        request: pb::VoteRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::VoteReply, Unreachable>> {
        let blind = self.net.world.bug == Some(Bug::VoteTwice);
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
            host: self.host.clone(),
            net: net.clone(),
        };
        async move {
            let Some(end) = net.ends().get(&to).cloned() else {
                return Err(lost(to, "it is down", true));
            };
            if net.is_cut(from, to) || net.is_cut(to, from) {
                tokio::time::sleep(within).await;
                return Err(lost(to, "no connection", true));
            }
            let watch = net.watch.clone();
            let requests = requests.inspect({
                let mut envelope = None;
                move |request| {
                    if let Some(first) = &request.envelope {
                        envelope = Some((first.group, first.generation));
                    }
                    if let Some(of) = envelope {
                        watch.appends(of, request);
                    }
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
                    Ok(replies.map(Ok).boxed())
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
                let installed = node.serve_install_snapshot(chunks).await;
                if installed.is_ok() {
                    net.world.count("snapshots installed");
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
