//! Which nodes vote in a group.
//!
//! A pure function of what the catalog knows; the autopilot of a group walks towards its answer one
//! step at a time. Everybody who computes it from the same catalog gets the same answer.

use crate::catalog::command::Survive;
use pontoon_proto::id::{NodeId, RegionId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The most voters of a group. Five outlive two losses; seven would outlive three, at the price of
/// one more fsync in the way of each commit.
pub const VOTERS_MAX: usize = 5;

/// A node and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which node.
    pub node: NodeId,
    /// Where.
    pub region: RegionId,
}

/// Who votes and who only learns; both in id order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// They vote.
    pub voters: BTreeSet<NodeId>,
    /// They keep a replica.
    pub learners: BTreeSet<NodeId>,
}

/// Who should vote in a group.
///
/// `home` is the region of the group, none for the catalog. `dead` nodes are passed over, as voters
/// and as learners. `nearest` is the order of the other regions by distance from home; those that it
/// does not name come last, by number. Within a region the lower ids come first.
///
/// * [`Survive::Zone`]: the largest odd number, at most five, of home nodes. Losing
///   `(voters - 1) / 2` of them is outlived. With no home node alive nobody is named: the group stays
///   as it is until its region is back. A catalog has no home, and is placed as below.
/// * [`Survive::Region`]: the largest odd number `n`, at most five, such that no region holds a
///   majority. A region may hold `(n - 1) / 2` voters, so that the others, `(n + 1) / 2`, are a
///   majority without it: of 5 at most 2, of 3 at most 1. `n` is possible when the sum over the
///   regions of `min(nodes, (n - 1) / 2)` reaches it. With fewer than three regions that have nodes
///   only `n = 1` is possible: a lone voter survives nothing, so there the regions are ignored and
///   the rule is that of `Zone` over all nodes, home first. The places are filled home first, then
///   region by region in the order of distance.
///
/// An even number of voters outlives no more than one fewer does, and commits more slowly; hence odd.
pub fn desired(
    home: Option<RegionId>,
    survive: Survive,
    members: &[Place],
    dead: &BTreeSet<NodeId>,
    nearest: &[RegionId],
) -> Placement {
    let living: BTreeSet<Place> = members
        .iter()
        .filter(|place| !dead.contains(&place.node))
        .copied()
        .collect();
    let mut regions: BTreeMap<(usize, RegionId), Vec<NodeId>> = BTreeMap::new();
    for place in &living {
        let rank = rank(home, nearest, place.region);
        regions
            .entry((rank, place.region))
            .or_default()
            .push(place.node);
    }
    let order: Vec<Vec<NodeId>> = regions.into_values().collect();
    let at_home: Vec<NodeId> = living
        .iter()
        .filter(|place| Some(place.region) == home)
        .map(|place| place.node)
        .collect();
    let voters: BTreeSet<NodeId> = match survive {
        Survive::Zone if home.is_some() => at_home[..odd(at_home.len())].iter().copied().collect(),
        Survive::Zone | Survive::Region => across(&order),
    };
    let learners = living
        .iter()
        .map(|place| place.node)
        .filter(|node| !voters.contains(node))
        .collect();
    Placement { voters, learners }
}

/// How many losses of nodes a group outlives now: voters may be lost until the living ones are no
/// majority any more. 0: the next loss stops it; below 0: it has stopped.
///
/// A majority of `n` is `n / 2 + 1`, so the answer is `living - (n / 2 + 1)`; for no voters at all
/// it is -1.
pub fn failure_tolerance(voters: &BTreeSet<NodeId>, dead: &BTreeSet<NodeId>) -> i32 {
    let living = voters.difference(dead).count() as i32;
    living - (voters.len() as i32 / 2 + 1)
}

/// Another order of regions by distance, if the present one is clearly wrong.
///
/// `measured` has the round trips of the regions that answer. Two regions change places only when the
/// one that comes later is nearer by more than a fifth and by more than 2 ms: what is nearly equal
/// would flip with every measurement, and each flip would move voters (H-30). Regions that don't
/// answer keep their places; new ones come where their distance puts them.
pub fn reorder(
    present: &[RegionId],
    measured: &BTreeMap<RegionId, Duration>,
) -> Option<Vec<RegionId>> {
    let clearly = |near: RegionId, far: RegionId| match (measured.get(&near), measured.get(&far)) {
        (Some(near), Some(far)) => *near * 5 < *far * 4 && *near + Duration::from_millis(2) < *far,
        _ => false,
    };
    let mut order: Vec<RegionId> = present.to_vec();
    order.extend(measured.keys().filter(|region| !present.contains(region)));
    // Insertion by clear wins only: stable, and the same from the same measurements.
    for end in 1..order.len() {
        let mut at = end;
        while at > 0 && clearly(order[at], order[at - 1]) {
            order.swap(at, at - 1);
            at -= 1;
        }
    }
    let moved = order.iter().zip(present).any(|(new, old)| new != old);
    let sorted = present.is_empty() && order.is_sorted();
    (moved || order.len() > present.len() && !sorted).then_some(order)
}

