//! What nodes say to each other: Raft, forwarded proposals, messages for sidecars attached elsewhere.
//!
//! [`Peers`] is the client side, cheap to clone and shared by everybody in the node. It finds a
//! node's name and address in a table that the boot code keeps current, and holds up to three kept
//! connections ([`link`]) to each node that it speaks to: one for Raft and what must not wait behind
//! bulk, one for relayed tunnels, one for the rest. [`transport`] is the face that the raft crate sees, [`pulse`] measures round trips,
//! [`serve`] is the other end.
//!
//! Nothing is retried here. An error says whether the message surely never left this node, because
//! only the caller knows whether its message may arrive twice.

mod link;
mod pulse;
mod raft;
mod serve;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod tests_tls;
mod transport;

pub use link::Place;
pub use serve::{
    AdmitHandler, ClosesHandler, GreetHandler, Handlers, PassHandler, RelayHandler, serve, take,
};

use crate::tls::Tls;
use crate::{clock, relay};
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use link::{Dialer, Link};
use pontoon_proto::id::{NodeBoot, NodeId};
use pontoon_proto::peer as pb;
use pontoon_raft::catalog::command::FolderId;
use pontoon_raft::group::network::Unreachable;
use pontoon_raft::identity::Verdict;
use pulse::Pulse;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// The largest message that crosses between nodes.
///
/// Raft bodies stay under 1 MiB by the raft crate's own bounds; the rest is room for one entry that
/// is larger than its batch was meant to be, so that the bound never cuts a group off.
pub const MESSAGE_MAX: usize = 8 << 20;

/// HTTP/2 window of one stream: 4 MiB keep a stream at 1 Gbit/s busy over a round trip of 30 ms.
const STREAM_WINDOW: u32 = 4 << 20;

/// HTTP/2 window of one connection: 16 MiB keep it busy at 1 Gbit/s over 130 ms, ocean included.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The largest header list: ours fill a few hundred bytes, and h2 alone would take 16 MiB.
const HEADERS_MAX: u32 = 16 << 10;

/// How often an otherwise silent connection is probed, ...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// ... and how long a probe may stay unanswered: a peer that vanished is noticed within 5 s.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Who this node is to others.
#[derive(Clone, Debug)]
pub struct Me {
    /// The cluster's id; a message of another one is refused.
    pub cluster: [u8; 16],
    /// This node's name.
    pub name: String,
    /// This node's number and present boot.
    pub at: NodeBoot,
}

/// Which of the connections to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Raft, forwarded proposals and reads, beats, pings: small and urgent.
    Raft,
    /// Snapshots, and messages for sidecars.
    Rest,
    /// Relayed tunnels.
    Relay,
}

/// The clients to all other nodes.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    me: Me,
    boot: AtomicU64,
    places: ArcSwap<BTreeMap<NodeId, Arc<Place>>>,
    dialer: Dialer,
    links: Mutex<BTreeMap<(NodeId, Class), Arc<Link>>>,
    pulse: Pulse,
}

impl Peers {
    /// Knows nobody yet; see [`Peers::set_places`]. Starts the task that measures round trips, which
    /// ends with the last clone. With `tls`, both ends of every connection show certificates; without
    /// it, everything crosses in clear text.
    pub fn new(me: Me, tls: Option<Tls>) -> Self {
        let peers = Self(Arc::new(Inner {
            boot: AtomicU64::new(me.at.boot),
            me,
            places: ArcSwap::default(),
            dialer: Dialer {
                tls,
                said: Arc::default(),
            },
            links: Mutex::default(),
            pulse: Pulse::default(),
        }));
        pulse::start(&peers);
        peers
    }

    /// Replaces the table of where nodes are. Connections to nodes that moved or went are closed once
    /// their running exchanges are done.
    pub fn set_places(&self, places: BTreeMap<NodeId, Place>) {
        let old = self.0.places.load();
        let places: BTreeMap<NodeId, Arc<Place>> = places
            .into_iter()
            .map(|(node, place)| match old.get(&node) {
                Some(same) if **same == place => (node, same.clone()),
                _ => (node, Arc::new(place)),
            })
            .collect();
        self.links()
            .retain(|(node, _), link| places.get(node) == Some(link.place()));
        self.0.places.store(Arc::new(places));
    }

