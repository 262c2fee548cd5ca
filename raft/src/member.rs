//! Member numbers: which replica of a group, in which life of its node.
//!
//! Consensus knows members, not nodes. A replica that lost its log, with its whole data folder or by
//! itself, comes back as another member: it can't know what it had promised, so it must not vote in
//! the place of the one that did.

use pontoon_proto::id::NodeId;

/// Lives of a node's data folder: 4,095 of them.
const LIFE_BITS: u32 = 12;

/// Damaged logs of one group in one life: 255 of them.
const DAMAGE_BITS: u32 = 8;

/// The member that a node is in a group: in this life of its data folder (from 1), after so many
/// damaged logs of this group. Later ones have higher numbers.
pub fn member(node: NodeId, life: u32, damages: u32) -> u64 {
    let life = u64::from(life) & ((1 << LIFE_BITS) - 1);
    let damages = u64::from(damages) & ((1 << DAMAGE_BITS) - 1);
    u64::from(node.0) << (LIFE_BITS + DAMAGE_BITS) | life << DAMAGE_BITS | damages
}

/// The node behind a member number.
pub fn node_of(member: u64) -> NodeId {
    NodeId((member >> (LIFE_BITS + DAMAGE_BITS)) as u32)
}

/// Whether a member is a node in this life of it, however often a log was begun anew in it.
pub fn is_of_life(member_number: u64, node: NodeId, life: u32) -> bool {
    member_number >> DAMAGE_BITS == member(node, life, 0) >> DAMAGE_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_of_one_life_whatever_was_damaged_in_it() {
        let node = NodeId(7);
        for damages in [0, 1, 255] {
            assert!(is_of_life(member(node, 2, damages), node, 2));
            assert!(!is_of_life(member(node, 1, damages), node, 2));
            assert!(!is_of_life(member(NodeId(8), 2, damages), node, 2));
        }
    }

    #[test]
    fn a_member_number_names_its_node_and_rises_with_its_lives() {
        let all = [(1, 0), (1, 1), (1, 255), (2, 0), (4095, 255)];
        let numbers = all.map(|(life, damages)| member(NodeId(7), life, damages));
        assert!(numbers.is_sorted_by(|one, next| one < next));
        assert!(numbers.iter().all(|number| node_of(*number) == NodeId(7)));
        assert!(member(NodeId(8), 1, 0) > numbers[4]);
    }
}
