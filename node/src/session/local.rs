//! This node's part in each session: how many of its connections are in it.
//!
//! Only the edges are proposed: 0 -> 1 is `Enter`, 1 -> 0 is `Leave`. Sequence numbers rise over the
//! whole life of the process, so that a late copy of an older edge changes nothing.

use super::patience::PAUSE;
use super::{Ask, Sessions, Target};
use crate::clock;
use crate::tasks::{self, Kind};
use crate::tunnel::{Carries, LinkError, Tunnel, Wire};
use arc_swap::ArcSwapOption;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{RequestId, VersionId};
use pontoon_raft::directory::command::{Command, Reply};
use pontoon_raft::machine::Machine as _;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a `Leave` is repeated before the reconciliation is left to find it.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);

/// How long a tunnel may take to come up for a session that exists.
pub(super) const LINK_WAIT: Duration = Duration::from_secs(10);

/// A session whose worker will be lost within this is looked at until it is, ...
const LOST_SOON: Duration = Duration::from_secs(3);

/// ... so often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One session, as this node takes part in it.
pub(super) struct Local {
    pub(super) target: Target,
    version: VersionId,
    ended: AtomicBool,
    connections: Mutex<usize>,
}

impl Local {
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Every session with at least one connection here, or one that is just coming.
///
/// The lock is held for a map operation only, and never on the path of a call inside a session.
#[derive(Default)]
pub(super) struct Locals {
    map: Mutex<HashMap<RequestId, Arc<Local>>>,
    sequence: AtomicU64,
}

impl Locals {
    /// The next sequence number of this process.
    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts one more connection in. With the first one, the number of the `Enter` that is due then,
    /// unless the open has done it. It is drawn under the lock: edges of one session are numbered in the
    /// order in which they happened.
    pub(super) fn join(&self, target: Target, version: VersionId) -> (Arc<Local>, Option<u64>) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let local = map.entry(target.id).or_insert_with(|| {
            Arc::new(Local {
                target,
                version,
                ended: AtomicBool::new(false),
                connections: Mutex::new(0),
            })
        });
        let mut connections = local
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *connections += 1;
        let first = *connections == 1;
        (local.clone(), first.then(|| self.next_sequence()))
    }

