//! Who gets the next slot.
//!
//! Per version, tenants take turns, and within a tenant it goes by arrival. A tenant's turn is the
//! arrival of its first waiting open, or a number drawn when it was last served, where that is later:
//! arrivals and turns are counted together, so who comes anew stands behind everybody who has not been
//! served since, and nobody waits for more than one open of each other tenant. The drawn number is
//! kept in the record of the tenant's first open ([`State::Next`]). The slot is the lowest free one of the least loaded ready worker;
//! where there is none, that of the session which has been held longest after a clean close, when
//! that is more than [`PREEMPT_AFTER`]. A waiting open whose node's life is over is passed over and
//! ended; it never costs a slot.

use super::command::{Binding, Effect, EndReason};
use super::session::{Session, State, Waiting};
use super::{Directory, Step};
use crate::machine::Clock;
use pontoon_proto::id::{NodeBoot, RequestId, TenantId, VersionId, WorkerId};
use std::time::Duration;

/// How many opens may wait for one version.
///
/// At a slot a millisecond the last of them waits 10 s; more would mostly wait for their own
/// deadlines (30 s by default).
pub const QUEUE_MAX: u32 = 10_000;

/// How many of them may be one tenant's, so that one tenant's flood leaves room for the others.
pub const QUEUE_TENANT_MAX: u32 = 1_000;

/// The entry format from which on tenants take turns. Entries of older ones are applied as builds that
/// know no turns apply them, so that replicas agree while a cluster is upgraded.
pub const TURNS_FORMAT: u16 = 3;

/// The entry format from which on a worker whose last open got no tunnel is chosen last.
pub const WARY_FORMAT: u16 = 4;

/// How many of the least loaded workers are looked at for one whose last open got its tunnel.
const WARY_MAX: usize = 16;

/// How long a session is safe after a clean close: a client that means to go on has dialed again
/// by then.
pub const PREEMPT_AFTER: Duration = Duration::from_secs(5);

/// The first instant at which a session held since then may be preempted: later than 5 s.
pub(super) fn preemptible_from(since: Clock) -> Clock {
    since.after(PREEMPT_AFTER + Duration::from_millis(1))
}

impl Step<'_> {
    /// Gives slots to the waiting opens of a version until either runs out, or the step has touched
    /// enough; the next tick goes on then.
    pub(super) fn serve(&mut self, version: VersionId) {
        while let Some(id) = self.state.indexes.first_queued(version) {
            let Some(session) = self.state.sessions.get(&id).cloned() else {
                return;
            };
            let Some(waiting) = session.waiting().copied() else {
                return;
            };
            if self.state.boot_over(waiting.at) {
                if !self.spend() {
                    return;
                }
                self.finish(id, EndReason::NodeLost);
            } else if waiting.deadline <= self.now() {
                if !self.spend() {
                    return;
                }
                self.finish(id, EndReason::TimedOut);
            } else if let Some(worker) = self.pick(version) {
                if !self.spend() {
                    return;
                }
                let binding = self.bind(Session::clone(&session), worker, waiting.at, waiting.seq);
                self.served(version, session.tenant);
                self.effects.push(Effect::Bound { id, binding });
            } else if let Some(victim) = self.preemptible(version) {
                if !self.spend() {
                    return;
                }
                self.finish(victim, EndReason::Preempted);
            } else {
                return;
            }
        }
    }

    /// A tenant was served: whoever waits beside it comes first now.
    fn served(&mut self, version: VersionId, tenant: TenantId) {
        if self.state.format >= TURNS_FORMAT {
            self.state.arrivals += 1;
            self.pass_turn(version, tenant, self.state.arrivals);
        }
    }

    /// The first of a tenant's waiting opens, if there is one, has this turn, unless it came later.
    pub(super) fn pass_turn(&mut self, version: VersionId, tenant: TenantId, turn: u64) {
        let first = self.state.indexes.first_of(version, tenant);
        let first = first.and_then(|(id, _)| self.state.sessions.get(&id));
        if let Some(first) = first
            && let Some(waiting) = first.waiting().copied()
            && waiting.arrival < turn
        {
            let next = Session {
                state: State::Next(waiting, turn),
                ..Session::clone(first)
            };
            self.state.put_session(next);
        }
    }

    /// The least loaded ready worker of a version that has a free slot; ties go to the lower id. One
    /// whose last open got no tunnel has room because of that, and comes after the others, of which
    /// [`WARY_MAX`] are looked at (hazard H-27).
    pub(super) fn pick(&mut self, version: VersionId) -> Option<WorkerId> {
        loop {
            let worker = self.candidate(version)?;
            if !self.settle_worker(worker) {
                return Some(worker);
            }
            if !self.spend() {
                return None;
            }
        }
    }

    fn candidate(&self, version: VersionId) -> Option<WorkerId> {
        let mut free = self.state.indexes.free_workers(version).take(WARY_MAX);
        let first = free.next()?;
        let fails = |id: &WorkerId| {
            let worker = self.state.workers.get(id);
            worker.is_some_and(|worker| worker.failed_links > 0)
        };
        if self.state.format < WARY_FORMAT || !fails(&first) {
            return Some(first);
        }
        Some(free.find(|id| !fails(id)).unwrap_or(first))
    }

    /// The session that was held longest after a clean close on a ready worker, if long enough.
    fn preemptible(&mut self, version: VersionId) -> Option<RequestId> {
        loop {
            let (since, worker) = self.state.indexes.idlest(version)?;
            if preemptible_from(since) > self.now() {
                return None;
            }
            if !self.settle_worker(worker) {
                return self.state.indexes.idlest_of(worker).map(|(_, id)| id);
            }
            if !self.spend() {
                return None;
            }
        }
    }

    /// Removes what lost nodes left in a worker's record; false when there was nothing.
    fn settle_worker(&mut self, id: WorkerId) -> bool {
        let settled = self
            .state
            .workers
            .get(&id)
            .and_then(|worker| worker.settled(&self.state.lives));
        let Some(worker) = settled else { return false };
        self.state.put_worker(worker);
        true
    }

    /// Binds a session to the lowest free slot of a worker that has one, for ever.
    pub(super) fn bind(
        &mut self,
        session: Session,
        worker: WorkerId,
        at: NodeBoot,
        seq: u64,
    ) -> Binding {
        let index = (self.state.bindings + 1).max(self.index << 16);
        self.state.bindings = index;
        let slot = self.state.indexes.lowest_free(worker);
        let binding = Binding {
            worker,
            slot,
            index,
        };
        let now = self.now();
        self.state.put_session(session.bound(binding, at, seq, now));
        binding
    }

    /// Puts an open at the end of its tenant's part of its version's queue.
    pub(super) fn enqueue(&mut self, session: Session, at: NodeBoot, seq: u64, wait: Duration) {
        self.state.arrivals += 1;
        let waiting = Waiting {
            at,
            seq,
            arrival: self.state.arrivals,
            deadline: self.now().after(wait),
        };
        self.state.put_session(Session {
            state: State::Queued(waiting),
            ..session
        });
    }
}

impl Directory {
    /// Whether one more open of this tenant may wait for this version. Proposers ask their replica
    /// first, so that a flood is refused before it is proposed.
    pub fn has_room(&self, version: VersionId, tenant: TenantId) -> bool {
        self.queued(version) < QUEUE_MAX
            && self.indexes.queued_by(version, tenant) < QUEUE_TENANT_MAX
    }

    /// How many opens wait for a version.
    pub fn queued(&self, version: VersionId) -> u32 {
        self.indexes.pool(version).queued
    }
}
