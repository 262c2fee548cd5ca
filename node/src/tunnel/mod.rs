//! Tunnels: authenticated byte streams, dialed by sidecars, on which we are the HTTP client; [`wire`]
//! says which HTTP is spoken.
//!
//! [`Tunnels::obtain`] gives a connection the parked tunnel of its session ([`pool`]), or asks the
//! sidecar for a new one ([`open`]): a ticket is minted at the [`desk`], `OpenTunnel` is passed to a
//! node where the sidecar is attached ([`attach`], [`sidecars`]), the sidecar's CONNECT arrives at
//! [`accept`], and the stream is handed to whoever waits for it. [`driver`] then runs it until it
//! ends for one of the reasons in [`close`]. [`watch`] acts on what the directories say. Where a sidecar
//! offers it, the stream was dialed ahead: [`spare`].
//!
//! A CONNECT may land on another node than the one that issued its ticket: [`landing`].

mod accept;
mod attach;
pub mod close;
mod control;
mod desk;
mod directories;
mod driver;
mod landing;
mod metered;
mod open;
mod past;
mod pool;
mod pulse;
mod sidecars;
mod spare;
#[cfg(test)]
pub(crate) mod tests;
mod watch;
mod wire;

pub(crate) use accept::serve;
pub use directories::{Directories, Grant, KeyRefused, Unanswered};
pub use sidecars::{PassOutcome, Sidecars};
pub(crate) use spare::{RESULTS as SPARE_RESULTS, SPARES_MAX};
pub use watch::end_session;
pub use wire::{Carried, Carries, Lent, Speaks, Wire};

use crate::ops::metrics::Metrics;
use crate::relay::Relayer;
use crate::session::Target;
use crate::tasks;
use bytes::Bytes;
use close::CloseReason;
use driver::Life;
use futures::future::BoxFuture;
use pontoon_proto::id::{NodeBoot, NodeId, RequestId};
use pontoon_proto::peer::{ClosesReply, ClosesRequest, PassReply, PassRequest};
use pontoon_proto::worker::{NodeDraining, NodeMessage, NodeStaying, node_message};
use pontoon_raft::directory::command::EndReason;
use pontoon_raft::group::network::Unreachable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A live tunnel to a session's worker, in use by one client connection at a time.
///
/// When the last clone is dropped without having been parked, and its calls are done, the tunnel
/// closes.
#[derive(Clone)]
pub struct Tunnel {
    inner: Arc<Inner>,
}

struct Inner {
    wire: Spoken,
    /// What the worker speaks, if its sidecar said.
    speaks: Option<Speaks>,
    life: Arc<Life>,
}

/// What we speak over it.
enum Spoken {
    /// Taken out when the tunnel is to end once its calls have.
    H2(Mutex<Option<h2::client::SendRequest<Bytes>>>),
    H1(wire::Slot),
}

impl Inner {
    /// Takes away what new calls would be begun with: the connection ends by itself with the last of
    /// those that have begun.
    fn let_go(&self) {
        match &self.wire {
            Spoken::H2(_) => drop(self.sender(Option::take)),
            Spoken::H1(slot) => slot.let_go(),
        }
    }

    fn sender<T>(
        &self,
        with: impl FnOnce(&mut Option<h2::client::SendRequest<Bytes>>) -> Option<T>,
    ) -> Option<T> {
        match &self.wire {
            Spoken::H2(sender) => with(&mut sender.lock().unwrap_or_else(PoisonError::into_inner)),
            Spoken::H1(_) => None,
        }
    }
}

impl Tunnel {
    fn new(wire: Spoken, speaks: Option<Speaks>, life: Arc<Life>) -> Self {
        let inner = Arc::new(Inner { wire, speaks, life });
        Self { inner }
    }

    /// The HTTP/2 side: wait until it is ready, then send a request. `None` over HTTP/1.1.
    pub fn h2(&self) -> Option<h2::client::SendRequest<Bytes>> {
        self.inner.sender(|sender| sender.clone())
    }

    /// Ready for a request; `None` when it is HTTP/1.1 and in use, or is about to end.
    pub async fn wire(&self) -> Option<Wire> {
        match &self.inner.wire {
            Spoken::H2(_) => {
                let carried = Arc::clone(&self.inner.life.carried);
                self.h2().map(|sender| Wire::H2(sender, carried))
            }
            Spoken::H1(slot) => Lent::borrow(self, slot).await.map(Wire::H1),
        }
    }

    /// Whether it can carry this kind of call.
    pub fn suits(&self, carries: Carries) -> bool {
        match &self.inner.wire {
            Spoken::H2(_) => match carries {
                Carries::Grpc => true,
                Carries::Plain => self.inner.speaks != Some(Speaks::Http1),
                Carries::Upgrade => false,
            },
            Spoken::H1(_) => carries != Carries::Grpc,
        }
    }

    /// Whether the tunnel can still carry a new call.
    pub fn is_live(&self) -> bool {
        self.inner.life.is_live()
            && !self.inner.life.is_retired()
            && match &self.inner.wire {
                Spoken::H2(_) => self.h2().is_some_and(|mut sender| {
                    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                    !matches!(sender.poll_ready(&mut cx), std::task::Poll::Ready(Err(_)))
                }),
                Spoken::H1(slot) => slot.is_free(),
            }
    }

    /// Whether it has closed, or is about to.
    pub fn is_over(&self) -> bool {
        !self.inner.life.is_live()
    }

    fn slot(&self) -> Option<&wire::Slot> {
        match &self.inner.wire {
            Spoken::H1(slot) => Some(slot),
            Spoken::H2(_) => None,
        }
    }

    fn life(&self) -> &Arc<Life> {
        &self.inner.life
    }

