//! Situations of a leader, and the step that each calls for.

use super::*;
use crate::catalog::command::Survive;
use crate::member::member;
use crate::placement::{Place, desired};
use proptest::prelude::*;

/// The member that a node is in its first life.
fn m(node: u32) -> u64 {
    member(NodeId(node), 1, 0)
}

fn set(nodes: &[u32]) -> BTreeSet<u64> {
    nodes.iter().map(|node| m(*node)).collect()
}

/// Three regions of three nodes: 1-3, 4-6, 7-9. Node 1 leads; everybody else listens and is well.
fn world(home: Option<u16>, survive: Survive, voters: &[u32]) -> View {
    let region = |node: u32| RegionId(((node - 1) / 3 + 1) as u16);
    let seats: BTreeMap<NodeId, Seat> = (1..=9)
        .map(|node| {
            let seat = Seat {
                region: region(node),
                standing: Standing::Member,
                heard: Some((m(node), Pace::Wan)),
                leaving: false,
            };
            (NodeId(node), seat)
        })
        .collect();
    let mut view = View {
        me: m(1),
        home: home.map(RegionId),
        voters: vec![set(voters)],
        learners: (1..=9)
            .filter(|node| !voters.contains(node))
            .map(m)
            .collect(),
        caught_up: (1..=9).map(m).collect(),
        seats,
        desired: Placement::default(),
        intended: Placement::default(),
        pace: Pace::Wan,
        fitting: None,
    };
    view.place(survive);
    view
}

impl View {
    fn place(&mut self, survive: Survive) {
        let members: Vec<Place> = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.standing != Standing::Removed)
            .map(|(node, seat)| Place {
                node: *node,
                region: seat.region,
            })
            .collect();
        let dead = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.standing == Standing::Dead)
            .map(|(node, _)| *node)
            .collect();
        self.desired = desired(self.home, survive, &members, &dead, &[]);
        self.intended = desired(self.home, survive, &members, &BTreeSet::new(), &[]);
    }

    fn seat(&mut self, node: u32) -> &mut Seat {
        self.seats.get_mut(&NodeId(node)).unwrap()
    }

    /// Takes steps until none is wanted; the voters after each.
    fn settle(&mut self) -> Vec<Vec<u32>> {
        let mut history = Vec::new();
        for _ in 0..40 {
            let Some(step) = next(self) else {
                return history;
            };
            match step {
                Step::Vote(voters) => {
                    let before = self.voters[0].clone();
                    self.learners.extend(before.difference(&voters));
                    self.learners.retain(|member| !voters.contains(member));
                    history.push(voters.iter().map(|one| node_of(*one).0).collect());
                    self.voters = vec![voters];
                }
                Step::Add(member) => {
                    self.learners.insert(member);
                    self.caught_up.insert(member);
                }
                Step::Drop(member) => {
                    self.learners.remove(&member);
                }
                Step::HandOver(member) => self.me = member,
                Step::Pace(pace) => self.pace = pace,
                Step::Turn(node) => {
                    let pace = self.pace;
                    if let Some((_, now)) = &mut self.seats.get_mut(&node).unwrap().heard {
                        *now = pace;
                    }
                }
                Step::Settle => panic!("there was nothing to settle"),
            }
        }
        panic!("it never comes to rest: {history:?}");
    }
}

#[test]
fn a_group_where_it_belongs_is_left_alone() {
    let mut view = world(Some(1), Survive::Region, &[1, 2, 4, 5, 7]);
    assert_eq!(next(&view), None);
    view.me = m(4);
    assert_eq!(next(&view), Some(Step::HandOver(m(1))));
}

#[test]
fn a_group_that_was_born_with_one_voter_grows_by_odd_numbers() {
    let mut view = world(Some(1), Survive::Region, &[1]);
    assert_eq!(view.settle(), [vec![1, 2, 4], vec![1, 2, 4, 5, 7]]);
}

#[test]
fn a_learner_that_lags_is_waited_for() {
    let mut view = world(Some(1), Survive::Region, &[1, 2, 3]);
    view.caught_up = set(&[1, 2, 3]);
    assert_eq!(next(&view), None);
    view.caught_up.extend(set(&[4]));
    assert_eq!(next(&view), Some(Step::Vote(set(&[1, 2, 4]))));
}

