//! The checks of consensus: what leaders say, and what terms and logs replicas show.
//!
//! In openraft a term may have several leaders one after the other, ordered by their members' numbers. So
//! it is the pair of term and member that must be one process's alone.

use super::world::World;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use pontoon_raft::group::Status;
use pontoon_raft::member::node_of;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A group's number and generation.
pub(super) type Of = (u32, u64);

/// How long after the last message got through a node may still come to a new term: what it had received
/// may wait for its disk.
const ECHO: Duration = Duration::from_secs(2);

/// Whose messages a stream carries.
pub(super) struct Sender {
    pub(super) node: NodeId,
    /// How often that node was started.
    pub(super) life: u64,
    /// Known from the first message on.
    pub(super) of: Option<Of>,
}

/// Under what circumstances a replica is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Circumstances {
    /// How often its node was started.
    pub(super) life: u64,
    /// Its process stands still.
    pub(super) frozen: bool,
    /// Since which mending of the network its node was all alone.
    pub(super) alone: Option<u64>,
}

/// Who has led, by term and member.
type Leader = (Of, u64, u64);

#[derive(Default)]
struct Seen {
    /// By index, term and member: a hash of what the entry holds.
    entries: BTreeMap<(Of, u64, u64, u64), u64>,
    committed: BTreeMap<(Of, u64), (u64, u64)>,
    leaders: BTreeMap<Leader, (NodeId, u64)>,
    /// The entry with the membership that was seen last.
    memberships: BTreeMap<Of, u64>,
    /// Since when each replica is looked at under the same circumstances, and its term at the end of
    /// [`ECHO`].
    terms: BTreeMap<(NodeId, Of), (Circumstances, Duration, Option<u64>)>,
}

/// See the module.
pub(super) struct Consensus {
    world: Arc<World>,
    seen: Mutex<Seen>,
}

impl Consensus {
    pub(super) fn new(world: Arc<World>) -> Consensus {
        Consensus {
            world,
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader's message sets out.
    pub(super) fn appends(&self, sender: &Sender, request: &pb::AppendRequest) {
        let (Some(of), Some(vote)) = (sender.of, &request.vote) else {
            return;
        };
        self.leads(of, vote, sender);
        let commit = request.leader_commit.as_ref();
        let committed = |id: &pb::LogId| commit.is_some_and(|commit| id.index <= commit.index);
        for entry in &request.entries {
            let Some(id) = &entry.log_id else { continue };
            self.entry(of, id, &entry.record);
        }
        let ids = request.entries.iter().map(|entry| entry.log_id.as_ref());
        let ids = ids.chain([request.prev_log_id.as_ref(), commit]);
        for id in ids.flatten().filter(|id| committed(id)) {
            self.committed(of, id);
        }
    }

    fn leads(&self, of: Of, vote: &pb::Vote, sender: &Sender) {
        let process = (sender.node, sender.life);
        let mut seen = self.seen();
        let leader = (of, vote.term, vote.member);
        let before = seen.leaders.get(&leader).copied();
        if before.is_none() {
            seen.leaders.insert(leader, process);
            self.world.count("leader changes");
            self.world.tell(format_args!(
                "{} leads {of:?} in term {} as {:x}",
                sender.node, vote.term, vote.member
            ));
        }
        if before.is_some_and(|before| before != process) || node_of(vote.member) != sender.node {
            let what = format_args!(
                "{of:?}: {process:?} leads in term {} as {:x}, and so did {before:?}",
                vote.term, vote.member
            );
            self.world.fail("one-leader", what);
        }
    }

    fn entry(&self, of: Of, id: &pb::LogId, record: &[u8]) {
        let mut hasher = DefaultHasher::new();
        record.hash(&mut hasher);
        let hash = hasher.finish();
        let mut seen = self.seen();
        let key = (of, id.index, id.term, id.member);
        if *seen.entries.entry(key).or_insert(hash) != hash {
            let what = format_args!("group {of:?}: two entries {} of term {}", id.index, id.term);
            self.world.fail("log-matching", what);
        }
    }

    fn committed(&self, of: Of, id: &pb::LogId) {
        let mut seen = self.seen();
        let this = (id.term, id.member);
        let first = *seen.committed.entry((of, id.index)).or_insert(this);
        if first != this {
            let what = format_args!(
                "group {of:?}: entry {} was committed as of {first:?} and as of {this:?}",
                id.index
            );
            self.world.fail("committed", what);
        }
    }

    /// A replica shows its status.
    pub(super) fn shows(
        &self,
        of: Of,
        node: NodeId,
        leads: bool,
        status: &Status,
        circumstances: Circumstances,
    ) {
        self.stays_in_its_term(of, node, status.term, circumstances);
        if !leads {
            return;
        }
        let before = self.seen().memberships.insert(of, status.membership);
        if before.is_some_and(|before| before < status.membership) {
            self.world.count("membership changes");
            self.world
                .tell(format_args!("{of:?} has the voters {:?}", status.voters));
        }
    }

    /// Whoever hears nobody may ask whether it would be voted for, and must not begin a term: back among
    /// the others it would depose a leader with whom all is well.
    fn stays_in_its_term(&self, of: Of, node: NodeId, term: u64, circumstances: Circumstances) {
        let now = self.world.age();
        let mut seen = self.seen();
        let fresh = (circumstances, now, None);
        let known = seen.terms.entry((node, of)).or_insert(fresh);
        if known.0 != circumstances {
            *known = fresh;
        }
        let quiet = circumstances.alone.is_some() && !circumstances.frozen;
        if !quiet || now < known.1 + ECHO {
            return;
        }
        if known.2.is_none() {
            self.world.count("terms of nodes that are alone");
        }
        let first = *known.2.get_or_insert(term);
        if term != first {
            let what = format_args!("{node} is alone and went from term {first} to {term}");
            self.world.fail("pre-vote", what);
        }
    }
}
