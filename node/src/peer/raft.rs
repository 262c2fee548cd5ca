//! The raft half of the server: hands what other nodes send to this node's groups.

use super::Peers;
use crate::tls::Caller;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use pb::raft_server::Raft;
use pontoon_proto::peer as pb;
use pontoon_raft::cluster::Cluster;
use pontoon_raft::group::serve::Refused;
use tonic::{Request, Response, Status, Streaming};

/// The groups of this node, as other nodes reach them.
pub(super) struct Groups {
    pub(super) peers: Peers,
    pub(super) cluster: Cluster,
}

type Answer<R> = Result<Response<R>, Status>;

impl Groups {
    /// The message, unless it is of another cluster or not of the caller.
    fn admit<T>(
        &self,
        request: Request<T>,
        envelope: impl FnOnce(&T) -> Option<&pb::Envelope>,
    ) -> Result<T, Status> {
        let caller = request.extensions().get::<Caller>();
        self.peers.admit(caller, envelope(request.get_ref()))?;
        Ok(request.into_inner())
    }

    /// The messages of a stream whose first one is of this cluster and of the caller. Later ones are
    /// looked at by the group itself.
    async fn admit_all<T: Send + 'static>(
        &self,
        request: Request<Streaming<T>>,
        envelope: impl FnOnce(&T) -> Option<&pb::Envelope>,
    ) -> Result<BoxStream<'static, T>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let mut messages = request.into_inner();
        let first = messages.message().await?;
        if let Some(first) = &first {
            self.peers.admit(caller.as_ref(), envelope(first))?;
        }
        Ok(stream::iter(first).chain(whole(messages)).boxed())
    }

    fn refused(&self, refused: &Refused) -> Status {
        let text = format!("{}: {refused}", self.peers.me().name);
        match refused {
            Refused::Foreign(_) => Status::failed_precondition(text),
            Refused::Malformed(_) => Status::invalid_argument(text),
            Refused::NotHere | Refused::Stopped(_) => Status::unavailable(text),
        }
    }
}

/// The messages up to the first one that did not arrive whole.
fn whole<T: Send + 'static>(messages: Streaming<T>) -> BoxStream<'static, T> {
    messages
        .scan((), |(), message| std::future::ready(message.ok()))
        .boxed()
}

#[tonic::async_trait]
impl Raft for Groups {
    type AppendStream = BoxStream<'static, Result<pb::AppendReply, Status>>;

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Answer<pb::VoteReply> {
        let message = self.admit(request, |message| message.envelope.as_ref())?;
        let reply = self.cluster.serve_vote(message).await;
        Ok(Response::new(
            reply.map_err(|refused| self.refused(&refused))?,
        ))
    }

    /// The answer's head leaves at once, so that the opening of a stream never waits for its first
    /// message.
    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Answer<Self::AppendStream> {
        let groups = Groups {
            peers: self.peers.clone(),
            cluster: self.cluster.clone(),
        };
        let replies = stream::once(async move {
            let messages = groups
                .admit_all(request, |message| message.envelope.as_ref())
                .await?;
            let replies = groups.cluster.serve_append(messages).await;
            replies
                .map(|replies| replies.map(Ok))
                .map_err(|refused| groups.refused(&refused))
        });
        Ok(Response::new(replies.try_flatten().boxed()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Answer<pb::SnapshotReply> {
        let chunks = self
            .admit_all(request, |chunk| chunk.envelope.as_ref())
            .await?;
        let reply = self.cluster.serve_install_snapshot(chunks).await;
        Ok(Response::new(
            reply.map_err(|refused| self.refused(&refused))?,
        ))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Answer<pb::TransferLeaderReply> {
        let message = self.admit(request, |message| message.envelope.as_ref())?;
        let reply = self.cluster.serve_transfer_leader(message).await;
        Ok(Response::new(
            reply.map_err(|refused| self.refused(&refused))?,
        ))
    }

    async fn propose(&self, request: Request<pb::ProposeRequest>) -> Answer<pb::ProposeReply> {
        let message = self.admit(request, |message| message.envelope.as_ref())?;
        Ok(Response::new(self.cluster.serve_propose(message).await))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Answer<pb::ReadIndexReply> {
        let message = self.admit(request, |message| message.envelope.as_ref())?;
        Ok(Response::new(self.cluster.serve_read_index(message).await))
    }

    async fn beat(&self, request: Request<pb::BeatRequest>) -> Answer<pb::BeatReply> {
        let message = self.admit(request, |message| message.envelope.as_ref())?;
        Ok(Response::new(self.cluster.serve_beat(message).await))
    }
}
