//! The directory again, as naively as it can be said: lists, full scans, everything at once.
//!
//! It has no indexes, no sweeps and no bounds, so it can't have their mistakes. It is compared with
//! the real one after each command and the ticks that follow it; binding indices are not modelled,
//! they are 0 here.

use super::script::REGION;
use crate::directory::command::{AttachRefusal, Binding, Command, DrainReason, EndReason, Reply};
use crate::machine::Clock;
use pontoon_proto::id::{NodeBoot, NodeId, RequestId, TenantId, VersionId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) now: u64,
    arrivals: u64,
    /// When a tenant was last served from a version's queue, by the count of arrivals.
    served: BTreeMap<(VersionId, TenantId), u64>,
    over: BTreeMap<NodeId, u64>,
    pub(super) sessions: BTreeMap<RequestId, Session>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) tombs: BTreeMap<RequestId, (EndReason, u64)>,
    pub(super) lost: BTreeMap<WorkerId, u64>,
}

#[derive(Clone)]
pub(super) struct Session {
    tenant: TenantId,
    version: VersionId,
    window: u64,
    stays: bool,
    absorbed: bool,
    queued: Option<Queued>,
    pub(super) binding: Option<Binding>,
    /// (boot, sequence, inside)
    entries: BTreeMap<NodeId, (u64, u64, bool)>,
    /// (since, until, clean)
    pub(super) hold: Option<(u64, u64, bool)>,
}

pub(super) struct Worker {
    version: VersionId,
    slots: u32,
    /// (boot, stream, open)
    streams: BTreeMap<NodeId, (u64, u64, bool)>,
    draining: BTreeSet<DrainReason>,
    failed: u32,
    lost_at: Option<u64>,
}

/// Place, deadline, owner and its sequence.
type Queued = (u64, u64, NodeBoot, u64);

/// What happens by itself, in this order at one clock.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Queue(VersionId),
    Worker(WorkerId),
    Session(RequestId),
}

impl Worker {
    fn attached(&self) -> bool {
        self.streams.values().any(|stream| stream.2)
    }
}

impl Oracle {
    pub(super) fn apply(&mut self, now: u64, command: &Command) -> Reply {
        self.now = now.clamp(self.now, self.now + 2_000);
        self.run(command)
    }

    /// What time has brought about by now, earliest first.
    pub(super) fn settle(&mut self) {
        while let Some((_, due)) = self.due().filter(|(at, _)| *at <= self.now) {
            match due {
                Due::Queue(version) => self.serve(version),
                Due::Worker(worker) => self.kill(worker),
                Due::Session(id) => {
                    let session = &self.sessions[&id];
                    let queued = session.queued.is_some();
                    let version = session.version;
                    let reason = if queued {
                        EndReason::TimedOut
                    } else {
                        EndReason::Expired
                    };
                    self.finish(id, reason);
                    self.serve(version);
                }
            }
        }
        self.tombs.retain(|_, tomb| tomb.1 > self.now);
        self.lost.retain(|_, until| *until > self.now);
    }

    fn due(&self) -> Option<(u64, Due)> {
        let queued = self.sessions.values().filter(|one| one.queued.is_some());
        let queues = queued.filter_map(|one| {
            let idle = || self.idlest(one.version).map(|(since, ..)| since + 5_001);
            let at = self.pick(one.version).map(|_| 0).or_else(idle)?;
            Some((at, Due::Queue(one.version)))
        });
        let workers = self
            .workers
            .iter()
            .filter_map(|(id, one)| Some((one.lost_at?, Due::Worker(*id))));
        let sessions = self.sessions.iter().filter_map(|(id, one)| {
            let due = one
                .queued
                .map(|queued| queued.1)
                .or(one.hold.map(|hold| hold.1 + 5_000));
            Some((due?, Due::Session(*id)))
        });
        queues.chain(workers).chain(sessions).min()
    }

    fn is_over(&self, at: NodeBoot) -> bool {
        self.over.get(&at.node).is_some_and(|over| at.boot <= *over)
    }

