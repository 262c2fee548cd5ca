//! The checks: what must hold at every moment of a run, whatever was done to the cluster.
//!
//! | check | what must hold |
//! | --- | --- |
//! | `log-matching` | two entries of one index, term and leader are the same bytes |
//! | `committed` | no two entries of one index are ever called committed |
//! | `one-leader` | nobody else leads as the same member in the same term, also not a later life of the node |
//! | `pre-vote` | a node that reaches nobody begins no term |
//! | `replicas-equal` | two replicas that applied as much have the same state hash |
//! | `invariants` | the state machine's own, on every published state |
//! | `durable` | what a client was told is on two disks, whatever loses its power now |
//! | `lost` | a replica that is as far as a session's binding knows the session, or how it ended |
//! | `bound-once` | a session is bound to one worker and slot, for ever |
//! | `no-return` | an ended id never lives again |
//! | `acknowledged` | a session that was acknowledged lives, or ended for a reason that exists |
//! | `stale-negative` | a linearizable read is not behind what was answered before it began |
//! | `early-expiry` | no hold ends before its window and margin have passed |
//!
//! The first four are in `consensus`.

use super::consensus::{Circumstances, Consensus, Of, Sender};
use super::world::World;
use pontoon_proto::id::{GroupId, NodeId, RegionId, RequestId, WorkerId};
use pontoon_proto::peer as pb;
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Binding, EndReason};
use pontoon_raft::directory::session::{ENTER_MARGIN, State};
use pontoon_raft::group::Group;
use pontoon_raft::machine::Machine;
use pontoon_raft::store::memory::{Held, Platter};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// On how many disks is what a client was told. Groups here have three voters or more.
const COPIES: usize = 2;

/// What one client did to one session, as far as it knows.
#[derive(Debug, Default)]
struct Known {
    acknowledged: bool,
    /// Whether its client was told: its first tunnel was up.
    told: bool,
    /// Somebody asked for its end, or its client stopped to care.
    end_asked: bool,
    window: Duration,
    /// Its open was answered at once, and nobody is in it.
    absorbed: bool,
    /// When the last confirmed Enter or Open set out: it can't be held since earlier.
    inside: Option<Duration>,
    binding: Option<Binding>,
    /// The first entry that shows it ended.
    ended: Option<(u64, EndReason)>,
}

#[derive(Default)]
struct Seen {
    /// How far each replica was when it was looked at last.
    looked: BTreeMap<(NodeId, Of), u64>,
    hashes: BTreeMap<(Of, u64), [u8; 32]>,
    disks: BTreeMap<NodeId, Platter>,
    /// When a disk was damaged or lost, if one was.
    damaged: Option<Duration>,
    sessions: BTreeMap<RequestId, Known>,
    dying: BTreeSet<WorkerId>,
    /// Workers whose death was acknowledged.
    dead: BTreeSet<WorkerId>,
    /// The generation under which each region was recovered: what older ones held may be lost.
    recovered: BTreeMap<RegionId, u64>,
    /// The sessions that may be lost with them.
    forgiven: BTreeSet<RequestId>,
    /// Regions whose group may have had fewer than three voters.
    small: BTreeSet<RegionId>,
    jumps: u32,
    /// Somebody was cut off, stopped or killed so far.
    hurt: bool,
}

impl Seen {
    /// What is known of a session; none of one that may be lost.
    fn session(&mut self, id: RequestId) -> Option<&mut Known> {
        if self.forgiven.contains(&id) {
            return None;
        }
        Some(self.sessions.entry(id).or_default())
    }

    /// Whether a region's group is of an incarnation that was given up.
    fn given_up(&self, region: RegionId, generation: u64) -> bool {
        let recovered = self.recovered.get(&region);
        recovered.is_some_and(|recovered| generation < *recovered)
    }
}

/// The checks of one run.
pub(super) struct Watch {
    world: Arc<World>,
    consensus: Consensus,
    seen: Mutex<Seen>,
}

