//! Which session each slot carries: fencing by slot, not by timer (design section 6, hazard H-4).
//!
//! Pure. Messages may come in any order and more than once. A slot carries the newest binding that
//! was ever asked for, by (generation, binding index); what is older is refused for good, and so is
//! a session that has ended.

use pontoon_proto::id::RequestId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many ended sessions are remembered, so that a late `OpenTunnel` does not bring one back.
///
/// Nodes forget an ended session after 60 s; at 16 KiB this covers 68 ends per second of one worker.
const ENDED_MAX: usize = 4096;

/// The age of a binding: higher is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fence {
    /// The generation of the home region's group; it counts first.
    pub(super) generation: u64,
    /// The log index that made the binding.
    pub(super) index: u64,
}

/// What to do about an `OpenTunnel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Dial, once everything of the evicted session is closed.
    Dial {
        /// The session of an older binding of this slot.
        evicted: Option<RequestId>,
    },
    /// Never.
    Refuse(Refusal),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The slot has carried a newer binding, or the group has a newer generation.
    Older,
    /// The session has ended here.
    Ended,
    /// Another session has the very same binding; no group says so.
    Conflict,
}

impl Refusal {
    /// For logs and for the node.
    pub(super) fn text(self) -> &'static str {
        match self {
            Refusal::Older => "the slot has carried a newer binding",
            Refusal::Ended => "the session has ended",
            Refusal::Conflict => "the slot carries another session of the same binding",
        }
    }
}

/// All slots of one worker life.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: BTreeMap<u32, Slot>,
    generation: u64,
    ended: BTreeSet<RequestId>,
    ended_order: VecDeque<RequestId>,
}

#[derive(Debug)]
struct Slot {
    fence: Fence,
    carries: Option<RequestId>,
    /// How many of its tunnels were offered to a node, and not surely refused: somebody may know of the
    /// session.
    offered: u32,
}

impl Slots {
    /// The home group has this generation: lower ones are refused from now on.
    pub(super) fn raise(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Whether an incarnation of the home group is over, as far as this sidecar has heard. 0: it is not said.
    pub(super) fn is_over(&self, generation: u64) -> bool {
        generation != 0 && generation < self.generation
    }

    /// A node asks for a tunnel.
    pub(super) fn open(&mut self, id: RequestId, slot: u32, fence: Fence) -> Answer {
        if fence.generation < self.generation {
            return Answer::Refuse(Refusal::Older);
        }
        if self.ended.contains(&id) {
            return Answer::Refuse(Refusal::Ended);
        }
        self.raise(fence.generation);
        let Some(present) = self.slots.get_mut(&slot) else {
            let fresh = Slot {
                fence,
                carries: Some(id),
                offered: 0,
            };
            self.slots.insert(slot, fresh);
            return Answer::Dial { evicted: None };
        };
        if fence < present.fence {
            return Answer::Refuse(Refusal::Older);
        }
        let evicted = present.carries.filter(|carried| *carried != id);
        if evicted.is_some() && fence == present.fence {
            return Answer::Refuse(Refusal::Conflict);
        }
        present.fence = fence;
        if present.carries != Some(id) {
            present.offered = 0;
        }
        present.carries = Some(id);
        if let Some(evicted) = evicted {
            self.remember(evicted);
        }
        Answer::Dial { evicted }
    }

    /// A session has ended; true when a slot carried it. Any later `OpenTunnel` of it is refused,
    /// also one that this message has overtaken.
    pub(super) fn end(&mut self, id: RequestId) -> bool {
        let mut carried = false;
        for slot in self.slots.values_mut() {
            if slot.carries == Some(id) {
                slot.carries = None;
                carried = true;
            }
        }
        self.remember(id);
        carried
    }

    /// A tunnel of a session is about to be offered to a node; false when it is not carried any more.
    pub(super) fn offer(&mut self, id: RequestId, slot: u32) -> bool {
        let carried = self.carrying(id, slot);
        carried.map(|slot| slot.offered += 1).is_some()
    }

    /// That offer was refused: no tunnel came of it.
    pub(super) fn retract(&mut self, id: RequestId, slot: u32) {
        if let Some(slot) = self.carrying(id, slot) {
            slot.offered = slot.offered.saturating_sub(1);
        }
    }

    /// A session's entry node is gone: ends it, unless a tunnel of it may have come up (hazard H-15).
    /// True when it is ended here now.
    pub(super) fn forget(&mut self, id: RequestId, slot: u32) -> bool {
        let carried = self.carrying(id, slot);
        let unknown = match carried {
            Some(slot) if slot.offered > 0 => false,
            Some(slot) => {
                slot.carries = None;
                true
            }
            None => true,
        };
        if unknown {
            self.remember(id);
        }
        unknown
    }

    fn carrying(&mut self, id: RequestId, slot: u32) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(&slot);
        slot.filter(|slot| slot.carries == Some(id))
    }

    /// What the slots carry, in slot order.
    pub(super) fn carried(&self) -> impl Iterator<Item = (RequestId, u32, Fence)> {
        let each = |(slot, s): (&u32, &Slot)| Some((s.carries?, *slot, s.fence));
        self.slots.iter().filter_map(each)
    }

    /// How many sessions the slots carry.
    pub(super) fn len(&self) -> usize {
        self.carried().count()
    }

