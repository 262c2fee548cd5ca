//! The real disk: sled, with the syncs that it lacks, and the file with the slots.
//!
//! ```text
//! log/            sled's folder
//! log.durable     the slots
//! log.damaged/    sled's folder as it was when it could not be read and a group was wiped
//! ```
//!
//! Sled's types do not leave this file. It panics on some damage, so every call into it is guarded: a
//! panic counts as damage.

use super::durable::{self, Durable};
use super::engine::{Engine, Tree, Write};
use super::error::StoreError;
use super::slots::SlotFile;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The real engine.
pub struct SledEngine {
    path: PathBuf,
    slots: SlotFile,
    sled: Result<Sled, String>,
}

struct Sled {
    db: sled::Db,
    trees: BTreeMap<Tree, sled::Tree>,
    file: File,
}

impl SledEngine {
    /// Sled refuses to change this after creation. See [`super::engine::VALUE_MAX`].
    const SEGMENT: usize = 1024 * 1024;

    /// Recent pages; recent entries are cached above this, so it only serves laggards.
    const CACHE: u64 = 32 * 1024 * 1024;

    /// Opens or creates the engine in a folder of its own, with the slots beside it.
    ///
    /// Sled changes a damaged folder when it opens it, and takes anything for a log. So it is only
    /// let near a folder whose slots are there and whole; else the engine is broken, and nothing is
    /// touched until a group is wiped.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let beside = path.with_extension("durable");
        let mut slots = SlotFile::open(&beside).map_err(StoreError::Engine)?;
        let found = slots.read().map_err(StoreError::Engine)?;
        let found = durable::read(&found).map_err(|flaw| flaw.of_file(&beside))?;
        let used = is_used(path).map_err(StoreError::Engine)?;
        let sled = match (found, used) {
            (durable::Found::Whole(_), _) => open(path)?,
            (durable::Found::Nothing, false) => {
                begin(path, &mut slots).map_err(StoreError::Engine)?;
                open(path)?
            }
            (durable::Found::Nothing, true) if !slots.exists() => {
                Err(format!("{} is missing", beside.display()))
            }
            (durable::Found::Nothing | durable::Found::Damaged(_), _) => {
                Err(format!("{} is damaged", beside.display()))
            }
        };
        Ok(Self {
            path: path.into(),
            slots,
            sled,
        })
    }

    fn sled(&mut self) -> io::Result<&mut Sled> {
        self.sled
            .as_mut()
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why.clone()))
    }
}

/// Whether there is anything in sled's folder.
fn is_used(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the first slots. They are durable before sled makes its first file, so that a crash in
/// between is not taken for a loss.
fn begin(path: &Path, slots: &mut SlotFile) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut first = Durable::default();
    for _ in 0..2 {
        let (slot, record) = first.next_slot()?;
        slots.write(slot, &record)?;
        slots.sync()?;
    }
    Ok(())
}

/// Opens sled. The inner error means that it can't be read.
fn open(path: &Path) -> Result<Result<Sled, String>, StoreError> {
    match Sled::open(path) {
        Ok(sled) => Ok(Ok(sled)),
        Err(error) if is_damage(&error) => Ok(Err(error.to_string())),
        Err(error) => Err(StoreError::Engine(error)),
    }
}

/// Whether an engine's error means that what is stored is damaged.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

impl Sled {
    fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        remove_unfinished(path)?;
        // What a killed process left in the page cache must be durable before sled writes a
        // checkpoint of it, which it does sync.
        if let Ok(file) = File::open(path.join("db")) {
            file.sync_all()?;
        }
        let db = guard(|| {
            sled::Config::new()
                .path(path)
                .segment_size(SledEngine::SEGMENT)
                .cache_capacity(SledEngine::CACHE)
                .flush_every_ms(None)
                .open()
        })?;
        let file = File::open(path.join("db"))?;
        file.sync_all()?;
        File::open(path.join("conf"))?.sync_all()?;
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

    fn tree(&mut self, tree: Tree) -> io::Result<sled::Tree> {
        if let Some(open) = self.trees.get(&tree) {
            return Ok(open.clone());
        }
        let open = guard(|| self.db.open_tree(tree.to_string()))?;
        self.trees.insert(tree, open.clone());
        Ok(open)
    }
}

impl Engine for SledEngine {
    fn scan(
        &mut self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        let mut pairs = self.sled()?.tree(tree)?.range(from..to);
        while let Some((key, value)) = guard(|| pairs.next().transpose())? {
            if !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn get(&mut self, tree: Tree, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let tree = self.sled()?.tree(tree)?;
        let value = guard(|| tree.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn apply(&mut self, tree: Tree, writes: Vec<Write>) -> io::Result<()> {
        let tree = self.sled()?.tree(tree)?;
        let mut batch = sled::Batch::default();
        for write in writes {
            match write {
                Write::Put(key, value) => batch.insert(key, value),
                Write::Delete(key) => batch.remove(key),
            }
        }
        guard(|| tree.apply_batch(batch))
    }

    fn sync(&mut self) -> io::Result<()> {
        let Ok(sled) = &mut self.sled else {
            return self.slots.sync();
        };
        // On Linux sled's flush only starts the write-out (sync_file_range), so the sync is ours.
        guard(|| sled.db.flush())?;
        // The slot first: this sync is its own as well.
        self.slots.settle()?;
        sled.file.sync_data()
    }

    fn trees(&mut self) -> io::Result<Vec<Tree>> {
        let names = self.sled()?.db.tree_names();
        let names = names
            .iter()
            .filter_map(|name| std::str::from_utf8(name).ok());
        Ok(names.filter_map(Tree::parse).collect())
    }

    fn drop_tree(&mut self, tree: Tree) -> io::Result<()> {
        let sled = self.sled()?;
        sled.trees.remove(&tree);
        guard(|| sled.db.drop_tree(tree.to_string())).map(|_| ())
    }

    fn slots(&mut self) -> io::Result<[Bytes; 2]> {
        self.slots.read()
    }

    fn write_slot(&mut self, slot: usize, record: &[u8]) -> io::Result<()> {
        self.slots.write(slot, record)
    }

    fn broken(&self) -> Option<String> {
        self.sled.as_ref().err().cloned()
    }

    fn restart(&mut self) -> io::Result<()> {
        self.sled = Err("it is being put aside".into());
        let aside = self.path.with_extension("damaged");
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if is_used(&self.path)? {
            fs::rename(&self.path, &aside)?;
        }
        self.sled = Ok(Sled::open(&self.path)?);
        Ok(())
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

/// Calls sled; its panics become errors.
fn guard<T>(call: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(plain),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("it panicked");
            Err(io::Error::new(io::ErrorKind::InvalidData, text.to_owned()))
        }
    }
}

fn plain(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        sled::Error::Unsupported(why) => io::Error::new(io::ErrorKind::Unsupported, why),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
