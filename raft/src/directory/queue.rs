//! Who gets the next slot.
//!
//! Per version, in arrival order. The slot is the lowest free one of the least loaded ready worker;
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
            let State::Queued(waiting) = session.state else {
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

    /// The least loaded ready worker of a version that has a free slot; ties go to the lower id.
    pub(super) fn pick(&mut self, version: VersionId) -> Option<WorkerId> {
        loop {
            let worker = self.state.indexes.least_loaded(version)?;
            if !self.settle_worker(worker) {
                return Some(worker);
            }
            if !self.spend() {
                return None;
            }
        }
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

    /// Puts an open at the end of its version's queue.
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
