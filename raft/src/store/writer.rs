//! The one storage thread, and the handle of it.
//!
//! Jobs of all groups come through one bounded queue, in the order in which they were given; the
//! thread drains what is there, applies it, syncs once, and only then tells each caller. So a sync is
//! shared by everything that waited for the one before it. Deleting what a snapshot made superfluous
//! happens in small steps while the queue is empty.

use super::core::Core;
use super::disk::SledEngine;
use super::engine::Engine;
use super::error::StoreError;
use super::job::Job;
use super::log::{self, Recovered};
use pontoon_proto::id::GroupId;
use std::path::Path;
use tokio::sync::{mpsc, oneshot, watch};

/// Jobs that may wait: each group has a few appends and reads in flight, so thousands mean that the
/// disk stands still; then callers wait, and with them consensus.
const QUEUE: usize = 4096;

/// What one sync may cover. More would only make the first in the batch wait longer.
const BATCH_JOBS: usize = 1024;

/// The handle of the storage thread. The thread ends with the last handle, or at [`Store::close`].
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    failure: watch::Receiver<Option<String>>,
}

impl Store {
    /// Opens the engine in `path` and starts the thread. Blocks while the engine recovers.
    ///
    /// A damaged engine opens too: then each group's [`Store::log`] says so.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        Self::over(Box::new(SledEngine::open(path)?))
    }

    /// Starts the thread over any engine.
    pub fn over(engine: Box<dyn Engine>) -> Result<Store, StoreError> {
        let (store, steps) = Self::stepped(engine)?;
        std::thread::Builder::new()
            .name("pontoon-store".into())
            .spawn(move || steps.run())
            .map_err(StoreError::Engine)?;
        Ok(store)
    }

    /// The same without a thread: nothing happens but in [`Steps::step`].
    pub fn stepped(engine: Box<dyn Engine>) -> Result<(Store, Steps), StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (sender, failure) = watch::channel(None);
        let core = Core::new(engine, sender)?;
        let steps = Steps {
            core,
            queue,
            next: None,
        };
        Ok((Store { jobs, failure }, steps))
    }

    /// Verifies one group's log, all of it, and hands it out. Handles of the same log are equal.
    pub async fn log(&self, group: GroupId) -> Result<(log::Log, Recovered), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.give(Job::Open { group, reply }).await?;
        let recovered = answer.await.map_err(|_| StoreError::Stopped)??;
        Ok((log::Log::new(group, self.jobs.clone()), recovered))
    }

    /// Forgets one group's log, votes and marks, whole or damaged, for good. Handles of it that were
    /// handed out before must not be used any more. A crash on the way leaves the log as it was or
    /// empty, never short.
    ///
    /// The replica has forgotten what it voted: it must come back as another member.
    pub async fn wipe(&self, group: GroupId) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.give(Job::Wipe { group, reply }).await?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Why nothing is acknowledged any more, and what to do; none while all is well. Only another
    /// process may try again.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// The same, to wait for.
    pub fn failures(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    /// Writes all that was given and ends the thread.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.jobs.send(Job::Close { reply }).await.is_ok() {
            answer.await.ok();
        }
    }

    async fn give(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.send(job).await.map_err(|_| StoreError::Stopped)
    }
}

/// A store's work, to be done step by step by whoever holds this.
pub struct Steps {
    core: Core,
    queue: mpsc::Receiver<Job>,
    /// Taken from the queue by [`Steps::ready`].
    next: Option<Job>,
}

impl Steps {
    /// Waits until a step has something to do; false when nothing can come any more.
    pub async fn ready(&mut self) -> bool {
        if self.next.is_none() && !self.core.has_chores() {
            self.next = self.queue.recv().await;
            return self.next.is_some();
        }
        true
    }

    /// Does what waits in the queue, up to one commit, or else a little of the chores. Never waits
    /// for more. Answers whether there was anything to do.
    pub fn step(&mut self) -> bool {
        let next = self.next.take().ok_or(mpsc::error::TryRecvError::Empty);
        match next.or_else(|_| self.queue.try_recv()) {
            Ok(job) => {
                if let Some(reply) = self.round(job) {
                    self.core.close();
                    reply.send(()).ok();
                }
                true
            }
            Err(_) if self.core.has_chores() => {
                self.core.chore();
                true
            }
            Err(_) => false,
        }
    }

    fn run(mut self) {
        while let Some(job) = self.next() {
            if let Some(reply) = self.round(job) {
                self.core.close();
                // Whoever waits for the end may open the engine again at once.
                drop(self);
                reply.send(()).ok();
                return;
            }
        }
        self.core.close();
    }

    /// Takes this job and those behind it, and commits if somebody waits for it.
    fn round(&mut self, job: Job) -> Option<oneshot::Sender<()>> {
        let mut closing = self.core.take(job);
        for _ in 1..BATCH_JOBS {
            if closing.is_some() {
                break;
            }
            let Ok(job) = self.queue.try_recv() else {
                break;
            };
            closing = self.core.take(job);
        }
        if closing.is_none() && self.core.is_waited_for() {
            self.core.commit();
        }
        closing
    }

    /// The next job; works on chores while there is none.
    fn next(&mut self) -> Option<Job> {
        while self.core.has_chores() {
            match self.queue.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => self.core.chore(),
            }
        }
        self.queue.blocking_recv()
    }
}
