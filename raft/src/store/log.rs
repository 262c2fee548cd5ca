//! One group's log: its handle, and how it lies in the engine.
//!
//! ```text
//! 0 name                 a mark: vote, purged, committed, life
//! 1 index(8) part(2)     a piece of the framed record of that entry, big endian
//! ```
//!
//! Records are cut into pieces because the engine moves long values into files that it never syncs.

use super::engine::{Engine, SledEngine, Write};
use super::writer::{Done, Job, StoreError};
use crate::codec::{HEADER, Header, Role};
use bytes::Bytes;
use pontoon_proto::id::GroupId;
use std::io;
use tokio::sync::{mpsc, oneshot};

/// The last vote.
pub const VOTE: u8 = 1;
/// The last log id that a snapshot made superfluous.
pub const PURGED: u8 = 2;
/// The last log id known to be committed; a hint, written along with other things.
pub const COMMITTED: u8 = 3;
/// This node's present life in the group.
pub const LIFE: u8 = 4;

/// The end of all entries.
pub(super) const END: [u8; 1] = [2];

/// How much of a log's end is handed out at the start, to be cached.
const TAIL_BYTES: usize = 8 * 1024 * 1024;

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The marks, framed, as they were given.
    pub vote: Option<Bytes>,
    /// See [`PURGED`].
    pub purged: Option<Bytes>,
    /// See [`COMMITTED`].
    pub committed: Option<Bytes>,
    /// See [`LIFE`].
    pub life: Option<Bytes>,
    /// Index of the first entry, or of the next one when there is none.
    pub first: u64,
    /// How many entries there are.
    pub count: u64,
    /// The last of them, framed.
    pub tail: Vec<Bytes>,
}

/// The handle of one group's log. Writes keep the order in which they are given.
#[derive(Clone)]
pub struct Log {
    group: GroupId,
    jobs: mpsc::Sender<Job>,
}

impl Log {
    pub(super) fn new(group: GroupId, jobs: mpsc::Sender<Job>) -> Self {
        Self { group, jobs }
    }

    /// Whose log.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Appends framed records; `done` is called when they are durable. Returns once they are in the
    /// queue: a read that is given later sees them.
    pub async fn append(
        &self,
        records: Vec<(u64, Bytes)>,
        done: Box<dyn FnOnce(io::Result<()>) + Send>,
    ) -> io::Result<()> {
        self.give(Job::Append {
            group: self.group,
            records,
            done,
        })
        .await
    }

    /// Sets a mark; returns when it is durable, and with it all that was given before.
    pub async fn mark(&self, name: u8, record: Bytes) -> io::Result<()> {
        let (sender, answer) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            sender.send(result).ok();
        });
        self.give(Job::Mark {
            group: self.group,
            name,
            record,
            done,
        })
        .await?;
        answer.await.map_err(|_| stopped())?
    }

    /// Sets a mark that becomes durable with the next thing that does.
    pub async fn mark_lazily(&self, name: u8, record: Bytes) -> io::Result<()> {
        self.give(Job::Lazy {
            group: self.group,
            name,
            record,
        })
        .await
    }

    /// Removes the entries from this index on.
    pub async fn truncate(&self, from: u64) -> io::Result<()> {
        self.give(Job::Truncate {
            group: self.group,
            from,
        })
        .await
    }

    /// Forgets the entries up to this index: the mark at once, the entries when there is time.
    pub async fn purge(&self, upto: u64, mark: Bytes) -> io::Result<()> {
        self.give(Job::Purge {
            group: self.group,
            upto,
            mark,
        })
        .await
    }

    /// The framed records with `from <= index < to`, at least one, at most about `bytes_max`.
    pub async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Bytes>> {
        let (reply, answer) = oneshot::channel();
        self.give(Job::Read {
            group: self.group,
            from,
            to,
            bytes_max,
            reply,
        })
        .await?;
        answer.await.map_err(|_| stopped())?
    }

    async fn give(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).await.map_err(|_| stopped())
    }
}

fn stopped() -> io::Error {
    io::Error::other("the storage thread has stopped")
}

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
    let rest = key.strip_prefix(&[1])?;
    let (index, part) = rest.split_first_chunk::<8>()?;
    Some((
        u64::from_be_bytes(*index),
        u16::from_be_bytes(part.try_into().ok()?),
    ))
}