    /// Counts one out. With the last one, the number of the `Leave` that is due then.
    fn leave(&self, local: &Local) -> Option<u64> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connections = local
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *connections -= 1;
        if *connections > 0 {
            return None;
        }
        map.remove(&local.target.id);
        Some(self.next_sequence())
    }

    pub(super) fn get(&self, id: RequestId) -> Option<Arc<Local>> {
        self.map
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub(super) fn count(&self) -> usize {
        self.map
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    pub(super) fn all(&self) -> Vec<Arc<Local>> {
        self.map
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }
}

/// How many HTTP/1.1 tunnels one connection keeps in one session; one more serves one exchange and
/// closes. Each carries one exchange at a time, and browsers have six at once.
const EXCHANGES_MAX: usize = 64;

/// One client connection's part in a session: it counts as entered until this is dropped, and it has
/// tunnels of its own.
pub struct Joined {
    sessions: Sessions,
    local: Arc<Local>,
    /// For all calls that HTTP/2 carries.
    tunnel: ArcSwapOption<Tunnel>,
    /// Those that speak HTTP/1.1, in use and idle.
    exchanges: Mutex<Vec<Tunnel>>,
    dialing: tokio::sync::Mutex<()>,
    clean: AtomicBool,
}

impl Joined {
    /// Where the session lives.
    pub fn target(&self) -> &Target {
        &self.local.target
    }

    /// The version that the session runs on.
    pub fn version(&self) -> VersionId {
        self.local.version
    }

    /// Our side of a live tunnel that suits: the connection's own, or a new one.
    ///
    /// # Errors
    ///
    /// `SessionNotFound` when the session has ended for certain, `DirectoryUnavailable` when that
    /// can't be told, `WorkerLost` when it lives but its worker can't be reached.
    pub async fn wire(&self, carries: Carries, deadline: Instant) -> Result<Wire, Fault> {
        if self.ended() {
            return Err(Fault::SessionNotFound);
        }
        // One that was retired in this moment gives none, and another one is dialed.
        if let Some(tunnel) = self.live_tunnel(carries)
            && let Some(wire) = tunnel.wire().await
        {
            return Ok(wire);
        }
        let mut speaks_http1 = false;
        if carries != Carries::Grpc {
            let idle;
            (speaks_http1, idle) = self.exchanges_now();
            for tunnel in idle {
                if let Some(wire) = tunnel.wire().await {
                    return Ok(wire);
                }
            }
        }
        // Each exchange needs a tunnel of its own over HTTP/1.1; over HTTP/2 one is enough for all.
        if speaks_http1 || carries == Carries::Upgrade {
            let tunnel = self.dial(carries, deadline).await?;
            return tunnel.wire().await.ok_or(Fault::WorkerLost);
        }
        let _one_dial_at_a_time = self.dialing.lock().await;
        let tunnel = match self.live_tunnel(carries) {
            Some(tunnel) => tunnel,
            None => self.dial(carries, deadline).await?,
        };
        tunnel.wire().await.ok_or(Fault::WorkerLost)
    }

    async fn dial(&self, carries: Carries, deadline: Instant) -> Result<Tunnel, Fault> {
        let within = deadline
            .saturating_duration_since(clock::now())
            .min(LINK_WAIT);
        let tunnels = &self.sessions.0.tunnels;
        match tunnels.obtain(self.target(), carries, within).await {
            Ok(tunnel) => {
                self.use_tunnel(tunnel.clone());
                Ok(tunnel)
            }
            Err(error) => {
                let why = self.sessions.why_no_link(self.target(), error, deadline);
                Err(why.await)
            }
        }
    }

    /// Takes a tunnel in.
    pub(super) fn use_tunnel(&self, tunnel: Tunnel) {
        if tunnel.suits(Carries::Grpc) {
            self.tunnel.store(Some(Arc::new(tunnel)));
            return;
        }
        let mut exchanges = self.exchanges();
        if exchanges.len() < EXCHANGES_MAX {
            exchanges.push(tunnel);
        }
    }

    fn live_tunnel(&self, carries: Carries) -> Option<Tunnel> {
        let tunnel = self.tunnel.load();
        let fits = |tunnel: &&Tunnel| tunnel.is_live() && tunnel.suits(carries);
        tunnel.as_deref().filter(fits).cloned()
    }

    /// Whether there are HTTP/1.1 tunnels, and those that nobody uses. What is over is forgotten.
    fn exchanges_now(&self) -> (bool, Vec<Tunnel>) {
        let mut exchanges = self.exchanges();
        exchanges.retain(|tunnel| !tunnel.is_over());
        let idle = exchanges.iter().filter(|tunnel| tunnel.is_live());
        (!exchanges.is_empty(), idle.cloned().collect())
    }

    fn exchanges(&self) -> std::sync::MutexGuard<'_, Vec<Tunnel>> {
        self.exchanges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection closes cleanly (GOAWAY, FIN with no open stream); without this word the close
    /// counts as unclean.
    pub fn closes_cleanly(&self) {
        self.clean.store(true, Ordering::Relaxed);
    }

    /// The session has ended: nothing more may be carried.
    pub fn ended(&self) -> bool {
        self.local.is_ended()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let inner = &self.sessions.0;
        let mut tunnels = std::mem::take(&mut *self.exchanges());
        tunnels.extend(self.tunnel.swap(None).as_deref().cloned());
        for tunnel in tunnels {
            if tunnel.is_live() && !self.ended() {
                inner.tunnels.park(self.target(), tunnel);
            }
        }
        let Some(seq) = inner.locals.leave(&self.local) else {
            return;
        };
        if self.ended() {
            return;
        }
        let target = self.local.target;
        let leave = Command::Leave {
            id: target.id,
            at: inner.cluster.at(),
            seq,
            clean: self.clean.load(Ordering::Relaxed),
        };
        if let Some(group) = inner.cluster.region(target.region) {
            tasks::spawn(Kind::Worker, "session leave", async move {
                if let Err(error) = group.propose(leave, LEAVE_PATIENCE).await {
                    tracing::warn!(session = %target.id, %error, "a leave was not confirmed; the reconciliation will repeat it");
                }
            });
        }
    }
}

impl Sessions {
    pub(super) fn joined(&self, local: Arc<Local>, tunnel: Option<Tunnel>) -> Joined {
        let joined = Joined {
            sessions: self.clone(),
            local,
            tunnel: ArcSwapOption::empty(),
            exchanges: Mutex::default(),
            dialing: tokio::sync::Mutex::new(()),
            clean: AtomicBool::new(false),
        };
        if let Some(tunnel) = tunnel {
            joined.use_tunnel(tunnel);
        }
        joined
    }

    /// Chooses the fault for a session whose worker can't be reached: its home group decides.
    pub(super) async fn why_no_link(
        &self,
        target: &Target,
        error: LinkError,
        deadline: Instant,
    ) -> Fault {
        tracing::info!(session = %target.id, worker = %target.binding.worker, %error, "no tunnel to the session's worker");
        let Some(group) = self.0.cluster.region(target.region) else {
            return Fault::DirectoryUnavailable;
        };
        let asked = clock::now();
        loop {
            let state = match self.certain(&group, deadline).await {
                Ok(state) => state,
                Err(fault) => return fault,
            };
            if state.session(target.id).is_none() {
                return Fault::SessionNotFound;
            }
            // A worker that is attached nowhere has its end before it, and this wait may be as long as
            // its grace: better to say what has become of the session than to be a moment early.
            let soon = state.clock().after(LOST_SOON);
            let worker = state.worker(target.binding.worker);
            let lost = worker.and_then(|worker| state.lost_at(worker));
            let left = deadline.saturating_duration_since(clock::now());
            let looked = asked.elapsed() > LOST_SOON || left <= LOOK_AGAIN;
            if looked || lost.is_none_or(|lost| lost > soon) {
                return Fault::WorkerLost;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Proposes the 0 -> 1 edge, and says what the home group makes of it. It is proposed until the
    /// group has answered, for as long as it may merely be between leaders.
    pub(super) async fn enter(
        &self,
        target: &Target,
        ask: &Ask,
        mut seq: u64,
    ) -> Result<(), Fault> {
        let inner = &self.0;
        let Some(group) = inner.cluster.region(target.region) else {
            return Err(Fault::DirectoryUnavailable);
        };
        let mut at = inner.cluster.at();
        loop {
            let enter = Command::Enter {
                id: target.id,
                at,
                seq,
                window_ms: ask.window.map(|window| window.as_millis() as u64),
            };
            let proposed = group.propose(enter, self.patience(&group, ask.deadline));
            match proposed.await.map(|proposed| proposed.reply) {
                Ok(Reply::Bound(_)) => return Ok(()),
                Ok(Reply::Ended(_) | Reply::NotFound) => {
                    self.ended_here(target.id);
                    return Err(Fault::SessionNotFound);
                }
                // The boot is over, and this node is about to take another one, under which it enters;
                // or there was no answer: a repeated `Enter` repeats its number, and counts once.
                Ok(_) | Err(_) => {}
            }
            if !self.may_ask_again(&group, ask.deadline) {
                return Err(Fault::DirectoryUnavailable);
            }
            tokio::time::sleep(PAUSE).await;
            if inner.cluster.at() != at {
                (at, seq) = (inner.cluster.at(), inner.locals.next_sequence());
            }
        }
    }
}
