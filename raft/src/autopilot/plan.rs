//! What a group's leader does next for its membership: a pure function of what it sees.
//!
//! One step at a time, each from the membership as it is then. The order says what matters most:
//! finish what was begun, make the timing safe, let go of who is gone, let in who is new, move voters,
//! and last bring the leader home.

use crate::catalog::command::{Pace, Standing};
use crate::member::node_of;
use crate::placement::{Placement, failure_tolerance};
use pontoon_proto::id::{NodeId, RegionId};
use std::collections::{BTreeMap, BTreeSet};

/// A learner that lacks fewer entries is caught up: a second's worth at full load, which is sent in
/// a few messages.
const BEHIND_MAX: u64 = 2_000;

/// What a leader sees.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// This member, which leads.
    pub(crate) me: u64,
    /// The region of the group; none for the catalog.
    pub(crate) home: Option<RegionId>,
    /// One set of voters; two while they change.
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) learners: BTreeSet<u64>,
    /// Which of the learners and voters have nearly all entries.
    pub(crate) caught_up: BTreeSet<u64>,
    /// All nodes of the cluster, removed ones included.
    pub(crate) seats: BTreeMap<NodeId, Seat>,
    /// Who shall vote, dead nodes passed over.
    pub(crate) desired: Placement,
    /// Who would vote if nobody were dead.
    pub(crate) intended: Placement,
    /// How patient the group is meant to be, by the catalog.
    pub(crate) pace: Pace,
    /// How patient it had better be, by the measured round trips; none when that can't be said, or is
    /// fixed by configuration.
    pub(crate) fitting: Option<Pace>,
}

/// What a leader knows of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) region: RegionId,
    pub(crate) standing: Standing,
    /// Which member it is, and how patient, while it is heard of.
    pub(crate) heard: Option<(u64, Pace)>,
    /// It is about to leave, and leads only where nobody else can.
    pub(crate) leaving: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A change of voters that was begun is finished.
    Settle,
    /// A member listens from now on.
    Add(u64),
    /// A learner goes.
    Drop(u64),
    /// Other voters.
    Vote(BTreeSet<u64>),
    /// Another voter leads.
    HandOver(u64),
    /// Another timing is written down.
    Pace(Pace),
    /// It is this node's turn to start again with the timing that is written down.
    Turn(NodeId),
}

/// The next step, if one is wanted and safe.
pub(crate) fn next(view: &View) -> Option<Step> {
    let [voters] = &view.voters[..] else {
        return Some(Step::Settle);
    };
    if view.fitting == Some(Pace::Wan) && view.pace == Pace::Lan {
        return Some(Step::Pace(Pace::Wan));
    }
    if let Some(step) = view.turn(voters) {
        return Some(step);
    }
    view.leave(voters)
        .or_else(|| view.drop_learner())
        .or_else(|| view.add_learner(voters))
        .or_else(|| view.vote(voters))
        .or_else(|| view.shorten(voters))
        .or_else(|| view.go_home(voters))
}

impl View {
    /// Lets the members that have another timing than the one written down start again, one at a
    /// time, this one last. Voters don't move before all have it (H-28).
    fn turn(&self, voters: &BTreeSet<u64>) -> Option<Step> {
        let other = |member: &&u64| {
            let seat = self.seats.get(&node_of(**member));
            let heard = seat.and_then(|seat| seat.heard);
            heard.is_some_and(|(heard, pace)| heard == **member && pace != self.pace)
        };
        let members = voters.iter().chain(&self.learners);
        let mut late: Vec<u64> = members.filter(other).copied().collect();
        if late == [self.me] {
            return Some(match self.successor(voters) {
                Some(successor) => Step::HandOver(successor),
                None => Step::Turn(node_of(self.me)),
            });
        }
        late.retain(|member| *member != self.me);
        late.first().map(|member| Step::Turn(node_of(*member)))
    }

    /// A leader that is about to leave lets another voter lead that is not.
    fn leave(&self, voters: &BTreeSet<u64>) -> Option<Step> {
        if !self.is_leaving(self.me) {
            return None;
        }
        self.successor(&self.staying(voters)).map(Step::HandOver)
    }

    /// Whether a member's node is about to leave.
    fn is_leaving(&self, member: u64) -> bool {
        let seat = self.seats.get(&node_of(member));
        seat.is_some_and(|seat| seat.leaving)
    }

    /// Those of which nobody knows that they are about to leave.
    fn staying(&self, of: &BTreeSet<u64>) -> BTreeSet<u64> {
        let staying = of.iter().filter(|member| !self.is_leaving(**member));
        staying.copied().collect()
    }