/// Adds the writes of one record. A record that replaces a longer one is always preceded by a
/// truncation, so no piece of an old one can stay behind it.
pub(super) fn put(writes: &mut Vec<Write>, index: u64, record: &Bytes) {
    for (part, piece) in record.chunks(SledEngine::VALUE_MAX).enumerate() {
        writes.push(Write::Put(entry_key(index, part as u16), piece.to_vec()));
    }
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
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<Option<(u64, Bytes)>, (u64, String)> {
        let Some((index, part)) = index_of(key) else {
            return Err((self.index, "an unknown key".into()));
        };
        if self.want == 0 {
            let header = Header::read(value).map_err(|why| (index, why.to_string()))?;
            self.want = HEADER + header.len;
            (self.index, self.parts) = (index, 0);
        }
        if (index, part) != (self.index, self.parts) {
            return Err((self.index, format!("piece {} is missing", self.parts)));
        }
        self.parts += 1;
        self.bytes.extend_from_slice(value);
        if self.bytes.len() < self.want {
            return Ok(None);
        }
        self.want = 0;
        let record = Bytes::from(std::mem::take(&mut self.bytes));
        verify(index, &record).map_err(|why| (index, why))?;
        Ok(Some((index, record)))
    }
}

fn verify(index: u64, record: &Bytes) -> Result<(), String> {
    crate::codec::unframe_at(Role::Entry, 0, index, record)
        .map(|_| ())
        .map_err(|why| why.to_string())
}

/// Reads and verifies a whole log: every record's frame and checksum, and that none is missing.
pub(super) fn recover(engine: &mut dyn Engine, group: GroupId) -> Result<Recovered, StoreError> {
    let tree = group.number();
    let mut found = Recovered::default();
    for (name, place) in [
        (VOTE, &mut found.vote),
        (PURGED, &mut found.purged),
        (COMMITTED, &mut found.committed),
        (LIFE, &mut found.life),
    ] {
        *place = engine
            .get(tree, &mark_key(name))
            .map_err(StoreError::Engine)?
            .map(Bytes::from);
    }
    if let Some(purged) = &found.purged {
        let damaged = |why: crate::codec::Corrupt| StoreError::Damaged {
            group,
            index: 0,
            why: why.to_string(),
        };
        let (index, _) = crate::codec::unframe(Role::Mark, 0, purged).map_err(damaged)?;
        found.first = index + 1;
    }
    let mut joiner = Joiner::default();
    let mut tail = std::collections::VecDeque::new();
    let mut tail_bytes = 0;
    let mut next = found.first;
    let mut broken = None;
    let mut each = |key: &[u8], value: &[u8]| {
        match joiner.take(key, value) {
            Ok(None) => {}
            Ok(Some((index, record))) if index == next => {
                next += 1;
                tail_bytes += record.len();
                tail.push_back(record);
                while tail_bytes > TAIL_BYTES && tail.len() > 1 {
                    tail_bytes -= tail.pop_front().map_or(0, |record: Bytes| record.len());
                }
            }
            Ok(Some((index, _))) => {
                broken = Some((next, format!("it is missing; the next one is {index}")));
                return false;
            }
            Err(at) => {
                broken = Some(at);
                return false;
            }
        }
        true
    };
    engine
        .scan(tree, &entry_key(found.first, 0), &END, &mut each)
        .map_err(StoreError::Engine)?;
    if broken.is_none() && joiner.want > 0 {
        broken = Some((joiner.index, "its end is missing".into()));
    }
    if let Some((index, why)) = broken {
        return Err(StoreError::Damaged { group, index, why });
    }
    found.count = next - found.first;
    found.tail = tail.into();
    Ok(found)
}

/// Reads and verifies a part of a log.
pub(super) fn read(
    engine: &mut dyn Engine,
    group: GroupId,
    from: u64,
    to: u64,
    bytes_max: usize,
) -> io::Result<Vec<Bytes>> {
    let mut joiner = Joiner::default();
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut broken = None;
    engine.scan(
        group.number(),
        &entry_key(from, 0),
        &entry_key(to, 0),
        &mut |key, value| match joiner.take(key, value) {
            Ok(None) => true,
            Ok(Some((_, record))) => {
                bytes += record.len();
                records.push(record);
                bytes < bytes_max
            }
            Err(at) => {
                broken = Some(at);
                false
            }
        },
    )?;
    match broken {
        None => Ok(records),
        Some((index, why)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the log of {group} is damaged at index {index}: {why}"),
        )),
    }
}
