//! Regions: how they are born, what they outlive, how they are recovered, and how they go.

use super::command::{Effect, FirstVoter, Pace, Region, Reply, Standing, Survive};
use super::node::CLUSTER;
use super::tenant::taken;
use super::{Catalog, Outcome, valid};
use pontoon_proto::id::{GroupId, NodeId, RegionId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The most first voters that a region may name. More than placement ever chooses, so that it may
/// come to choose more.
const FIRST_VOTERS_MAX: usize = 9;

impl Catalog {
    /// A region is born. Its record stays for ever, and with it its number: ids that carry it never
    /// come to mean another region.
    pub(super) fn add_region(
        &mut self,
        index: u64,
        region: Region,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let number = region.number;
        if let Some(known) = self.region(number) {
            // Settings and generation may have changed since: a repeated birth is the same birth.
            let reborn = known.generation > region.generation;
            let same = known.name == region.name && (reborn || known.voters == region.voters);
            return if same {
                Ok(())
            } else {
                Err(Reply::Conflict(taken("region", number)))
            };
        }
        number_in_range(number)?;
        valid::label("a region's name", &region.name)?;
        let voters: BTreeSet<NodeId> = region.voters.iter().map(|voter| voter.node).collect();
        let distinct = voters.len() == region.voters.len() && !voters.contains(&NodeId(0));
        valid::ensure(
            distinct && (1..=FIRST_VOTERS_MAX).contains(&voters.len()),
            || format!("a region must name 1 to {FIRST_VOTERS_MAX} different first voters"),
        )?;
        if let Some(other) = self.region_by_name(&region.name) {
            return Err(Reply::Conflict(format!(
                "the name is taken by region {}",
                other.number
            )));
        }
        self.log(
            index,
            CLUSTER,
            format!("add region {} ({number})", region.name),
        );
        self.indexes
            .region_by_name
            .insert(region.name.clone(), number);
        self.records.regions.insert(number, Arc::new(region));
        effects.push(Effect::RegionAdded(number));
        Ok(())
    }

    pub(super) fn set_survive(
        &mut self,
        index: u64,
        number: RegionId,
        survive: Survive,
        actor: &str,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let region = self.living(number)?.clone();
        if region.survive == survive {
            return Ok(());
        }
        self.log(
            index,
            actor,
            format!("let region {} survive {survive:?}", region.name),
        );
        self.change(
            Region {
                survive,
                ..Region::clone(&region)
            },
            effects,
        );
        Ok(())
    }

    pub(super) fn set_pace(
        &mut self,
        index: u64,
        group: GroupId,
        pace: Pace,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let name = match group {
            GroupId::Catalog => {
                if self.records.settings.pace == pace {
                    return Ok(());
                }
                self.records.settings.pace = pace;
                "catalog".to_owned()
            }
            GroupId::Region(number) => {
                let region = self.living(number)?.clone();
                if region.pace == pace {
                    return Ok(());
                }
                self.change(
                    Region {
                        pace,
                        ..Region::clone(&region)
                    },
                    effects,
                );
                region.name.clone()
            }
        };
        self.log(
            index,
            CLUSTER,
            format!("set the pace of {name} to {pace:?}"),
        );
        Ok(())
    }

    pub(super) fn set_nearest(
        &mut self,
        index: u64,
        number: RegionId,
        nearest: Vec<RegionId>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let region = self.living(number)?.clone();
        if region.nearest == nearest {
            return Ok(());
        }
        let distinct: BTreeSet<RegionId> = nearest.iter().copied().collect();
        let known = nearest
            .iter()
            .all(|other| *other != number && self.region(*other).is_some());
        valid::ensure(known && distinct.len() == nearest.len(), || {
            "the nearest regions must be other regions, each once".to_owned()
        })?;
        let order: Vec<String> = nearest.iter().map(ToString::to_string).collect();
        self.log(
            index,
            CLUSTER,
            format!("order regions from {} as {}", region.name, order.join(", ")),
        );
        self.change(
            Region {
                nearest,
                ..Region::clone(&region)
            },
            effects,
        );
        Ok(())
    }

    /// A new generation of a region's group, born from one node's replica. Everybody refuses the old
    /// one from here on.
    pub(super) fn recover_region(
        &mut self,
        index: u64,
        number: RegionId,
        generation: u64,
        seed: NodeId,
        actor: &str,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let region = self.living(number)?.clone();
        let node = self
            .members()
            .find(|node| node.at.node == seed)
            .ok_or_else(|| Reply::NotFound(format!("there is no node {seed}")))?
            .clone();
        let voters = vec![FirstVoter {
            node: seed,
            life: node.life,
        }];
        if region.generation == generation && region.voters == voters {
            return Ok(());
        }
        if region.generation + 1 != generation {
            return Err(Reply::Conflict(format!(
                "region {} is at generation {}: somebody recovered it meanwhile; look at it before \
                 you try again",
                region.name, region.generation
            )));
        }
        self.log(
            index,
            actor,
            format!(
                "recover region {} under generation {generation} from node {}",
                region.name, node.name
            ),
        );
        self.change(
            Region {
                generation,
                voters,
                seeded: true,
                ..Region::clone(&region)
            },
            effects,
        );
        Ok(())
    }

    /// A region goes for good: its ids are unknown from now on. It must have no node left.
    pub(super) fn remove_region(
        &mut self,
        index: u64,
        number: RegionId,
        actor: &str,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(region) = self.region(number).cloned() else {
            return Err(unknown(number));
        };
        if region.gone {
            return Ok(());
        }
        if let Some(node) = self.members().find(|node| node.region == number) {
            return Err(Reply::Refused(format!(
                "region {} still has node {}: remove its nodes first",
                region.name, node.name
            )));
        }
        if self.regions().count() == 1 {
            return Err(Reply::Refused(
                "it is the last region: a cluster without regions serves nobody".to_owned(),
            ));
        }
        self.log(
            index,
            actor,
            format!("remove region {} ({number})", region.name),
        );
        self.indexes.region_by_name.remove(&region.name);
        self.change(
            Region {
                gone: true,
                ..Region::clone(&region)
            },
            effects,
        );
        Ok(())
    }

    /// The nodes whose places are given to others.
    pub fn dead(&self) -> BTreeSet<NodeId> {
        self.nodes()
            .filter(|node| node.standing == Standing::Dead)
            .map(|node| node.at.node)
            .collect()
    }

    fn living(&self, number: RegionId) -> Result<&Arc<Region>, Reply> {
        match self.region(number) {
            Some(region) if !region.gone => Ok(region),
            _ => Err(unknown(number)),
        }
    }

    fn change(&mut self, region: Region, effects: &mut Vec<Effect>) {
        let number = region.number;
        self.records.regions.insert(number, Arc::new(region));
        effects.push(Effect::RegionChanged(number));
    }
}

fn unknown(number: RegionId) -> Reply {
    Reply::NotFound(format!("there is no region {number}"))
}

pub(super) fn number_in_range(number: RegionId) -> Outcome {
    valid::ensure((1..=RegionId::MAX.0).contains(&number.0), || {
        format!(
            "a region's number must be 1 to {}, not {number}",
            RegionId::MAX
        )
    })
}
