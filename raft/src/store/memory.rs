//! The simulated disk: it keeps what was synced, and of the rest what a seed says.
//!
//! A [`Platter`] is what stays when the machine goes; engines come and go over it, one at a time.
//! Whatever goes wrong is asked for: power cuts, lost and flipped data, a full disk, syncs that fail,
//! lie or are slow. Randomness is handed in as a function that draws a number below its argument, and
//! nothing here reads a clock or sleeps, so a seed replays everything.

use super::durable::Tip;
use super::engine::{Engine, Tree, Write};
use super::layout;
use super::log::TIP;
use bytes::Bytes;
use imbl::OrdMap;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many syncs back [`Platter::forget`] reaches.
const HISTORY: usize = 64;

/// Draws a number below its argument, which is not 0.
pub type Draw<'a> = &'a mut dyn FnMut(usize) -> usize;

/// A key, and whose it is.
type Place = (Tree, Vec<u8>);

/// All trees; a clone costs nothing.
type Map = OrdMap<Place, Vec<u8>>;

/// What stays when the machine goes. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Platter(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    durable: Map,
    slots: [Bytes; 2],
    /// The map as of earlier syncs, the newest last.
    history: VecDeque<Map>,
    /// What came after the last sync, in order.
    unsynced: Vec<Change>,
    /// The engine over it; those before it are gone.
    life: u64,
    failing: bool,
    lying: bool,
    /// Bytes that still fit.
    room: Option<usize>,
    pace: Duration,
}

#[derive(Clone, Debug)]
enum Change {
    Batch(Tree, Vec<Write>),
    Drop(Tree),
    Slot(usize, Bytes),
}

/// What would be left of one entry if the power went now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// A snapshot has it: it was purged.
    Purged,
    /// The beginning of its record.
    Record(Vec<u8>),
}

impl Platter {
    /// An engine over what is durable now. An older one, if there is, is cut off; what it did not
    /// sync is lost, unless [`Platter::cut`] was called before.
    pub fn engine(&self) -> MemoryEngine {
        let mut state = self.state();
        state.life += 1;
        state.unsynced.clear();
        MemoryEngine {
            platter: self.clone(),
            life: state.life,
            seen: state.durable.clone(),
        }
    }

    /// Another disk, with what would be found on this one if the power went now.
    pub fn copy(&self) -> Platter {
        let state = self.state();
        Platter(Arc::new(Mutex::new(State {
            durable: state.durable.clone(),
            slots: state.slots.clone(),
            history: state.history.clone(),
            ..State::default()
        })))
    }

    /// The power goes. Of the batches after the last sync a prefix stays, as with sled; of a slot
    /// that was being written, the old content, the new one, or a mixture. Answers whether anything was
    /// lost.
    pub fn cut(&self, draw: Draw<'_>) -> bool {
        self.cut_with(draw, false)
    }

    /// A worse power cut: the first batch that is lost leaves some of its writes behind. Sled's
    /// batches don't tear, so this stands for a defect in it.
    pub fn cut_and_tear(&self, draw: Draw<'_>) -> bool {
        self.cut_with(draw, true)
    }

    fn cut_with(&self, draw: Draw<'_>, tear: bool) -> bool {
        let mut state = self.state();
        state.life += 1;
        let changes = std::mem::take(&mut state.unsynced);
        let kept = draw(changes.len() + 1);
        let lost = kept < changes.len();
        for (at, change) in changes.into_iter().enumerate() {
            match change {
                Change::Slot(slot, record) => {
                    let old = &state.slots[slot];
                    state.slots[slot] = match draw(3) {
                        0 => old.clone(),
                        1 => record,
                        _ => mixture(old, &record, draw),
                    };
                }
                change if at < kept => do_change(&mut state.durable, change),
                Change::Batch(tree, mut writes) if at == kept && tear => {
                    writes.retain(|_| draw(2) == 0);
                    do_change(&mut state.durable, Change::Batch(tree, writes));
                }
                _ => {}
            }
        }
        lost
    }

