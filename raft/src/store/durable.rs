//! How far each group's log is known to be durable (H-33).
//!
//! Sled cuts its own log at the first bad record, so a damaged end looks merely short, and a replica
//! that forgot a vote or an acknowledged entry must not vote again. Two records tell:
//!
//! * the **tip** lies in the group's tree and changes with every batch, in the same atomic write: a
//!   sequence number and checksums over all entries and marks. It pins the state of the tree, so a
//!   stale or lost page is seen;
//! * [`Durable`] lies in a slot beside the engine and repeats the tips as of the last sync. An engine
//!   whose tip is behind has lost a batch that may have been acknowledged, votes included.
//!
//! A slot is written after its batch was synced, so it is never ahead, and is durable before the next
//! batch is acknowledged, so it is at most one batch behind. The last batch before a crash therefore
//! stays undecidable: when it is damaged and its slot did not get to the disk, it was perhaps never
//! whole. The two slots alternate, so that a torn write leaves the one before it; it is one more
//! batch behind.

use super::error::StoreError;
use crate::codec::{self, Corrupt, HEADER, MAGIC, Role, VERSION};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

/// How far a group's log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tip {
    /// Batches that were applied to the tree.
    pub(crate) sequence: u64,
    /// Index of the first entry that is not purged.
    pub(crate) first: u64,
    /// Index of the next entry.
    pub(crate) next: u64,
    /// The chain before `first`.
    pub(crate) base: u32,
    /// The chain after the last entry.
    pub(crate) chain: u32,
    /// The checksum over all marks but this one.
    pub(crate) marks: u32,
}

impl Tip {
    /// Frames it, as it lies in the tree.
    pub(crate) fn record(&self) -> Result<Bytes, Corrupt> {
        codec::frame(Role::Tip, 0, self.sequence, &codec::encode(self)?)
    }

    /// Reads a framed one.
    pub(crate) fn read(record: &Bytes) -> Result<Tip, Corrupt> {
        codec::decode(&codec::unframe(Role::Tip, 0, record)?.1)
    }
}

/// What is known of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Which of its trees is the present one.
    pub(crate) epoch: u32,
    /// How far that was durable.
    pub(crate) tip: Tip,
}

/// The content of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durable {
    /// Rises with every slot that is written; the slot is its lowest bit.
    generation: u64,
    /// Whether what was known was once lost: then a group that is not named here is lost too.
    pub(crate) lost: bool,
    /// By group number.
    pub(crate) groups: BTreeMap<u16, Known>,
}

impl Durable {
    /// The record to be written next, and into which slot.
    pub(crate) fn next_slot(&mut self) -> io::Result<(usize, Bytes)> {
        self.generation += 1;
        let body = codec::encode(&(self.lost, &self.groups)).map_err(io::Error::other)?;
        let record = codec::frame(Role::Durable, 0, self.generation, &body);
        Ok((
            (self.generation & 1) as usize,
            record.map_err(io::Error::other)?,
        ))
    }
}

/// What the slots hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing was ever written.
    Nothing,
    /// The newest record.
    Whole(Durable),
    /// Neither slot has a whole record: why not.
    Damaged(Corrupt),
}

/// Why the slots must be left alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Alien {
    /// See [`StoreError::Future`].
    Future(u8),
    /// See [`StoreError::Foreign`].
    Foreign,
}

impl Alien {
    /// As an error about that file.
    pub(crate) fn of_file(self, path: &Path) -> StoreError {
        let path = path.display().to_string();
        match self {
            Alien::Future(version) => StoreError::Future {
                what: path,
                version,
            },
            Alien::Foreign => StoreError::Foreign { path },
        }
    }
}

/// Reads both slots.
pub(crate) fn read(slots: &[Bytes; 2]) -> Result<Found, Alien> {
    let is_empty = |slot: &Bytes| slot.iter().all(|byte| *byte == 0);
    if slots.iter().all(is_empty) {
        return Ok(Found::Nothing);
    }
    if !slots.iter().any(|slot| slot.starts_with(&MAGIC)) {
        return Err(Alien::Foreign);
    }
    let [zero, one] = slots.each_ref().map(read_one);
    for slot in [&zero, &one] {
        match slot {
            Err(Corrupt::Version(version)) if *version > VERSION => {
                return Err(Alien::Future(*version));
            }
            _ => {}
        }
    }
    Ok(match (zero, one) {
        (Ok(zero), Ok(one)) if zero.generation > one.generation => Found::Whole(zero),
        (_, Ok(one)) => Found::Whole(one),
        (Ok(zero), Err(_)) => Found::Whole(zero),
        (Err(why), Err(_)) => Found::Damaged(why),
    })
}

/// Reads one slot; what lies behind the record is of an older, longer one.
fn read_one(slot: &Bytes) -> Result<Durable, Corrupt> {
    let header = codec::Header::read(slot)?;
    let end = (HEADER + header.len).min(slot.len());
    let (generation, body) = codec::unframe(Role::Durable, 0, &slot.slice(..end))?;
    let (lost, groups) = codec::decode(&body)?;
    Ok(Durable {
        generation,
        lost,
        groups,
    })
}

/// The checksum chain over a log: each entry's value covers it and all before it.
///
/// The values of all live entries are kept, 4 bytes each, so that a truncation finds the one before
/// it and a purge the new base: 100 KiB for the 25,000 entries that a log has at most between two
/// snapshots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    first: u64,
    base: u32,
    values: VecDeque<u32>,
}

impl Chain {
    /// The chain of an empty log that begins at `first`.
    pub(crate) fn new(first: u64, base: u32) -> Chain {
        Chain {
            first,
            base,
            values: VecDeque::new(),
        }
    }

    /// Index of the first entry, or of the next one when there is none.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Index of the next entry.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.values.len() as u64
    }

    /// Adds the next entry, framed: its header has its index and the checksum of its body.
    pub(crate) fn push(&mut self, record: &[u8]) {
        let header = &record[..HEADER.min(record.len())];
        self.values
            .push_back(crc32c::crc32c_append(self.last(), header));
    }

    /// Removes the entries from this index on.
    pub(crate) fn truncate(&mut self, from: u64) {
        self.values
            .truncate(from.saturating_sub(self.first) as usize);
    }

    /// Forgets the entries up to this index. Answers whether that changed anything.
    pub(crate) fn purge(&mut self, upto: u64) -> bool {
        if upto < self.first {
            return false;
        }
        let count = (upto - self.first + 1).min(self.values.len() as u64) as usize;
        if let Some(base) = self.values.drain(..count).next_back() {
            self.base = base;
        }
        self.first = upto + 1;
        true
    }

    /// The value after the last entry.
    pub(crate) fn last(&self) -> u32 {
        self.values.back().copied().unwrap_or(self.base)
    }

    /// The tip, but for its sequence and marks.
    pub(crate) fn tip(&self) -> Tip {
        Tip {
            first: self.first,
            next: self.next(),
            base: self.base,
            chain: self.last(),
            ..Tip::default()
        }
    }
}
