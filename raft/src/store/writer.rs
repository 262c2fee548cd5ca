//! The one storage thread.
//!
//! It owns the engine. Jobs of all groups come through one bounded queue, in the order in which they
//! were given; the thread drains what is there, applies it, syncs once, and only then tells each
//! caller. So a sync is shared by everything that waited for the one before it. Deleting what a
//! snapshot made superfluous happens in small steps while the queue is empty.

use super::engine::{Engine, SledEngine, Write};
use super::log::{self, Recovered};
use bytes::Bytes;
use pontoon_proto::id::GroupId;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait: each group has a few appends and reads in flight, so thousands mean that the
/// disk stands still; then callers wait, and with them consensus.
const QUEUE: usize = 4096;

/// What one sync may cover. More would only make the first in the batch wait longer.
const BATCH_JOBS: usize = 1024;

/// Keys removed per step of a purge: a step holds up the next append by about 2 ms.
const PURGE_STEP: usize = 256;

/// Called once what it stands for is durable, or surely will not be.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Why a log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine refused.
    #[error("the log engine failed: {0}")]
    Engine(#[source] io::Error),
    /// The log has a hole or a bad record: this replica must not vote.
    #[error(
        "the log of {group} is damaged at index {index}: {why}; this node must not take part with \
         it: move its data folder away and let it join as a new node, or restore the folder"
    )]
    Damaged {
        /// Whose log.
        group: GroupId,
        /// Where.
        index: u64,
        /// What is wrong there.
        why: String,
    },
    /// The storage thread is gone.
    #[error("the storage thread has stopped")]
    Stopped,
}

pub(super) enum Job {
    Open {
        group: GroupId,
        reply: oneshot::Sender<Result<Recovered, StoreError>>,
    },
    Append {
        group: GroupId,
        records: Vec<(u64, Bytes)>,
        done: Done,
    },
    Mark {
        group: GroupId,
        name: u8,
        record: Bytes,
        done: Done,
    },
    Lazy {
        group: GroupId,
        name: u8,
        record: Bytes,
    },
    Truncate {
        group: GroupId,
        from: u64,
    },
    Purge {
        group: GroupId,
        upto: u64,
        mark: Bytes,
    },
    Read {
        group: GroupId,
        from: u64,
        to: u64,
        bytes_max: usize,
        reply: oneshot::Sender<io::Result<Vec<Bytes>>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// The handle of the storage thread. The thread ends with the last handle, or at [`Store::close`].
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens the engine in `path` and starts the thread. Blocks while the engine recovers.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let engine = SledEngine::open(path).map_err(StoreError::Engine)?;
        Self::over(Box::new(engine))
    }

    /// Starts the thread over any engine.
    pub fn over(engine: Box<dyn Engine>) -> Result<Store, StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            engine,
            queue,
            pending: BTreeMap::new(),
            lazy: BTreeMap::new(),
            purges: VecDeque::new(),
            waiting: Vec::new(),
            failed: None,
        };
        std::thread::Builder::new()
            .name("pontoon-store".into())
            .spawn(move || writer.run())
            .map_err(StoreError::Engine)?;
        Ok(Store { jobs })
    }

    /// Verifies one group's log and hands it out. Once per group and process.
    pub async fn log(&self, group: GroupId) -> Result<(log::Log, Recovered), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job::Open { group, reply })
            .await
            .map_err(|_| StoreError::Stopped)?;
        let recovered = answer.await.map_err(|_| StoreError::Stopped)??;
        Ok((log::Log::new(group, self.jobs.clone()), recovered))
    }

    /// Writes all that was given and ends the thread.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.jobs.send(Job::Close { reply }).await.is_ok() {
            answer.await.ok();
        }
    }
}

struct Writer {
    engine: Box<dyn Engine>,
    queue: mpsc::Receiver<Job>,
    /// Writes of this round that the engine does not have yet.
    pending: BTreeMap<u16, Vec<Write>>,
    /// Marks that ride along with the next sync.
    lazy: BTreeMap<(u16, u8), Bytes>,
    /// What may be deleted: all log keys of the group up to the index.
    purges: VecDeque<(GroupId, u64)>,
    /// Who waits for this round's sync.
    waiting: Vec<Done>,
    /// After a failed write or sync nothing is acknowledged any more.
    failed: Option<String>,
}

impl Writer {
    fn run(mut self) {
        while let Some(job) = self.next() {
            let mut closing = self.take(job);
            for _ in 1..BATCH_JOBS {
                if closing.is_some() {
                    break;
                }
                let Ok(job) = self.queue.try_recv() else {
                    break;
                };
                closing = self.take(job);
            }
            if closing.is_some() || !self.waiting.is_empty() {
                self.commit();
            }
            if let Some(reply) = closing {
                drop(self.engine);
                reply.send(()).ok();
                return;
            }
        }
        self.commit();
    }