    /// What would be left of an entry of a group if the power went now.
    pub fn holds(&self, group: u16, index: u64) -> Held {
        let state = self.state();
        let beyond = Tree {
            group,
            epoch: u32::MAX,
        };
        let newest = state.durable.range(..(beyond, Vec::new())).next_back();
        let Some(tree) = newest
            .map(|(key, _)| key.0)
            .filter(|tree| tree.group == group)
        else {
            return Held::Nothing;
        };
        let tip = state.durable.get(&(tree, layout::mark_key(TIP)));
        let tip = tip.and_then(|tip| Tip::read(&Bytes::copy_from_slice(tip)).ok());
        if tip.is_some_and(|tip| index < tip.first) {
            return Held::Purged;
        }
        match state.durable.get(&(tree, layout::entry_key(index, 0))) {
            Some(record) => Held::Record(record.clone()),
            None => Held::Nothing,
        }
    }

    /// Brings back the map as it was that many syncs before the last one, as a disk does that
    /// acknowledges before it writes, or sled when the end of its log is damaged. The slots stay.
    /// Answers whether it changed.
    pub fn forget(&self, syncs: usize) -> bool {
        let mut state = self.state();
        let at = state.history.len().checked_sub(syncs);
        let Some(map) = at.and_then(|at| state.history.get(at).cloned()) else {
            return false;
        };
        let changed = map != state.durable;
        state.durable = map;
        changed
    }

    /// Flips one bit of one durable value of a group. Answers whether there was one.
    pub fn flip(&self, group: u16, nth: usize, draw: Draw<'_>) -> bool {
        let mut state = self.state();
        let Some((key, mut value)) = nth_of(&state.durable, group, nth) else {
            return false;
        };
        if value.is_empty() {
            return false;
        }
        let at = draw(value.len());
        value[at] ^= 1 << draw(8);
        state.durable.insert(key, value);
        true
    }

    /// Flips one bit of one key of a group. Answers whether there was one.
    pub fn flip_key(&self, group: u16, nth: usize, draw: Draw<'_>) -> bool {
        let mut state = self.state();
        let Some(((tree, mut key), value)) = nth_of(&state.durable, group, nth) else {
            return false;
        };
        state.durable.remove(&(tree, key.clone()));
        let at = draw(key.len());
        key[at] ^= 1 << draw(8);
        state.durable.insert((tree, key), value);
        true
    }

    /// Forgets one durable value of a group. Answers whether there was one.
    pub fn lose(&self, group: u16, nth: usize) -> bool {
        let mut state = self.state();
        match nth_of(&state.durable, group, nth) {
            Some((key, _)) => state.durable.remove(&key).is_some(),
            None => false,
        }
    }

    /// How many durable values a group has.
    pub fn count(&self, group: u16) -> usize {
        let state = self.state();
        state
            .durable
            .keys()
            .filter(|key| key.0.group == group)
            .count()
    }

    /// What is in the slots.
    pub fn slots(&self) -> [Bytes; 2] {
        self.state().slots.clone()
    }

    /// Replaces what is in the slots.
    pub fn set_slots(&self, slots: [Bytes; 2]) {
        self.state().slots = slots;
    }

    /// From now on every sync fails, or no longer does.
    pub fn fail(&self, failing: bool) {
        self.state().failing = failing;
    }

    /// From now on every sync says that it is done, and keeps nothing.
    pub fn lie(&self, lying: bool) {
        self.state().lying = lying;
    }

    /// Lets that many more bytes fit; none: as many as one likes.
    pub fn limit(&self, room: Option<usize>) {
        self.state().room = room;
    }

    /// How long a sync takes from now on. Nothing here waits: whoever steps the store asks
    /// [`Platter::pace`], and steps it that much later.
    pub fn slow(&self, pace: Duration) {
        self.state().pace = pace;
    }

