//! An attached sidecar's control stream: pings, what it reports, and what it must let go of.
//!
//! What a sidecar reports about itself is kept as a level and compared with the replica, not
//! proposed once: a proposal that got lost is made again, and one node's late word does not stand
//! against another's newer one for longer than a look.

use super::attach::{ASK_WITHIN, Introduced, No, PING_EVERY, SILENCE_MAX, say, verdict};
use super::close::{StreamEnd, printable};
use super::directories::is_bound;
use super::sidecars::{Place, Sender, Word};
use super::spare::Shelf;
use super::{Tunnels, open, watch};
use crate::{clock, tasks};
use futures::future::BoxFuture;
use pontoon_proto::id::{NodeBoot, RequestId};
use pontoon_proto::worker::refused::Reason;
use pontoon_proto::worker::sidecar_message::Message;
use pontoon_proto::worker::{
    EndSession, HeldSession, NodeList, Ping, SidecarMessage, node_message,
};
use pontoon_raft::directory::command::{Command, DrainReason, EndReason};
use pontoon_raft::directory::worker::Attachment;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tonic::Streaming;

/// How often what the replica shows is compared with what the sidecar says.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often the attach itself is checked, and the node list sent if it changed.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// When an attach that got no answer is proposed again.
const CHECK_SOON: Duration = Duration::from_millis(500);

/// How long a worker whose last open got no tunnel is left to the opens before it is probed. A probe
/// shows the way to this node only: at once, it would hide that another one can't be reached.
const PROBE_REST: Duration = Duration::from_secs(30);

/// A control stream after its hello.
pub(super) struct Control {
    tunnels: Tunnels,
    worker: Introduced,
    number: u64,
    sender: Sender,
    _place: Place,
    spares: Shelf,
    /// The boot under which the attach was last proposed.
    attached: Option<NodeBoot>,
    /// What the sidecar wants of its worker's drain reasons.
    drains: BTreeMap<DrainReason, bool>,
    nodes: Vec<pontoon_proto::worker::NodeAddress>,
    /// Since when its last open has had no tunnel, as far as this stream has seen; or its last probe.
    failing: Option<Instant>,
    /// A probe of such a worker.
    probe: Option<JoinHandle<()>>,
}

impl Drop for Control {
    /// The detach is proposed whatever ended the stream, a panic included.
    fn drop(&mut self) {
        let Some(at) = self.attached else { return };
        let detach = Command::DetachWorker {
            worker: self.worker.worker,
            at,
            stream: self.number,
        };
        watch::insist(&self.tunnels, self.worker.region, detach);
    }
}

impl Control {
    pub(super) fn new(
        tunnels: Tunnels,
        worker: Introduced,
        number: u64,
        sender: Sender,
        place: Place,
    ) -> Self {
        let nodes = tunnels.0.directories.nodes();
        let spares = tunnels.0.spares.shelf(worker.worker, number);
        Self {
            spares,
            tunnels,
            worker,
            number,
            sender,
            _place: place,
            attached: None,
            drains: BTreeMap::new(),
            nodes,
            failing: None,
            probe: None,
        }
    }

    pub(super) fn worker(&self) -> &Introduced {
        &self.worker
    }

    /// Makes the attach count.
    pub(super) async fn attach(&mut self) -> Result<(), No> {
        self.propose_attach().await
    }

