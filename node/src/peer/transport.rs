//! The raft crate's view of the network: its messages over the kept connections.
//!
//! Envelopes come filled in. Snapshots take the second connection, so that a large one never stands
//! in front of a heartbeat.

use super::{Class, MESSAGE_MAX, Peers, unreachable};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use pontoon_raft::group::network::{Transport, Unreachable};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::transport::Channel;

/// A boxed stream under a name of its own: without one the compiler can't show that the future that
/// sends it is `Send`.
struct Outgoing<T>(BoxStream<'static, T>);

impl<T> Stream for Outgoing<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.as_mut().poll_next(cx)
    }
}

type Answer<R> = BoxFuture<'static, Result<R, Unreachable>>;

fn raft_client(channel: Channel) -> pb::raft_client::RaftClient<Channel> {
    pb::raft_client::RaftClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX)
}

impl Transport for Peers {
    fn vote(
        &self,
        to: NodeId,
        request: pb::VoteRequest,
        within: Duration,
    ) -> Answer<pb::VoteReply> {
        self.call(to, Class::Raft, within, |channel| async move {
            raft_client(channel).vote(request).await
        })
    }

    fn append(
        &self,
        to: NodeId,
        requests: BoxStream<'static, pb::AppendRequest>,
        within: Duration,
    ) -> Answer<BoxStream<'static, Result<pb::AppendReply, Unreachable>>> {
        let requests = Outgoing(requests);
        let opened = self.call(to, Class::Raft, within, |channel| async move {
            raft_client(channel).append(requests).await
        });
        async move {
            let replies = opened.await?;
            Ok(replies
                .map(move |reply| reply.map_err(|status| unreachable(to, &status)))
                .boxed())
        }
        .boxed()
    }

    fn install_snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, pb::SnapshotChunk>,
        within: Duration,
    ) -> Answer<pb::SnapshotReply> {
        let chunks = Outgoing(chunks);
        self.call(to, Class::Rest, within, |channel| async move {
            raft_client(channel).install_snapshot(chunks).await
        })
    }

    fn transfer_leader(
        &self,
        to: NodeId,
        request: pb::TransferLeaderRequest,
        within: Duration,
    ) -> Answer<pb::TransferLeaderReply> {
        self.call(to, Class::Raft, within, |channel| async move {
            raft_client(channel).transfer_leader(request).await
        })
    }

    fn propose(
        &self,
        to: NodeId,
        request: pb::ProposeRequest,
        within: Duration,
    ) -> Answer<pb::ProposeReply> {
        self.call(to, Class::Raft, within, |channel| async move {
            raft_client(channel).propose(request).await
        })
    }

    fn read_index(
        &self,
        to: NodeId,
        request: pb::ReadIndexRequest,
        within: Duration,
    ) -> Answer<pb::ReadIndexReply> {
        self.call(to, Class::Raft, within, |channel| async move {
            raft_client(channel).read_index(request).await
        })
    }

    fn beat(
        &self,
        to: NodeId,
        request: pb::BeatRequest,
        within: Duration,
    ) -> Answer<pb::BeatReply> {
        self.call(to, Class::Raft, within, |channel| async move {
            raft_client(channel).beat(request).await
        })
    }
}