    /// See [`Platter::slow`].
    pub fn pace(&self) -> Duration {
        self.state().pace
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The beginning of a new content over an old one.
fn mixture(old: &Bytes, new: &Bytes, draw: Draw<'_>) -> Bytes {
    let len = draw(new.len() + 1);
    let mut mixed = new[..len].to_vec();
    mixed.extend_from_slice(old.get(len..).unwrap_or_default());
    mixed.into()
}

fn nth_of(map: &Map, group: u16, nth: usize) -> Option<(Place, Vec<u8>)> {
    let mut values = map.iter().filter(|((tree, _), _)| tree.group == group);
    values
        .nth(nth)
        .map(|(key, value)| (key.clone(), value.clone()))
}

fn do_change(map: &mut Map, change: Change) {
    match change {
        Change::Batch(tree, writes) => {
            for write in writes {
                match write {
                    Write::Put(key, value) => map.insert((tree, key), value),
                    Write::Delete(key) => map.remove(&(tree, key)),
                };
            }
        }
        Change::Drop(tree) => {
            let next = Tree {
                epoch: tree.epoch + 1,
                ..tree
            };
            let range = map.range((tree, Vec::new())..(next, Vec::new()));
            let keys: Vec<_> = range.map(|(key, _)| key.clone()).collect();
            for key in keys {
                map.remove(&key);
            }
        }
        Change::Slot(..) => {}
    }
}

/// An open simulated disk.
#[derive(Debug)]
pub struct MemoryEngine {
    platter: Platter,
    life: u64,
    seen: Map,
}

impl MemoryEngine {
    /// The disk, as long as this engine is the one over it.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.platter.state();
        if state.life == self.life {
            Ok(state)
        } else {
            Err(io::Error::other("the power was cut"))
        }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.state()?.unsynced.push(change.clone());
        do_change(&mut self.seen, change);
        Ok(())
    }
}

impl Engine for MemoryEngine {
    fn scan(
        &mut self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        drop(self.state()?);
        for ((_, key), value) in self.seen.range((tree, from.to_vec())..(tree, to.to_vec())) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn get(&mut self, tree: Tree, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        drop(self.state()?);
        Ok(self.seen.get(&(tree, key.to_vec())).cloned())
    }

    fn apply(&mut self, tree: Tree, writes: Vec<Write>) -> io::Result<()> {
        let bytes: usize = writes.iter().map(weight).sum();
        if let Some(room) = &mut self.state()?.room {
            *room = room.checked_sub(bytes).ok_or(io::ErrorKind::StorageFull)?;
        }
        self.change(Change::Batch(tree, writes))
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut guard = self.state()?;
        let state = &mut *guard;
        if state.failing {
            return Err(io::Error::other("the simulated disk fails"));
        }
        if state.lying {
            return Ok(());
        }
        for change in std::mem::take(&mut state.unsynced) {
            if let Change::Slot(slot, record) = change {
                state.slots[slot] = record;
            }
        }
        let before = std::mem::replace(&mut state.durable, self.seen.clone());
        state.history.push_back(before);
        if state.history.len() > HISTORY {
            state.history.pop_front();
        }
        Ok(())
    }

    fn trees(&mut self) -> io::Result<Vec<Tree>> {
        drop(self.state()?);
        let mut trees: Vec<Tree> = self.seen.keys().map(|(tree, _)| *tree).collect();
        trees.dedup();
        Ok(trees)
    }

    fn drop_tree(&mut self, tree: Tree) -> io::Result<()> {
        self.change(Change::Drop(tree))
    }

    fn slots(&mut self) -> io::Result<[Bytes; 2]> {
        Ok(self.state()?.slots.clone())
    }

    fn write_slot(&mut self, slot: usize, record: &[u8]) -> io::Result<()> {
        let record = Bytes::copy_from_slice(record);
        self.state()?.unsynced.push(Change::Slot(slot, record));
        Ok(())
    }

    fn broken(&self) -> Option<String> {
        None
    }

    fn restart(&mut self) -> io::Result<()> {
        self.seen.clear();
        let mut state = self.state()?;
        state.unsynced.clear();
        state.durable.clear();
        Ok(())
    }
}

fn weight(write: &Write) -> usize {
    match write {
        Write::Put(key, value) => key.len() + value.len(),
        Write::Delete(key) => key.len(),
    }
}
