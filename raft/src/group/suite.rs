//! The consensus library's own checks of a store, on ours.

use super::log::GroupLog;
use super::machine::{Published, Replica, Typed};
use super::types::TypeConfig;
use crate::machine::{Clock, Machine};
use crate::store::Store;
use crate::store::memory::Platter;
use crate::store::snapshot::Snapshots;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use pontoon_proto::id::GroupId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
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
    Memory,
}

impl StoreBuilder<TypeConfig, GroupLog, Replica, (TempDir, Store)> for Disk {
    async fn build(
        &self,
    ) -> Result<((TempDir, Store), GroupLog, Replica), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let store = match self {
            Disk::Sled => Store::open(&dir.path().join("log")).unwrap(),
            Disk::Memory => Store::over(Box::new(Platter::default().engine())).unwrap(),
        };
        let (log, found) = store.log(GroupId::Catalog).await.unwrap();
        let log = GroupLog::new(log, found).unwrap();
        let applier = Typed::new(Nothing, Arc::new(Published::new(&Nothing)));
        let snapshots = Snapshots::open(dir.path(), GroupId::Catalog).unwrap();
        Ok((
            (dir, store),
            log,
            Replica::new(Box::new(applier), snapshots, None),
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_suite_passes_on_the_real_engine() {
    Suite::test_all(Disk::Sled).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_suite_passes_on_the_simulated_engine() {
    Suite::test_all(Disk::Memory).await.unwrap();
}
