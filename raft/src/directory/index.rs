//! What is derived from the records, so that nothing scans everything.
//!
//! All of it follows from sessions, workers, lives and tombstones: a snapshot carries only those, and
//! [`Indexes`] is built again from them. Every change of a record passes through one of the
//! `*_changed` functions here, which compare the index keys of the record before and after.
//!
//! Read next: [`slots`] and [`stakes`], which have one item per session, and `bulk`, which builds all
//! of this from a snapshot's records.

mod bulk;
mod slots;
mod stakes;
mod tally;

pub(super) use slots::Slots;
pub(super) use stakes::{Stake, Stakes};
pub(super) use tally::Tally;

use super::expiry::{Due, Life};
use super::queue::preemptible_from;
use super::session::{Session, State};
use super::worker::Worker;
use crate::machine::Clock;
use imbl::{OrdMap, OrdSet};
use pontoon_proto::id::{NodeBoot, NodeId, RequestId, TenantId, VersionId, WorkerId};
use uuid::Uuid;

const ID_MIN: Uuid = Uuid::nil();
const ID_MAX: Uuid = Uuid::max();

/// The indexes of a directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Indexes {
    /// Which session has which slot.
    pub(super) slots: Slots,
    /// Free slots below a worker's highest ever used one.
    pub(super) holes: OrdSet<(WorkerId, u32)>,
    /// Preemptible sessions by worker, longest held first.
    pub(super) idle: OrdSet<(WorkerId, Clock, RequestId)>,
    /// What each node's lives have here.
    pub(super) stakes: Stakes,
    /// Waiting opens by version, tenant and arrival, with the turn that a tenant has whose first one
    /// it is.
    pub(super) queue: OrdMap<(VersionId, TenantId, u64), (RequestId, u64)>,
    /// Tenants with waiting opens by version, in the order of their turns.
    pub(super) turns: OrdSet<(VersionId, u64, TenantId)>,
    /// How many opens of a tenant wait for a version.
    pub(super) queued_by: OrdMap<(VersionId, TenantId), u32>,
    /// Ready workers with a free slot, least loaded first.
    pub(super) free: OrdSet<(VersionId, u32, WorkerId)>,
    /// Ready workers with a preemptible session, the one that was held longest first.
    pub(super) idlest: OrdSet<(VersionId, Clock, WorkerId)>,
    /// How many sessions each tenant and version has.
    pub(super) tally: Tally,
    /// Sums per version.
    pub(super) pools: OrdMap<VersionId, Pool>,
    /// What the above know of each worker.
    pub(super) loads: OrdMap<WorkerId, Load>,
    /// Lost workers that are being swept.
    pub(super) lost: OrdSet<WorkerId>,
    /// What is due, and when, apart from the next two, of which there may be a million: an item
    /// here takes 32 bytes, one of theirs 24.
    pub(super) due: OrdSet<(Clock, Due)>,
    /// When holds and waits are over.
    pub(super) ends: OrdSet<(Clock, RequestId)>,
    /// When ended ids may be forgotten.
    pub(super) tombs: OrdSet<(Clock, RequestId)>,
}

/// Sums over the ready workers and the queue of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) ready: u32,
    pub(super) free_slots: u32,
    pub(super) queued: u32,
    /// When the first of the queue can be served, as it stands in `due`.
    wake: Option<Clock>,
}

/// What the indexes know of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    version: VersionId,
    slots: u32,
    ready: bool,
    pub(super) used: u32,
    /// One more than the highest slot that was ever used here; what is above is free.
    pub(super) top: u32,
    /// How the worker stands in `free`, `idlest` and `pools`; none when it is not ready.
    shown: Option<Shown>,
}

impl Load {
    /// The load without what depends on how it came about.
    pub(super) fn without_past(self) -> Load {
        Load { top: 0, ..self }
    }
}

/// How a worker stands in the indexes of its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    used: u32,
    idle: Option<Clock>,
}

/// The index keys of one session.
#[derive(Default, PartialEq)]
struct Keys {
    slot: Option<(WorkerId, u32)>,
    idle: Option<(WorkerId, Clock)>,
    queue: Option<Place>,
    due: Option<Clock>,
}

/// Where a waiting open stands.
#[derive(Clone, Copy, PartialEq)]
struct Place {
    version: VersionId,
    tenant: TenantId,
    arrival: u64,
    turn: u64,
}

impl Place {
    fn of(session: &Session) -> Option<Place> {
        let arrival = session.waiting()?.arrival;
        Some(Place {
            version: session.version,
            tenant: session.tenant,
            arrival,
            turn: session.turn().unwrap_or(arrival),
        })
    }

