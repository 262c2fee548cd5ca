//! Regions and nodes.

use super::command::{Effect, Node, Region, Reply};
use super::tenant::taken;
use super::{Catalog, Outcome, valid};
use pontoon_proto::id::{NodeId, RegionId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who does what no operator asked for.
const CLUSTER: &str = "cluster";

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
            let same = **known == region;
            return if same {
                Ok(())
            } else {
                Err(Reply::Conflict(taken("region", number)))
            };
        }
        number_in_range(number)?;
        valid::label("a region's name", &region.name)?;
        let voters: BTreeSet<NodeId> = region.voters.iter().copied().collect();
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

    /// A node announces itself: new, in a later boot, or under other addresses. Its name and region
    /// stay what they are.
    pub(super) fn put_node(&mut self, node: Node, effects: &mut Vec<Effect>) -> Outcome {
        let id = node.at.node;
        valid::ensure(id.0 >= 1, || {
            "a node's number must be at least 1".to_owned()
        })?;
        number_in_range(node.region)?;
        valid::name("a node's name", &node.name)?;
        for (what, address) in [
            ("client address", &node.client),
            ("worker address", &node.worker),
            ("peer address", &node.peer),
            ("admin address", &node.admin),
            ("ops address", &node.ops),
        ] {
            valid::text(what, address)?;
        }
        if let Some(known) = self.node(id) {
            if node.at.boot < known.at.boot {
                return Err(Reply::Stale);
            }
            if **known == node {
                return Ok(());
            }
            if (&known.name, known.region) != (&node.name, node.region) {
                let place = format!("{} of region {}", known.name, known.region);
                return Err(Reply::Conflict(format!("node {id} is {place}")));
            }
        } else if let Some(other) = self.node_by_name(&node.name) {
            return Err(Reply::Conflict(format!(
                "the name is taken by node {}",
                other.at.node
            )));
        }
        self.indexes.node_by_name.insert(node.name.clone(), id);
        self.records.nodes.insert(id, Arc::new(node));
        effects.push(Effect::NodeChanged(id));
        Ok(())
    }
}

fn number_in_range(number: RegionId) -> Outcome {
    valid::ensure((1..=RegionId::MAX.0).contains(&number.0), || {
        format!(
            "a region's number must be 1 to {}, not {number}",
            RegionId::MAX
        )
    })
}
