//! How the consensus library is set up, and how its types look on disk and on the wire.

use crate::catalog::command::Pace;
use crate::codec::{self, Corrupt, Role};
use bytes::Bytes;
use openraft::EmptyNode;
use openraft::entry::RaftEntry as _;
use openraft::vote::RaftLeaderId as _;
use pontoon_proto::peer as pb;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

openraft::declare_raft_types!(
    /// Entries and answers are opaque bytes, so that one instance of the library serves all
    /// state machines. Members have no addresses: the transport finds nodes by number.
    pub TypeConfig:
        D = Record,
        R = Replies,
        NodeId = u64,
        Node = EmptyNode,
        AsyncRuntime = super::runtime::Runtime,
);

pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::DefaultEntryOf<TypeConfig>;
pub(crate) type Payload = openraft::alias::PayloadOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// The framed batch of one entry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Record(pub Bytes);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The library asks for this; our own formats never use it.
impl Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0[..].serialize(serializer)
    }
}

/// See [`Record`]'s `Serialize`.
impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| Record(bytes.into()))
    }
}

/// The encoded answers to one entry's commands, in order. Empty on followers and for entries that
/// carry no commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replies(pub Vec<Vec<u8>>);

/// How fast a group notices that its leader is gone.
///
/// The heartbeat must be at least 4/3 of the longest round trip between voters plus the slowest
/// sync; a failover takes `election_max` + rand(min, max) + 1 to 2 round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader says that it leads.
    pub heartbeat: Duration,
    /// The shortest patience of a follower.
    pub election_min: Duration,
    /// The longest patience of a follower, and the leader's lease.
    pub election_max: Duration,
}

impl Timing {
    /// Voters in one region: a failover takes 0.4 to 0.5 s.
    pub const LAN: Timing = Timing::of(50, 150, 250);

    /// Voters up to 150 ms apart: a failover takes 1.4 to 1.6 s and two round trips.
    pub const WAN: Timing = Timing::of(225, 550, 800);

    const fn of(heartbeat: u64, election_min: u64, election_max: u64) -> Timing {
        Timing {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(election_min),
            election_max: Duration::from_millis(election_max),
        }
    }

    /// The timing of a pace.
    pub const fn of_pace(pace: Pace) -> Timing {
        match pace {
            Pace::Lan => Timing::LAN,
            Pace::Wan => Timing::WAN,
        }
    }

    /// How long one attempt to reach a leader may take before another is worth trying: a failover
    /// may have happened meanwhile.
    pub(crate) fn attempt(&self) -> Duration {
        2 * self.election_max
    }

    pub(crate) fn config(&self, name: String, snapshot_every: u64) -> openraft::Config {
        openraft::Config {
            cluster_name: name,
            heartbeat_interval: self.heartbeat.as_millis() as u64,
            election_timeout_min: self.election_min.as_millis() as u64,
            election_timeout_max: self.election_max.as_millis() as u64,
            install_snapshot_timeout: 30_000,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(snapshot_every),
            max_in_snapshot_log_to_keep: snapshot_every / 4,
            replication_lag_threshold: snapshot_every + snapshot_every / 2,
            purge_batch_size: 256.min(snapshot_every),
            // 64 entries of at most 512 KiB would be far too much for one message, but entries are
            // that large only when hundreds of commands wait; see MESSAGE_MAX in network.rs, which
            // cuts by bytes.
            max_payload_entries: 64,
            quorum_loss_probe_interval: Some(3 * self.election_max.as_millis() as u64),
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            backoff: "50ms 100ms 200ms ...500ms".into(),
            ..Default::default()
        }
    }
}

/// An entry as it lies in the log and crosses the wire. Variants are only ever appended.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredEntry {
    term: u64,
    member: u64,
    payload: StoredPayload,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum StoredPayload {
    Blank,
    Batch(Vec<u8>),
    Membership(StoredMembers),
}

/// A membership. While voters change there are two sets, and a majority of both is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredMembers {
    voters: Vec<BTreeSet<u64>>,
    members: BTreeSet<u64>,
}

impl StoredMembers {
    fn of(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, _)| *id).collect(),
        }
    }

    fn read(self) -> Result<Membership, Corrupt> {
        let nodes = self.members.into_iter().map(|id| (id, EmptyNode {}));
        let nodes: std::collections::BTreeMap<u64, EmptyNode> = nodes.collect();
        if self.voters.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(self.voters, nodes).map_err(|error| Corrupt::Body(error.to_string()))
    }
}

/// Frames an entry.
pub(crate) fn entry_record(entry: &Entry) -> Result<Bytes, Corrupt> {
    let id = entry.log_id();
    let payload = match &entry.payload {
        Payload::Blank => StoredPayload::Blank,
        Payload::Normal(record) => StoredPayload::Batch(record.0.to_vec()),
        Payload::Membership(membership) => StoredPayload::Membership(StoredMembers::of(membership)),
    };
    let stored = StoredEntry {
        term: id.leader_id.term,
        member: id.leader_id.node_id,
        payload,
    };
    codec::frame(Role::Entry, 0, id.index, &codec::encode(&stored)?)
}

/// Reads a framed entry.
pub(crate) fn read_entry(record: &Bytes) -> Result<Entry, Corrupt> {
    let (index, body) = codec::unframe(Role::Entry, 0, record)?;
    let stored: StoredEntry = codec::decode(&body)?;
    let payload = match stored.payload {
        StoredPayload::Blank => Payload::Blank,
        StoredPayload::Batch(record) => Payload::Normal(Record(record.into())),
        StoredPayload::Membership(members) => Payload::Membership(members.read()?),
    };
    Ok(Entry::new(
        log_id(stored.term, stored.member, index),
        payload,
    ))
}