    fn run(&mut self, command: &Command) -> Reply {
        match command.clone() {
            Command::AttachWorker {
                worker,
                version,
                slots,
                at,
                stream,
                ..
            } => {
                let known = self.workers.get(&worker);
                if self.lost.contains_key(&worker) {
                    return Reply::AttachRefused(AttachRefusal::Lost);
                }
                if known.is_some_and(|known| (known.version, known.slots) != (version, slots)) {
                    return Reply::AttachRefused(AttachRefusal::Changed);
                }
                if self.is_over(at) {
                    return Reply::AttachRefused(AttachRefusal::StaleNode);
                }
                self.retire(at.node, at.boot - 1);
                let worker = self.workers.entry(worker).or_insert_with(|| Worker {
                    version,
                    slots,
                    streams: BTreeMap::new(),
                    draining: BTreeSet::new(),
                    failed: 0,
                    lost_at: None,
                });
                if worker
                    .streams
                    .get(&at.node)
                    .is_none_or(|known| known.1 < stream)
                {
                    worker.streams.insert(at.node, (at.boot, stream, true));
                    worker.lost_at = None;
                    self.serve(version);
                }
                Reply::Attached
            }
            Command::DetachWorker { worker, at, stream } => {
                if self.is_over(at) {
                    return Reply::Done;
                }
                self.retire(at.node, at.boot - 1);
                let now = self.now;
                if let Some(worker) = self.workers.get_mut(&worker)
                    && worker
                        .streams
                        .get(&at.node)
                        .is_none_or(|known| known.1 <= stream)
                {
                    worker.streams.insert(at.node, (at.boot, stream, false));
                    if !worker.attached() && worker.lost_at.is_none() {
                        worker.lost_at = Some(now + 3_000);
                    }
                }
                Reply::Done
            }
            Command::DrainWorker { worker, reason, on } => {
                let Some(worker) = self.workers.get_mut(&worker) else {
                    return Reply::NotFound;
                };
                if on {
                    worker.draining.insert(reason);
                } else {
                    worker.draining.remove(&reason);
                    if reason == DrainReason::NoLink {
                        worker.failed = 0;
                    }
                }
                let version = worker.version;
                self.serve(version);
                Reply::Done
            }
            Command::WorkerDead { worker } => {
                self.kill(worker);
                Reply::Done
            }
            Command::LinkUp { worker } => {
                let off = Command::DrainWorker {
                    worker,
                    reason: DrainReason::NoLink,
                    on: false,
                };
                match self.workers.get(&worker) {
                    Some(known) if known.failed > 0 || !known.draining.is_empty() => self.run(&off),
                    _ => Reply::Done,
                }
            }
            Command::Open {
                id,
                tenant,
                version,
                at,
                seq,
                asked,
                wait_ms,
                window_ms,
                absorbed,
                window_asked,
                ..
            } => {
                if let Some(reply) = self.known(id) {
                    return reply;
                }
                if id.region() != Some(REGION) || self.now >= asked.0 + 60_000 || self.is_over(at) {
                    return Reply::Stale;
                }
                self.retire(at.node, at.boot - 1);
                let session = Session {
                    tenant,
                    version,
                    window: window_ms,
                    stays: absorbed || window_asked,
                    absorbed,
                    queued: None,
                    binding: None,
                    entries: BTreeMap::new(),
                    hold: None,
                };
                self.serve(version);
                let waits = |one: &Session| one.queued.is_some() && one.version == version;
                if !self.sessions.values().any(waits)
                    && let Some(worker) = self.pick(version)
                {
                    return self.bind(id, session, worker, at, seq);
                }
                if wait_ms == 0 {
                    return Reply::NoSlot;
                }
                self.arrivals += 1;
                let queued = Some((self.arrivals, self.now + wait_ms, at, seq));
                self.sessions.insert(id, Session { queued, ..session });
                self.serve(version);
                self.known(id).unwrap()
            }
            Command::CancelOpen { id } => {
                if let Some(version) = self.sessions.get(&id).map(|one| one.version) {
                    self.finish(id, EndReason::Cancelled);
                    self.serve(version);
                } else if !self.tombs.contains_key(&id) {
                    self.tombs
                        .insert(id, (EndReason::Cancelled, self.now + 60_000));
                }
                Reply::Done
            }
            Command::Enter {
                id,
                at,
                seq,
                window_ms,
            } => {
                if let Err(reply) = self.may(id, at) {
                    return reply;
                }
                let session = self.sessions.get_mut(&id).unwrap();
                let Some(binding) = session.binding else {
                    return Reply::Queued;
                };
                if session
                    .entries
                    .get(&at.node)
                    .is_none_or(|known| known.1 < seq)
                {
                    session.entries.insert(at.node, (at.boot, seq, true));
                    session.hold = None;
                    session.window = session.window.max(window_ms.unwrap_or(0));
                    session.stays |= window_ms.is_some();
                }
                Reply::Bound(binding)
            }
            Command::Leave { id, at, seq, clean } => {
                if let Err(reply) = self.may(id, at) {
                    return reply;
                }
                let now = self.now;
                let session = self.sessions.get_mut(&id).unwrap();
                if session.binding.is_some()
                    && session
                        .entries
                        .get(&at.node)
                        .is_none_or(|known| known.1 < seq)
                {
                    session.entries.insert(at.node, (at.boot, seq, false));
                    if session.hold.is_none() && !session.entries.values().any(|entry| entry.2) {
                        session.hold = Some((now, now + session.window, clean));
                    }
                }
                Reply::Done
            }
            Command::End { id, reason } => {
                let Some(session) = self.sessions.get(&id) else {
                    return self.known(id).unwrap_or(Reply::NotFound);
                };
                let (binding, version) = (session.binding, session.version);
                self.finish(id, reason);
                if let (EndReason::NoLink, Some(binding)) = (reason, binding) {
                    let worker = self.workers.get_mut(&binding.worker).unwrap();
                    worker.failed += 1;
                    if worker.failed >= 3 {
                        worker.draining.insert(DrainReason::NoLink);
                    }
                }
                self.serve(version);
                Reply::Done
            }
            Command::NodeUp { at } => {
                if self.is_over(at) {
                    return Reply::Stale;
                }
                self.retire(at.node, at.boot - 1);
                Reply::Done
            }
            Command::NodeLost { at } => {
                self.retire(at.node, at.boot);
                Reply::Done
            }
            Command::Tick => Reply::Done,
        }
    }

