//! One group's log while it is open: what waits for the engine, and the tip that goes with it.

use super::durable::{Chain, Tip};
use super::engine::{Tree, Write};
use super::layout;
use super::log::{PURGED, TIP};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;

/// What the storage thread knows of one open log.
pub(super) struct OpenLog {
    pub(super) tree: Tree,
    sequence: u64,
    chain: Chain,
    marks: BTreeMap<u8, Bytes>,
    /// Writes that the engine does not have yet.
    pending: Vec<Write>,
    /// Marks that ride along with the next sync.
    lazy: BTreeMap<u8, Bytes>,
}

impl OpenLog {
    /// The log as it was recovered.
    pub(super) fn new(
        tree: Tree,
        sequence: u64,
        chain: Chain,
        marks: BTreeMap<u8, Bytes>,
    ) -> OpenLog {
        OpenLog {
            tree,
            sequence,
            chain,
            marks,
            pending: Vec::new(),
            lazy: BTreeMap::new(),
        }
    }

    /// How far the log is, with what is pending.
    pub(super) fn tip(&self) -> Tip {
        let mut marks = 0;
        for (name, record) in &self.marks {
            marks = crc32c::crc32c_append(crc32c::crc32c_append(marks, &[*name]), record);
        }
        Tip {
            sequence: self.sequence,
            marks,
            ..self.chain.tip()
        }
    }

    /// Batches that the engine was given.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Index of the first entry that is not purged.
    pub(super) fn first(&self) -> u64 {
        self.chain.first()
    }

    /// Index of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.chain.next()
    }

    /// Adds the next entry. Fails when it would leave a hole or replace one.
    pub(super) fn append(&mut self, index: u64, record: &Bytes) -> io::Result<()> {
        if index != self.chain.next() {
            let next = self.chain.next();
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("entry {index} can't be appended: the next one is {next}"),
            ));
        }
        self.chain.push(record);
        layout::put(&mut self.pending, index, record);
        Ok(())
    }

    pub(super) fn mark(&mut self, name: u8, record: Bytes) {
        // A lazy one that was given before must not come after it.
        self.lazy.remove(&name);
        let write = Write::Put(layout::mark_key(name), record.to_vec());
        self.pending.push(write);
        self.marks.insert(name, record);
    }

    pub(super) fn mark_lazily(&mut self, name: u8, record: Bytes) {
        self.lazy.insert(name, record);
    }

    /// Lets the lazy marks become pending.
    pub(super) fn fold(&mut self) {
        for (name, record) in std::mem::take(&mut self.lazy) {
            self.mark(name, record);
        }
    }

    /// Sets the purge mark. Answers whether it is news.
    pub(super) fn purge(&mut self, upto: u64, mark: Bytes) -> bool {
        let is_news = self.chain.purge(upto);
        if is_news {
            self.mark(PURGED, mark);
        }
        is_news
    }

    /// Removes the entries from an index on; `deletes` removes their keys.
    pub(super) fn truncate(&mut self, from: u64, deletes: Vec<Write>) {
        self.chain.truncate(from);
        self.pending.extend(deletes);
    }

    /// All that is pending and the tip that goes with it, to be applied at once.
    pub(super) fn seal(&mut self) -> io::Result<Option<Vec<Write>>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        self.sequence += 1;
        let tip = self.tip().record().map_err(io::Error::other)?;
        let mut writes = std::mem::take(&mut self.pending);
        writes.push(Write::Put(layout::mark_key(TIP), tip.to_vec()));
        Ok(Some(writes))
    }
}