    fn key(&self) -> (VersionId, TenantId, u64) {
        (self.version, self.tenant, self.arrival)
    }
}

impl Keys {
    fn of(session: Option<&Session>) -> Keys {
        let Some(session) = session else {
            return Keys::default();
        };
        let binding = session.binding();
        let due = match &session.state {
            State::Queued(waiting) | State::Next(waiting, _) => Some(waiting.deadline),
            State::Bound(_) => None,
            State::Held(_, hold) => Some(hold.ends()),
        };
        Keys {
            slot: binding.map(|binding| (binding.worker, binding.slot)),
            idle: binding.and_then(|binding| Some((binding.worker, session.idle_since()?))),
            queue: Place::of(session),
            due,
        }
    }
}

/// The lives in which a session has something at stake.
fn stakes(session: Option<&Session>) -> impl Iterator<Item = (NodeBoot, Stake)> + '_ {
    let waiting = session.and_then(|session| {
        let waiting = session.waiting()?;
        Some((waiting.at, Stake::Waiting(session.id)))
    });
    let inside = session.into_iter().flat_map(|session| {
        let entries = session.entries.iter().filter(|entry| entry.inside);
        entries.map(|entry| (entry.at(), Stake::Inside(session.id)))
    });
    waiting.into_iter().chain(inside)
}

fn attached(worker: Option<&Worker>) -> impl Iterator<Item = (NodeBoot, Stake)> + '_ {
    worker.into_iter().flat_map(|worker| {
        let open = worker.attachments.iter().filter(|one| one.open);
        open.map(|one| (one.at, Stake::Attached(worker.id)))
    })
}

fn worker_due(worker: Option<&Worker>) -> Option<Clock> {
    let worker = worker?;
    if worker.lost {
        Some(Clock(0))
    } else {
        worker.lost_at
    }
}

impl Indexes {
    /// A session came, changed or went.
    pub(super) fn session_changed(&mut self, before: Option<&Session>, after: Option<&Session>) {
        let Some(id) = after.or(before).map(|session| session.id) else {
            return;
        };
        let (old, new) = (Keys::of(before), Keys::of(after));
        match (before, after) {
            (None, Some(session)) => self.tally.add(session.tenant, session.version),
            (Some(session), None) => self.tally.remove(session.tenant, session.version),
            // A session's tenant and version never change.
            _ => {}
        }
        for (at, stake) in stakes(before) {
            if !stakes(after).any(|one| one == (at, stake)) {
                self.stakes.remove(at, stake);
            }
        }
        for (at, stake) in stakes(after) {
            if !stakes(before).any(|one| one == (at, stake)) {
                self.stakes.insert(at, stake);
            }
        }
        self.moved(Due::Session(id), old.due, new.due);
        if old.queue != new.queue {
            self.place_changed(id, old.queue, new.queue);
        }
        if (old.slot, old.idle) != (new.slot, new.idle) {
            if let Some((worker, since)) = old.idle {
                self.idle.remove(&(worker, since, id));
            }
            if let Some((worker, since)) = new.idle {
                self.idle.insert((worker, since, id));
            }
            if old.slot != new.slot {
                self.slot_changed(id, old.slot, new.slot);
            }
            if let Some((worker, _)) = new.slot.or(old.slot) {
                self.show(worker);
            }
        }
    }

    fn place_changed(&mut self, id: RequestId, old: Option<Place>, new: Option<Place>) {
        let Some(Place {
            version, tenant, ..
        }) = new.or(old)
        else {
            return;
        };
        let before = self.first_of(version, tenant);
        if let Some(old) = old {
            self.queue.remove(&old.key());
        }
        if let Some(new) = new {
            self.queue.insert(new.key(), (id, new.turn));
        }
        let after = self.first_of(version, tenant);
        if let Some((_, turn)) = before {
            self.turns.remove(&(version, turn, tenant));
        }
        if let Some((_, turn)) = after {
            self.turns.insert((version, turn, tenant));
        }
        match (old, new) {
            (None, Some(_)) => self.count_queued(version, tenant, 1),
            (Some(_), None) => self.count_queued(version, tenant, -1),
            _ => {}
        }
    }

