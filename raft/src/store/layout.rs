//! How one group's log lies in its tree.
//!
//! ```text
//! 0 name                 a mark: vote, purged, committed, tip
//! 1 index(8) part(2)     a piece of the framed record of that entry, big endian
//! ```
//!
//! Records are cut into pieces because the engine moves long values into files that it never syncs.

use super::engine::{Engine, Tree, VALUE_MAX, Write};
use crate::codec::{self, Corrupt, HEADER, Header, Role};
use bytes::Bytes;
use std::io;

/// Where entries begin, and marks end.
pub(super) const ENTRIES: [u8; 1] = [1];

/// Where entries end.
pub(super) const END: [u8; 1] = [2];

/// Behind every key that there could be.
pub(super) const BEYOND: [u8; 16] = [0xff; 16];

pub(super) fn mark_key(name: u8) -> Vec<u8> {
    vec![0, name]
}

pub(super) fn entry_key(index: u64, part: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(11);
    key.push(1);
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> Option<(u64, u16)> {
    let rest = key.strip_prefix(&ENTRIES)?;
    let (index, part) = rest.split_first_chunk::<8>()?;
    Some((
        u64::from_be_bytes(*index),
        u16::from_be_bytes(part.try_into().ok()?),
    ))
}

/// Adds the writes of one record. A record that replaces a longer one is always preceded by a
/// truncation, so no piece of an old one can stay behind it.
pub(super) fn put(writes: &mut Vec<Write>, index: u64, record: &Bytes) {
    for (part, piece) in record.chunks(VALUE_MAX).enumerate() {
        writes.push(Write::Put(entry_key(index, part as u16), piece.to_vec()));
    }
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    /// A record is bad.
    #[error("entry {index} is bad: {why}")]
    Record {
        /// Whose.
        index: u64,
        /// What is wrong with it.
        why: Corrupt,
    },
    /// Something is missing, or too much.
    #[error("entry {index}: {why}")]
    Order {
        /// Where.
        index: u64,
        /// What is wrong there.
        why: String,
    },
    /// The engine failed.
    #[error("{error}")]
    Engine {
        /// How far the log was good.
        index: u64,
        /// What it said.
        error: io::Error,
    },
}

/// Shows the entries with `from <= index < to`, which must be there without a hole, until `each`
/// answers false. Returns the index behind the last one.
pub(super) fn entries(
    engine: &mut dyn Engine,
    tree: Tree,
    from: u64,
    to: Option<u64>,
    each: &mut dyn FnMut(u64, Bytes) -> bool,
) -> Result<u64, Flaw> {
    let mut joiner = Joiner::default();
    let mut next = from;
    let mut flaw = None;
    let mut more = true;
    let mut piece = |key: &[u8], value: &[u8]| {
        match joiner.take(key, value) {
            Ok(None) => {}
            Ok(Some((index, record))) if index == next => {
                next += 1;
                more = each(index, record);
            }
            Ok(Some((index, _))) => {
                let why = format!("it is missing; the next one is {index}");
                flaw = Some(Flaw::Order { index: next, why });
            }
            Err(found) => flaw = Some(found),
        }
        more && flaw.is_none()
    };
    let end = to.map_or(END.to_vec(), |to| entry_key(to, 0));
    let scanned = engine.scan(tree, &entry_key(from, 0), &end, &mut piece);
    if let Some(flaw) = flaw {
        return Err(flaw);
    }
    scanned.map_err(|error| Flaw::Engine { index: next, error })?;
    if more && joiner.want > 0 {
        let why = "its end is missing".into();
        return Err(Flaw::Order {
            index: joiner.index,
            why,
        });
    }
    Ok(next)
}

/// Puts the pieces of records together again, in order.
#[derive(Default)]
struct Joiner {
    index: u64,
    parts: u16,
    bytes: Vec<u8>,
    want: usize,
}

impl Joiner {
    /// Takes the next piece; returns a record when it is complete.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<Option<(u64, Bytes)>, Flaw> {
        let Some((index, part)) = index_of(key) else {
            let why = format!("an unknown key {key:02x?}");
            return Err(Flaw::Order {
                index: self.index,
                why,
            });
        };
        if self.want == 0 {
            let header = Header::read(value).map_err(|why| Flaw::Record { index, why })?;
            self.want = HEADER + header.len;
            (self.index, self.parts) = (index, 0);
        }
        if (index, part) != (self.index, self.parts) {
            let why = format!("piece {} is missing", self.parts);
            return Err(Flaw::Order {
                index: self.index,
                why,
            });
        }
        self.parts += 1;
        self.bytes.extend_from_slice(value);
        if self.bytes.len() < self.want {
            return Ok(None);
        }
        self.want = 0;
        let record = Bytes::from(std::mem::take(&mut self.bytes));
        codec::unframe_at(Role::Entry, 0, index, &record)
            .map_err(|why| Flaw::Record { index, why })?;
        Ok(Some((index, record)))
    }
}
