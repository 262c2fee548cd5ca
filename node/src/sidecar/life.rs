//! One life of the worker: its id, its slots, the tunnels into it.
//!
//! A life begins when the worker is found healthy and ends when it is dead or restarted; everything
//! in it ends with it, so that nothing ever reaches the next life's empty memory. One lock holds the
//! decision ([`Slots`]) and the open tunnels together.

use super::Counters;
use super::dial::{self, Order};
use super::options::Settings;
use super::slots::{Answer, Fence, Slots};
use super::ways::Ways;
use super::{http, levels::Levels, spare};
use crate::net::TcpStream;
use crate::tls::Stream;
use crate::tunnel::Speaks;
use crate::{clock, random, tasks};
use pontoon_proto::id::{RequestId, WorkerId};
use pontoon_proto::worker::sidecar_message::Message;
use pontoon_proto::worker::{
    DialFailed, EndSession, Forget, HeldSession, OpenTunnel, SessionEnded, SidecarMessage,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long one POST of `--on-end` may take, ...
const ON_END_WITHIN: Duration = Duration::from_secs(5);

/// ... and how often it is tried in all.
const ON_END_TRIES: u32 = 3;

/// The way back to the node that sent a message.
pub(super) type Reply = mpsc::Sender<SidecarMessage>;

/// One life of the worker.
pub(super) struct Life {
    pub(super) id: WorkerId,
    pub(super) settings: Arc<Settings>,
    pub(super) counters: Arc<Counters>,
    /// What every control stream tells its node.
    pub(super) levels: watch::Sender<Levels>,
    /// What the worker speaks.
    pub(super) speaks: Speaks,
    /// Cancelled when the worker is dead: what belongs to no session closes.
    pub(super) over: CancellationToken,
    /// Cancelled when its only session has ended, where each session gets a process of its own.
    pub(super) spent: CancellationToken,
    started: Instant,
    ways: Mutex<Ways>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: Slots,
    /// The session that this process is for, where each has one of its own.
    first: Option<RequestId>,
    held: BTreeMap<RequestId, Held>,
    /// Sessions being let go of; cancelled when that is done.
    ending: BTreeMap<RequestId, CancellationToken>,
    /// Tickets of dials that have not failed and of open tunnels. A node that sees no dial sends its
    /// message again through another node; one ticket is one dial all the same.
    tickets: BTreeSet<String>,
}

/// One tunnel of a session that may be made.
pub(super) struct Admitted {
    pub(super) id: RequestId,
    ticket: String,
    token: TaskTrackerToken,
    cut: CancellationToken,
    /// What must be closed before: the tunnels of an older binding of the slot.
    evicted: Option<TaskTracker>,
}

/// A session's tunnels.
#[derive(Clone, Default)]
struct Held {
    cut: CancellationToken,
    tunnels: TaskTracker,
}

impl Life {
    /// A life under a fresh id.
    pub(super) fn new(
        settings: Arc<Settings>,
        counters: Arc<Counters>,
        levels: Levels,
        speaks: Speaks,
    ) -> Self {
        Self {
            id: WorkerId::from_random(random::bytes()),
            settings,
            counters,
            levels: watch::Sender::new(levels),
            speaks,
            over: CancellationToken::new(),
            spent: CancellationToken::new(),
            started: clock::now(),
            ways: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// The ways to nodes.
    pub(super) fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long it has gone on.
    pub(super) fn age(&self) -> Duration {
        clock::now().saturating_duration_since(self.started)
    }

    /// The home group has this generation.
    pub(super) fn raise(&self, generation: u64) {
        self.lock().slots.raise(generation);
    }

    /// What is held, as hellos and reconciliations say it.
    pub(super) fn held(&self) -> Vec<HeldSession> {
        let state = self.lock();
        let carried = state.slots.carried();
        carried
            .map(|(id, slot, fence)| HeldSession {
                request_id: id.to_bytes().to_vec().into(),
                generation: fence.generation,
                binding_index: fence.index,
                slot,
            })
            .collect()
    }

    /// How many sessions are held, those being let go of included.
    pub(super) fn sessions(&self) -> usize {
        let state = self.lock();
        state.slots.len() + state.ending.len()
    }

    /// A node asks for a tunnel.
    pub(super) fn open_tunnel(self: &Arc<Self>, open: OpenTunnel, reply: Reply) {
        if let Err(cause) = self.try_open(&open, &reply) {
            self.counters.dials_failed.add();
            let failed = DialFailed {
                request_id: open.request_id,
                binding_index: open.binding_index,
                cause: cause.to_owned(),
                ticket: open.ticket,
            };
            let _or_gone = reply.try_send(message(Message::DialFailed(failed)));
        }
    }

    fn try_open(self: &Arc<Self>, open: &OpenTunnel, reply: &Reply) -> Result<(), &'static str> {
        let id = self.addressed(open)?;
        let order = Order {
            id,
            worker: self.id,
            ticket: open.ticket.clone(),
            urls: open.urls.clone(),
            speaks: self.speaks,
            slot: (!open.probe && !open.spare).then_some(open.slot),
        };
        if open.probe {
            self.probe(order);
            return Ok(());
        }
        if open.spare {
            return spare::offer(self, order);
        }
        let Some(admitted) = self.admit(id, open)? else {
            return Ok(());
        };
        let (life, reply, index) = (Arc::clone(self), reply.clone(), open.binding_index);
        tasks::spawn(tasks::Kind::Worker, "sidecar-tunnel", async move {
            let up = dial::dial(&life, &order);
            if let Err(cause) = life.carry(admitted, up).await {
                life.counters.dials_failed.add();
                tracing::warn!(session = %order.id, cause, "a tunnel could not be dialed");
                let failed = DialFailed {
                    request_id: order.id.to_bytes().to_vec().into(),
                    binding_index: index,
                    cause,
                    ticket: order.ticket,
                };
                let _or_gone = reply.try_send(message(Message::DialFailed(failed)));
            }
        });
        Ok(())
    }

    /// The request id of an order that is for this life.
    pub(super) fn addressed(&self, open: &OpenTunnel) -> Result<RequestId, &'static str> {
        let id = RequestId::from_slice(&open.request_id).ok_or("a malformed request id")?;
        match WorkerId::from_slice(&open.worker_id) == Some(self.id) {
            true => Ok(id),
            false => Err("the worker has another id now"),
        }
    }

    /// Judges one more tunnel of a session, and takes its slot; `None` when this very tunnel is being
    /// dialed, or open.
    pub(super) fn admit(
        self: &Arc<Self>,
        id: RequestId,
        open: &OpenTunnel,
    ) -> Result<Option<Admitted>, &'static str> {
        let fence = Fence {
            generation: open.generation,
            index: open.binding_index,
        };
        let mut state = self.lock();
        if self.levels.borrow().dead.is_some() {
            return Err("the worker is dead");
        }
        if self.settings.recycle && state.first.is_some_and(|first| first != id) {
            return Err("its process has served another session");
        }
        let evicted = match state.slots.open(id, open.slot, fence) {
            Answer::Refuse(refusal) => return Err(refusal.text()),
            Answer::Dial { evicted } => evicted,
        };
        let evicted = evicted.map(|evicted| self.let_go(&mut state, evicted, "superseded"));
        if !state.tickets.insert(open.ticket.clone()) {
            return Ok(None);
        }
        if self.settings.recycle {
            state.first = Some(id);
            // The slot will be free again before this process has ended, and must stay empty.
            self.levels.send_modify(|levels| levels.draining = true);
        }
        let held = state.held.entry(id).or_default().clone();
        Ok(Some(Admitted {
            id,
            ticket: open.ticket.clone(),
            // Registered while the lock is held: whoever ends the session from now on waits for it.
            token: held.tunnels.token(),
            cut: held.cut,
            evicted,
        }))
    }

    /// Makes a tunnel, and carries it for as long as its session is held here; how it ends is not an error.
    pub(super) async fn carry(
        &self,
        admitted: Admitted,
        up: impl Future<Output = Result<(Stream, TcpStream), String>>,
    ) -> Result<(), String> {
        let _until_closed = admitted.token;
        // What the slot carried before must be closed before anything new is dialed.
        if let Some(evicted) = admitted.evicted {
            evicted.wait().await;
        }
        let up = tokio::select! {
            () = admitted.cut.cancelled() => Err("the session has ended".to_owned()),
            up = up => up,
        };
        let carried = match up {
            Ok((node, worker)) => {
                tokio::select! {
                    () = admitted.cut.cancelled() => {}
                    () = dial::run(self, node, worker, admitted.id) => {}
                }
                Ok(())
            }
            Err(cause) => Err(cause),
        };
        self.lock().tickets.remove(&admitted.ticket);
        carried
    }

    /// A node wants to see that this sidecar can dial.
    fn probe(self: &Arc<Self>, order: Order) {
        let life = Arc::clone(self);
        tasks::spawn(tasks::Kind::Worker, "sidecar-probe", async move {
            if let Err(cause) = dial::probe(&life, &order).await {
                tracing::warn!(cause, "a probe could not be dialed");
            }
        });
    }

    /// A node says that a session has ended: lets go of it, then confirms.
    pub(super) fn end_session(self: &Arc<Self>, end: &EndSession, reply: Reply) {
        let Some(id) = RequestId::from_slice(&end.request_id) else {
            return;
        };
        if self.lock().slots.is_over(end.generation) {
            tracing::info!(session = %id, "a region that was recovered elsewhere wants it ended, and has no say");
            return;
        }
        let done = self.end(id, &end.reason);
        let ended = SessionEnded {
            request_id: end.request_id.clone(),
            binding_index: end.binding_index,
        };
        tasks::spawn(tasks::Kind::Worker, "sidecar-end", async move {
            if let Some(done) = done {
                done.cancelled().await;
            }
            let _or_gone = reply.send(message(Message::SessionEnded(ended))).await;
        });
    }

    /// A tunnel of a session is about to be offered to a node; false when the session has ended.
    pub(super) fn offer(&self, id: RequestId, slot: u32) -> bool {
        self.lock().slots.offer(id, slot)
    }

    /// That offer was refused.
    pub(super) fn retract(&self, id: RequestId, slot: u32) {
        self.lock().slots.retract(id, slot);
    }

    /// The entry nodes of these sessions are gone: lets go of those that nobody can know of, and
    /// confirms each.
    pub(super) fn forget(self: &Arc<Self>, forget: Forget, reply: &Reply) {
        for session in forget.sessions {
            let Some(id) = RequestId::from_slice(&session.request_id) else {
                continue;
            };
            {
                let slots = &mut self.lock().slots;
                if slots.is_over(session.generation) || !slots.forget(id, session.slot) {
                    continue;
                }
            }
            let end = EndSession {
                request_id: session.request_id,
                binding_index: session.binding_index,
                reason: "node_lost".to_owned(),
                generation: session.generation,
            };
            self.end_session(&end, reply.clone());
        }
    }

    /// Ends a session here; what is given is cancelled once that is done. `None`: nothing is held.
    pub(super) fn end(self: &Arc<Self>, id: RequestId, reason: &str) -> Option<CancellationToken> {
        let mut state = self.lock();
        if state.slots.end(id) || state.held.contains_key(&id) {
            self.let_go(&mut state, id, reason);
        }
        state.ending.get(&id).cloned()
    }

    /// The worker is dead or leaves: closes everything. Returns when all is closed.
    pub(super) async fn die(self: &Arc<Self>, cause: &str) {
        let ids: Vec<RequestId> = {
            let state = self.lock();
            self.levels
                .send_modify(|levels| levels.dead = Some(cause.to_owned()));
            state.slots.carried().map(|(id, ..)| id).collect()
        };
        self.over.cancel();
        for id in ids {
            self.end(id, "worker_lost");
        }
        let ending: Vec<_> = self.lock().ending.values().cloned().collect();
        for done in ending {
            done.cancelled().await;
        }
    }

    /// Cuts a session's tunnels, and tells the worker; gives what waits for the tunnels to close.
    fn let_go(self: &Arc<Self>, state: &mut State, id: RequestId, reason: &str) -> TaskTracker {
        let held = state.held.remove(&id).unwrap_or_default();
        held.cut.cancel();
        held.tunnels.close();
        let done = CancellationToken::new();
        state.ending.insert(id, done.clone());
        let (life, tunnels, reason) = (Arc::clone(self), held.tunnels.clone(), reason.to_owned());
        tasks::spawn(tasks::Kind::Worker, "sidecar-let-go", async move {
            tunnels.wait().await;
            life.counters.sessions_ended.add();
            life.tell_worker(id, &reason).await;
            life.lock().ending.remove(&id);
            done.cancel();
            if life.settings.recycle {
                life.spent.cancel();
            }
        });
        held.tunnels
    }

    /// POSTs to `--on-end`. A worker that does not answer is told at most [`ON_END_TRIES`] times.
    async fn tell_worker(&self, id: RequestId, reason: &str) {
        let Some(url) = &self.settings.on_end else {
            return;
        };
        for attempt in 1..=ON_END_TRIES {
            if self.levels.borrow().dead.is_some() {
                // Its memory is gone with it.
                return;
            }
            let json = serde_json::json!({ "request_id": id.to_string(), "reason": reason });
            match http::post(url, json.to_string(), ON_END_WITHIN).await {
                Ok(status) if status.is_success() => return,
                told => tracing::warn!(session = %id, ?told, attempt, "--on-end was not taken"),
            }
            let pause = Duration::from_millis(100 << attempt).mul_f64(1.0 + random::fraction());
            tokio::time::sleep(pause).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wraps one kind of message.
pub(super) fn message(message: Message) -> SidecarMessage {
    SidecarMessage {
        message: Some(message),
    }
}