    fn remember(&mut self, id: RequestId) {
        if self.ended.insert(id) {
            self.ended_order.push_back(id);
        }
        if self.ended_order.len() > ENDED_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::id::RegionId;
    use proptest::prelude::*;

    fn id(n: u8) -> RequestId {
        RequestId::mint(RegionId(1), [n; 16])
    }

    fn fence(generation: u64, index: u64) -> Fence {
        Fence { generation, index }
    }

    const FREE: Answer = Answer::Dial { evicted: None };

    #[test]
    fn h_4_a_slot_carries_only_the_newest_binding_whatever_the_order_of_messages() {
        let (s, t) = (id(1), id(2));
        let mut slots = Slots::default();
        assert_eq!(slots.open(s, 0, fence(1, 10)), FREE);
        // OpenTunnel(T) overtakes EndSession(S), ...
        let evicts = Answer::Dial { evicted: Some(s) };
        assert_eq!(slots.open(t, 0, fence(1, 20)), evicts);
        // ... which comes too late to matter, ...
        assert!(!slots.end(s));
        // ... and a lagging node opens S again.
        let again = slots.open(s, 0, fence(1, 10));
        assert_eq!(again, Answer::Refuse(Refusal::Ended));
        let carried: Vec<_> = slots.carried().map(|(id, ..)| id).collect();
        assert_eq!(carried, [t]);
    }

    #[test]
    fn h_4_an_end_that_overtakes_its_open_wins() {
        let mut slots = Slots::default();
        assert!(!slots.end(id(1)));
        let late = slots.open(id(1), 0, fence(1, 10));
        assert_eq!(late, Answer::Refuse(Refusal::Ended));
        assert_eq!(slots.open(id(2), 0, fence(1, 10)), FREE);
    }

    #[test]
    fn h_23_a_lower_generation_is_refused_for_good_and_a_higher_one_keeps_the_session() {
        let mut slots = Slots::default();
        assert_eq!(slots.open(id(1), 0, fence(1, 10)), FREE);
        assert_eq!(slots.open(id(1), 0, fence(2, 10)), FREE);
        let old = slots.open(id(2), 1, fence(1, 99));
        assert_eq!(old, Answer::Refuse(Refusal::Older));
        slots.raise(3);
        let old = slots.open(id(1), 0, fence(2, 10));
        assert_eq!(old, Answer::Refuse(Refusal::Older));
        assert!(slots.is_over(2));
        assert!(!slots.is_over(3) && !slots.is_over(4));
        assert!(!slots.is_over(0), "an older build doesn't say");
    }

    #[test]
    fn a_further_tunnel_of_the_same_session_is_dialed() {
        let mut slots = Slots::default();
        assert_eq!(slots.open(id(1), 0, fence(1, 10)), FREE);
        assert_eq!(slots.open(id(1), 0, fence(1, 10)), FREE);
        assert_eq!(slots.len(), 1);
        let other = slots.open(id(2), 0, fence(1, 10));
        assert_eq!(other, Answer::Refuse(Refusal::Conflict));
    }

    #[test]
    fn h_15_a_session_is_forgotten_for_good_unless_a_tunnel_of_it_was_offered() {
        let mut slots = Slots::default();
        // Never heard of, and asked for but not offered, or not taken.
        assert!(slots.forget(id(1), 0));
        assert_eq!(slots.open(id(2), 0, fence(1, 10)), FREE);
        assert!(slots.offer(id(2), 0));
        slots.retract(id(2), 0);
        assert!(slots.forget(id(2), 0));
        for forgotten in [id(1), id(2)] {
            assert!(!slots.offer(forgotten, 0));
            let late = slots.open(forgotten, 1, fence(1, 11));
            assert_eq!(late, Answer::Refuse(Refusal::Ended));
        }
        // Offered, and opened once more.
        assert_eq!(slots.open(id(3), 0, fence(1, 20)), FREE);
        assert!(slots.offer(id(3), 0));
        assert_eq!(slots.open(id(3), 0, fence(1, 20)), FREE);
        assert!(slots.offer(id(3), 0));
        slots.retract(id(3), 0);
        assert!(!slots.forget(id(3), 0));
        // What was offered of the slot's last session says nothing of the next one.
        let evicts = Answer::Dial {
            evicted: Some(id(3)),
        };
        assert_eq!(slots.open(id(4), 0, fence(1, 30)), evicts);
        assert!(slots.forget(id(4), 0));
        assert_eq!(slots.len(), 0);
    }

    proptest! {
        /// Sessions of one slot are bound one after the other; what nodes say of them arrives in any
        /// order, any number of times.
        #[test]
        fn h_4_no_older_binding_is_ever_dialed_after_a_newer_one(
            messages in proptest::collection::vec((0u8..6, any::<bool>()), 1..60),
        ) {
            let mut slots = Slots::default();
            let mut newest = None;
            let mut ended = BTreeSet::new();
            for (n, end) in messages {
                if end {
                    slots.end(id(n));
                    ended.insert(n);
                    continue;
                }
                let dialed = slots.open(id(n), 0, fence(1, u64::from(n)));
                let may = newest.is_none_or(|newest| n >= newest) && !ended.contains(&n);
                prop_assert_eq!(matches!(dialed, Answer::Dial { .. }), may);
                if may {
                    newest = Some(n);
                }
                prop_assert!(slots.len() <= 1);
            }
        }
    }

    #[test]
    fn the_memory_of_ended_sessions_is_bounded() {
        let mut slots = Slots::default();
        for n in 0..=ENDED_MAX as u128 {
            slots.end(RequestId::mint(RegionId(1), n.to_be_bytes()));
        }
        assert_eq!(slots.ended.len(), ENDED_MAX);
        assert_eq!(slots.ended_order.len(), ENDED_MAX);
    }
}
