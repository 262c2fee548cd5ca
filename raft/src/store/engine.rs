//! The log engine: an ordered map of keys to values that survives a crash once synced.
//!
//! Two sides implement [`Engine`]: [`SledEngine`] here, and the simulated disk in
//! [`super::memory`], which forgets what was not synced. Sled's types do not leave this file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes one.
    Delete(Vec<u8>),
}

/// An ordered map per tree. It has one owner, the storage thread, and may block.
pub trait Engine: Send + 'static {
    /// Shows all pairs with `from <= key < to`, in order, until `each` answers false.
    fn scan(
        &mut self,
        tree: u16,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()>;

    /// One value.
    fn get(&mut self, tree: u16, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Applies writes in order, all or none of them. They are readable at once, durable after the
    /// next [`Engine::sync`].
    fn apply(&mut self, tree: u16, writes: Vec<Write>) -> io::Result<()>;

    /// Makes durable all that was applied. After an error nothing more may be acknowledged: the
    /// kernel may have dropped the pages that it could not write.
    fn sync(&mut self) -> io::Result<()>;
}

/// The real one.
pub struct SledEngine {
    db: sled::Db,
    trees: BTreeMap<u16, sled::Tree>,
    file: File,
}

impl SledEngine {
    /// Sled refuses to change this after creation. An item may take a quarter of a segment before
    /// sled moves it to a file of its own, which it never syncs; a leaf holds up to 17 of our
    /// values before it splits, 17 * 8 KiB < 1 MiB / 4.
    const SEGMENT: usize = 1024 * 1024;

    /// The longest value; see [`Self::SEGMENT`].
    pub const VALUE_MAX: usize = 8 * 1024;

    /// Recent pages; recent entries are cached above this, so it only serves laggards.
    const CACHE: u64 = 32 * 1024 * 1024;

    /// Opens or creates the engine in a folder of its own.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        remove_unfinished(path)?;
        let db = sled::Config::new()
            .path(path)
            .segment_size(Self::SEGMENT)
            .cache_capacity(Self::CACHE)
            .flush_every_ms(None)
            .open()
            .map_err(plain)?;
        let file = File::open(path.join("db"))?;
        file.sync_all()?;
        File::open(path)?.sync_all()?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self {
            db,
            trees: BTreeMap::new(),
            file,
        })
    }

    fn tree(&mut self, number: u16) -> io::Result<&sled::Tree> {
        if !self.trees.contains_key(&number) {
            let tree = self
                .db
                .open_tree(format!("group-{number}"))
                .map_err(plain)?;
            self.trees.insert(number, tree);
        }
        self.trees
            .get(&number)
            .ok_or_else(|| io::Error::other("no such tree"))
    }
}

impl Engine for SledEngine {
    fn scan(
        &mut self,
        tree: u16,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        for pair in self.tree(tree)?.range(from..to) {
            let (key, value) = pair.map_err(plain)?;
            if !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn get(&mut self, tree: u16, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let value = self.tree(tree)?.get(key).map_err(plain)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn apply(&mut self, tree: u16, writes: Vec<Write>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for write in writes {
            match write {
                Write::Put(key, value) => batch.insert(key, value),
                Write::Delete(key) => batch.remove(key),
            }
        }
        self.tree(tree)?.apply_batch(batch).map_err(plain)
    }

    fn sync(&mut self) -> io::Result<()> {
        // On Linux sled's flush only starts the write-out (sync_file_range), so the sync is ours.
        self.db.flush().map_err(plain)?;
        self.file.sync_data()
    }
}

/// A crash in the middle of sled's own checkpoint leaves a file behind that makes its open fail.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path: PathBuf = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn plain(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