    fn slot_changed(
        &mut self,
        id: RequestId,
        old: Option<(WorkerId, u32)>,
        new: Option<(WorkerId, u32)>,
    ) {
        if let Some((worker, slot)) = old {
            self.slots.free(worker, slot);
            self.holes.insert((worker, slot));
            if let Some(load) = self.loads.get_mut(&worker) {
                load.used -= 1;
            }
        }
        if let Some((worker, slot)) = new {
            self.slots.take(worker, slot, id);
            if let Some(load) = self.loads.get_mut(&worker) {
                load.used += 1;
                if slot >= load.top {
                    for hole in load.top..slot {
                        self.holes.insert((worker, hole));
                    }
                    load.top = slot + 1;
                } else {
                    self.holes.remove(&(worker, slot));
                }
            }
        }
    }

    /// A worker came, changed or went. One that goes has no session left.
    pub(super) fn worker_changed(&mut self, before: Option<&Worker>, after: Option<&Worker>) {
        let Some(id) = after.or(before).map(|worker| worker.id) else {
            return;
        };
        for (at, stake) in attached(before) {
            if !attached(after).any(|one| one == (at, stake)) {
                self.stakes.remove(at, stake);
            }
        }
        for (at, stake) in attached(after) {
            if !attached(before).any(|one| one == (at, stake)) {
                self.stakes.insert(at, stake);
            }
        }
        self.moved(Due::Worker(id), worker_due(before), worker_due(after));
        if after.is_some_and(|worker| worker.lost) {
            self.lost.insert(id);
        } else {
            self.lost.remove(&id);
        }
        let ready = after.is_some_and(Worker::is_ready);
        if let Some(load) = self.loads.get_mut(&id) {
            load.ready = ready;
        } else if let Some(worker) = after {
            let load = Load {
                version: worker.version,
                slots: worker.slots,
                ready,
                used: 0,
                top: 0,
                shown: None,
            };
            self.loads.insert(id, load);
        }
        self.show(id);
        if after.is_none() {
            let top = self.loads.remove(&id).map_or(0, |load| load.top);
            for slot in 0..top {
                self.holes.remove(&(id, slot));
            }
        }
    }

    /// A node's boot ended, or its sweep did.
    pub(super) fn life_changed(&mut self, node: NodeId, life: Life) {
        let due = (Clock(0), Due::Node(node));
        if life.sweeping {
            self.due.insert(due);
        } else {
            self.due.remove(&due);
        }
    }

    /// Something is due at another time, or not any more.
    pub(super) fn moved(&mut self, what: Due, old: Option<Clock>, new: Option<Clock>) {
        if old == new {
            return;
        }
        match what {
            Due::Session(id) => replace(&mut self.ends, id, old, new),
            Due::Tomb(id) => replace(&mut self.tombs, id, old, new),
            Due::Queue(_) | Due::Node(_) | Due::Worker(_) | Due::Lost(_) => {
                replace(&mut self.due, what, old, new);
            }
        }
    }

    fn count_queued(&mut self, version: VersionId, tenant: TenantId, by: i32) {
        let key = (version, tenant);
        match self.queued_by(version, tenant).saturating_add_signed(by) {
            0 => drop(self.queued_by.remove(&key)),
            count => drop(self.queued_by.insert(key, count)),
        }
        let mut pool = self.pool(version);
        pool.queued = pool.queued.saturating_add_signed(by);
        self.put_pool(version, pool);
    }

    /// Brings `free`, `idlest` and `pools` up to date with one worker.
    fn show(&mut self, worker: WorkerId) {
        let Some(load) = self.loads.get(&worker).copied() else {
            return;
        };
        let idle = self.idlest_of(worker).map(|(since, _)| since);
        let shown = load.ready.then_some(Shown {
            used: load.used,
            idle,
        });
        if shown == load.shown {
            return;
        }
        let mut pool = self.pool(load.version);
        if let Some(old) = load.shown {
            self.free.remove(&(load.version, old.used, worker));
            old.idle
                .map(|since| self.idlest.remove(&(load.version, since, worker)));
            pool.ready -= 1;
            pool.free_slots -= load.slots - old.used;
        }
        if let Some(new) = shown {
            if new.used < load.slots {
                self.free.insert((load.version, new.used, worker));
            }
            new.idle
                .map(|since| self.idlest.insert((load.version, since, worker)));
            pool.ready += 1;
            pool.free_slots += load.slots - new.used;
        }
        self.loads.insert(worker, Load { shown, ..load });
        self.put_pool(load.version, pool);
    }

    /// Stores a version's sums, and when its queue is to be looked at again.
    fn put_pool(&mut self, version: VersionId, mut pool: Pool) {
        let wake = if pool.queued == 0 {
            None
        } else if self.free_workers(version).next().is_some() {
            Some(Clock(0))
        } else {
            self.idlest(version)
                .map(|(since, _)| preemptible_from(since))
        };
        self.moved(Due::Queue(version), pool.wake, wake);
        pool.wake = wake;
        if pool == Pool::default() {
            self.pools.remove(&version);
        } else {
            self.pools.insert(version, pool);
        }
    }

