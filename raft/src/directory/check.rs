//! The invariants of a directory, and its indexes against a full scan.

use super::Directory;
use super::image::Image;
use super::index::{Indexes, Load};
use super::session::State;
use imbl::OrdMap;
use pontoon_proto::id::{RequestId, VersionId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// Checks everything; the error names what is broken, and where.
pub(super) fn check(state: &Directory) -> Result<(), String> {
    slots(state)?;
    queues(state)?;
    entries(state)?;
    endings(state)?;
    let fresh = Directory::from(Image::from(state.clone()));
    indexes(&state.indexes, &fresh.indexes)
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

/// One session per slot, one slot per session, none beyond what the worker has, and binding
/// indices that are all different.
fn slots(state: &Directory) -> Result<(), String> {
    let mut taken: BTreeMap<(WorkerId, u32), RequestId> = BTreeMap::new();
    let mut indices = BTreeSet::new();
    for session in state.sessions.values() {
        let Some(binding) = session.binding() else {
            continue;
        };
        let id = session.id;
        let Some(worker) = state.workers.get(&binding.worker) else {
            return Err(format!("1: session {id} is bound to no known worker"));
        };
        ensure(worker.version == session.version, || {
            format!("1: session {id} is on another version")
        })?;
        ensure(binding.slot < worker.slots, || {
            format!("2: session {id} has a slot beyond capacity")
        })?;
        ensure(indices.insert(binding.index), || {
            format!("1: session {id} shares its binding index")
        })?;
        ensure(binding.index <= state.bindings, || {
            format!("1: session {id} is bound in the future")
        })?;
        if let Some(other) = taken.insert((binding.worker, binding.slot), id) {
            return Err(format!(
                "1: sessions {other} and {id} share slot {}",
                binding.slot
            ));
        }
    }
    for worker in state.workers.keys() {
        let used = taken.range((*worker, 0)..=(*worker, u32::MAX)).count();
        ensure(used == state.slots_used(*worker) as usize, || {
            format!(
                "2: worker {worker} counts {} slots, and has {used}",
                state.slots_used(*worker)
            )
        })?;
    }
    Ok(())
}

/// Queued opens hold no slot; places in a queue and turns are given once; and only the first open of a
/// tenant has a turn, which is no earlier than its own place.
fn queues(state: &Directory) -> Result<(), String> {
    let mut places: BTreeSet<(VersionId, u64)> = BTreeSet::new();
    for session in state.sessions.values() {
        let Some(waiting) = session.waiting() else {
            continue;
        };
        ensure(session.entries.is_empty(), || {
            format!("3: queued {} is entered", session.id)
        })?;
        ensure(
            waiting.arrival <= state.arrivals && places.insert((session.version, waiting.arrival)),
            || format!("3: queued {} shares its place", session.id),
        )?;
        let Some(turn) = session.turn() else { continue };
        let first = state.indexes.first_of(session.version, session.tenant);
        ensure(first == Some((session.id, turn)), || {
            format!("3: queued {} has a turn and is not first", session.id)
        })?;
        let drawn = (waiting.arrival + 1)..=state.arrivals;
        ensure(
            drawn.contains(&turn) && places.insert((session.version, turn)),
            || format!("3: queued {} has no turn of its own", session.id),
        )?;
    }
    Ok(())
}

/// Bound means entered, held means not, and one entry per node.
fn entries(state: &Directory) -> Result<(), String> {
    for session in state.sessions.values() {
        let inside = session.entries.iter().any(|entry| entry.inside);
        let right = match session.state {
            State::Queued(_) | State::Next(..) => true,
            State::Bound(_) => inside,
            State::Held(..) => !inside,
        };
        ensure(right, || {
            format!("entries of {} do not fit its state", session.id)
        })?;
        let ordered = session.entries.is_sorted_by_key(|entry| entry.node);
        let nodes: BTreeSet<_> = session.entries.iter().map(|entry| entry.node).collect();
        ensure(ordered && nodes.len() == session.entries.len(), || {
            format!("entries of {} are out of order", session.id)
        })?;
    }
    Ok(())
}

/// An id is alive or ended, never both.
fn endings(state: &Directory) -> Result<(), String> {
    let both = |id: &&RequestId| state.sessions.contains_key(*id);
    if let Some(id) = state.tombs.keys().find(both) {
        return Err(format!("4: session {id} lives and has ended"));
    }
    let both = |id: &&WorkerId| state.workers.contains_key(*id);
    if let Some(id) = state.lost.keys().find(both) {
        return Err(format!("4: worker {id} lives and was lost"));
    }
    Ok(())
}

fn indexes(kept: &Indexes, fresh: &Indexes) -> Result<(), String> {
    same("slots", &kept.slots, &fresh.slots)?;
    same("idle", &kept.idle, &fresh.idle)?;
    same("stakes", &kept.stakes, &fresh.stakes)?;
    same("queue", &kept.queue, &fresh.queue)?;
    same("turns", &kept.turns, &fresh.turns)?;
    same("queued_by", &kept.queued_by, &fresh.queued_by)?;
    same("tally", &kept.tally, &fresh.tally)?;
    same("free", &kept.free, &fresh.free)?;
    same("idlest", &kept.idlest, &fresh.idlest)?;
    same("pools", &kept.pools, &fresh.pools)?;
    same("lost", &kept.lost, &fresh.lost)?;
    same("due", &kept.due, &fresh.due)?;
    same("ends", &kept.ends, &fresh.ends)?;
    same("tombs", &kept.tombs, &fresh.tombs)?;
    let loads = |of: &Indexes| -> OrdMap<WorkerId, Load> {
        // How high a worker's slots ever went depends on the past; what is free does not.
        of.loads
            .iter()
            .map(|(id, load)| (*id, load.without_past()))
            .collect()
    };
    same("loads", &loads(kept), &loads(fresh))?;
    for (&worker, load) in &kept.loads {
        let holes: Vec<u32> = kept
            .holes
            .range((worker, 0)..=(worker, u32::MAX))
            .map(|&(_, slot)| slot)
            .collect();
        let free = |slot: &u32| *slot < load.top && !kept.slots.is_taken(worker, *slot);
        ensure(
            holes.iter().all(free) && holes.len() == (load.top - load.used) as usize,
            || format!("index holes of {worker} are {holes:?} below {}", load.top),
        )?;
    }
    let holes = |of: &Indexes| {
        of.loads
            .values()
            .map(|load| (load.top - load.used) as usize)
            .sum::<usize>()
    };
    ensure(kept.holes.len() == holes(kept), || {
        "index holes has strangers".to_owned()
    })
}

fn same<T: PartialEq + Debug>(name: &str, kept: &T, fresh: &T) -> Result<(), String> {
    ensure(kept == fresh, || {
        format!("index {name} is {kept:?}, and should be {fresh:?}")
    })
}