    /// Proposes the attach under the node's present boot.
    fn propose_attach(&mut self) -> BoxFuture<'static, Result<(), No>> {
        let at = self.tunnels.0.at();
        self.attached = Some(at);
        let command = self.worker.attach(at, self.number);
        let directories = Arc::clone(&self.tunnels.0.directories);
        let region = self.worker.region;
        Box::pin(async move { verdict(directories.propose(region, command, ASK_WITHIN).await) })
    }

    /// Runs until the stream ends; gives the reason when this node refuses to go on.
    pub(super) async fn run(mut self, mut inbound: Streaming<SidecarMessage>) -> Option<No> {
        let (worker, stream) = (self.worker.worker, self.number);
        tracing::info!(%worker, stream, name = self.worker.name, "a sidecar has attached");
        let began = clock::now();
        let (end, refused) = match self.turn(&mut inbound).await {
            Ok(end) => (end, None),
            Err(no) => (StreamEnd::Refused, Some(no)),
        };
        let reason = end.label();
        tracing::info!(%worker, stream, reason, "a sidecar's control stream has ended");
        let text = refused.as_ref().map_or("", |(_, text)| text).to_owned();
        let past = &self.tunnels.0.past;
        past.sidecar(worker, reason, text, began.elapsed());
        refused
    }

    async fn turn(&mut self, inbound: &mut Streaming<SidecarMessage>) -> Result<StreamEnd, No> {
        let mut boots = self.tunnels.0.directories.boots();
        let stop = self.tunnels.stop().clone();
        let start = clock::now();
        let mut ping = ticker(start, PING_EVERY);
        let mut look = ticker(start, LOOK_EVERY);
        let mut check = ticker(start, CHECK_EVERY);
        let (mut heard, mut nonce) = (start, 0u64);
        // An attach that is being proposed again; the stream goes on meanwhile.
        let mut attaching: Option<BoxFuture<'static, Result<(), No>>> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(StreamEnd::NodeStopping),
                () = self.sender.closed() => return Ok(StreamEnd::SidecarClosed),
                () = sleep_until(heard + PING_EVERY + SILENCE_MAX) => return Ok(StreamEnd::Silent),
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        heard = clock::now();
                        if let Some(end) = self.hear(message) {
                            return Ok(end);
                        }
                    }
                    Ok(None) => return Ok(StreamEnd::SidecarClosed),
                    Err(_) => return Ok(StreamEnd::Broken),
                },
                Ok(()) = boots.changed() => {
                    self.tunnels.desk().rise(*boots.borrow_and_update());
                    attaching = Some(self.propose_attach());
                }
                attached = poll_some(&mut attaching) => {
                    attaching = None;
                    match attached {
                        // Without an answer, the next check proposes it again.
                        Err((Reason::Unavailable, _)) => check.reset_after(CHECK_SOON),
                        told => told?,
                    }
                }
                _ = ping.tick() => {
                    nonce += 1;
                    say(&self.sender, node_message::Message::Ping(Ping { nonce }));
                }
                _ = look.tick() => {
                    self.compare();
                    self.stock();
                }
                () = self.spares.taken() => self.stock(),
                _ = check.tick() => {
                    self.share_nodes();
                    if attaching.is_none() && !self.is_shown() {
                        attaching = Some(self.propose_attach());
                    }
                }
            }
        }
    }

    /// Takes one message; says so when it ends the stream.
    pub(super) fn hear(&mut self, message: SidecarMessage) -> Option<StreamEnd> {
        match message.message? {
            Message::Hello(_) => return Some(StreamEnd::SecondHello),
            Message::Pong(_) => {}
            Message::SessionEnded(ended) => {
                if let Some(id) = RequestId::from_slice(&ended.request_id) {
                    self.said(&Word::Ended(id));
                    self.forgotten(id, ended.binding_index);
                }
            }
            Message::DialFailed(failed) => {
                let cause = printable(&failed.cause);
                tracing::info!(worker = %self.worker.worker, cause, "a sidecar could not dial");
                self.said(&Word::NoDial(failed.ticket));
            }
            Message::Health(health) => {
                self.drains.insert(DrainReason::Health, !health.serving);
                self.compare();
            }
            Message::Draining(_) => {
                self.drains.insert(DrainReason::Sidecar, true);
                self.compare();
            }
            Message::WorkerDead(dead) => {
                let worker = self.worker.worker;
                let cause = printable(&dead.cause);
                tracing::info!(%worker, cause, "a sidecar says that its worker is dead");
                let command = Command::WorkerDead { worker };
                watch::insist(&self.tunnels, self.worker.region, command);
                return Some(StreamEnd::WorkerDead);
            }
            Message::Holding(holding) => self.hold(holding.held),
        }
        None
    }

    /// The sidecar refuses a session for good, which the replica still binds to it and whose nodes are all
    /// gone: nobody knows of that session (hazard H-15).
    fn forgotten(&self, id: RequestId, index: u64) {
        let (worker, region) = (self.worker.worker, self.worker.region);
        let Some(replica) = self.tunnels.0.directories.replica(region) else {
            return;
        };
        let session = replica.session(id);
        let deserted = session.is_some_and(|session| replica.deserted(session).is_some());
        if deserted && is_bound(&replica, id, worker, index) {
            tracing::info!(session = %id, %worker, "a session is over that its node had told nobody of");
            let reason = EndReason::NodeLost;
            watch::insist(&self.tunnels, region, Command::End { id, reason });
        }
    }

    fn said(&self, word: &Word) {
        self.tunnels.sidecars().said(self.worker.worker, word);
    }

    /// Proposes the drain reasons in which the replica and the sidecar differ, and probes a worker to
    /// which no tunnel came up (hazard H-27): one that was set aside gets no open that would show it
    /// well again, and one that comes last seldom does.
    fn compare(&mut self) {
        let (worker, region) = (self.worker.worker, self.worker.region);
        let replica = self.tunnels.0.directories.replica(region);
        let Some(known) = replica.as_ref().and_then(|r| r.worker(worker)) else {
            return;
        };
        for (&reason, &on) in &self.drains {
            if known.draining.contains(&reason) != on {
                let command = Command::DrainWorker { worker, reason, on };
                watch::suggest(&self.tunnels, region, command);
            }
        }
        if known.failed_links == 0 {
            self.failing = None;
            return;
        }
        let aside = known.draining.contains(&DrainReason::NoLink);
        let since = *self.failing.get_or_insert_with(clock::now);
        let idle = self.probe.as_ref().is_none_or(JoinHandle::is_finished);
        if idle && (aside || since.elapsed() >= PROBE_REST) {
            self.failing = Some(clock::now());
            let tunnels = self.tunnels.clone();
            let probe = async move {
                if open::probe(&tunnels.0, worker).await {
                    watch::suggest(&tunnels, region, Command::LinkUp { worker });
                }
            };
            self.probe = Some(tasks::spawn(tasks::Kind::Worker, "link-probe", probe));
        }
    }

    /// Keeps as many spare tunnels as the sidecar offers.
    fn stock(&self) {
        let shared = &self.tunnels.0;
        for place in self.spares.missing(shared, self.worker.spares) {
            let (shared, worker) = (Arc::clone(shared), self.worker.worker);
            tasks::spawn(tasks::Kind::Worker, "spare-dial", async move {
                place.fill(open::spare(&shared, worker).await);
            });
        }
    }

    /// Whether the replica shows this very attach. When it does not, it may be behind, or the attach
    /// is gone: proposing it again is right in both cases, and tells whether the worker is lost.
    fn is_shown(&self) -> bool {
        let replica = self.tunnels.0.directories.replica(self.worker.region);
        let known = replica.as_ref().and_then(|r| r.worker(self.worker.worker));
        known.is_some_and(|worker| {
            let this = |a: &Attachment| Some(a.at) == self.attached && a.stream == self.number;
            worker.attachments.iter().any(|a| a.open && this(a))
        })
    }

    /// Sends the node list if it changed.
    fn share_nodes(&mut self) {
        let nodes = self.tunnels.0.directories.nodes();
        if nodes != self.nodes {
            self.nodes.clone_from(&nodes);
            let nodes = node_message::Message::Nodes(NodeList { nodes });
            say(&self.sender, nodes);
        }
    }

    /// Tells the sidecar to let go of what the home group does not bind to it any more. What the
    /// replica shows as bound is; about the rest a linearizable read decides.
    fn hold(&self, held: Vec<HeldSession>) {
        let (worker, region) = (self.worker.worker, self.worker.region);
        let replica = self.tunnels.0.directories.replica(region);
        // Of what a later incarnation of the group has bound, this one knows nothing (H-23).
        let generation = self.tunnels.0.directories.generation(region);
        let strays: Vec<(RequestId, u64)> = held
            .iter()
            .filter(|h| h.generation <= generation)
            .filter_map(|h| Some((RequestId::from_slice(&h.request_id)?, h.binding_index)))
            .filter(|(id, index)| {
                let replica = replica.as_ref();
                !replica.is_some_and(|r| is_bound(r, *id, worker, *index))
            })
            .collect();
        if strays.is_empty() {
            return;
        }
        let (tunnels, sender) = (self.tunnels.clone(), self.sender.clone());
        let ask = async move {
            let directories = &tunnels.0.directories;
            let Ok(directory) = directories.read(region, ASK_WITHIN).await else {
                return;
            };
            for (id, index) in strays {
                if !is_bound(&directory, id, worker, index) {
                    let end = EndSession {
                        request_id: id.to_bytes().to_vec().into(),
                        binding_index: index,
                        reason: "gone".to_owned(),
                        generation,
                    };
                    say(&sender, node_message::Message::EndSession(end));
                }
            }
        };
        tasks::spawn(tasks::Kind::Worker, "sidecar-reconcile", ask);
    }
}

/// Waits for a future if there is one, else for ever.
async fn poll_some<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn ticker(start: Instant, every: Duration) -> tokio::time::Interval {
    let mut ticker = interval_at(start + every, every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
