//! Which session has which slot of which worker.
//!
//! Slots are kept in blocks of up to 16, so that a slot costs 16 bytes and its share of a block, about
//! 22 in all, where a map from (worker, slot) would cost 72: slots are taken in rising order, which
//! leaves the nodes of such a map half empty.

use crate::directory::dense;
use imbl::OrdMap;
use pontoon_proto::id::{RequestId, WorkerId};
use std::sync::Arc;
use uuid::Uuid;

/// The slots of a block. A bind copies the block: 256 bytes at most.
const BLOCK: u32 = 16;

/// Stands in a free slot. It is no id of any region, so no session has it.
const FREE: RequestId = RequestId(Uuid::nil());

/// Sessions by worker and slot. Equal ones have equal blocks: the last slot of a block is taken, and no
/// block is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::directory) struct Slots {
    blocks: OrdMap<(WorkerId, u32), Arc<[RequestId]>>,
}

impl Slots {
    /// From sorted items.
    pub(super) fn of(items: impl Iterator<Item = ((WorkerId, u32), RequestId)>) -> Slots {
        let mut blocks = dense::Builder::new();
        let mut block: Option<((WorkerId, u32), Vec<RequestId>)> = None;
        for ((worker, slot), id) in items {
            let key = (worker, slot / BLOCK);
            if block.as_ref().is_none_or(|(known, _)| *known != key)
                && let Some((key, ids)) = block.replace((key, Vec::new()))
            {
                blocks.push(key, ids.into());
            }
            if let Some((_, ids)) = &mut block {
                put(ids, slot, id);
            }
        }
        if let Some((key, ids)) = block {
            blocks.push(key, ids.into());
        }
        Slots {
            blocks: blocks.finish(),
        }
    }

    /// A session takes a slot.
    pub(super) fn take(&mut self, worker: WorkerId, slot: u32, id: RequestId) {
        self.change((worker, slot / BLOCK), |ids| put(ids, slot, id));
    }

    /// A slot is free again.
    pub(super) fn free(&mut self, worker: WorkerId, slot: u32) {
        self.change((worker, slot / BLOCK), |ids| put(ids, slot, FREE));
    }

    fn change(&mut self, key: (WorkerId, u32), change: impl FnOnce(&mut Vec<RequestId>)) {
        let mut ids = self
            .blocks
            .get(&key)
            .map(|block| block.to_vec())
            .unwrap_or_default();
        change(&mut ids);
        if ids.is_empty() {
            self.blocks.remove(&key);
        } else {
            self.blocks.insert(key, ids.into());
        }
    }

    /// Whether a slot is taken.
    pub(in crate::directory) fn is_taken(&self, worker: WorkerId, slot: u32) -> bool {
        let block = self.blocks.get(&(worker, slot / BLOCK));
        let id = block.and_then(|ids| ids.get((slot % BLOCK) as usize));
        id.is_some_and(|id| *id != FREE)
    }

    /// The sessions of a worker, by slot.
    pub(in crate::directory) fn sessions_of(
        &self,
        worker: WorkerId,
    ) -> impl Iterator<Item = RequestId> + '_ {
        let blocks = self.blocks.range((worker, 0)..=(worker, u32::MAX));
        blocks
            .flat_map(|(_, ids)| ids.iter().copied())
            .filter(|id| *id != FREE)
    }
}

/// Puts an id into a block, which ends with the last taken slot.
fn put(ids: &mut Vec<RequestId>, slot: u32, id: RequestId) {
    let place = (slot % BLOCK) as usize;
    if ids.len() <= place {
        ids.resize(place + 1, FREE);
    }
    ids[place] = id;
    let used = ids.iter().rposition(|id| *id != FREE);
    ids.truncate(used.map_or(0, |last| last + 1));
}