    /// The next job; works on purges while there is none.
    fn next(&mut self) -> Option<Job> {
        while !self.purges.is_empty() && self.failed.is_none() {
            match self.queue.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => {
                    let result = self.purge_step();
                    self.note(result);
                }
            }
        }
        self.queue.blocking_recv()
    }

    fn take(&mut self, job: Job) -> Option<oneshot::Sender<()>> {
        match job {
            Job::Open { group, reply } => {
                let result = self.recover(group);
                reply.send(result).ok();
            }
            Job::Append {
                group,
                records,
                done,
            } => {
                let writes = self.pending.entry(group.number()).or_default();
                for (index, record) in records {
                    log::put(writes, index, &record);
                }
                self.waiting.push(done);
            }
            Job::Mark {
                group,
                name,
                record,
                done,
            } => {
                let writes = self.pending.entry(group.number()).or_default();
                writes.push(Write::Put(log::mark_key(name), record.to_vec()));
                self.waiting.push(done);
            }
            Job::Lazy {
                group,
                name,
                record,
            } => {
                self.lazy.insert((group.number(), name), record);
            }
            Job::Truncate { group, from } => {
                let result = self.truncate(group, from);
                self.note(result);
            }
            Job::Purge { group, upto, mark } => {
                let writes = self.pending.entry(group.number()).or_default();
                writes.push(Write::Put(log::mark_key(log::PURGED), mark.to_vec()));
                self.purges.push_back((group, upto));
            }
            Job::Read {
                group,
                from,
                to,
                bytes_max,
                reply,
            } => {
                let result = self.read(group, from, to, bytes_max);
                reply.send(result).ok();
            }
            Job::Close { reply } => return Some(reply),
        }
        None
    }

    fn commit(&mut self) {
        for ((tree, name), record) in std::mem::take(&mut self.lazy) {
            let writes = self.pending.entry(tree).or_default();
            writes.push(Write::Put(log::mark_key(name), record.to_vec()));
        }
        let result = self.apply_all().and_then(|()| self.engine.sync());
        self.note(result);
        for done in self.waiting.drain(..) {
            done(match &self.failed {
                None => Ok(()),
                Some(error) => Err(io::Error::other(error.clone())),
            });
        }
    }

    fn apply_all(&mut self) -> io::Result<()> {
        self.usable()?;
        for (tree, writes) in std::mem::take(&mut self.pending) {
            self.engine.apply(tree, writes)?;
        }
        Ok(())
    }

    fn apply_one(&mut self, group: GroupId) -> io::Result<()> {
        self.usable()?;
        match self.pending.remove(&group.number()) {
            Some(writes) => self.engine.apply(group.number(), writes),
            None => Ok(()),
        }
    }

    fn usable(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(error) => Err(io::Error::other(error.clone())),
        }
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && self.failed.is_none()
        {
            tracing::error!(%error, "storage failed: nothing more is acknowledged by this process");
            self.failed = Some(error.to_string());
        }
    }

    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        self.apply_one(group).map_err(StoreError::Engine)?;
        let recovered = log::recover(self.engine.as_mut(), group)?;
        if recovered.first > 0 {
            self.purges.push_back((group, recovered.first - 1));
        }
        Ok(recovered)
    }

    fn read(
        &mut self,
        group: GroupId,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<Bytes>> {
        self.apply_one(group)?;
        log::read(self.engine.as_mut(), group, from, to, bytes_max)
    }

    /// Removes the end of a log, last key first, so that it never has a hole.
    fn truncate(&mut self, group: GroupId, from: u64) -> io::Result<()> {
        self.apply_one(group)?;
        let mut writes = Vec::new();
        self.engine.scan(
            group.number(),
            &log::entry_key(from, 0),
            &log::END,
            &mut |key, _| {
                writes.push(Write::Delete(key.to_vec()));
                true
            },
        )?;
        writes.reverse();
        self.engine.apply(group.number(), writes)
    }

    fn purge_step(&mut self) -> io::Result<()> {
        let Some((group, upto)) = self.purges.pop_front() else {
            return Ok(());
        };
        // The mark goes first: entries without it would look like a hole.
        self.apply_one(group)?;
        let mut writes = Vec::new();
        let end = log::entry_key(upto.saturating_add(1), 0);
        self.engine.scan(
            group.number(),
            &log::entry_key(0, 0),
            &end,
            &mut |key, _| {
                writes.push(Write::Delete(key.to_vec()));
                writes.len() < PURGE_STEP
            },
        )?;
        if writes.len() == PURGE_STEP {
            self.purges.push_back((group, upto));
        }
        self.engine.apply(group.number(), writes)
    }
}
