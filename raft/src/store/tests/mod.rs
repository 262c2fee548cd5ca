//! What the store promises: order and durability here, that damage is noticed in [`damage`], that
//! failures end it cleanly in [`failure`], and all of it at random in [`simulated`].

mod damage;
mod failure;
mod full;
mod golden;
mod model;
mod real;
mod simulated;

use super::engine::VALUE_MAX;
use super::log::{COMMITTED, VOTE};
use super::memory::Platter;
use super::{Log, Recovered, Store, StoreError};
use crate::codec::{Role, frame};
use bytes::Bytes;
use pontoon_proto::id::{GroupId, RegionId};
use std::io;
use tokio::sync::oneshot;

const GROUP: GroupId = GroupId::Region(RegionId(1));

fn record(index: u64, len: usize) -> (u64, Bytes) {
    let body: Vec<u8> = (0..len).map(|at| (at as u64 ^ index) as u8).collect();
    (index, frame(Role::Entry, 0, index, &body).unwrap())
}

async fn append(log: &Log, records: Vec<(u64, Bytes)>) -> io::Result<()> {
    let (sender, done) = oneshot::channel();
    let callback = Box::new(move |result| {
        sender.send(result).ok();
    });
    log.append(records, callback).await?;
    done.await.unwrap()
}

fn over(platter: &Platter) -> Store {
    Store::over(Box::new(platter.engine())).unwrap()
}

/// A draw for tests that need no randomness.
fn last(below: usize) -> usize {
    below - 1
}

/// What another process would find if the power went now.
async fn found(platter: &Platter) -> Result<Recovered, StoreError> {
    let store = over(&platter.copy());
    store.log(GROUP).await.map(|(_, found)| found)
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_power_cut_and_the_rest_is_not() {
    let platter = Platter::default();
    let store = over(&platter);
    let (log, _) = store.log(GROUP).await.unwrap();
    append(&log, (0..10).map(|index| record(index, 100)).collect())
        .await
        .unwrap();
    // No one waits for this truncation, so nothing makes it durable yet.
    log.truncate(5).await.unwrap();
    log.read(0, 10, usize::MAX).await.unwrap();
    assert_eq!(found(&platter).await.unwrap().count, 10);
    append(&log, vec![record(5, 100)]).await.unwrap();
    assert_eq!(found(&platter).await.unwrap().count, 6);
}

#[tokio::test]
async fn long_records_come_back_whole_from_the_real_engine() {
    let dir = tempfile::tempdir().unwrap();
    let lens = [0, 1, VALUE_MAX - 24, VALUE_MAX, 100_000, 600_000];
    let records: Vec<_> = (0..)
        .zip(lens)
        .map(|(index, len)| record(index, len))
        .collect();
    let path = dir.path().join("log");
    let store = Store::open(&path).unwrap();
    let (log, _) = store.log(GROUP).await.unwrap();
    append(&log, records.clone()).await.unwrap();
    log.mark(VOTE, frame(Role::Vote, 0, 0, b"vote").unwrap())
        .await
        .unwrap();
    store.close().await;
    let store = Store::open(&path).unwrap();
    let (log, found) = store.log(GROUP).await.unwrap();
    assert_eq!((found.first, found.count), (0, 6));
    assert!(found.vote.is_some());
    let read = log.read(0, 6, usize::MAX).await.unwrap();
    assert!(
        read.iter()
            .zip(&records)
            .all(|(read, (_, record))| read == record)
    );
    assert_eq!(
        log.read(1, 6, 10).await.unwrap().len(),
        1,
        "at least one, however small the limit"
    );
    assert!(
        std::fs::read_dir(path.join("blobs"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[tokio::test]
async fn a_purged_log_begins_behind_its_mark_even_if_the_entries_are_still_there() {
    let platter = Platter::default();
    let store = over(&platter);
    let (log, _) = store.log(GROUP).await.unwrap();
    append(&log, (0..1000).map(|index| record(index, 10)).collect())
        .await
        .unwrap();
    log.purge(899, frame(Role::Mark, 0, 899, b"mark").unwrap())
        .await
        .unwrap();
    append(&log, vec![record(1000, 10)]).await.unwrap();
    let found = found(&platter).await.unwrap();
    assert_eq!((found.first, found.count), (900, 101));
    store.close().await;
}

#[tokio::test]
async fn groups_do_not_see_each_other() {
    let platter = Platter::default();
    let store = over(&platter);
    let (log, _) = store.log(GROUP).await.unwrap();
    append(&log, vec![record(0, 10)]).await.unwrap();
    let (_, other) = store.log(GroupId::Catalog).await.unwrap();
    assert_eq!(other.count, 0);
}

#[test]
fn a_stepped_store_does_nothing_between_its_steps() {
    use futures::FutureExt;
    let platter = Platter::default();
    let (store, mut steps) = Store::stepped(Box::new(platter.engine())).unwrap();
    let mut opening = Box::pin(store.log(GROUP));
    assert!(opening.as_mut().now_or_never().is_none());
    assert!(steps.step());
    let (log, _) = opening.now_or_never().unwrap().unwrap();
    let mut appending = Box::pin(append(&log, vec![record(0, 10)]));
    assert!(appending.as_mut().now_or_never().is_none());
    assert_eq!(platter.count(1), 0);
    assert!(steps.step());
    assert!(appending.now_or_never().unwrap().is_ok());
    assert_eq!(platter.count(1), 2, "the entry and the tip");
    assert!(!steps.step());
}

#[tokio::test]
async fn a_log_that_is_opened_twice_is_one_log() {
    let platter = Platter::default();
    let store = over(&platter);
    let (log, _) = store.log(GROUP).await.unwrap();
    log.mark_lazily(COMMITTED, frame(Role::Mark, 0, 0, b"").unwrap())
        .await
        .unwrap();
    let (again, found) = store.log(GROUP).await.unwrap();
    assert!(found.committed.is_some());
    append(&log, vec![record(0, 10)]).await.unwrap();
    append(&again, vec![record(1, 10)]).await.unwrap();
    let (_, found) = store.log(GROUP).await.unwrap();
    assert_eq!(found.count, 2);
}