    fn known(&self, id: RequestId) -> Option<Reply> {
        match self.sessions.get(&id) {
            Some(session) => Some(session.binding.map_or(Reply::Queued, Reply::Bound)),
            None => self.tombs.get(&id).map(|tomb| Reply::Ended(tomb.0)),
        }
    }

    fn may(&mut self, id: RequestId, at: NodeBoot) -> Result<(), Reply> {
        if !self.sessions.contains_key(&id) {
            return Err(self.known(id).unwrap_or(Reply::NotFound));
        }
        if self.is_over(at) {
            return Err(Reply::Stale);
        }
        self.retire(at.node, at.boot - 1);
        if self.sessions.contains_key(&id) {
            Ok(())
        } else {
            Err(self.known(id).unwrap())
        }
    }

    fn retire(&mut self, node: NodeId, boot: u64) {
        if self.over.get(&node).copied().unwrap_or(0) >= boot {
            return;
        }
        self.over.insert(node, boot);
        let now = self.now;
        for worker in self.workers.values_mut() {
            worker
                .streams
                .retain(|at, stream| *at != node || stream.0 > boot);
            if !worker.attached() && worker.lost_at.is_none() {
                worker.lost_at = Some(now + 10_000);
            }
        }
        let mut orphans = Vec::new();
        for (id, session) in &mut self.sessions {
            session
                .entries
                .retain(|at, entry| *at != node || entry.0 > boot);
            let entered = session.entries.values().any(|entry| entry.2);
            if session.binding.is_some() && session.hold.is_none() && !entered {
                session.hold = Some((now, now + session.window.max(10_000), false));
            }
            if session
                .queued
                .is_some_and(|queued| queued.2.node == node && queued.2.boot <= boot)
            {
                orphans.push(*id);
            }
        }
        orphans
            .into_iter()
            .for_each(|id| self.finish(id, EndReason::NodeLost));
    }

    fn finish(&mut self, id: RequestId, reason: EndReason) {
        self.sessions.remove(&id);
        self.tombs.insert(id, (reason, self.now + 60_000));
    }