    /// A learner that has no business here: its node left, is dead, or came back as another member.
    fn drop_learner(&self) -> Option<Step> {
        let gone = |member: &&u64| match self.seats.get(&node_of(**member)) {
            None => true,
            Some(seat) => {
                let superseded = seat.heard.is_some_and(|(heard, _)| heard > **member);
                seat.standing != Standing::Member || superseded
            }
        };
        self.learners.iter().find(gone).copied().map(Step::Drop)
    }

    /// A node that is heard of as a member which the group does not have.
    fn add_learner(&self, voters: &BTreeSet<u64>) -> Option<Step> {
        self.seats
            .values()
            .filter(|seat| seat.standing == Standing::Member)
            .filter_map(|seat| seat.heard)
            .map(|(member, _)| member)
            .find(|member| !voters.contains(member) && !self.learners.contains(member))
            .map(Step::Add)
    }

    /// Moves the voters towards those that are wanted: by an exchange, else by more, else by fewer.
    fn vote(&self, voters: &BTreeSet<u64>) -> Option<Step> {
        let wanted = self.wanted(voters);
        if wanted.is_empty() {
            return None;
        }
        let more: Vec<u64> = wanted
            .difference(voters)
            .copied()
            .filter(|member| self.learners.contains(member) && self.caught_up.contains(member))
            .collect();
        let fewer = self.leavers(voters, &wanted);
        let growing = wanted.len() > voters.len() + 1;
        steps(&more, &fewer, voters.len() % 2 == 1, growing)
            .into_iter()
            .find_map(|(come, go)| {
                let mut next = voters.clone();
                next.extend(&come);
                next.retain(|member| !go.contains(member));
                self.is_safe(voters, &next, &wanted)
                    .then(|| self.leave_first(voters, next))?
            })
    }

    /// A leader that won't vote any more lets one of those that stay lead first.
    fn leave_first(&self, voters: &BTreeSet<u64>, next: BTreeSet<u64>) -> Option<Step> {
        if next.contains(&self.me) {
            return Some(Step::Vote(next));
        }
        let staying: BTreeSet<u64> = voters.intersection(&next).copied().collect();
        self.successor(&staying).map(Step::HandOver)
    }

    /// The members that shall vote: each wanted node as the member that it is now. While deaths alone
    /// would make the group smaller it stays as it is: fewer copies are no repair.
    fn wanted(&self, voters: &BTreeSet<u64>) -> BTreeSet<u64> {
        let now: BTreeMap<NodeId, u64> = voters.iter().map(|one| (node_of(*one), *one)).collect();
        let shrunk = self.desired.voters.len() < self.intended.voters.len();
        let nodes: BTreeSet<NodeId> = if shrunk {
            let removed = |node: &NodeId| {
                let seat = self.seats.get(node);
                seat.is_none_or(|seat| seat.standing == Standing::Removed)
            };
            let stay = now.keys().copied().filter(|node| !removed(node));
            let mut nodes: BTreeSet<NodeId> = stay.collect();
            let missing = self.desired.voters.iter().copied();
            for node in missing {
                if nodes.len() < self.intended.voters.len() {
                    nodes.insert(node);
                }
            }
            nodes
        } else {
            self.desired.voters.clone()
        };
        nodes
            .into_iter()
            .filter_map(|node| {
                let heard = self.seats.get(&node).and_then(|seat| seat.heard);
                let known = now.get(&node).copied();
                heard.map(|(member, _)| member).max(known)
            })
            .collect()
    }

    /// Voters that are not wanted, those that help least first.
    fn leavers(&self, voters: &BTreeSet<u64>, wanted: &BTreeSet<u64>) -> Vec<u64> {
        let mut leavers: Vec<u64> = voters.difference(wanted).copied().collect();
        leavers.sort_by_key(|member| (self.lives(*member), *member == self.me, *member));
        leavers
    }

    /// Whether a member is heard of.
    fn lives(&self, member: u64) -> bool {
        let seat = self.seats.get(&node_of(member));
        let heard = seat.and_then(|seat| seat.heard);
        heard.is_some_and(|(heard, _)| heard == member)
    }

