//! What a node may ask its replica. No locks, no scans; nothing here waits.
//!
//! Boots that are over and lost workers read as gone at once, although their records are swept over
//! the following ticks.

use super::command::EndReason;
use super::index::Stake;
use super::session::{Session, State};
use super::worker::Worker;
use super::{Directory, Found};
use crate::machine::Clock;
use pontoon_proto::id::{NodeBoot, NodeId, RegionId, RequestId, TenantId, VersionId, WorkerId};

impl Directory {
    /// Whose directory this is.
    pub fn region(&self) -> RegionId {
        self.region
    }

    /// A live session: queued, bound or held.
    pub fn session(&self, id: RequestId) -> Option<&Session> {
        match self.find(id) {
            Found::Live(session) => Some(session),
            Found::Ended(_) | Found::Unknown => None,
        }
    }

    /// How a session ended, for 60 s after its end.
    pub fn ended(&self, id: RequestId) -> Option<EndReason> {
        match self.find(id) {
            Found::Ended(reason) => Some(reason),
            Found::Live(_) | Found::Unknown => None,
        }
    }

    /// A worker that is not lost.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers
            .get(&id)
            .map(AsRef::as_ref)
            .filter(|worker| !worker.lost)
    }

    /// Whether a worker's id is refused, because it was lost or declared dead.
    pub fn worker_lost(&self, id: WorkerId) -> bool {
        self.lost.contains_key(&id) || self.indexes.is_lost(id)
    }

    /// All workers that are not lost, in id order.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers
            .values()
            .map(AsRef::as_ref)
            .filter(|worker| !worker.lost)
    }

    /// All live sessions, in id order. For lists and reconciliation: it walks everything.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions
            .values()
            .map(AsRef::as_ref)
            .filter(|session| self.overtaken(session).is_none())
    }

    /// The live sessions after `id` in id order, for lists that go page by page.
    pub fn sessions_after(&self, id: Option<RequestId>) -> impl Iterator<Item = &Session> {
        let from = id.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.sessions
            .range((from, std::ops::Bound::Unbounded))
            .map(|(_, session)| session.as_ref())
            .filter(|session| self.overtaken(session).is_none())
    }

    /// How many sessions there are, queued ones included, and those that are yet to be swept.
    pub fn sessions_len(&self) -> usize {
        self.sessions.len()
    }

    /// How many sessions of a tenant there are, counted as in [`Self::sessions_len`].
    pub fn sessions_of_tenant(&self, tenant: TenantId) -> u64 {
        self.indexes.tally.of_tenant(tenant)
    }

    /// How many sessions of a version there are, counted as in [`Self::sessions_len`].
    pub fn sessions_of_version(&self, version: VersionId) -> u64 {
        self.indexes.tally.of_version(version)
    }

    /// The sessions of a worker, by slot.
    pub fn sessions_of(&self, worker: WorkerId) -> impl Iterator<Item = &Session> {
        let lost = self.indexes.is_lost(worker);
        self.indexes
            .slots
            .sessions_of(worker)
            .filter(move |_| !lost)
            .filter_map(|id| self.session(id))
    }

    /// How many slots of a worker are in use.
    pub fn slots_used(&self, worker: WorkerId) -> u32 {
        self.indexes.loads.get(&worker).map_or(0, |load| load.used)
    }

    /// How many slots of a version's ready workers are free. A hint: workers whose only node was just
    /// lost count until they are swept.
    pub fn free_slots(&self, version: VersionId) -> u32 {
        self.indexes.pool(version).free_slots
    }

    /// Whether a version has a ready worker here, be it full. A hint as above.
    pub fn has_worker(&self, version: VersionId) -> bool {
        self.indexes.pool(version).ready > 0
    }

    /// When a worker that is attached nowhere will be lost, whichever sweeps have come by.
    pub fn lost_at(&self, worker: &Worker) -> Option<Clock> {
        match worker.settled(&self.lives) {
            Some(settled) => settled.lost_at,
            None => worker.lost_at,
        }
    }

    /// The nodes at which a worker's control stream is open, in their present lives.
    pub fn attached<'a>(&'a self, worker: &'a Worker) -> impl Iterator<Item = NodeBoot> + 'a {
        worker
            .attachments
            .iter()
            .filter(|one| one.open && !self.boot_over(one.at))
            .map(|one| one.at)
    }

    /// Whether a node's life was declared over: it restarted, or was silent for too long.
    pub fn boot_over(&self, at: NodeBoot) -> bool {
        self.lives.get(&at.node).is_some_and(|life| life.ended(at))
    }

    /// The sessions that are entered at a node in its present life, for reconciliation.
    pub fn entered_at(&self, node: NodeId) -> impl Iterator<Item = RequestId> {
        self.stakes_of(node).filter_map(|stake| match stake {
            Stake::Inside(id) => Some(id),
            Stake::Attached(_) | Stake::Waiting(_) => None,
        })
    }

    /// The opens that wait for a node in its present life, for reconciliation.
    pub fn waiting_at(&self, node: NodeId) -> impl Iterator<Item = RequestId> {
        self.stakes_of(node).filter_map(|stake| match stake {
            Stake::Waiting(id) => Some(id),
            Stake::Attached(_) | Stake::Inside(_) => None,
        })
    }

    /// The workers that are attached at a node in its present life, for reconciliation.
    pub fn attached_at(&self, node: NodeId) -> impl Iterator<Item = WorkerId> {
        self.stakes_of(node).filter_map(|stake| match stake {
            Stake::Attached(id) => Some(id),
            Stake::Waiting(_) | Stake::Inside(_) => None,
        })
    }

    fn stakes_of(&self, node: NodeId) -> impl Iterator<Item = Stake> {
        let boot = self.lives.get(&node).map_or(0, |life| life.over);
        self.indexes.stakes.after(NodeBoot { node, boot })
    }

    /// What is known of an id.
    pub(super) fn find(&self, id: RequestId) -> Found<'_> {
        if let Some(session) = self.sessions.get(&id) {
            return match self.overtaken(session) {
                Some(reason) => Found::Ended(reason),
                None => Found::Live(session),
            };
        }
        match self.tombs.get(&id) {
            Some(tomb) => Found::Ended(tomb.reason),
            None => Found::Unknown,
        }
    }

    /// Why a session whose record is still here has ended all the same: its worker was lost, or
    /// nobody waits for it any more.
    fn overtaken(&self, session: &Session) -> Option<EndReason> {
        match &session.state {
            State::Queued(waiting) | State::Next(waiting, _) => {
                self.boot_over(waiting.at).then_some(EndReason::NodeLost)
            }
            State::Bound(binding) | State::Held(binding, _) => self
                .indexes
                .is_lost(binding.worker)
                .then_some(EndReason::WorkerLost),
        }
    }
}
