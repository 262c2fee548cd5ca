//! The list of first members, and the regions that its cluster is born with.

use super::replica::Wanted;
use super::{Inner, Member, StartError};
use crate::catalog::command::{Command, FirstVoter, Pace, Region, Reply, Survive};
use crate::placement::{self, Place};
use pontoon_proto::id::{GroupId, RegionId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

/// How long one proposal of this file may take before it is made anew.
const WITHIN: Duration = Duration::from_secs(5);

/// How often a node that may come to lead looks.
const LOOK: Duration = Duration::from_millis(200);

/// Where the first members are.
pub(super) fn places(members: &[Member]) -> Result<Vec<Place>, StartError> {
    let mut numbers: Vec<&str> = Vec::new();
    let mut places = Vec::new();
    for member in members {
        let known = numbers.iter().position(|name| *name == member.region);
        let number = known.unwrap_or(numbers.len());
        if known.is_none() {
            numbers.push(&member.region);
        }
        let region = u16::try_from(number + 1)
            .map(RegionId)
            .unwrap_or(RegionId(u16::MAX));
        if region > RegionId::MAX {
            return Err(StartError::Members("names more than 4095 regions".into()));
        }
        places.push(Place {
            node: member.node,
            region,
        });
    }
    if places.is_empty() {
        return Err(StartError::Members("is empty".into()));
    }
    Ok(places)
}

/// The catalog's group, as its first voters give birth to it.
pub(super) fn catalog(founders: &[Place], survive: Survive) -> Wanted {
    let placement = placement::desired(None, survive, founders, &BTreeSet::new(), &[]);
    Wanted {
        id: GroupId::Catalog,
        generation: 1,
        stands_first: placement.voters.first().copied(),
        voters: first_life(placement),
        seeded: false,
        pace: Pace::Wan,
    }
}

/// The first voters are all in their first life: a node that lost its folder is no first voter.
fn first_life(placement: placement::Placement) -> Vec<FirstVoter> {
    let first = |node| FirstVoter { node, life: 1 };
    placement.voters.into_iter().map(first).collect()
}

/// The regions of the first list, with their groups' first voters.
fn first_regions(members: &[Member], survive: Survive) -> Vec<Region> {
    let places = places(members).unwrap_or_default();
    let mut regions = BTreeMap::new();
    for (member, place) in members.iter().zip(&places) {
        regions.entry(place.region).or_insert_with(|| {
            let placement =
                placement::desired(Some(place.region), survive, &places, &BTreeSet::new(), &[]);
            Region::new(place.region, &member.region, survive, first_life(placement))
        });
    }
    regions.into_values().collect()
}

/// How long to wait after the catalog has refused a region: only a person can change that.
const REFUSED: Duration = Duration::from_secs(30);

/// Writes the first regions into the catalog, while this node leads it, until all are there. What the
/// catalog refuses is said once, and proposed again now and then.
pub(super) async fn found(inner: Weak<Inner>) {
    let mut refused: BTreeMap<RegionId, Reply> = BTreeMap::new();
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let state = inner.catalog.state();
        let mut unborn = first_regions(&inner.options.members, inner.options.survive);
        unborn.retain(|region| state.region(region.number).is_none());
        if unborn.is_empty() {
            return;
        }
        let mut was_refused = false;
        if inner.catalog.leads() {
            for region in unborn {
                let (name, number) = (region.name.clone(), region.number);
                let command = Command::AddRegion(region);
                match inner.catalog.propose(command, WITHIN).await {
                    Ok(proposed) if proposed.reply == Reply::Done => {
                        tracing::info!(region = name, "the region is born");
                    }
                    Ok(proposed) => {
                        was_refused = true;
                        let before = refused.insert(number, proposed.reply.clone());
                        if before.as_ref() != Some(&proposed.reply) {
                            tracing::error!(region = name, answer = ?proposed.reply, "the catalog refuses the region");
                        }
                    }
                    Err(error) => {
                        tracing::info!(region = name, %error, "the region is not born yet")
                    }
                }
            }
        }
        let mut changed = inner.catalog.changed();
        drop(inner);
        if was_refused {
            // Each refusal is an entry, and with it a change of its own.
            tokio::time::sleep(REFUSED).await;
            continue;
        }
        // Also without a change: this node may come to lead.
        tokio::time::timeout(LOOK, changed.changed()).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::id::NodeId;

    fn members(regions: &[&str]) -> Vec<Member> {
        (1..)
            .zip(regions)
            .map(|(number, region)| Member {
                node: NodeId(number),
                name: format!("{region}-{number}"),
                region: (*region).into(),
            })
            .collect()
    }

    #[test]
    fn regions_are_numbered_by_first_appearance() {
        let members = members(&["us-east", "us-west", "us-east", "eu-central"]);
        let regions = first_regions(&members, Survive::Region);
        let names: Vec<_> = regions
            .iter()
            .map(|region| (region.number.0, region.name.as_str()))
            .collect();
        assert_eq!(names, [(1, "us-east"), (2, "us-west"), (3, "eu-central")]);
        assert!(regions.iter().all(|region| region.voters.len() == 3));
    }

    #[test]
    fn h_3_every_node_computes_the_same_first_voters() {
        let members = members(&["a", "b", "c"]);
        assert_eq!(
            first_regions(&members, Survive::Region),
            first_regions(&members, Survive::Region)
        );
        assert!(places(&[]).is_err());
    }
}
