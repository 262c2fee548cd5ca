//! The records of consensus.

use super::machine::Batch;
use super::types::{self, Entry, LeaderId, Membership, Payload, Record, Vote, log_id};
use super::types::{SnapshotMeta, StoredMembership};
use crate::codec::{self, Role};
use crate::golden::Golden;
use crate::machine::Clock;
use bytes::Bytes;
use openraft::entry::RaftEntry as _;
use openraft::vote::RaftLeaderId as _;
use std::collections::BTreeSet;

#[test]
fn the_records_of_consensus_keep_their_bytes() {
    let mut golden = Golden::of("group-");
    let id = log_id(3, 7 << 20 | 2, 19);
    for (committed, name) in [(false, "vote"), (true, "vote-committed")] {
        let vote = Vote {
            leader_id: LeaderId::new(7, 8 << 20 | 1),
            committed,
        };
        golden.value(
            name,
            &vote,
            |vote| types::vote_record(vote).unwrap(),
            |golden| types::read_vote(golden).unwrap(),
        );
    }
    golden.value(
        "mark",
        &id,
        |id| types::mark_record(id).unwrap(),
        |golden| types::read_mark(golden).unwrap(),
    );
    let nodes: BTreeSet<u64> = [1, 2, 3, 4].into();
    let joint = vec![[1, 2].into(), [2, 3].into()];
    let members = Membership::new_with_defaults(joint, nodes);
    for (name, payload) in [
        ("entry-blank", Payload::Blank),
        (
            "entry-batch",
            Payload::Normal(Record(Bytes::from_static(b"a framed batch"))),
        ),
        ("entry-membership", Payload::Membership(members.clone())),
    ] {
        golden.value(
            name,
            &Entry::new(id, payload),
            |entry| types::entry_record(entry).unwrap(),
            |golden| types::read_entry(golden).unwrap(),
        );
    }
    let batch = Batch {
        format: 1,
        stamp: Clock(1234),
        commands: vec![b"one".to_vec(), b"two".to_vec()],
    };
    golden.value(
        "batch",
        &batch,
        |batch| codec::frame(Role::Batch, 200, 0, &codec::encode(batch).unwrap()).unwrap(),
        |golden| codec::decode(&codec::unframe(Role::Batch, 200, golden).unwrap().1).unwrap(),
    );
    let meta = SnapshotMeta {
        last_log_id: Some(id),
        last_membership: StoredMembership::new(Some(log_id(1, 1, 0)), members),
    };
    for (name, meta) in [
        ("snapshot-meta", meta),
        ("snapshot-meta-empty", SnapshotMeta::default()),
    ] {
        golden.value(
            name,
            &meta,
            |meta| types::meta_body(meta).unwrap().into(),
            |golden| types::read_meta(golden).unwrap(),
        );
    }
    golden.end();
}
