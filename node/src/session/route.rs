//! Which version a new session runs on, and in which regions it may live.
//!
//! Pure: the catalog and a number from the caller's randomness in, the choice out. An open chooses its
//! version once and keeps it through all its attempts; its regions are looked up again for each, so
//! that a policy that changes while it waits is followed. Distances are those that the catalog has
//! for the own region: measured round trips, damped there.

use pontoon_proto::id::{FunctionId, RegionId};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{Spill, Version};
use std::sync::Arc;

/// One place where an open may be tried.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The region.
    pub(super) region: RegionId,
    /// The version.
    pub(super) version: Arc<Version>,
}

/// The versions that calls which name none may get.
pub(super) fn with_weight(
    catalog: &Catalog,
    function: FunctionId,
    versions: &[Arc<Version>],
) -> Arc<[Arc<Version>]> {
    let taken = |version: &&Arc<Version>| catalog.weight(function, version.id) != Some(0);
    versions.iter().filter(taken).cloned().collect()
}

/// Draws one of the versions by the weights of their function: each is hit by as many of the 2^64
/// numbers as its share of the weights. None: none of them has a weight.
pub(super) fn draw(
    catalog: &Catalog,
    function: FunctionId,
    versions: &[Arc<Version>],
    random: u64,
) -> Option<Arc<Version>> {
    let weight = |version: &Version| u64::from(catalog.weight(function, version.id).unwrap_or(0));
    let sum: u64 = versions.iter().map(|version| weight(version)).sum();
    // The high half of a product is a fraction of the sum, without a division's bias.
    let mut hit = ((u128::from(random) * u128::from(sum)) >> 64) as u64;
    for version in versions {
        match hit.checked_sub(weight(version)) {
            Some(beyond) => hit = beyond,
            None => return Some(version.clone()),
        }
    }
    None
}

