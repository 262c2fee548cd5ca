//! An attached sidecar's control stream: pings, what it reports, and what it must let go of.
//!
//! What a sidecar reports about itself is kept as a level and compared with the replica, not
//! proposed once: a proposal that got lost is made again, and one node's late word does not stand
//! against another's newer one for longer than a look.

use super::attach::{ASK_WITHIN, Introduced, No, PING_EVERY, SILENCE_MAX, say, verdict};
use super::close::printable;
use super::directories::is_bound;
use super::sidecars::{Place, Sender, Word};
use super::{Tunnels, open, watch};
use crate::{clock, tasks};
use futures::future::BoxFuture;
use pontoon_proto::id::{NodeBoot, RequestId};
use pontoon_proto::worker::refused::Reason;
use pontoon_proto::worker::sidecar_message::Message;
use pontoon_proto::worker::{
    EndSession, HeldSession, NodeList, Ping, SidecarMessage, node_message,
};
use pontoon_raft::directory::command::{Command, DrainReason};
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

/// A control stream after its hello.
pub(super) struct Control {
    tunnels: Tunnels,
    worker: Introduced,
    number: u64,
    sender: Sender,
    _place: Place,
    /// The boot under which the attach was last proposed.
    attached: Option<NodeBoot>,
    /// What the sidecar wants of its worker's drain reasons.
    drains: BTreeMap<DrainReason, bool>,
    nodes: Vec<pontoon_proto::worker::NodeAddress>,
    /// A probe of a worker that was set aside.
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
        Self {
            tunnels,
            worker,
            number,
            sender,
            _place: place,
            attached: None,
            drains: BTreeMap::new(),
            nodes,
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
        let (cause, refused) = match self.turn(&mut inbound).await {
            Ok(cause) => (cause, None),
            Err(no) => ("refused", Some(no)),
        };
        tracing::info!(%worker, stream, cause, "a sidecar's control stream has ended");
        refused
    }

    async fn turn(&mut self, inbound: &mut Streaming<SidecarMessage>) -> Result<&'static str, No> {
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
                () = stop.cancelled() => return Ok("the node stops"),
                () = self.sender.closed() => return Ok("the sidecar closed it"),
                () = sleep_until(heard + PING_EVERY + SILENCE_MAX) => return Ok("silence"),
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        heard = clock::now();
                        if let Some(cause) = self.hear(message) {
                            return Ok(cause);
                        }
                    }
                    Ok(None) => return Ok("the sidecar closed it"),
                    Err(_) => return Ok("the stream broke"),
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
                _ = look.tick() => self.compare(),
                _ = check.tick() => {
                    self.share_nodes();
                    if attaching.is_none() && !self.is_shown() {
                        attaching = Some(self.propose_attach());
                    }
                }
            }
        }
    }

    /// Takes one message; gives a cause when it ends the stream.
    fn hear(&mut self, message: SidecarMessage) -> Option<&'static str> {
        match message.message? {
            Message::Hello(_) => return Some("a second hello"),
            Message::Pong(_) => {}
            Message::SessionEnded(ended) => {
                if let Some(id) = RequestId::from_slice(&ended.request_id) {
                    self.said(&Word::Ended(id));
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
                return Some("the worker is dead");
            }
            Message::Holding(holding) => self.hold(holding.held),
        }
        None
    }

    fn said(&self, word: &Word) {
        self.tunnels.sidecars().said(self.worker.worker, word);
    }

    /// Proposes the drain reasons in which the replica and the sidecar differ, and probes a worker
    /// that was set aside because no tunnel to it came up (hazard H-27).
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
        let idle = self.probe.as_ref().is_none_or(JoinHandle::is_finished);
        if idle && known.draining.contains(&DrainReason::NoLink) {
            let tunnels = self.tunnels.clone();
            let probe = async move {
                if open::probe(&tunnels.0, worker).await {
                    watch::suggest(&tunnels, region, Command::LinkUp { worker });
                }
            };
            self.probe = Some(tasks::spawn(tasks::Kind::Worker, "link-probe", probe));
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
        let strays: Vec<(RequestId, u64)> = held
            .iter()
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