    fn kill(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
        self.lost.insert(worker, self.now + 600_000);
        let on = |one: &Session| one.binding.is_some_and(|binding| binding.worker == worker);
        let ended: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, one)| on(one))
            .map(|(id, _)| *id)
            .collect();
        ended
            .into_iter()
            .for_each(|id| self.finish(id, EndReason::WorkerLost));
    }

    fn used(&self, worker: WorkerId) -> BTreeSet<u32> {
        let bindings = self.sessions.values().filter_map(|session| session.binding);
        bindings
            .filter(|binding| binding.worker == worker)
            .map(|binding| binding.slot)
            .collect()
    }

    fn ready(&self, worker: WorkerId) -> bool {
        let worker = &self.workers[&worker];
        worker.attached() && worker.draining.is_empty()
    }

    fn pick(&self, version: VersionId) -> Option<WorkerId> {
        let of = self
            .workers
            .iter()
            .filter(|(id, one)| one.version == version && self.ready(**id));
        let free = of.map(|(id, one)| {
            let used = self.used(*id).len() as u32;
            (one.failed > 0, used, *id, one.slots)
        });
        free.filter(|(_, used, _, slots)| used < slots)
            .min()
            .map(|(_, _, id, _)| id)
    }

    fn bind(
        &mut self,
        id: RequestId,
        session: Session,
        worker: WorkerId,
        at: NodeBoot,
        seq: u64,
    ) -> Reply {
        let used = self.used(worker);
        let slot = (0..).find(|slot| !used.contains(slot)).unwrap();
        let binding = Binding {
            worker,
            slot,
            index: 0,
        };
        let hold = session
            .absorbed
            .then_some((self.now, self.now + session.window, false));
        let entries = BTreeMap::from([(at.node, (at.boot, seq, !session.absorbed))]);
        let session = Session {
            queued: None,
            binding: Some(binding),
            hold,
            entries,
            ..session
        };
        self.sessions.insert(id, session);
        Reply::Bound(binding)
    }

    fn serve(&mut self, version: VersionId) {
        loop {
            let Some((id, (_, deadline, at, seq))) = self.next(version) else {
                return;
            };
            if deadline <= self.now {
                self.finish(id, EndReason::TimedOut);
            } else if let Some(worker) = self.pick(version) {
                let session = self.sessions[&id].clone();
                self.arrivals += 1;
                self.served.insert((version, session.tenant), self.arrivals);
                self.bind(id, session, worker, at, seq);
            } else if let Some(victim) = self.victim(version) {
                self.finish(victim, EndReason::Preempted);
            } else {
                return;
            }
        }
    }

    /// Whoever waits of the tenant that has come first, or was served, longest ago.
    fn next(&self, version: VersionId) -> Option<(RequestId, Queued)> {
        let of = self.sessions.iter().filter(|one| one.1.version == version);
        let mut firsts: BTreeMap<TenantId, (RequestId, Queued)> = BTreeMap::new();
        for (id, one) in of {
            let Some(queued) = one.queued else { continue };
            let first = firsts.entry(one.tenant).or_insert((*id, queued));
            if queued.0 < first.1.0 {
                *first = (*id, queued);
            }
        }
        let since = |tenant: TenantId, arrival: u64| {
            let served = self.served.get(&(version, tenant));
            served.map_or(arrival, |served| arrival.max(*served))
        };
        let next = firsts
            .into_iter()
            .min_by_key(|(tenant, (_, queued))| since(*tenant, queued.0));
        next.map(|(_, next)| next)
    }

    fn victim(&self, version: VersionId) -> Option<RequestId> {
        let idlest = self
            .idlest(version)
            .filter(|(since, ..)| self.now > since + 5_000);
        idlest.map(|(_, _, id)| id)
    }

    fn idlest(&self, version: VersionId) -> Option<(u64, WorkerId, RequestId)> {
        let of = self
            .sessions
            .iter()
            .filter(|(_, one)| one.version == version && !one.stays);
        let idle = of.filter_map(|(id, one)| {
            let (since, _, clean) = one.hold?;
            let worker = one.binding?.worker;
            (clean && self.ready(worker)).then_some((since, worker, *id))
        });
        idle.min()
    }
}

/// A clock as the oracle counts it.
pub(super) fn clock(hold: (u64, u64, bool)) -> (Clock, Clock, bool) {
    (Clock(hold.0), Clock(hold.1), hold.2)
}
