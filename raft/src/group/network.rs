//! The seam between a group and the wire.
//!
//! [`Transport`] is what a group needs of a network: the real one is gRPC between nodes, the
//! simulated one lives in the chaos package. Messages are the protobuf types of
//! `pontoon.peer.v1`; openraft's types do not cross this file's outer face.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use std::time::Duration;

/// How many bytes of entries one message carries at most, unless a single entry is longer; an entry
/// holds at most 512 KiB of commands, so no message comes near the 4 MiB that gRPC refuses.
pub const MESSAGE_MAX: usize = 768 * 1024;

/// Sends Raft traffic, forwarded proposals, reads and beats to other nodes.
///
/// Every method gives up after the span it is given. Nothing is retried here: an error means that
/// the message may or may not have arrived.
pub trait Transport: Send + Sync + 'static {
    /// Asks for a vote or a pre-vote.
    fn vote(
        &self,
        to: NodeId,
        request: pb::VoteRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::VoteReply, Unreachable>>;

    /// Opens a pipelined append stream; replies come in the order of the requests. `within` bounds
    /// the opening only. The first request carries the envelope.
    fn append(
        &self,
        to: NodeId,
        requests: BoxStream<'static, pb::AppendRequest>,
        within: Duration,
    ) -> BoxFuture<
        'static,
        Result<BoxStream<'static, Result<pb::AppendReply, Unreachable>>, Unreachable>,
    >;

    /// Sends a whole snapshot.
    fn install_snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, pb::SnapshotChunk>,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Unreachable>>;

    /// Hands leadership over.
    fn transfer_leader(
        &self,
        to: NodeId,
        request: pb::TransferLeaderRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::TransferLeaderReply, Unreachable>>;

    /// Forwards commands to the leader.
    fn propose(
        &self,
        to: NodeId,
        request: pb::ProposeRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::ProposeReply, Unreachable>>;

    /// Asks the leader for a read index.
    fn read_index(
        &self,
        to: NodeId,
        request: pb::ReadIndexRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::ReadIndexReply, Unreachable>>;

    /// Tells the leader that this node lives.
    fn beat(
        &self,
        to: NodeId,
        request: pb::BeatRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<pb::BeatReply, Unreachable>>;
}

/// A message got no answer: the peer is down, cut off, slow, or refused it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node {node} did not answer: {cause}")]
pub struct Unreachable {
    /// Who.
    pub node: NodeId,
    /// What the transport saw.
    pub cause: String,
    /// Whether the message surely never left this node (then a retry elsewhere is always safe).
    pub unsent: bool,
}
