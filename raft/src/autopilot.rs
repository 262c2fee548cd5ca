//! What a group's leader does for its membership: one step at a time.
//!
//! So far it only adds: a node of the cluster that beats and is no member yet becomes a learner.
//! Left out until memberships change: promotion, removal, bringing the leader home.

use crate::group::Group;
use crate::group::types::node_of;
use crate::machine::Machine;
use pontoon_proto::id::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often the leader looks.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// The next member to add: known to the cluster, heard of, and no member in any of its lives.
fn next_learner(heard: &[u64], members: &BTreeSet<u64>, known: &BTreeSet<NodeId>) -> Option<u64> {
    let has = |node| members.iter().any(|member| node_of(*member) == node);
    heard
        .iter()
        .copied()
        .find(|member| known.contains(&node_of(*member)) && !has(node_of(*member)))
}

/// One step, when this node leads.
pub(crate) async fn step<M: Machine>(group: &Group<M>, known: &BTreeSet<NodeId>) {
    let core = group.core();
    let Some(heard) = core.heard_members() else {
        return;
    };
    if let Some(member) = next_learner(&heard, &core.members(), known) {
        let (group, node) = (group.id(), node_of(member));
        match core.add_learner(member).await {
            Ok(()) => tracing::info!(%group, %node, "a node becomes a learner"),
            Err(why) => tracing::info!(%group, %node, why, "a node could not become a learner yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::types::member;

    #[test]
    fn only_known_nodes_that_are_no_members_are_added() {
        let ids = |nodes: &[u32]| {
            nodes
                .iter()
                .map(|node| member(NodeId(*node), 1))
                .collect::<Vec<u64>>()
        };
        let members = ids(&[1, 2]).into_iter().collect();
        let known = [1, 2, 3].map(NodeId).into();
        assert_eq!(next_learner(&ids(&[1, 2]), &members, &known), None);
        assert_eq!(
            next_learner(&ids(&[1, 4, 3]), &members, &known),
            Some(member(NodeId(3), 1))
        );
        assert_eq!(next_learner(&ids(&[4]), &members, &known), None);
        assert_eq!(
            next_learner(&[member(NodeId(2), 2)], &members, &known),
            None
        );
    }
}
