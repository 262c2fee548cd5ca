//! The store's own records.

use crate::codec::{Corrupt, Role, frame, unframe};
use crate::golden::Golden;
use crate::store::durable::{self, Durable, Found, Known, Tip};
use crate::store::log;
use crate::store::snapshot::Snapshots;
use bytes::Bytes;
use pontoon_proto::id::GroupId;
use std::io::Write as _;

const TIP: Tip = Tip {
    sequence: 19,
    first: 3,
    next: 17,
    base: 0x1122_3344,
    chain: 0x5566_7788,
    marks: 0x99aa_bbcc,
};

#[test]
fn the_stores_own_records_keep_their_bytes() {
    let mut golden = Golden::of("store-");
    golden.value(
        "tip",
        &TIP,
        |tip| tip.record().unwrap(),
        |golden| Tip::read(golden).unwrap(),
    );
    let known = Known { epoch: 2, tip: TIP };
    let mut durable = Durable::default();
    durable.lost = true;
    durable.groups.extend([(0, known), (4095, known)]);
    let (slot, record) = durable.next_slot().unwrap();
    assert_eq!(slot, 1);
    let found = golden.bytes("durable", &record);
    let found = durable::read(&[Bytes::new(), found]);
    assert_eq!(found, Ok(Found::Whole(durable)));
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path(), GroupId::Catalog).unwrap();
    let file = snapshots
        .write(7, 200, b"meta", |writer| writer.write_all(b"state"))
        .unwrap();
    let found = golden.bytes("snapshot", &std::fs::read(file.path()).unwrap());
    std::fs::write(file.path(), found).unwrap();
    assert_eq!(&file.read().unwrap()[..], b"meta");
    golden.end();
}

#[test]
fn roles_and_marks_keep_their_numbers() {
    let roles = [
        Role::Identity,
        Role::Vote,
        Role::Mark,
        Role::Entry,
        Role::Batch,
        Role::Command,
        Role::Reply,
        Role::SnapshotMeta,
        Role::SnapshotChunk,
        Role::SnapshotEnd,
        Role::Tip,
        Role::Durable,
    ];
    // 11 has no meaning any more.
    let numbers = (1..=10).chain(12..=13);
    for (number, role) in numbers.zip(roles) {
        assert_eq!(role as usize, number);
        let record = frame(role, 9, 7, b"body").unwrap();
        assert_eq!(unframe(role, 9, &record).unwrap().0, 7);
        for other in roles.into_iter().filter(|other| *other != role) {
            let refused = unframe(other, 9, &record);
            assert!(matches!(refused, Err(Corrupt::Kind { .. })), "{other:?}");
        }
    }
    let marks = [log::VOTE, log::PURGED, log::COMMITTED, log::TIP];
    assert_eq!(marks, [1, 2, 3, 5]);
}
