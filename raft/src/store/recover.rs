//! Reading one group's log at the start: every record is verified, none may be missing, and together
//! they must be what the tips say.

use super::durable::{Chain, Known, Tip};
use super::engine::{Engine, Tree};
use super::error::StoreError;
use super::layout::{self, BEYOND, END, ENTRIES, Flaw};
use super::log::{COMMITTED, PURGED, Recovered, TIP, VOTE};
use super::open::OpenLog;
use crate::codec::{self, Role};
use bytes::Bytes;
use pontoon_proto::id::GroupId;
use std::collections::{BTreeMap, VecDeque};

/// How much of a log's end is handed out at the start, to be cached.
const TAIL_BYTES: usize = 8 * 1024 * 1024;

/// Reads and verifies a whole log.
pub(super) fn recover(
    engine: &mut dyn Engine,
    group: GroupId,
    known: Known,
) -> Result<(Recovered, OpenLog), StoreError> {
    let tree = Tree {
        group: group.number(),
        epoch: known.epoch,
    };
    let mut marks = read_marks(engine, group, tree)?;
    let tip = marks.remove(&TIP);
    let first = first_index(&marks, group)?;
    let base = match &tip {
        None => 0,
        Some(record) => read_tip(record, group)?.base,
    };
    let mut chain = Chain::new(first, base);
    let mut tail = Tail::default();
    let mut each = |_, record: Bytes| {
        chain.push(&record);
        tail.push(record);
        true
    };
    layout::entries(engine, tree, first, None, &mut each).map_err(|flaw| of(group, flaw))?;
    nothing_behind(engine, group, tree)?;
    let sequence = match &tip {
        None => 0,
        Some(record) => read_tip(record, group)?.sequence,
    };
    let mut recovered = Recovered {
        first,
        count: chain.next() - first,
        tail: tail.records.into(),
        ..Recovered::default()
    };
    for (name, place) in [
        (VOTE, &mut recovered.vote),
        (PURGED, &mut recovered.purged),
        (COMMITTED, &mut recovered.committed),
    ] {
        *place = marks.get(&name).cloned();
    }
    let open = OpenLog::new(tree, sequence, chain, marks);
    compare(group, tip.as_ref(), known.tip, &open)?;
    Ok((recovered, open))
}

/// The end of a log.
#[derive(Default)]
struct Tail {
    records: VecDeque<Bytes>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, record: Bytes) {
        self.bytes += record.len();
        self.records.push_back(record);
        while self.bytes > TAIL_BYTES && self.records.len() > 1 {
            self.bytes -= self.records.pop_front().map_or(0, |record| record.len());
        }
    }
}

/// All marks; each must be a whole record of its kind.
fn read_marks(
    engine: &mut dyn Engine,
    group: GroupId,
    tree: Tree,
) -> Result<BTreeMap<u8, Bytes>, StoreError> {
    let mut marks = BTreeMap::new();
    let mut flaw = None;
    let mut each = |key: &[u8], value: &[u8]| {
        let record = Bytes::copy_from_slice(value);
        let kind = match *key {
            [0, name] => kind_of(name).map(|kind| (name, kind)),
            _ => None,
        };
        let Some((name, (role, what))) = kind else {
            flaw = Some(unknown(group, key, &record));
            return false;
        };
        if let Err(why) = codec::unframe(role, 0, &record) {
            flaw = Some(StoreError::of_record(group, 0, what, why));
            return false;
        }
        marks.insert(name, record);
        true
    };
    let scanned = engine.scan(tree, &[], &ENTRIES, &mut each);
    match flaw {
        Some(flaw) => Err(flaw),
        None => scanned
            .map(|()| marks)
            .map_err(|error| StoreError::of_engine(group, 0, error)),
    }
}

fn kind_of(name: u8) -> Option<(Role, &'static str)> {
    Some(match name {
        VOTE => (Role::Vote, "the vote"),
        PURGED => (Role::Mark, "the purge mark"),
        COMMITTED => (Role::Mark, "the commit mark"),
        TIP => (Role::Tip, "the tip"),
        _ => return None,
    })
}

/// A key that this build never writes: a newer build's if its record says so, else damage.
fn unknown(group: GroupId, key: &[u8], record: &Bytes) -> StoreError {
    let header = codec::Header::read(record);
    let checked = header.and_then(|header| header.check(&record[codec::HEADER..]));
    match checked {
        Err(why @ codec::Corrupt::Version(_)) => StoreError::of_record(group, 0, "a record", why),
        _ => StoreError::Damaged {
            group,
            index: 0,
            why: format!("it has an unknown key {key:02x?}"),
        },
    }
}

fn nothing_behind(engine: &mut dyn Engine, group: GroupId, tree: Tree) -> Result<(), StoreError> {
    let mut found = None;
    let mut each = |key: &[u8], value: &[u8]| {
        found = Some(unknown(group, key, &Bytes::copy_from_slice(value)));
        false
    };
    let scanned = engine.scan(tree, &END, &BEYOND, &mut each);
    scanned.map_err(|error| StoreError::of_engine(group, 0, error))?;
    found.map_or(Ok(()), Err)
}

fn first_index(marks: &BTreeMap<u8, Bytes>, group: GroupId) -> Result<u64, StoreError> {
    match marks.get(&PURGED) {
        None => Ok(0),
        Some(record) => codec::unframe(Role::Mark, 0, record)
            .map(|(index, _)| index.saturating_add(1))
            .map_err(|why| StoreError::of_record(group, 0, "the purge mark", why)),
    }
}

fn read_tip(record: &Bytes, group: GroupId) -> Result<Tip, StoreError> {
    Tip::read(record).map_err(|why| StoreError::of_record(group, 0, "the tip", why))
}

fn of(group: GroupId, flaw: Flaw) -> StoreError {
    match flaw {
        Flaw::Record { index, why } => {
            StoreError::of_record(group, index, &format!("entry {index}"), why)
        }
        Flaw::Order { index, why } => StoreError::Damaged { group, index, why },
        Flaw::Engine { index, error } => StoreError::of_engine(group, index, error),
    }
}

/// Compares what was read with the tip in the tree, and that with the one beside the engine.
fn compare(
    group: GroupId,
    tip: Option<&Bytes>,
    known: Tip,
    open: &OpenLog,
) -> Result<(), StoreError> {
    let read = open.tip();
    let damaged = |index: u64, why: String| Err(StoreError::Damaged { group, index, why });
    let is_empty = read == Tip::default();
    match tip {
        None if !is_empty => return damaged(0, "its tip is missing".into()),
        Some(record) if read_tip(record, group)? != read => {
            let tip = read_tip(record, group)?;
            return damaged(
                read.next.min(tip.next),
                format!("its tip says {tip:?}, what is there is {read:?}"),
            );
        }
        _ => {}
    }
    if read.sequence < known.sequence {
        let missing = known.sequence - read.sequence;
        return damaged(
            read.next,
            format!(
                "the last {missing} batches that were durable are missing; it was durable up to \
                 index {}",
                known.next
            ),
        );
    }
    if read.sequence == known.sequence && read != known {
        return damaged(
            read.next.min(known.next),
            format!("{known:?} was durable, what is there is {read:?}"),
        );
    }
    Ok(())
}
