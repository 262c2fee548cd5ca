//! Persistent maps from sorted items, with full nodes.
//!
//! A node of the trees has room for 64 items, and a full one splits in halves. Keys that rise, as they
//! do when a snapshot is read or an index is built, therefore leave every node but the last half
//! empty. Here five of eight items are inserted first, and make nodes of 32; the other three fall
//! between them and fill the nodes to 51. That is 80 %: a node takes another 13 items before it splits,
//! so that the memory of a restored directory does not jump with the first opens. Trees that grow
//! in no order are 69 % full in the long run (ln 2).

use imbl::{OrdMap, OrdSet};

/// How many items are held back until they are inserted in two passes. Only the nodes at the ends of
/// a window are filled unevenly, one in a hundred.
const WINDOW: usize = 4096;

/// Whether the item at this place is inserted in the first pass.
fn first(place: usize) -> bool {
    matches!(place % 8, 0 | 2 | 4 | 5 | 7)
}

/// Takes items one by one, in key order.
pub(super) struct Builder<K: Ord + Clone, V: Clone> {
    map: OrdMap<K, V>,
    window: Vec<Option<(K, V)>>,
}

impl<K: Ord + Clone, V: Clone> Builder<K, V> {
    pub(super) fn new() -> Self {
        Self {
            map: OrdMap::new(),
            window: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, key: K, value: V) {
        self.window.push(Some((key, value)));
        if self.window.len() == WINDOW {
            self.flush();
        }
    }

    pub(super) fn finish(mut self) -> OrdMap<K, V> {
        self.flush();
        self.map
    }

    fn flush(&mut self) {
        for pass in [true, false] {
            for (place, item) in self.window.iter_mut().enumerate() {
                if first(place) == pass
                    && let Some((key, value)) = item.take()
                {
                    self.map.insert(key, value);
                }
            }
        }
        self.window.clear();
    }
}

/// The set of these items, in whatever order they come.
pub(super) fn set<K: Ord + Clone>(mut items: Vec<K>) -> OrdSet<K> {
    items.sort_unstable();
    let mut set = OrdSet::new();
    for window in items.chunks(WINDOW) {
        for pass in [true, false] {
            for (place, item) in window.iter().enumerate() {
                if first(place) == pass {
                    set.insert(item.clone());
                }
            }
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_what_inserting_gives() {
        for count in [0, 1, 63, 64, 65, 4095, 4096, 4097, 20_000u32] {
            let items: Vec<(u32, u32)> = (0..count).map(|key| (key * 3, key)).collect();
            let mut builder = Builder::new();
            for (key, value) in &items {
                builder.push(*key, *value);
            }
            assert_eq!(builder.finish(), items.iter().copied().collect());
            let keys: Vec<u32> = items.iter().rev().map(|item| item.0).collect();
            assert_eq!(set(keys.clone()), keys.into_iter().collect());
        }
    }
}