pub(crate) fn log_id(term: u64, member: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId::new(term, member),
        index,
    }
}

/// Frames a log id as a mark.
pub(crate) fn mark_record(id: &LogId) -> Result<Bytes, Corrupt> {
    let body = codec::encode(&(id.leader_id.term, id.leader_id.node_id))?;
    codec::frame(Role::Mark, 0, id.index, &body)
}

/// Reads a mark.
pub(crate) fn read_mark(record: &Bytes) -> Result<LogId, Corrupt> {
    let (index, body) = codec::unframe(Role::Mark, 0, record)?;
    let (term, member) = codec::decode(&body)?;
    Ok(log_id(term, member, index))
}

/// Frames a vote.
pub(crate) fn vote_record(vote: &Vote) -> Result<Bytes, Corrupt> {
    let body = codec::encode(&(vote.leader_id.term, vote.leader_id.node_id, vote.committed))?;
    codec::frame(Role::Vote, 0, 0, &body)
}

/// Reads a vote.
pub(crate) fn read_vote(record: &Bytes) -> Result<Vote, Corrupt> {
    let (_, body) = codec::unframe(Role::Vote, 0, record)?;
    let (term, member, committed) = codec::decode(&body)?;
    Ok(Vote {
        leader_id: LeaderId::new(term, member),
        committed,
    })
}

#[derive(Serialize, Deserialize)]
struct StoredMeta {
    last: Option<(u64, u64, u64)>,
    membership_at: Option<(u64, u64, u64)>,
    membership: StoredMembers,
}

/// The body of a snapshot's metadata.
pub(crate) fn meta_body(meta: &SnapshotMeta) -> Result<Vec<u8>, Corrupt> {
    let parts = |id: &LogId| (id.leader_id.term, id.leader_id.node_id, id.index);
    codec::encode(&StoredMeta {
        last: meta.last_log_id.as_ref().map(parts),
        membership_at: meta.last_membership.log_id().as_ref().map(parts),
        membership: StoredMembers::of(meta.last_membership.membership()),
    })
}

/// Reads a snapshot's metadata.
pub(crate) fn read_meta(body: &[u8]) -> Result<SnapshotMeta, Corrupt> {
    let stored: StoredMeta = codec::decode(body)?;
    let id = |(term, member, index)| log_id(term, member, index);
    Ok(SnapshotMeta {
        last_log_id: stored.last.map(id),
        last_membership: StoredMembership::new(
            stored.membership_at.map(id),
            stored.membership.read()?,
        ),
    })
}

pub(crate) fn pb_vote(vote: &Vote) -> pb::Vote {
    pb::Vote {
        term: vote.leader_id.term,
        member: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn from_pb_vote(vote: Option<pb::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("a vote is missing"))?;
    Ok(Vote {
        leader_id: LeaderId::new(vote.term, vote.member),
        committed: vote.committed,
    })
}

pub(crate) fn pb_log_id(id: &LogId) -> pb::LogId {
    pb::LogId {
        term: id.leader_id.term,
        member: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn from_pb_log_id(id: pb::LogId) -> LogId {
    log_id(id.term, id.member, id.index)
}

/// A peer's message lacks a part or holds a damaged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_kind_come_back() {
        let nodes: BTreeSet<u64> = [1, 2, 3].into();
        let membership = Membership::new_with_defaults(vec![[1, 2].into(), [2, 3].into()], nodes);
        for payload in [
            Payload::Blank,
            Payload::Normal(Record(Bytes::from_static(b"batch"))),
            Payload::Membership(membership),
        ] {
            let entry = Entry::new(log_id(3, 1 << 20 | 1, 19), payload);
            assert_eq!(read_entry(&entry_record(&entry).unwrap()).unwrap(), entry);
        }
    }

    #[test]
    fn an_entry_is_byte_for_byte_what_it_was() {
        let entry = Entry::new(
            log_id(3, 4, 19),
            Payload::Normal(Record(Bytes::from_static(b"ab"))),
        );
        let body = codec::unframe(Role::Entry, 0, &entry_record(&entry).unwrap())
            .unwrap()
            .1;
        let mut golden = vec![3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        golden.extend([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
        assert_eq!(body, golden);
    }

    #[test]
    fn marks_votes_and_metadata_come_back() {
        let id = log_id(3, 4, 19);
        assert_eq!(read_mark(&mark_record(&id).unwrap()).unwrap(), id);
        let vote = Vote {
            leader_id: LeaderId::new(7, 8),
            committed: true,
        };
        assert_eq!(read_vote(&vote_record(&vote).unwrap()).unwrap(), vote);
        assert!(read_vote(&mark_record(&id).unwrap()).is_err());
        let meta = SnapshotMeta {
            last_log_id: Some(id),
            last_membership: StoredMembership::new(
                Some(log_id(1, 1, 0)),
                Membership::new_with_defaults(vec![[1].into()], BTreeSet::from([1, 2])),
            ),
        };
        assert_eq!(read_meta(&meta_body(&meta).unwrap()).unwrap(), meta);
        let empty = SnapshotMeta::default();
        assert_eq!(read_meta(&meta_body(&empty).unwrap()).unwrap(), empty);
    }
}
