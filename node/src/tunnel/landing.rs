//! CONNECTs whose ticket another node issued: at the node where they land, and at the one that issued
//! it. [`crate::relay`] has what lies between the two.

use super::desk::Incoming;
use super::wire::Speaks;
use super::{Shared, Tunnels};
use crate::prefixed::Prefixed;
use crate::relay::{self, CARRIED_MAX, Frames, NotRelayed, Relayed, Sources};
use crate::tls::Stream;
use crate::{clock, tasks};
use bytes::Bytes;
use pontoon_proto::connect::{self, Refusal};
use pontoon_proto::id::{NodeId, RequestId, WorkerId};
use pontoon_proto::peer::RelayOpen;
use pontoon_proto::ticket::{self, Ticket};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What a node keeps about the relays that begin at it.
pub(super) struct Landing {
    started: Instant,
    sources: Mutex<Sources>,
    room: Arc<Semaphore>,
}

impl Default for Landing {
    fn default() -> Self {
        Self {
            started: clock::now(),
            sources: Mutex::default(),
            room: Arc::new(Semaphore::new(CARRIED_MAX)),
        }
    }
}

impl Landing {
    fn now(&self) -> Duration {
        clock::now().saturating_duration_since(self.started)
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A CONNECT, still to be judged.
pub(super) struct Connect {
    pub(super) ticket: String,
    pub(super) id: RequestId,
    pub(super) worker: Option<WorkerId>,
    pub(super) speaks: Option<String>,
}

impl Connect {
    /// The other node that issued its ticket, if there is one.
    pub(super) fn issued_elsewhere(&self, tunnels: &Tunnels) -> Option<NodeId> {
        let issuer = Ticket::parse(&self.ticket)?.issuer.node;
        (issuer != tunnels.0.at().node).then_some(issuer)
    }

    fn relayed(self) -> RelayOpen {
        RelayOpen {
            envelope: None,
            ticket: self.ticket,
            request_id: self.id.to_bytes().to_vec().into(),
            worker: self
                .worker
                .map(|worker| worker.to_bytes().to_vec())
                .unwrap_or_default()
                .into(),
            speaks: self.speaks.unwrap_or_default(),
        }
    }
}

/// A relay that the entry node has agreed to.
pub(super) struct Agreed {
    relayed: Relayed,
    room: OwnedSemaphorePermit,
    id: RequestId,
    entry: NodeId,
}

/// Asks the node that issued the ticket, or says what the sidecar is refused with.
pub(super) async fn ask(
    tunnels: &Tunnels,
    entry: NodeId,
    source: Option<IpAddr>,
    connect: Connect,
) -> Result<Agreed, Refusal> {
    let shared = &tunnels.0;
    let refuse = |label, refusal| {
        shared.metrics.relays.add(label);
        Err(refusal)
    };
    if !shared.directories.is_node(entry) {
        shared.desk.count(ticket::Refusal::Unknown.label());
        return refuse("unknown_node", Refusal::InvalidAuth);
    }
    let source = source.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let landing = &shared.landing;
    let may = landing.sources().may(landing.now(), source);
    let Some(room) = may
        .then(|| landing.room.clone().try_acquire_owned().ok())
        .flatten()
    else {
        return refuse("limited", Refusal::RelaysLimited);
    };
    let id = connect.id;
    match relay::open(&shared.relayer, entry, connect.relayed()).await {
        Ok(relayed) => {
            shared.metrics.relays.add("ok");
            Ok(Agreed {
                relayed,
                room,
                id,
                entry,
            })
        }
        Err(error) => {
            tracing::info!(session = %id, node = entry.0, %error, "a tunnel was not relayed");
            match &error {
                NotRelayed::Refused(_) => {
                    landing.sources().refused(landing.now(), source);
                    refuse(error.label(), Refusal::InvalidAuth)
                }
                NotRelayed::Unreachable(_) => refuse(error.label(), Refusal::EntryUnreachable),
                NotRelayed::Silent(_) => refuse(error.label(), Refusal::EntrySilent),
            }
        }
    }
}

impl Agreed {
    /// Says to the sidecar that the tunnel is up, and carries it in a task of its own.
    pub(super) async fn carry(
        self,
        tunnels: &Tunnels,
        mut stream: Stream,
        behind: Bytes,
    ) -> io::Result<()> {
        if let Err(error) = stream.write_all(connect::CONNECTED.as_bytes()).await {
            self.relayed.reset();
            return Err(error);
        }
        let shared = Arc::clone(&tunnels.0);
        tasks::spawn(tasks::Kind::Worker, "relay", async move {
            self.run(&shared, stream, behind).await;
        });
        Ok(())
    }

    async fn run(self, shared: &Shared, stream: Stream, behind: Bytes) {
        let started = clock::now();
        let _active = shared.metrics.relays_active.enter();
        let mut stream = Prefixed::new(behind, stream);
        let carried = relay::carry(&mut stream, self.relayed, &shared.stop).await;
        if carried.end != relay::End::Finished {
            // A cut tunnel must not look like a complete one.
            let _or_gone = stream.get_ref().socket().set_zero_linger();
        }
        drop(stream);
        drop(self.room);
        let metrics = &shared.metrics;
        metrics.relays_closed.add(carried.end.label());
        metrics.relay_bytes.add_many("to_worker", carried.to_worker);
        metrics
            .relay_bytes
            .add_many("from_worker", carried.from_worker);
        tracing::info!(
            session = %self.id,
            node = self.entry.0,
            reason = carried.end.label(),
            text = carried.text,
            to_worker = carried.to_worker,
            from_worker = carried.from_worker,
            seconds = started.elapsed().as_secs_f64(),
            "a relay has ended"
        );
    }
}

impl Tunnels {
    /// This node is about to end: what would be relayed from here on would be cut at once. Sidecars are
    /// answered 503, and dial on elsewhere.
    pub fn relay_no_more(&self) {
        self.0.landing.room.close();
    }

    /// Judges a CONNECT that landed on another node, and hands its stream to whoever waits for it;
    /// gives what is said back. It is never relayed further.
    pub fn relayed(&self, open: &RelayOpen, frames: Frames) -> Frames {
        let judged = match RequestId::from_slice(&open.request_id) {
            Some(id) => {
                let worker = WorkerId::from_slice(&open.worker);
                self.desk().present(&open.ticket, id, worker)
            }
            None => Err(ticket::Refusal::WrongId),
        };
        let judged = judged.map_err(ticket::Refusal::label);
        let speaks = Speaks::parse(&open.speaks);
        let envelope = open.envelope.as_ref();
        let through = envelope.and_then(|from| u32::try_from(from.node).ok().map(NodeId));
        relay::answer(frames, judged, |waiter, relayed| {
            let stream = Box::new(relayed);
            // Whoever waited has just given up: the sidecar sees its tunnel close.
            let _or_gone = waiter.send(Incoming {
                stream,
                speaks,
                through,
            });
        })
    }
}
