//! The consensus library's own checks of a store, on ours.

use super::log::GroupLog;
use super::machine::{Published, Replica, Typed};
use super::types::{Entry, LogId, Payload, TypeConfig, Vote, log_id};
use crate::machine::{Clock, Machine};
use crate::store::Store;
use crate::store::memory::Platter;
use crate::store::snapshot::Snapshots;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, StorageError};
use pontoon_proto::id::GroupId;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A state machine without state: the suite brings only blank and membership entries.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Nothing;

impl Machine for Nothing {
    type Command = ();
    type Reply = ();
    type Effect = ();
    const KIND: u8 = 201;

    fn clock(&self) -> Clock {
        Clock(0)
    }

    fn apply(&mut self, _: u64, _: Clock, (): (), _: &mut Vec<()>) {}

    fn next_due(&self) -> Option<Clock> {
        None
    }

    fn tick() {}

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

enum Disk {
    Sled,
    Memory(Platter),
}

impl Disk {
    async fn open(&self, dir: &Path) -> Store {
        match self {
            Disk::Sled => {
                let path = dir.join("log");
                tokio::time::timeout(LOCKED_MAX, unlocked(&path))
                    .await
                    .unwrap()
            }
            Disk::Memory(platter) => Store::over(Box::new(platter.engine())).unwrap(),
        }
    }
}

/// How long the engine may keep its folder after it was closed; its threads end soon after that.
const LOCKED_MAX: Duration = Duration::from_secs(20);

/// The store, once the engine that had the folder before has let go of it.
async fn unlocked(path: &Path) -> Store {
    loop {
        match Store::open(path) {
            Ok(store) => return store,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn group_log(store: &Store) -> GroupLog {
    let (log, found) = store.log(GroupId::Catalog).await.unwrap();
    GroupLog::new(log, found).unwrap()
}

fn replica(dir: &Path) -> Replica {
    let applier = Typed::new(Nothing, Arc::new(Published::new(&Nothing)));
    let snapshots = Snapshots::open(dir, GroupId::Catalog).unwrap();
    Replica::new(Box::new(applier), snapshots, None)
}

/// A log that stays open, or is closed and opened again after every write.
///
/// The suite's logs begin at index 1 and higher, as no real one does: ours would rightly be refused.
/// So what is missing in front is filled, and hidden from the suite.
struct Reopened {
    reopens: bool,
    disk: Disk,
    dir: PathBuf,
    store: Store,
    log: Hiding,
}

/// A log without its first entries.
#[derive(Clone)]
struct Hiding {
    log: GroupLog,
    before: u64,
}

impl Reopened {
    async fn reopen(&mut self) {
        if !self.reopens {
            return;
        }
        self.store.close().await;
        self.store = self.disk.open(&self.dir).await;
        self.log.log = group_log(&self.store).await;
    }
}

impl RaftLogReader<TypeConfig> for Hiding {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let mut entries = self.log.try_get_log_entries(range).await?;
        entries.retain(|entry| entry.log_id.index >= self.before);
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.read_vote().await
    }
}

impl RaftLogReader<TypeConfig> for Reopened {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.log.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for Reopened {
    type LogReader = Hiding;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let mut state = self.log.log.get_log_state().await?;
        state.last_log_id = state
            .last_log_id
            .filter(|last| last.index >= self.log.before);
        Ok(state)
    }

    async fn get_log_reader(&mut self) -> Hiding {
        self.log.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.log.save_vote(vote).await?;
        self.reopen().await;
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.log.save_committed(committed).await?;
        self.reopen().await;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.log.log.read_committed().await
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let first = entries.first().map_or(0, |entry| entry.log_id.index);
        if self.log.log.last().is_none() && first > 0 {
            self.log.before = first;
            let filler = (0..first).map(|index| Entry::new(log_id(0, 0, index), Payload::Blank));
            self.log
                .log
                .append(filler.collect::<Vec<_>>(), IOFlushed::noop())
                .await?;
        }
        self.log.log.append(entries, callback).await?;
        self.reopen().await;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.log.log.truncate_after(last_log_id).await?;
        self.reopen().await;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.log.before = 0;
        self.log.log.purge(log_id).await?;
        self.reopen().await;
        Ok(())
    }
}

/// Builds [`Reopened`] logs.
struct Builder {
    reopens: bool,
    disk: fn() -> Disk,
}

impl StoreBuilder<TypeConfig, Reopened, Replica, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Reopened, Replica), StorageError<TypeConfig>> {
        let (dir, disk) = (tempfile::tempdir().unwrap(), (self.disk)());
        let store = disk.open(dir.path()).await;
        let log = Hiding {
            log: group_log(&store).await,
            before: 0,
        };
        let replica = replica(dir.path());
        let reopened = Reopened {
            reopens: self.reopens,
            disk,
            dir: dir.path().into(),
            store,
            log,
        };
        Ok((dir, reopened, replica))
    }
}

fn sled() -> Disk {
    Disk::Sled
}

fn memory() -> Disk {
    Disk::Memory(Platter::default())
}

async fn passes(reopens: bool, disk: fn() -> Disk) {
    Suite::test_all(Builder { reopens, disk }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_suite_passes_on_the_real_engine() {
    passes(false, sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_suite_passes_on_the_simulated_engine() {
    passes(false, memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_suite_passes_when_the_real_engine_is_reopened_after_every_write() {
    passes(true, sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_suite_passes_when_the_simulated_engine_is_reopened_after_every_write() {
    passes(true, memory).await;
}

/// A snapshot came, and the power went before the log had made room for it: the log of an older term is still
/// there, longer than the snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_an_older_term_gives_way_to_the_snapshot_that_superseded_it() {
    for disk in [sled(), memory()] {
        let dir = tempfile::tempdir().unwrap();
        let store = disk.open(dir.path()).await;
        let mut log = group_log(&store).await;
        let entry = |index| Entry::new(log_id(2, 1, index), Payload::Blank);
        let entries = (0..=25).map(entry);
        log.append(entries.collect::<Vec<_>>(), IOFlushed::noop())
            .await
            .unwrap();
        // What the log has gone past is no reason.
        log.give_way(None).await.unwrap();
        log.give_way(Some(log_id(2, 1, 19))).await.unwrap();
        assert_eq!(log.last(), Some(log_id(2, 1, 25)));
        let snapshot = log_id(3, 1, 19);
        log.give_way(Some(snapshot)).await.unwrap();
        for _opened in 0..2 {
            let state = log.get_log_state().await.unwrap();
            assert_eq!(state.last_log_id, Some(snapshot));
            assert_eq!(state.last_purged_log_id, Some(snapshot));
            assert!(log.try_get_log_entries(..).await.unwrap().is_empty());
            log = group_log(&store).await;
        }
        let next = Entry::new(log_id(3, 1, 20), Payload::Blank);
        log.append([next], IOFlushed::noop()).await.unwrap();
        assert_eq!(log.last(), Some(log_id(3, 1, 20)));
    }
}