#[test]
fn h_28_zone_to_region_spreads_voters_only_after_the_longer_timing_is_everywhere() {
    let mut view = world(Some(1), Survive::Region, &[1, 2, 3]);
    view.pace = Pace::Lan;
    for node in 1..=9 {
        view.seat(node).heard = Some((m(node), Pace::Lan));
    }
    view.fitting = Some(Pace::Wan);
    assert_eq!(next(&view), Some(Step::Pace(Pace::Wan)));
    view.pace = Pace::Wan;
    for node in 2..=9 {
        let Some(Step::Turn(turn)) = next(&view) else {
            panic!("{:?}", next(&view));
        };
        assert_ne!(turn, NodeId(1), "the leader comes last");
        let seat = view.seats.get_mut(&turn).unwrap();
        seat.heard = seat.heard.map(|(member, _)| (member, Pace::Wan));
        assert!(node <= 9);
    }
    // The leader lets another one lead before it starts again.
    let Some(Step::HandOver(other)) = next(&view) else {
        panic!("{:?}", next(&view));
    };
    view.me = other;
    assert_eq!(next(&view), Some(Step::Turn(NodeId(1))));
    view.seat(1).heard = Some((m(1), Pace::Wan));
    let history = view.settle();
    assert_eq!(history.last().unwrap(), &[1, 2, 4, 5, 7]);
    assert!(
        history.iter().all(|voters| voters.len() % 2 == 1),
        "{history:?}"
    );
}

#[test]
fn h_28_region_to_zone_shortens_the_timing_only_after_the_voters_have_gathered() {
    let mut view = world(Some(1), Survive::Zone, &[1, 2, 4, 5, 7]);
    view.fitting = Some(Pace::Lan);
    assert_eq!(next(&view), Some(Step::Vote(set(&[1, 2, 3, 5, 7]))));
    assert_eq!(view.settle(), [vec![1, 2, 3, 5, 7], vec![1, 2, 3]]);
    assert_eq!(view.pace, Pace::Lan);
}

#[test]
fn a_dead_voter_is_replaced_and_a_region_never_gets_a_majority_by_it() {
    let mut view = world(Some(1), Survive::Region, &[1, 2, 4, 5, 7]);
    view.seat(5).standing = Standing::Dead;
    view.seat(5).heard = None;
    view.place(Survive::Region);
    assert_eq!(view.settle(), [vec![1, 2, 4, 6, 7]]);
    assert!(!view.learners.contains(&m(5)), "the dead one goes");
}

#[test]
fn silence_alone_moves_nobody() {
    let mut view = world(Some(1), Survive::Region, &[1, 2, 4, 5, 7]);
    view.seat(5).heard = None;
    assert_eq!(next(&view), None);
}

#[test]
fn deaths_without_a_replacement_leave_the_group_as_large_as_it_is() {
    for voters in [&[1, 4, 7][..], &[1, 2, 4, 5, 7]] {
        let mut view = world(Some(1), Survive::Region, voters);
        view.seats.retain(|node, _| voters.contains(&node.0));
        view.learners.clear();
        view.seat(7).standing = Standing::Dead;
        view.seat(7).heard = None;
        view.place(Survive::Region);
        assert_eq!(next(&view), None, "{voters:?}");
    }
}

#[test]
fn h_30_a_group_that_can_lose_nobody_is_still_repaired() {
    let mut view = world(None, Survive::Region, &[1, 4, 7]);
    view.seats.retain(|node, _| [1, 2, 4, 7].contains(&node.0));
    view.learners = set(&[2]);
    view.seat(7).standing = Standing::Dead;
    view.seat(7).heard = None;
    view.place(Survive::Region);
    assert_eq!(view.settle(), [vec![1, 2, 4]]);
}

#[test]
fn a_node_that_lost_its_log_votes_again_as_another_member() {
    let mut view = world(Some(1), Survive::Region, &[1, 2, 4, 5, 7]);
    let reborn = member(NodeId(5), 2, 0);
    view.seat(5).heard = Some((reborn, Pace::Wan));
    assert_eq!(next(&view), Some(Step::Add(reborn)));
    view.learners.insert(reborn);
    assert_eq!(next(&view), None, "it has to catch up");
    view.caught_up.insert(reborn);
    let mut voters = set(&[1, 2, 4, 7]);
    voters.insert(reborn);
    assert_eq!(next(&view), Some(Step::Vote(voters.clone())));
    view.voters = vec![voters];
    view.learners.remove(&reborn);
    view.learners.insert(m(5));
    assert_eq!(next(&view), Some(Step::Drop(m(5))));
}

