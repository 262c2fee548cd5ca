//! The simulated disk: it keeps what was synced and forgets the rest, as a power cut does.

use super::engine::{Engine, Write};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Trees = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

/// What stays when the machine goes. Clones share it, so that a test can open it again.
#[derive(Clone, Debug, Default)]
pub struct Platter(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    durable: Trees,
    failing: bool,
}

impl Platter {
    /// An engine over what is durable now.
    pub fn engine(&self) -> MemoryEngine {
        let seen = self.state().durable.clone();
        MemoryEngine {
            platter: self.clone(),
            seen,
        }
    }

    /// From now on every sync fails, as on a full or dying disk.
    pub fn fail(&self) {
        self.state().failing = true;
    }

    /// Flips one bit of one durable value, as a dying disk does. Answers whether there was one.
    pub fn flip(&self, tree: u16, nth: usize) -> bool {
        let mut state = self.state();
        let mut values = state.durable.iter_mut().filter(|((of, _), _)| *of == tree);
        match values.nth(nth).and_then(|(_, value)| value.last_mut()) {
            Some(byte) => {
                *byte ^= 1;
                true
            }
            None => false,
        }
    }

    /// Forgets one durable value. Answers whether there was one.
    pub fn lose(&self, tree: u16, nth: usize) -> bool {
        let mut state = self.state();
        let key = state
            .durable
            .keys()
            .filter(|(of, _)| *of == tree)
            .nth(nth)
            .cloned();
        key.is_some_and(|key| state.durable.remove(&key).is_some())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open simulated disk.
#[derive(Debug)]
pub struct MemoryEngine {
    platter: Platter,
    seen: Trees,
}

impl Engine for MemoryEngine {
    fn scan(
        &mut self,
        tree: u16,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        for ((_, key), value) in self.seen.range((tree, from.to_vec())..(tree, to.to_vec())) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn get(&mut self, tree: u16, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.seen.get(&(tree, key.to_vec())).cloned())
    }

    fn apply(&mut self, tree: u16, writes: Vec<Write>) -> io::Result<()> {
        for write in writes {
            match write {
                Write::Put(key, value) => self.seen.insert((tree, key), value),
                Write::Delete(key) => self.seen.remove(&(tree, key)),
            };
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.platter.state();
        if state.failing {
            return Err(io::Error::other("the simulated disk fails"));
        }
        state.durable = self.seen.clone();
        Ok(())
    }
}
