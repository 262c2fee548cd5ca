//! Damage is noticed when a log is opened, and a wipe makes it empty and nothing else.

use super::*;
use crate::store::durable::{Durable, Known, Tip};

/// The syncs of a close, after which nothing is behind.
const CLOSE: usize = 2;

async fn five(platter: &Platter) -> (Store, Log) {
    let store = over(platter);
    let (log, _) = store.log(GROUP).await.unwrap();
    for index in 0..5 {
        append(&log, vec![record(index, 10)]).await.unwrap();
    }
    (store, log)
}

fn vote() -> Bytes {
    frame(Role::Vote, 0, 0, b"vote").unwrap()
}

async fn is_damaged(platter: &Platter) -> bool {
    matches!(found(platter).await, Err(StoreError::Damaged { .. }))
}

#[tokio::test]
async fn h_33_a_hole_or_a_flipped_bit_is_damage_and_the_log_is_refused() {
    // The tip is the first value, the entries follow it.
    for nth in 0..6 {
        let platter = Platter::default();
        five(&platter).await.0.close().await;
        assert!(platter.flip(1, nth, &mut last));
        let refused = found(&platter).await;
        let Err(StoreError::Damaged { index, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(index, nth.saturating_sub(1) as u64);
    }
    for nth in 0..6 {
        let platter = Platter::default();
        five(&platter).await.0.close().await;
        assert!(platter.lose(1, nth));
        assert!(is_damaged(&platter).await, "lost {nth}");
    }
}

#[tokio::test]
async fn h_33_a_log_that_lost_synced_batches_is_damaged_however_sound_it_looks() {
    for syncs in 1..5 {
        let platter = Platter::default();
        let (store, _log) = five(&platter).await;
        store.close().await;
        assert!(platter.forget(CLOSE + syncs));
        let refused = found(&platter).await;
        let Err(StoreError::Damaged { why, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert!(why.contains(&format!("last {syncs} batches")), "{why}");
    }
}

#[tokio::test]
async fn h_33_a_lost_vote_is_damage_though_no_entry_is_missing() {
    let platter = Platter::default();
    let (store, log) = five(&platter).await;
    log.mark(VOTE, vote()).await.unwrap();
    store.close().await;
    assert!(platter.forget(CLOSE + 1));
    assert!(is_damaged(&platter).await);
}

#[tokio::test]
async fn an_unclean_end_hides_at_most_the_last_batch() {
    let platter = Platter::default();
    let (_store, _log) = five(&platter).await;
    // The slot of the last batch was not synced, so without that batch all looks well.
    assert!(platter.forget(1));
    assert_eq!(found(&platter).await.unwrap().count, 4);
    let platter = Platter::default();
    let (_store, _log) = five(&platter).await;
    assert!(platter.forget(2));
    assert!(is_damaged(&platter).await);
}

#[tokio::test]
async fn one_bad_slot_is_a_torn_write_and_two_are_a_loss() {
    let platter = Platter::default();
    let (store, _log) = five(&platter).await;
    store.close().await;
    let whole = platter.slots();
    for bad in 0..2 {
        for at in 0..whole[bad].len() {
            let mut slots = whole.clone();
            let mut bytes = slots[bad].to_vec();
            bytes[at] ^= 0x10;
            slots[bad] = bytes.into();
            platter.set_slots(slots);
            assert_eq!(found(&platter).await.unwrap().count, 5, "byte {at}");
        }
    }
    let cut = |slot: &Bytes| slot.slice(..slot.len() - 1);
    platter.set_slots(whole.each_ref().map(cut));
    assert!(is_damaged(&platter).await);
    platter.set_slots(Default::default());
    assert!(is_damaged(&platter).await, "as if the file were gone");
}

#[tokio::test]
async fn a_loss_is_remembered_until_each_group_was_wiped() {
    let platter = Platter::default();
    let (store, _log) = five(&platter).await;
    let (other, _) = store.log(GroupId::Catalog).await.unwrap();
    append(&other, vec![record(0, 10)]).await.unwrap();
    store.close().await;
    platter.set_slots(Default::default());
    let store = over(&platter);
    store.wipe(GROUP).await.unwrap();
    assert_eq!(store.log(GROUP).await.unwrap().1.count, 0);
    for store in [store, over(&platter.copy())] {
        let refused = store.log(GroupId::Catalog).await.map(|_| ());
        assert!(
            matches!(refused, Err(StoreError::Damaged { .. })),
            "{refused:?}"
        );
        store.wipe(GroupId::Catalog).await.unwrap();
        assert_eq!(store.log(GroupId::Catalog).await.unwrap().1.count, 0);
    }
}

#[tokio::test]
async fn a_damaged_group_stops_no_other_and_a_wipe_makes_it_empty() {
    let platter = Platter::default();
    let (store, _log) = five(&platter).await;
    let (other, _) = store.log(GroupId::Catalog).await.unwrap();
    append(&other, vec![record(0, 10)]).await.unwrap();
    store.close().await;
    assert!(platter.flip(1, 3, &mut last));
    let store = over(&platter);
    assert!(store.log(GROUP).await.is_err());
    let (other, found_other) = store.log(GroupId::Catalog).await.unwrap();
    assert_eq!(found_other.count, 1);
    store.wipe(GROUP).await.unwrap();
    let (log, empty) = store.log(GROUP).await.unwrap();
    assert_eq!((empty.first, empty.count, empty.vote), (0, 0, None));
    append(&log, vec![record(0, 20)]).await.unwrap();
    append(&other, vec![record(1, 10)]).await.unwrap();
    assert_eq!(found(&platter).await.unwrap().count, 1);
}

#[tokio::test]
async fn a_wiped_log_does_not_come_back_with_an_old_map() {
    let platter = Platter::default();
    let (store, _log) = five(&platter).await;
    store.wipe(GROUP).await.unwrap();
    let (log, _) = store.log(GROUP).await.unwrap();
    append(&log, vec![record(0, 10)]).await.unwrap();
    store.close().await;
    // Before the wipe: five entries, and more batches than were made since.
    assert!(platter.forget(6));
    assert!(is_damaged(&platter).await);
}

#[tokio::test]
async fn a_newer_record_is_not_damage() {
    let newer = |record: &Bytes| {
        let mut bytes = record.to_vec();
        bytes[3] = 2;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..20]), &bytes[24..]);
        bytes[20..24].copy_from_slice(&sum.to_le_bytes());
        Bytes::from(bytes)
    };
    for case in 0..4 {
        let platter = Platter::default();
        let store = over(&platter);
        let (log, _) = store.log(GROUP).await.unwrap();
        match case {
            0 => append(&log, vec![(0, newer(&record(0, 10).1))])
                .await
                .unwrap(),
            1 => log.mark(VOTE, newer(&vote())).await.unwrap(),
            2 => log.mark(77, newer(&vote())).await.unwrap(),
            _ => append(&log, vec![record(0, 10)]).await.unwrap(),
        }
        store.close().await;
        let refused = if case == 3 {
            let slots = platter.slots();
            platter.set_slots(slots.each_ref().map(newer));
            Store::over(Box::new(platter.engine())).map(|_| ())
        } else {
            found(&platter).await.map(|_| ())
        };
        let Err(StoreError::Future { version: 2, .. }) = refused else {
            panic!("case {case}: {refused:?}");
        };
    }
}

#[tokio::test]
async fn an_unknown_mark_or_key_is_damage() {
    let platter = Platter::default();
    let (_store, log) = five(&platter).await;
    log.mark(77, vote()).await.unwrap();
    assert!(is_damaged(&platter).await);
    for nth in 0..6 {
        for byte in 0..3 {
            let platter = Platter::default();
            five(&platter).await.0.close().await;
            assert!(platter.flip_key(1, nth, &mut |below| byte % below));
            assert!(is_damaged(&platter).await, "key {nth} byte {byte}");
        }
    }
}

#[test]
fn slots_of_somebody_else_are_left_alone() {
    let platter = Platter::default();
    platter.set_slots([Bytes::from_static(b"#!/bin/sh"), Bytes::new()]);
    let refused = Store::over(Box::new(platter.engine())).map(|_| ());
    assert!(
        matches!(refused, Err(StoreError::Foreign { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_full_slot_fits_into_its_place() {
    let known = Known {
        epoch: u32::MAX,
        tip: Tip::default(),
    };
    let mut durable = Durable::default();
    durable
        .groups
        .extend((0..=4095).map(|group| (group, known)));
    let (_, record) = durable.next_slot().unwrap();
    assert!(
        record.len() <= crate::store::slots::SLOT,
        "{}",
        record.len()
    );
}