/// Where an open of one of these versions may be tried, the best first. `own` is the region of the
/// node that the call came to; `regions` are those with a group.
pub(super) fn ways(
    catalog: &Catalog,
    own: Option<RegionId>,
    regions: &[RegionId],
    versions: &[Arc<Version>],
) -> Vec<Way> {
    let nearest = own.and_then(|own| catalog.region(own));
    let nearest = nearest.map_or(&[][..], |own| &own.nearest);
    let distance = |region: RegionId| {
        if own == Some(region) {
            return 0;
        }
        let known = nearest.iter().position(|one| *one == region);
        known.map_or(usize::MAX, |place| place + 1)
    };
    let mut ways = Vec::with_capacity(regions.len() * versions.len());
    for version in versions {
        for &region in regions {
            let rank = match catalog.spill(version.id) {
                Spill::Any => Some(distance(region)),
                Spill::Home => (own == Some(region)).then_some(0),
                Spill::Only(list) => list.iter().position(|one| *one == region),
            };
            if let Some(rank) = rank {
                let version = version.clone();
                ways.push((rank, Way { region, version }));
            }
        }
    }
    // Stable: versions keep their order within a region. What nobody measured goes by number.
    ways.sort_by_key(|(rank, way)| (*rank, way.region));
    ways.into_iter().map(|(_, way)| way).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::id::{NodeId, TenantId, VersionId};
    use pontoon_raft::catalog::command::{
        Command, FirstVoter, Function, ROUTES_FORMAT, Region, Reply, Survive, Tenant,
        VersionPolicy, VersionState,
    };
    use pontoon_raft::machine::{Clock, Machine as _};

    const FUNCTION: FunctionId = FunctionId(uuid::Uuid::from_u128(2));
    const OWN: Option<RegionId> = Some(RegionId(1));

    fn id(number: u128) -> VersionId {
        VersionId(uuid::Uuid::from_u128(number))
    }

    fn say(catalog: &mut Catalog, command: Command) {
        let reply = catalog.apply(1, Clock(1), command, &mut Vec::new());
        assert_eq!(reply, Reply::Done);
    }

    /// A function with versions 1 and 2, and regions 1 to 3.
    fn catalog() -> Catalog {
        let mut catalog = Catalog::new();
        let tenant = TenantId(uuid::Uuid::from_u128(1));
        let actor = String::new;
        let version = |number| {
            Command::CreateVersion(Version {
                id: id(number),
                function: FUNCTION,
                state: VersionState::Active,
                policy: VersionPolicy::default(),
                actor: actor(),
            })
        };
        let first = FirstVoter {
            node: NodeId(1),
            life: 1,
        };
        let region = |number, name| {
            let number = RegionId(number);
            Command::AddRegion(Region::new(number, name, Survive::Region, vec![first]))
        };
        let format = ROUTES_FORMAT;
        for command in [
            Command::RaiseFormat { format },
            Command::CreateTenant(Tenant {
                id: tenant,
                name: "t".into(),
                actor: actor(),
            }),
            Command::CreateFunction(Function {
                id: FUNCTION,
                tenant,
                name: "f".into(),
                actor: actor(),
            }),
            version(1),
            version(2),
            region(1, "one"),
            region(2, "two"),
            region(3, "three"),
        ] {
            say(&mut catalog, command);
        }
        catalog
    }

    fn weigh(catalog: &mut Catalog, one: u32, two: u32) {
        let command = Command::SetWeights {
            function: FUNCTION,
            weights: vec![(id(1), one), (id(2), two)],
            actor: String::new(),
        };
        say(catalog, command);
    }

    fn spill(catalog: &mut Catalog, spill: Spill) {
        let command = Command::SetSpill {
            version: id(1),
            spill,
            actor: String::new(),
        };
        say(catalog, command);
    }

    fn versions(catalog: &Catalog) -> Arc<[Arc<Version>]> {
        catalog.versions_of(FUNCTION).cloned().collect()
    }

    fn regions(catalog: &Catalog, of: usize) -> Vec<u16> {
        let all = versions(catalog);
        let numbers = [1, 2, 3].map(RegionId);
        let ways = ways(catalog, OWN, &numbers, &all[..of]);
        ways.iter().map(|way| way.region.0).collect()
    }

    #[test]
    fn each_version_gets_its_share_and_one_of_weight_zero_gets_nothing() {
        let mut catalog = catalog();
        let all = versions(&catalog);
        let chosen =
            |catalog: &Catalog, random| draw(catalog, FUNCTION, &all, random).map(|one| one.id);
        assert_eq!(with_weight(&catalog, FUNCTION, &all).len(), 2);
        assert_eq!(chosen(&catalog, 7), None);
        weigh(&mut catalog, 95, 5);
        let steps = (0..1_000).map(|step| step * (u64::MAX / 1_000) + u64::MAX / 2_000);
        let canaries = steps.filter(|random| chosen(&catalog, *random) == Some(id(2)));
        assert_eq!(canaries.count(), 50);
        weigh(&mut catalog, 0, 100);
        assert_eq!(chosen(&catalog, 0), Some(id(2)));
        assert_eq!(chosen(&catalog, u64::MAX), Some(id(2)));
        assert_eq!(with_weight(&catalog, FUNCTION, &all)[..], all[1..]);
    }

    #[test]
    fn regions_are_tried_by_measured_distance_and_by_number_where_there_is_none() {
        let mut catalog = catalog();
        assert_eq!(regions(&catalog, 1), [1, 2, 3]);
        let nearest = Command::SetNearest {
            region: RegionId(1),
            nearest: vec![RegionId(3), RegionId(2)],
        };
        say(&mut catalog, nearest);
        assert_eq!(regions(&catalog, 1), [1, 3, 2]);
    }

    #[test]
    fn a_version_is_tried_only_where_it_may_live() {
        let mut catalog = catalog();
        spill(&mut catalog, Spill::Home);
        assert_eq!(regions(&catalog, 1), [1]);
        // The other version may live anywhere.
        assert_eq!(regions(&catalog, 2), [1, 1, 2, 3]);
        spill(&mut catalog, Spill::Only(vec![RegionId(3), RegionId(1)]));
        assert_eq!(regions(&catalog, 1), [3, 1]);
    }
}