#[test]
fn a_node_that_was_removed_hands_over_and_goes() {
    let mut view = world(Some(1), Survive::Region, &[1, 2, 4, 5, 7]);
    view.seat(1).standing = Standing::Removed;
    view.place(Survive::Region);
    assert_eq!(next(&view), Some(Step::HandOver(m(2))));
    view.me = m(2);
    view.settle();
    assert_eq!(view.voters[0], set(&[2, 3, 4, 5, 7]));
    assert!(!view.learners.contains(&m(1)));
}

#[test]
fn h_23_a_recovered_group_goes_home_without_a_moment_on_one_voter_elsewhere() {
    let mut view = world(Some(1), Survive::Zone, &[4]);
    view.me = m(4);
    for node in 1..=3 {
        view.seat(node).heard = None;
        view.learners.remove(&m(node));
    }
    assert_eq!(next(&view), None, "home is out of reach");
    for node in 1..=3 {
        let again = member(NodeId(node), 1, 1);
        view.seat(node).heard = Some((again, Pace::Wan));
    }
    let history = view.settle();
    assert_eq!(history, [vec![1, 2, 4], vec![1, 2, 3]]);
}

#[test]
fn what_a_leader_before_began_is_finished_first() {
    let mut view = world(Some(1), Survive::Region, &[1, 2, 4]);
    view.voters.push(set(&[1, 2, 5]));
    assert_eq!(next(&view), Some(Step::Settle));
}

proptest! {
    /// From anywhere, with anybody dead: it comes to rest, and no step on the way makes the group
    /// weaker than it was and is meant to be.
    #[test]
    fn h_30_no_step_lowers_what_the_group_outlives(
        voters in proptest::sample::subsequence((1u32..=9).collect::<Vec<_>>(), 1..=5),
        dead in proptest::sample::subsequence(vec![4u32, 5, 6], 0..=3),
        zone in any::<bool>(),
    ) {
        let survive = if zone { Survive::Zone } else { Survive::Region };
        let mut view = world(Some(1), survive, &voters);
        view.me = *view.voters[0].first().unwrap();
        for node in &dead {
            view.seat(*node).standing = Standing::Dead;
            view.seat(*node).heard = None;
        }
        view.place(survive);
        let alive = |set: &[u32]| set.iter().filter(|node| !dead.contains(node)).count() as i32;
        let tolerance = |set: &[u32]| alive(set) - (set.len() as i32 / 2 + 1);
        let quorum = tolerance(&voters) >= 0;
        prop_assume!(quorum && !dead.contains(&node_of(view.me).0));
        let history = view.settle();
        let rest: Vec<u32> = view.voters[0].iter().map(|one| node_of(*one).0).collect();
        let mut before = voters.clone();
        for after in history {
            let least = tolerance(&before).min(tolerance(&rest));
            prop_assert!(tolerance(&after) >= least, "{before:?} -> {after:?}");
            before = after;
        }
        if dead.is_empty() {
            let wanted: Vec<u32> = view.desired.voters.iter().map(|node| node.0).collect();
            prop_assert_eq!(rest, wanted);
        }
    }
}

#[test]
fn o_drn_1_a_leader_that_leaves_hands_over_at_home_and_not_to_one_that_leaves_too() {
    let mut view = world(Some(1), Survive::Region, &[1, 2, 4, 5, 7]);
    assert_eq!(next(&view), None);
    view.seat(1).leaving = true;
    assert_eq!(next(&view), Some(Step::HandOver(m(2))));
    view.seat(2).leaving = true;
    assert_eq!(next(&view), Some(Step::HandOver(m(4))));
    for node in [4, 5, 7] {
        view.seat(node).leaving = true;
    }
    assert_eq!(next(&view), None, "somebody has to lead");
}

#[test]
fn o_drn_1_a_leader_away_from_home_does_not_go_where_everybody_leaves() {
    let mut view = world(Some(2), Survive::Region, &[1, 2, 4, 5, 7]);
    assert_eq!(next(&view), Some(Step::HandOver(m(4))));
    view.seat(4).leaving = true;
    assert_eq!(next(&view), Some(Step::HandOver(m(5))));
    view.seat(5).leaving = true;
    assert_eq!(next(&view), None);
}