/// Home is 0, the others as `nearest` has them, unknown ones last.
fn rank(home: Option<RegionId>, nearest: &[RegionId], region: RegionId) -> usize {
    if home == Some(region) {
        return 0;
    }
    let known = nearest.iter().position(|one| *one == region);
    known.map_or(usize::MAX, |place| place + 1)
}

/// The largest odd number that is neither above this nor above five; 0 for none.
fn odd(available: usize) -> usize {
    match available.min(VOTERS_MAX) {
        even if even % 2 == 0 => even.saturating_sub(1),
        odd => odd,
    }
}

/// Voters from regions in this order, no region with a majority when that is possible.
fn across(regions: &[Vec<NodeId>]) -> BTreeSet<NodeId> {
    let all: usize = regions.iter().map(Vec::len).sum();
    let holds = |n: &usize| {
        regions
            .iter()
            .map(|nodes| nodes.len().min((n - 1) / 2))
            .sum::<usize>()
            >= *n
    };
    let (count, share) = match (3..=odd(all)).rev().step_by(2).find(holds) {
        Some(n) => (n, (n - 1) / 2),
        None => (odd(all), all),
    };
    regions
        .iter()
        .flat_map(|nodes| nodes.iter().take(share))
        .take(count)
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn places(regions: &[(u16, u32)]) -> Vec<Place> {
        let mut node = 0;
        let mut places = Vec::new();
        for &(region, count) in regions {
            for _ in 0..count {
                node += 1;
                places.push(Place {
                    node: NodeId(node),
                    region: RegionId(region),
                });
            }
        }
        places
    }

    fn voters(
        home: Option<u16>,
        survive: Survive,
        regions: &[(u16, u32)],
        nearest: &[u16],
    ) -> Vec<u32> {
        let nearest: Vec<_> = nearest.iter().map(|&region| RegionId(region)).collect();
        let placed = desired(
            home.map(RegionId),
            survive,
            &places(regions),
            &BTreeSet::new(),
            &nearest,
        );
        placed.voters.iter().map(|node| node.0).collect()
    }

    #[test]
    fn one_node_in_each_of_three_regions_votes_everywhere() {
        for home in [None, Some(1), Some(2), Some(3)] {
            let chosen = voters(home, Survive::Region, &[(1, 1), (2, 1), (3, 1)], &[]);
            assert_eq!(chosen, [1, 2, 3]);
        }
    }

    #[test]
    fn five_voters_are_spread_two_two_one_with_home_first_and_the_near_before_the_far() {
        let regions = [(1, 3), (2, 3), (3, 3)];
        assert_eq!(
            voters(Some(2), Survive::Region, &regions, &[3, 1]),
            [1, 4, 5, 7, 8]
        );
        assert_eq!(
            voters(Some(2), Survive::Region, &regions, &[1, 3]),
            [1, 2, 4, 5, 7]
        );
    }

    #[test]
    fn three_voters_where_five_would_give_a_region_the_majority() {
        assert_eq!(
            voters(Some(1), Survive::Region, &[(1, 5), (2, 1), (3, 1)], &[2, 3]),
            [1, 6, 7]
        );
    }

    #[test]
    fn a_zone_group_votes_at_home_only() {
        assert_eq!(
            voters(Some(1), Survive::Zone, &[(1, 4), (2, 4)], &[2]),
            [1, 2, 3]
        );
        assert_eq!(voters(Some(2), Survive::Zone, &[(1, 1), (2, 2)], &[1]), [2]);
    }

    #[test]
    fn two_regions_cannot_outlive_either_so_all_nodes_count_alike() {
        assert_eq!(
            voters(Some(2), Survive::Region, &[(1, 2), (2, 2)], &[1]),
            [1, 3, 4]
        );
    }

    #[test]
    fn tolerance_counts_the_losses_that_are_left() {
        let nodes =
            |range: std::ops::RangeInclusive<u32>| range.map(NodeId).collect::<BTreeSet<_>>();
        let none = BTreeSet::new();
        assert_eq!(failure_tolerance(&none, &none), -1);
        assert_eq!(failure_tolerance(&nodes(1..=1), &none), 0);
        assert_eq!(failure_tolerance(&nodes(1..=3), &none), 1);
        assert_eq!(failure_tolerance(&nodes(1..=4), &none), 1);
        assert_eq!(failure_tolerance(&nodes(1..=5), &nodes(4..=9)), 0);
        assert_eq!(failure_tolerance(&nodes(1..=5), &nodes(3..=5)), -1);
    }

    #[test]
    fn h_30_regions_change_places_only_when_one_is_clearly_nearer() {
        let order = |present: &[u16], measured: &[(u16, u64)]| {
            let present: Vec<_> = present.iter().map(|one| RegionId(*one)).collect();
            let measured = measured.iter();
            let measured = measured.map(|(one, ms)| (RegionId(*one), Duration::from_millis(*ms)));
            let order = reorder(&present, &measured.collect());
            order.map(|order| order.iter().map(|one| one.0).collect::<Vec<_>>())
        };
        assert_eq!(order(&[2, 3], &[(2, 60), (3, 61)]), None);
        assert_eq!(order(&[2, 3], &[(2, 61), (3, 60)]), None);
        assert_eq!(order(&[2, 3], &[(2, 1), (3, 0)]), None);
        assert_eq!(order(&[2, 3], &[(2, 80), (3, 60)]), Some(vec![3, 2]));
        assert_eq!(order(&[2, 3], &[(3, 60)]), None);
        assert_eq!(order(&[], &[(2, 1), (3, 1)]), None);
        assert_eq!(order(&[], &[(2, 80), (3, 20)]), Some(vec![3, 2]));
        assert_eq!(
            order(&[3, 2], &[(2, 80), (3, 20), (4, 50)]),
            Some(vec![3, 4, 2])
        );
    }

    proptest! {
        #[test]
        fn placements_keep_their_promises(
            counts in proptest::collection::vec(0u32..6, 0..6),
            home in proptest::option::of(1u16..7),
            zone in any::<bool>(),
            dead in proptest::collection::btree_set(1u32..31, 0..6),
            nearest in proptest::collection::vec(1u16..7, 0..6),
        ) {
            let regions: Vec<_> = counts.iter().enumerate().map(|(i, &n)| (i as u16 + 1, n)).collect();
            let members = places(&regions);
            let dead: BTreeSet<_> = dead.into_iter().map(NodeId).collect();
            let nearest: Vec<_> = nearest.into_iter().map(RegionId).collect();
            let home = home.map(RegionId);
            let survive = if zone { Survive::Zone } else { Survive::Region };
            let placed = desired(home, survive, &members, &dead, &nearest);

            let mut shuffled = members.clone();
            shuffled.reverse();
            prop_assert_eq!(&desired(home, survive, &shuffled, &dead, &nearest), &placed);

            let living: Vec<_> = members.iter().filter(|place| !dead.contains(&place.node)).collect();
            prop_assert!(placed.voters.is_disjoint(&placed.learners));
            prop_assert_eq!(placed.voters.len() + placed.learners.len(), living.len());
            let placed_somewhere: BTreeSet<_> = placed.voters.union(&placed.learners).copied().collect();
            let living_nodes: BTreeSet<_> = living.iter().map(|place| place.node).collect();
            prop_assert_eq!(placed_somewhere, living_nodes);
            prop_assert!(placed.voters.len() <= VOTERS_MAX);

            let votes = |region: RegionId| {
                living.iter().filter(|p| p.region == region && placed.voters.contains(&p.node)).count()
            };
            let here = |region: RegionId| living.iter().filter(|p| p.region == region).count();
            let homes = home.map_or(0, here);
            let candidates = if zone && home.is_some() { homes } else { living.len() };
            prop_assert_eq!(placed.voters.len().is_multiple_of(2), candidates == 0);
            if zone && home.is_some() {
                prop_assert_eq!(home.map_or(0, votes), placed.voters.len());
            } else {
                let populated = (1..7).map(RegionId).filter(|r| here(*r) > 0).count();
                if populated >= 3 {
                    for region in (1..7).map(RegionId) {
                        prop_assert!(votes(region) * 2 < placed.voters.len());
                    }
                    prop_assert!(placed.voters.len() >= 3);
                }
                if let Some(home) = home.filter(|_| homes > 0) {
                    prop_assert!(votes(home) > 0, "the leader could not be at home");
                }
            }
        }
    }
}
