//! The indexes of records that were read from a snapshot.
//!
//! One index after the other: its items are gathered, sorted, and built into full nodes. That is several
//! times as fast as a million single changes, and takes at most 40 MB beside the million sessions
//! (the largest item of an index has 40 bytes). Tests compare the outcome with that of the changes.

use super::{Due, Indexes, Keys, Place, Slots, Stake, stakes};
use crate::directory::dense;
use crate::directory::image::Image;
use crate::directory::session::Session;
use pontoon_proto::id::{NodeBoot, RequestId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// What one session gives to each index.
fn keys(image: &Image) -> impl Iterator<Item = (RequestId, Keys)> + '_ {
    sessions(image).map(|session| (session.id, Keys::of(Some(session))))
}

fn sessions(image: &Image) -> impl Iterator<Item = &Session> {
    image.sessions.values().map(AsRef::as_ref)
}

impl Indexes {
    /// Builds everything from the records.
    pub(in crate::directory) fn of(image: &Image) -> Indexes {
        let mut indexes = Indexes::default();
        for worker in image.workers.values() {
            indexes.worker_changed(None, Some(worker));
        }
        for session in sessions(image) {
            indexes.tally.add(session.tenant, session.version);
        }
        indexes.fill_stakes(image);
        indexes.fill_slots(image);
        indexes.fill_times(image);
        for worker in image.workers.keys() {
            indexes.show(*worker);
        }
        indexes.fill_queues(image);
        for (&node, &life) in &image.lives {
            indexes.life_changed(node, life);
        }
        for (&id, &until) in &image.lost {
            indexes.moved(Due::Lost(id), None, Some(until));
        }
        indexes
    }

    /// Workers have put theirs there already.
    fn fill_stakes(&mut self, image: &Image) {
        let mut lives: BTreeMap<NodeBoot, (Vec<RequestId>, Vec<RequestId>)> = BTreeMap::new();
        for (at, stake) in sessions(image).flat_map(|session| stakes(Some(session))) {
            let (waiting, inside) = lives.entry(at).or_default();
            match stake {
                Stake::Attached(_) => {}
                Stake::Waiting(id) => waiting.push(id),
                Stake::Inside(id) => inside.push(id),
            }
        }
        for (at, (waiting, inside)) in lives {
            self.stakes.fill(at, waiting, inside);
        }
    }

    fn fill_slots(&mut self, image: &Image) {
        let taken = keys(image).filter_map(|(id, keys)| Some((keys.slot?, id)));
        let mut taken: Vec<((WorkerId, u32), RequestId)> = taken.collect();
        taken.sort_unstable();
        let mut holes = Vec::new();
        for ((worker, slot), _) in &taken {
            if let Some(load) = self.loads.get_mut(worker) {
                holes.extend((load.top..*slot).map(|hole| (*worker, hole)));
                load.top = slot + 1;
                load.used += 1;
            }
        }
        self.slots = Slots::of(taken.into_iter());
        self.holes = dense::set(holes);
    }

    fn fill_times(&mut self, image: &Image) {
        let idle = keys(image).filter_map(|(id, keys)| Some((keys.idle?, id)));
        self.idle = dense::set(
            idle.map(|((worker, since), id)| (worker, since, id))
                .collect(),
        );
        let ends = keys(image).filter_map(|(id, keys)| Some((keys.due?, id)));
        self.ends = dense::set(ends.collect());
        let tombs = image.tombs.iter().map(|(&id, tomb)| (tomb.until, id));
        self.tombs = dense::set(tombs.collect());
    }

    fn fill_queues(&mut self, image: &Image) {
        let queued = keys(image).filter_map(|(id, keys)| Some((keys.queue?, id)));
        let mut queued: Vec<(Place, RequestId)> = queued.collect();
        queued.sort_unstable_by_key(|(place, _)| place.key());
        let mut versions = BTreeSet::new();
        let mut queue = dense::Builder::new();
        for (place, id) in queued {
            let Place {
                version, tenant, ..
            } = place;
            versions.insert(version);
            let count = self.queued_by.entry((version, tenant)).or_insert(0);
            *count += 1;
            // The first of each tenant has its tenant's turn.
            if *count == 1 {
                self.turns.insert((version, place.turn, tenant));
            }
            self.pools.entry(version).or_default().queued += 1;
            queue.push(place.key(), (id, place.turn));
        }
        self.queue = queue.finish();
        for version in versions {
            let pool = self.pool(version);
            self.put_pool(version, pool);
        }
    }
}
