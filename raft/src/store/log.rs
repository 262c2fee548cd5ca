//! One group's log: its handle.

use super::job::{Done, Job};
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
/// How far the log is; the storage thread's own, see [`super::durable::Tip`].
pub(super) const TIP: u8 = 5;

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The marks, framed, as they were given.
    pub vote: Option<Bytes>,
    /// See [`PURGED`].
    pub purged: Option<Bytes>,
    /// See [`COMMITTED`].
    pub committed: Option<Bytes>,
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
