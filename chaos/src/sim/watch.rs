//! The checks: what must hold at every moment of a run, whatever was done to the cluster.
//!
//! | check | what must hold |
//! | --- | --- |
//! | `log-matching` | two entries of one index, term and leader are the same bytes: in openraft a term may have
//!   several leaders one after the other, ordered by their numbers |
//! | `committed` | what a leader called committed never changes |
//! | `replicas-equal` | two replicas that applied as much have the same state hash |
//! | `invariants` | the state machine's own, on every published state |
//! | `bound-once` | a session is bound to one worker and slot, for ever |
//! | `no-return` | an ended id never lives again |
//! | `acknowledged` | a session that was acknowledged lives, or ended for a reason that exists |
//! | `stale-negative` | a linearizable read is not behind what was answered before it began |
//! | `early-expiry` | no hold ends before its window and margin have passed |

use super::world::World;
use pontoon_proto::id::{NodeId, RequestId, WorkerId};
use pontoon_proto::peer as pb;
use pontoon_raft::catalog::Catalog;
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Binding, EndReason};
use pontoon_raft::directory::session::{ENTER_MARGIN, State};
use pontoon_raft::group::{Group, Status};
use pontoon_raft::machine::Machine;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A group's number and generation.
pub(super) type Of = (u32, u64);

/// What one client did to one session, as far as it knows.
#[derive(Debug, Default)]
struct Known {
    acknowledged: bool,
    /// Somebody asked for its end, or its client stopped to care.
    end_asked: bool,
    window: Duration,
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
    last_leader: BTreeMap<Of, NodeId>,
    entries: BTreeMap<(Of, u64, u64, u64), u64>,
    committed: BTreeMap<(Of, u64), (u64, u64, u64)>,
    hashes: BTreeMap<(Of, u64), [u8; 32]>,
    voters: BTreeMap<Of, Vec<NodeId>>,
    sessions: BTreeMap<RequestId, Known>,
    dying: BTreeSet<WorkerId>,
    jumps: u32,
    /// Somebody was cut off, stopped or killed so far.
    hurt: bool,
}

/// The checks of one run.
pub(super) struct Watch {
    world: Arc<World>,
    seen: Mutex<Seen>,
}

impl Watch {
    pub(super) fn new(world: Arc<World>) -> Watch {
        Watch {
            world,
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader's message on its way.
    pub(super) fn appends(&self, of: Of, request: &pb::AppendRequest) {
        let mut seen = self.seen();
        let committed = request.leader_commit.as_ref().map(|id| id.index);
        for entry in &request.entries {
            let Some(id) = &entry.log_id else { continue };
            let mut hasher = DefaultHasher::new();
            entry.record.hash(&mut hasher);
            let hash = hasher.finish();
            let same = *seen
                .entries
                .entry((of, id.index, id.term, id.member))
                .or_insert(hash);
            if same != hash {
                self.world.fail(
                    "log-matching",
                    format_args!("group {of:?}: two entries {} of term {}", id.index, id.term),
                );
            }
            let known = seen.committed.get(&(of, id.index)).copied();
            if committed.is_some_and(|committed| id.index <= committed) {
                seen.committed
                    .insert((of, id.index), (id.term, id.member, hash));
                if known.is_some_and(|known| known != (id.term, id.member, hash)) {
                    self.world.fail(
                        "committed",
                        format_args!("group {of:?}: entry {} was committed as another", id.index),
                    );
                }
            }
        }
    }

    /// Looks at one replica; none if it stands where it stood the last time.
    pub(super) fn look<M: Machine>(&self, node: NodeId, group: &Group<M>) -> Option<(u64, Arc<M>)> {
        let of = (u32::from(group.id().number()), group.generation());
        let status = group.status();
        self.leader(of, node, group.leads(), &status);
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

    fn leader(&self, of: Of, node: NodeId, leads: bool, status: &Status) {
        let mut seen = self.seen();
        if !leads {
            return;
        }
        if seen.last_leader.insert(of, node) != Some(node) {
            self.world.count("leader changes");
            self.world
                .tell(format_args!("{node} leads {of:?} in term {}", status.term));
        }
        let voters = &status.voters;
        if seen
            .voters
            .insert(of, voters.clone())
            .is_some_and(|before| before != *voters)
        {
            self.world.count("membership changes");
            self.world
                .tell(format_args!("{of:?} has the voters {voters:?}"));
        }
    }

    /// Looks at one replica of the catalog.
    pub(super) fn catalog(&self, node: NodeId, group: &Group<Catalog>) {
        self.look(node, group);
    }

    /// Looks at one replica of a directory, session by session.
    pub(super) fn directory(&self, node: NodeId, group: &Group<Directory>) {
        let Some((index, state)) = self.look(node, group) else {
            return;
        };
        let now = self.world.age();
        let mut seen = self.seen();
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
        let dies = known
            .binding
            .is_some_and(|binding| dying.contains(&binding.worker));
        let may = match reason {
            EndReason::Released | EndReason::Cancelled | EndReason::NoLink => known.end_asked,
            // Whoever is cut off from all of its nodes for long enough is lost by right.
            EndReason::WorkerLost => dies || hurt || known.binding.is_none(),
            EndReason::Expired => {
                let least = known.window + ENTER_MARGIN;
                let slack = Duration::from_secs(2) * jumps;
                let since = known.inside.unwrap_or_default();
                if known.acknowledged && now + slack < since + least {
                    let what = format_args!("{id}, inside at {since:?}, expired by {now:?}");
                    self.world.fail("early-expiry", what);
                }
                true
            }
            EndReason::TimedOut | EndReason::NodeLost => !known.acknowledged,
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
        self.seen().sessions.entry(id).or_default().window = window;
    }

    /// From now on nodes are hurt.
    pub(super) fn hurts(&self) {
        self.seen().hurt = true;
    }

    /// The client was told that it is bound.
    pub(super) fn bound(&self, id: RequestId, binding: Binding, set_out: Duration) {
        let mut seen = self.seen();
        let known = seen.sessions.entry(id).or_default();
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
        self.seen().sessions.entry(id).or_default().end_asked = true;
    }

    /// A worker may be lost from now on.
    pub(super) fn may_die(&self, worker: WorkerId) {
        self.seen().dying.insert(worker);
    }

    /// Some clock for stamps jumped: it may have skipped up to one step.
    pub(super) fn jumped(&self) {
        self.seen().jumps += 1;
    }

    /// All that was acknowledged before a linearizable read sets out.
    pub(super) fn promised(&self) -> Vec<RequestId> {
        let seen = self.seen();
        let promised = seen.sessions.iter().filter(|(_, known)| known.acknowledged);
        promised.map(|(id, _)| *id).collect()
    }

    /// Judges what a linearizable read has found, by what was promised before.
    pub(super) fn read(&self, promised: &[RequestId], state: &Directory) {
        self.world.count("linearizable reads");
        for id in promised {
            let ours = id.region() == Some(state.region());
            if ours && state.session(*id).is_none() && state.ended(*id).is_none() {
                let what = format_args!("{id} was acknowledged and is not found");
                self.world.fail("stale-negative", what);
            }
        }
    }
}