    /// The sums of a version.
    pub(super) fn pool(&self, version: VersionId) -> Pool {
        self.pools.get(&version).copied().unwrap_or_default()
    }

    /// How many opens of a tenant wait for a version.
    pub(super) fn queued_by(&self, version: VersionId, tenant: TenantId) -> u32 {
        self.queued_by.get(&(version, tenant)).copied().unwrap_or(0)
    }

    /// The first of a version's queue: the first open of the tenant whose turn it is.
    pub(super) fn first_queued(&self, version: VersionId) -> Option<RequestId> {
        let all = (version, 0, TenantId(ID_MIN))..=(version, u64::MAX, TenantId(ID_MAX));
        let &(_, _, tenant) = self.turns.range(all).next()?;
        self.first_of(version, tenant).map(|(id, _)| id)
    }

    /// The first of a tenant's opens that wait for a version, and the tenant's turn.
    pub(super) fn first_of(
        &self,
        version: VersionId,
        tenant: TenantId,
    ) -> Option<(RequestId, u64)> {
        let all = (version, tenant, 0)..=(version, tenant, u64::MAX);
        self.queue.range(all).next().map(|(_, first)| *first)
    }

    /// The ready workers of a version that have a free slot, those with the fewest sessions first.
    pub(super) fn free_workers(&self, version: VersionId) -> impl Iterator<Item = WorkerId> + '_ {
        let all = (version, 0, WorkerId(ID_MIN))..=(version, u32::MAX, WorkerId(ID_MAX));
        self.free.range(all).map(|&(_, _, worker)| worker)
    }

    /// The ready worker of a version with the longest held preemptible session, and since when.
    pub(super) fn idlest(&self, version: VersionId) -> Option<(Clock, WorkerId)> {
        let all =
            (version, Clock(0), WorkerId(ID_MIN))..=(version, Clock(u64::MAX), WorkerId(ID_MAX));
        self.idlest
            .range(all)
            .next()
            .map(|&(_, since, worker)| (since, worker))
    }

    /// The longest held preemptible session of a worker, and since when.
    pub(super) fn idlest_of(&self, worker: WorkerId) -> Option<(Clock, RequestId)> {
        let all =
            (worker, Clock(0), RequestId(ID_MIN))..=(worker, Clock(u64::MAX), RequestId(ID_MAX));
        self.idle
            .range(all)
            .next()
            .map(|&(_, since, id)| (since, id))
    }

    /// The lowest free slot of a worker that has one.
    pub(super) fn lowest_free(&self, worker: WorkerId) -> u32 {
        let hole = self.holes.range((worker, 0)..=(worker, u32::MAX)).next();
        let top = || self.loads.get(&worker).map_or(0, |load| load.top);
        hole.map_or_else(top, |&(_, slot)| slot)
    }

    /// The session in the lowest used slot of a worker.
    pub(super) fn first_session_of(&self, worker: WorkerId) -> Option<RequestId> {
        self.slots.sessions_of(worker).next()
    }

    /// Whether a worker is lost and being swept.
    pub(super) fn is_lost(&self, worker: WorkerId) -> bool {
        !self.lost.is_empty() && self.lost.contains(&worker)
    }

    /// What is due first, and when: at one clock in the order of [`Due`].
    pub(super) fn next_due(&self) -> Option<(Clock, Due)> {
        let session = |&(at, id): &(Clock, RequestId)| (at, Due::Session(id));
        let tomb = |&(at, id): &(Clock, RequestId)| (at, Due::Tomb(id));
        let ends = self.ends.get_min().map(session);
        let tombs = self.tombs.get_min().map(tomb);
        let others = self.due.get_min().copied();
        [ends, tombs, others].into_iter().flatten().min()
    }

    /// The earliest of what is due by now.
    pub(super) fn first_due(&self, now: Clock) -> Option<Due> {
        self.next_due()
            .filter(|(at, _)| *at <= now)
            .map(|(_, due)| due)
    }
}

fn replace<T: Ord + Clone>(
    set: &mut OrdSet<(Clock, T)>,
    what: T,
    old: Option<Clock>,
    new: Option<Clock>,
) {
    if let Some(old) = old {
        set.remove(&(old, what.clone()));
    }
    if let Some(new) = new {
        set.insert((new, what));
    }
}