    /// The numbers of all nodes with a known place, this one excepted.
    pub fn known(&self) -> Vec<NodeId> {
        let own = self.0.me.at.node;
        let places = self.0.places.load();
        places.keys().copied().filter(|n| *n != own).collect()
    }

    /// Our certificates, and whom we believe; `None` in clear text.
    pub fn tls(&self) -> Option<&Tls> {
        self.0.dialer.tls.as_ref()
    }

    /// Who this node is; its boot as it was at the start.
    pub fn me(&self) -> &Me {
        &self.0.me
    }

    /// This node took a new boot because it read of its own loss.
    pub fn set_boot(&self, boot: u64) {
        self.0.boot.fetch_max(boot, Ordering::Relaxed);
    }

    /// This node and its present boot.
    pub fn at(&self) -> NodeBoot {
        NodeBoot {
            node: self.0.me.at.node,
            boot: self.0.boot.load(Ordering::Relaxed),
        }
    }

    /// The smoothed round trip to a node; `None` while it does not answer.
    pub fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.0.pulse.rtt(node)
    }

    /// How a node is, by its last answer to a ping; `None` while it does not answer, and for a build
    /// that does not say.
    pub fn state(&self, node: NodeId) -> Option<pb::NodeState> {
        self.0.pulse.state(node)
    }

    /// Makes a node drain within a span, or serve again.
    pub async fn drain(
        &self,
        to: NodeId,
        drain: Option<Duration>,
        within: Duration,
    ) -> Result<pb::NodeState, Unreachable> {
        let request = pb::DrainRequest {
            envelope: Some(self.envelope()),
            drain: drain.is_some(),
            within_ms: drain.map_or(0, |span| span.as_millis() as u64),
        };
        let reply: pb::DrainReply = self
            .call(to, Class::Rest, within, |channel| async move {
                peer_client(channel).drain(request).await
            })
            .await?;
        let state = reply.state.unwrap_or_default();
        self.0.pulse.told(to, state);
        Ok(state)
    }

    /// Asks what closed at a node lately. The envelope is filled in here.
    pub fn closes(
        &self,
        to: NodeId,
        mut request: pb::ClosesRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::ClosesReply, Unreachable>> {
        request.envelope = Some(self.envelope());
        self.call(to, Class::Rest, within, |channel| async move {
            peer_client(channel).closes(request).await
        })
    }

    /// Passes a message on to a sidecar that is attached to `to`. The envelope is filled in here.
    pub fn pass(
        &self,
        to: NodeId,
        mut request: pb::PassRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::PassReply, Unreachable>> {
        request.envelope = Some(self.envelope());
        self.call(to, Class::Rest, within, |channel| async move {
            peer_client(channel).pass(request).await
        })
    }

    /// Relays a tunnel to the node that issued its ticket. The envelope is filled in here; `within` is
    /// for the answer's head.
    pub fn relay(
        &self,
        to: NodeId,
        mut open: pb::RelayOpen,
        frames: mpsc::Receiver<pb::RelayFrame>,
        within: Duration,
    ) -> BoxFuture<'static, Result<relay::Frames, Unreachable>> {
        open.envelope = Some(self.envelope());
        let first = pb::RelayFrame {
            frame: Some(pb::relay_frame::Frame::Open(open)),
        };
        let frames = stream::iter([first]).chain(ReceiverStream::new(frames));
        let opened = self.call(to, Class::Relay, within, |channel| async move {
            peer_client(channel).relay(frames).await
        });
        async move { Ok(opened.await?.boxed()) }.boxed()
    }

    /// Asks a node who it is, and measures the round trip. Another node at that address counts as
    /// unreachable.
    pub async fn ping(&self, to: NodeId, within: Duration) -> Result<Duration, Unreachable> {
        Ok(self.hello(to, within).await?.1)
    }

    /// How far a node has applied the catalog's log.
    pub async fn catalog_applied(&self, to: NodeId, within: Duration) -> Result<u64, Unreachable> {
        Ok(self.hello(to, within).await?.0.catalog_applied)
    }

    /// The name of a node's data folder for itself.
    pub async fn folder(&self, to: NodeId, within: Duration) -> Result<FolderId, Unreachable> {
        let reply = self.hello(to, within).await?.0;
        FolderId::try_from(&reply.folder[..]).map_err(|_| Unreachable {
            node: to,
            cause: "it does not name its data folder".into(),
            unsent: false,
        })
    }

    /// Shows this first member's fresh data folder to another. `None` when the answer makes no sense.
    pub async fn greet(
        &self,
        to: NodeId,
        number: NodeId,
        folder: FolderId,
        within: Duration,
    ) -> Result<Option<Verdict>, Unreachable> {
        let request = pb::GreetRequest {
            envelope: Some(self.envelope()),
            node: u64::from(number.0),
            folder: folder.to_vec().into(),
        };
        let reply: pb::GreetReply = self
            .call(to, Class::Raft, within, |channel| async move {
                peer_client(channel).greet(request).await
            })
            .await?;
        Ok(match reply.verdict() {
            pb::Verdict::Unspecified => None,
            pb::Verdict::Founder => Some(Verdict::Founder),
            pb::Verdict::Other => Some(Verdict::Other),
            pb::Verdict::Unsure => Some(Verdict::Unsure),
        })
    }

    /// Asks to be admitted to the cluster. The envelope is filled in here.
    pub async fn admit_me(
        &self,
        to: NodeId,
        mut request: pb::AdmitRequest,
        within: Duration,
    ) -> Result<pb::AdmitReply, Unreachable> {
        request.envelope = Some(self.envelope());
        self.call(to, Class::Raft, within, |channel| async move {
            peer_client(channel).admit(request).await
        })
        .await
    }

    async fn hello(
        &self,
        to: NodeId,
        within: Duration,
    ) -> Result<(pb::PingReply, Duration), Unreachable> {
        let request = pb::PingRequest {
            envelope: Some(self.envelope()),
        };
        let (reply, took) = self
            .call(to, Class::Raft, within, |channel| async move {
                let sent = clock::now();
                let reply = peer_client(channel).ping(request).await?.into_inner();
                Ok(Response::new((reply, sent.elapsed())))
            })
            .await?;
        if reply.node != u64::from(to.0) {
            return Err(Unreachable {
                node: to,
                cause: format!("its address is answered by node {}", reply.node),
                unsent: false,
            });
        }
        Ok((reply, took))
    }

    fn envelope(&self) -> pb::Envelope {
        let at = self.at();
        pb::Envelope {
            cluster: self.0.me.cluster.to_vec().into(),
            node: u64::from(at.node.0),
            boot: at.boot,
            ..pb::Envelope::default()
        }
    }

    /// One exchange over the kept connection of this class; the span covers dialing and answer.
    fn call<R, F>(
        &self,
        to: NodeId,
        class: Class,
        within: Duration,
        send: impl FnOnce(Channel) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<R, Unreachable>>
    where
        R: Send + 'static,
        F: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let link = self.link(to, class);
        async move {
            let deadline = clock::now() + within;
            let channel = link?.channel(deadline).await.map_err(|cause| Unreachable {
                node: to,
                cause,
                unsent: true,
            })?;
            match timeout_at(deadline, send(channel)).await {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(unreachable(to, &status)),
                Err(_) => Err(Unreachable {
                    node: to,
                    cause: format!("no answer within {within:?}"),
                    unsent: false,
                }),
            }
        }
        .boxed()
    }

    fn link(&self, to: NodeId, class: Class) -> Result<Arc<Link>, Unreachable> {
        let places = self.0.places.load();
        let place = places.get(&to).ok_or_else(|| Unreachable {
            node: to,
            cause: "its address is not known".into(),
            unsent: true,
        })?;
        let open = || Link::open(place.clone(), self.0.dialer.clone());
        let mut links = self.links();
        let link = links.entry((to, class)).or_insert_with(open);
        if link.place() != place {
            *link = open();
        }
        Ok(link.clone())
    }

    fn links(&self) -> std::sync::MutexGuard<'_, BTreeMap<(NodeId, Class), Arc<Link>>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn peer_client(channel: Channel) -> pb::peer_client::PeerClient<Channel> {
    pb::peer_client::PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX)
}

/// What a failed exchange means. Only an error that arose before the request was handed to a
/// connection counts as unsent: it failed to connect, or the connection closed with the request
/// still in its queue.
fn unreachable(node: NodeId, status: &Status) -> Unreachable {
    let mut unsent = false;
    let mut source = status.source();
    while let Some(error) = source {
        unsent |= error.is::<tonic::ConnectError>()
            || error
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_canceled);
        source = error.source();
    }
    Unreachable {
        node,
        cause: format!("{:?}: {}", status.code(), status.message()),
        unsent,
    }
}