    fn is(&self, other: &Tunnel) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

/// No tunnel came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No node could be reached where the sidecar is attached.
    #[error("the worker's sidecar is attached nowhere that this node reaches")]
    NotAttached,
    /// The sidecar said that it could not dial us, or did not dial in time.
    #[error("the sidecar did not dial back in time")]
    NoDial,
}

/// Passes a message for a sidecar on to another node, within a span.
pub type Passer = Arc<
    dyn Fn(NodeId, PassRequest, Duration) -> BoxFuture<'static, Result<PassReply, Unreachable>>
        + Send
        + Sync,
>;

/// Whether a node is about to leave.
pub type Leaves = Arc<dyn Fn(NodeId) -> bool + Send + Sync>;

/// What the tunnels of a node are made of.
pub struct Parts {
    /// The replicated state.
    pub directories: Arc<dyn Directories>,
    /// The way to sidecars that are attached to other nodes.
    pub passer: Passer,
    /// The way to the nodes that issued the tickets of CONNECTs that land here.
    pub relayer: Relayer,
    /// Whether another node is about to leave, as far as is known.
    pub leaves: Leaves,
    /// host:port of this node's worker port, as sidecars reach it.
    pub advertised: String,
    /// The cluster's id, told to sidecars.
    pub cluster: [u8; 16],
    /// This node's name, told to sidecars.
    pub name: String,
    /// What this node counts.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the node stops: control streams and tunnels close.
    pub stop: CancellationToken,
}

/// The tunnels of this node.
#[derive(Clone)]
pub struct Tunnels(Arc<Shared>);

struct Shared {
    directories: Arc<dyn Directories>,
    passer: Passer,
    relayer: Relayer,
    leaves: Leaves,
    landing: landing::Landing,
    advertised: String,
    cluster: [u8; 16],
    name: String,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    sidecars: Sidecars,
    desk: desk::Desk,
    pool: pool::Pool,
    spares: spare::Spares,
    past: Arc<past::Past>,
    /// Numbers the tunnels of this node's life.
    numbers: AtomicU64,
    /// Numbers the control streams of this node's life.
    streams: AtomicU64,
}

impl Shared {
    fn at(&self) -> NodeBoot {
        *self.directories.boots().borrow()
    }
}

impl Tunnels {
    /// The tunnels of a node, and the task that keeps them in step with the directories.
    pub fn start(parts: Parts) -> Self {
        let at = *parts.directories.boots().borrow();
        let tunnels = Self(Arc::new(Shared {
            directories: parts.directories,
            passer: parts.passer,
            relayer: parts.relayer,
            leaves: parts.leaves,
            landing: landing::Landing::default(),
            advertised: parts.advertised,
            cluster: parts.cluster,
            name: parts.name,
            metrics: Arc::clone(&parts.metrics),
            stop: parts.stop,
            sidecars: Sidecars::default(),
            desk: desk::Desk::new(at, parts.metrics),
            pool: pool::Pool::default(),
            spares: spare::Spares::default(),
            past: Arc::default(),
            numbers: AtomicU64::new(0),
            streams: AtomicU64::new(0),
        }));
        let watch = watch::run(tunnels.clone());
        tasks::spawn(tasks::Kind::Critical, "tunnels-watch", watch);
        tunnels
    }

    /// The session's parked tunnel if one lives that suits, else a spare or a new one, within a bound.
    pub async fn obtain(
        &self,
        target: &Target,
        carries: Carries,
        within: Duration,
    ) -> Result<Tunnel, LinkError> {
        if let Some(tunnel) = self.0.pool.take(target, carries) {
            return Ok(tunnel);
        }
        if let Some(tunnel) = spare::adopt(&self.0, target, carries, within).await {
            return Ok(tunnel);
        }
        open::dial(&self.0, target, carries, within).await
    }

    /// Gives a tunnel back when its client connection closed; it waits with its session.
    /// One that is not this session's is let go of, and closes.
    pub fn park(&self, target: &Target, tunnel: Tunnel) {
        if tunnel.life().target.id == target.id {
            self.0.pool.park(tunnel);
        }
    }

    /// Closes what this node holds for a session.
    pub fn end(&self, id: RequestId) {
        self.0.pool.end(id, CloseReason::SessionEnded);
    }

    /// Makes the session's sidecar let go of it, wherever it is attached; true once it has said so.
    pub async fn let_go(&self, target: &Target, reason: EndReason, within: Duration) -> bool {
        open::let_go(&self.0, target, reason, within).await
    }

    /// This node is about to leave: sidecars attach elsewhere. Their streams here, and the tunnels,
    /// stay until the node stops.
    pub fn leaving(&self) {
        let leaving = node_message::Message::NodeDraining(NodeDraining {});
        self.0.sidecars.tell_all(&NodeMessage {
            message: Some(leaving),
        });
    }

    /// This node stays after all: what sidecars have here counts again.
    pub fn staying(&self) {
        let staying = node_message::Message::NodeStaying(NodeStaying {});
        self.0.sidecars.tell_all(&NodeMessage {
            message: Some(staying),
        });
    }

    /// The sidecars that are attached to this node.
    pub fn sidecars(&self) -> &Sidecars {
        &self.0.sidecars
    }

    /// How tunnels and control streams ended here lately (contract K-CLS-1).
    pub fn closes(&self, request: &ClosesRequest) -> ClosesReply {
        self.0.past.asked(request)
    }

    fn desk(&self) -> &desk::Desk {
        &self.0.desk
    }

    fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    fn next_stream(&self) -> u64 {
        self.0.streams.fetch_add(1, Ordering::Relaxed) + 1
    }
}