impl Watch {
    pub(super) fn new(world: Arc<World>) -> Watch {
        Watch {
            consensus: Consensus::new(world.clone()),
            world,
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader's message sets out.
    pub(super) fn appends(&self, sender: &Sender, request: &pb::AppendRequest) {
        self.consensus.appends(sender, request);
    }

    /// Looks at one replica; none if it stands where it stood the last time.
    pub(super) fn look<M: Machine>(
        &self,
        node: NodeId,
        group: &Group<M>,
        circumstances: Circumstances,
    ) -> Option<(u64, Arc<M>)> {
        let of = (u32::from(group.id().number()), group.generation());
        let status = group.status();
        self.consensus
            .shows(of, node, group.leads(), &status, circumstances);
        // The state is published before the index is: what is read first is not the newer one.
        let index = *group.changed().borrow();
        if self.seen().looked.insert((node, of), index) == Some(index) {
            return None;
        }
        let state = group.state();
        if let Err(broken) = state.check() {
            self.world.fail(
                "invariants",
                format_args!("{node} {of:?} at {index}: {broken}"),
            );
        }
        let hash = state.digest();
        let known = *self.seen().hashes.entry((of, index)).or_insert(hash);
        if known != hash {
            self.world.fail(
                "replicas-equal",
                format_args!("{node} {of:?} differs from another replica at {index}"),
            );
        }
        Some((index, state))
    }

    /// Looks at one replica of a directory, session by session.
    pub(super) fn directory(
        &self,
        node: NodeId,
        group: &Group<Directory>,
        circumstances: Circumstances,
    ) {
        let Some((index, state)) = self.look(node, group, circumstances) else {
            return;
        };
        let now = self.world.age();
        let mut seen = self.seen();
        if seen.given_up(state.region(), group.generation()) {
            return;
        }
        let Seen {
            sessions,
            dying,
            jumps,
            hurt,
            ..
        } = &mut *seen;
        for (id, known) in sessions {
            self.session(*id, known, index, &state, now, dying, (*jumps, *hurt));
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all of them are what one session is judged by"
    )]
    fn session(
        &self,
        id: RequestId,
        known: &mut Known,
        index: u64,
        state: &Directory,
        now: Duration,
        dying: &BTreeSet<WorkerId>,
        (jumps, hurt): (u32, bool),
    ) {
        if id.region() != Some(state.region()) {
            return;
        }
        if let Some(session) = state.session(id) {
            if let Some((at, reason)) = known.ended
                && index > at
            {
                let what = format_args!("{id} ended ({reason:?}) by {at} and lives at {index}");
                self.world.fail("no-return", what);
            }
            if let Some(binding) = session.binding() {
                let first = *known.binding.get_or_insert(binding);
                if first != binding {
                    let what = format_args!("{id} is bound to {first:?} and to {binding:?}");
                    self.world.fail("bound-once", what);
                }
            }
            if matches!(session.state, State::Held(..)) {
                self.world.count("held states seen");
            }
        } else if let Some(reason) = state.ended(id)
            && known.ended.is_none_or(|(at, _)| index < at)
        {
            let first = known.ended.is_none();
            known.ended = Some((index, reason));
            if first {
                self.ended(id, known, reason, now, dying, (jumps, hurt));
            }
        } else if known.acknowledged && state.ended(id).is_none() {
            let bound = known.binding.map_or(u64::MAX, |binding| entry_of(&binding));
            // How a session ended is forgotten in time; who shows that saw the end.
            if index >= bound && known.ended.is_none_or(|(at, _)| index < at) {
                let what =
                    format_args!("{id} was bound in entry {bound} and is unknown at {index}");
                self.world.fail("lost", what);
            }
        }
    }

    /// Judges the end of a session when it is first seen.
    fn ended(
        &self,
        id: RequestId,
        known: &Known,
        reason: EndReason,
        now: Duration,
        dying: &BTreeSet<WorkerId>,
        (jumps, hurt): (u32, bool),
    ) {
        self.world.count(match reason {
            EndReason::Expired => "ends by expiry",
            EndReason::WorkerLost => "ends by a worker's loss",
            _ => "ends by request",
        });
        self.world.tell(format_args!("{id} ended: {reason:?}"));
        match reason {
            EndReason::Expired if known.absorbed => self.world.count("H-32"),
            EndReason::NodeLost if known.binding.is_none() => self.world.count("H-14"),
            _ => {}
        }
        let dies = known
            .binding
            .is_some_and(|binding| dying.contains(&binding.worker));
        let may = match reason {
            EndReason::Released | EndReason::Cancelled | EndReason::NoLink => known.end_asked,
            // Whoever is cut off from all of its nodes for long enough is lost by right.
            EndReason::WorkerLost => {
                if dies && known.told {
                    self.world.count("H-22");
                }
                dies || hurt || known.binding.is_none()
            }
            EndReason::Expired => {
                let least = known.window + ENTER_MARGIN;
                let slack = Duration::from_secs(2) * jumps;
                let since = known.inside.unwrap_or_default();
                if known.acknowledged && now + slack < since + least {
                    let window = known.window;
                    let what = format_args!(
                        "{id}, with a window of {window:?} and inside at {since:?}, expired by {now:?}"
                    );
                    self.world.fail("early-expiry", what);
                }
                true
            }
            EndReason::TimedOut => !known.acknowledged,
            EndReason::NodeLost => !known.told,
            EndReason::Preempted => true,
            EndReason::Operator => false,
        };
        if !may {
            let what = format_args!("{id} ended for no reason that exists: {reason:?}");
            self.world.fail("acknowledged", what);
        }
    }

    /// A client sets out to open a session.
    pub(super) fn opens(&self, id: RequestId, window: Duration) {
        if let Some(known) = self.seen().session(id) {
            known.window = window;
        }
    }

    /// It is opened for a call that is answered at once, and whose client goes away.
    pub(super) fn absorbs(&self, id: RequestId) {
        if let Some(known) = self.seen().session(id) {
            known.absorbed = true;
        }
    }

    /// A region's group is to outlive less: it may have a single voter from now on.
    pub(super) fn may_be_small(&self, region: RegionId) {
        self.seen().small.insert(region);
    }

    /// A region is to be recovered from one replica: nothing of what there is now has to be there then.
    pub(super) fn recovers(&self, region: RegionId, generation: u64) {
        let mut seen = self.seen();
        let seen = &mut *seen;
        seen.recovered.insert(region, generation);
        let there = |id: &RequestId| id.region() == Some(region);
        let ids: Vec<RequestId> = seen.sessions.keys().copied().filter(there).collect();
        for id in ids {
            seen.sessions.remove(&id);
            seen.forgiven.insert(id);
        }
    }

    /// Whether what an incarnation of its group has said of a session may be lost, as the region was
    /// recovered.
    pub(super) fn forgiven(&self, id: RequestId, generation: u64) -> bool {
        let seen = self.seen();
        let home = id.region().unwrap_or(RegionId(0));
        seen.forgiven.contains(&id) || seen.given_up(home, generation)
    }

    /// The death of a worker was acknowledged.
    pub(super) fn dead(&self, worker: WorkerId) {
        self.seen().dead.insert(worker);
    }

    /// Whether a replica names a dead worker for a session.
    pub(super) fn names_dead(&self, state: &Directory) -> bool {
        let seen = self.seen();
        let mut dead = seen.dead.iter();
        dead.any(|worker| state.sessions_of(*worker).next().is_some())
    }

    /// From now on nodes are hurt.
    pub(super) fn hurts(&self) {
        self.seen().hurt = true;
    }

    /// A node has this disk from now on.
    pub(super) fn has_disk(&self, node: NodeId, disk: Platter) {
        self.seen().disks.insert(node, disk);
    }

    /// A disk is damaged or lost.
    pub(super) fn damaged(&self) {
        self.seen().damaged = Some(self.world.age());
    }

    /// Judges what is left of an entry that somebody was told of.
    fn durable(&self, seen: &Seen, group: u16, index: u64, set_out: Duration) {
        if seen.damaged.is_some_and(|at| at >= set_out) {
            return;
        }
        let mut copies: BTreeMap<Held, usize> = BTreeMap::new();
        for disk in seen.disks.values() {
            *copies.entry(disk.holds(group, index)).or_default() += 1;
        }
        copies.remove(&Held::Nothing);
        let purged = copies.remove(&Held::Purged).unwrap_or(0);
        let count = purged + copies.values().max().copied().unwrap_or(0);
        let region = RegionId(group);
        let small = seen.small.contains(&region) || seen.recovered.contains_key(&region);
        if count < if small { 1 } else { COPIES } {
            let what = format_args!("entry {index} of group {group} is on {count} disks");
            self.world.fail("durable", what);
        }
    }

    /// The client was told of it.
    pub(super) fn told(&self, id: RequestId) {
        let mut seen = self.seen();
        let Some(known) = seen.session(id) else {
            return;
        };
        known.told = true;
        if let Some((at, EndReason::NodeLost)) = known.ended {
            let what =
                format_args!("{id} was given up in entry {at}, and then its client was told of it");
            self.world.fail("acknowledged", what);
        }
    }

    /// Its entry node was told that it is bound, by what an entry of this incarnation did.
    pub(super) fn bound(
        &self,
        id: RequestId,
        binding: Binding,
        entry: Option<u64>,
        set_out: Duration,
        generation: u64,
    ) {
        let mut seen = self.seen();
        let home = id.region().unwrap_or(RegionId(0));
        if seen.given_up(home, generation) {
            seen.sessions.remove(&id);
            seen.forgiven.insert(id);
        }
        if seen.forgiven.contains(&id) {
            return;
        }
        if let Some(region) = id.region() {
            let group = GroupId::Region(region).number();
            let entry = entry.unwrap_or_else(|| entry_of(&binding));
            self.durable(&seen, group, entry, set_out);
        }
        let Some(known) = seen.session(id) else {
            return;
        };
        known.acknowledged = true;
        known.inside = known.inside.max(Some(set_out));
        let first = *known.binding.get_or_insert(binding);
        if first != binding {
            let what = format_args!("{id} is bound to {first:?} and answered {binding:?}");
            self.world.fail("bound-once", what);
        }
    }

    /// Somebody may end it from now on.
    pub(super) fn may_end(&self, id: RequestId) {
        if let Some(known) = self.seen().session(id) {
            known.end_asked = true;
        }
    }

    /// A worker may be lost from now on.
    pub(super) fn may_die(&self, worker: WorkerId) {
        self.seen().dying.insert(worker);
    }

    /// Some clock for stamps jumped: it may have skipped up to one step.
    pub(super) fn jumped(&self) {
        self.seen().jumps += 1;
    }

    /// All that was acknowledged before a linearizable read sets out, and has not ended: how a session
    /// ended is forgotten in time.
    pub(super) fn promised(&self) -> Vec<RequestId> {
        let seen = self.seen();
        let live = |known: &Known| known.acknowledged && known.ended.is_none();
        let promised = seen.sessions.iter().filter(|(_, known)| live(known));
        promised.map(|(id, _)| *id).collect()
    }

    /// Judges what a linearizable read of one incarnation has found, by what was promised before.
    pub(super) fn read(&self, promised: &[RequestId], state: &Directory, generation: u64) {
        self.world.count("linearizable reads");
        let seen = self.seen();
        if seen.given_up(state.region(), generation) {
            return;
        }
        for id in promised {
            let ours = id.region() == Some(state.region()) && !seen.forgiven.contains(id);
            if ours && state.session(*id).is_none() && state.ended(*id).is_none() {
                let what = format_args!("{id} was acknowledged and is not found");
                self.world.fail("stale-negative", what);
            }
        }
    }
}

/// The log entry that made a binding.
fn entry_of(binding: &Binding) -> u64 {
    binding.index >> 16
}