    /// No step may lower what the group outlives now, nor how many have a copy of what it
    /// acknowledges, below what is wanted in the end.
    fn is_safe(&self, from: &BTreeSet<u64>, to: &BTreeSet<u64>, wanted: &BTreeSet<u64>) -> bool {
        let silent = |set: &BTreeSet<u64>| -> BTreeSet<u64> {
            let silent = set.iter().filter(|member| !self.lives(**member));
            silent.copied().collect()
        };
        let tolerance = |set: &BTreeSet<u64>| {
            let numbered: BTreeMap<u64, NodeId> =
                (1..).map(NodeId).zip(set).map(|(n, m)| (*m, n)).collect();
            let dead = silent(set).iter().map(|m| numbered[m]).collect();
            failure_tolerance(&numbered.values().copied().collect(), &dead)
        };
        let copies = |set: &BTreeSet<u64>| set.len() / 2 + 1;
        let meant = self.intended.voters.len() / 2 + 1;
        tolerance(to) >= tolerance(from).min(tolerance(wanted)).max(0)
            && copies(to) >= copies(from).min(meant)
            && (!self.outlives_regions(from)
                || self.outlives_regions(to)
                || !self.outlives_regions(wanted))
    }

    /// Whether no region has half of the voters or more.
    fn outlives_regions(&self, set: &BTreeSet<u64>) -> bool {
        let mut held: BTreeMap<RegionId, usize> = BTreeMap::new();
        for member in set {
            if let Some(seat) = self.seats.get(&node_of(*member)) {
                *held.entry(seat.region).or_default() += 1;
            }
        }
        held.values().all(|count| 2 * count < set.len())
    }

    /// A shorter timing, once the voters are where they belong.
    fn shorten(&self, voters: &BTreeSet<u64>) -> Option<Step> {
        let there = *voters == self.wanted(voters);
        let shorter = self.fitting == Some(Pace::Lan) && self.pace == Pace::Wan;
        (there && shorter).then_some(Step::Pace(Pace::Lan))
    }

    /// Brings the leader home.
    fn go_home(&self, voters: &BTreeSet<u64>) -> Option<Step> {
        let home = self.home?;
        let at_home = |member: u64| {
            let seat = self.seats.get(&node_of(member));
            seat.is_some_and(|seat| seat.region == home)
        };
        if at_home(self.me) {
            return None;
        }
        let mut there = self.staying(voters);
        there.retain(|member| at_home(*member));
        self.successor(&there).map(Step::HandOver)
    }

    /// Who can lead next, of these: alive, caught up, with the timing that is written down; if
    /// possible one that stays, at home.
    fn successor(&self, of: &BTreeSet<u64>) -> Option<u64> {
        let fit = |member: &&u64| {
            let Some(seat) = self.seats.get(&node_of(**member)) else {
                return false;
            };
            **member != self.me
                && seat.standing == Standing::Member
                && seat.heard == Some((**member, self.pace))
                && self.caught_up.contains(member)
        };
        let away = |member: &&u64| {
            let seat = self.seats.get(&node_of(**member));
            seat.map(|seat| Some(seat.region) != self.home)
        };
        of.iter()
            .filter(fit)
            .min_by_key(|member| (self.is_leaving(**member), away(member)))
            .copied()
    }
}

/// The changes that may come next, those that are tried first in front: exchanges, then more voters,
/// then fewer.
///
/// An even number of voters outlives no more than one fewer does, so an odd one grows and shrinks by
/// two; by one only where one is all that there is, and never while two more are wanted.
fn steps(more: &[u64], fewer: &[u64], odd: bool, growing: bool) -> Vec<(Vec<u64>, Vec<u64>)> {
    let mut steps = Vec::new();
    for come in more {
        steps.extend(fewer.iter().map(|go| (vec![*come], vec![*go])));
    }
    let groups = |from: &[u64]| -> Vec<Vec<u64>> {
        let pairs = from
            .iter()
            .enumerate()
            .flat_map(|(place, one)| from[place + 1..].iter().map(|two| vec![*one, *two]));
        let ones = from.iter().map(|one| vec![*one]);
        match odd && from.len() > 1 {
            true => pairs.collect(),
            false => ones.collect(),
        }
    };
    if !(odd && growing && more.len() == 1) {
        steps.extend(groups(more).into_iter().map(|come| (come, Vec::new())));
    }
    steps.extend(groups(fewer).into_iter().map(|go| (Vec::new(), go)));
    steps
}

/// Which members have nearly all entries up to `last`.
pub(crate) fn caught_up(matched: &BTreeMap<u64, u64>, last: u64) -> BTreeSet<u64> {
    let near = |(_, at): &(&u64, &u64)| **at + BEHIND_MAX >= last && **at > 0;
    matched
        .iter()
        .filter(near)
        .map(|(member, _)| *member)
        .collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
