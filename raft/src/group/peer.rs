//! The consensus library's messages to one other member, over the [`Transport`].

use super::leash::{Leash, leash};
use super::log::invalid;
use super::machine::Replica;
use super::network::{Transport, Unreachable};
use super::types::{self, LogId, TypeConfig, Vote};
use crate::member::node_of;
use crate::store::snapshot::{CHUNK, SnapshotFile};
use crate::tasks::blocking;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use pontoon_proto::id::{GroupId, NodeBoot, NodeId};
use pontoon_proto::peer as pb;
use std::future::Future;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// How long a replication stream may make no progress while something is on its way: long enough
/// for a slow disk, short enough that a black hole is noticed.
const STALLED: Duration = Duration::from_secs(3);

/// How long opening a replication stream may take: a connection may have to be made first.
const OPENING: Duration = Duration::from_secs(2);

type Snapshot = openraft::alias::SmSnapshotOf<TypeConfig, Replica>;
type Error = RPCError<TypeConfig>;
type AppendResult = Result<StreamAppendResult<TypeConfig>, Error>;

/// What every message of a group says about its sender.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) cluster: [u8; 16],
    pub(crate) group: GroupId,
    pub(crate) generation: u64,
    pub(crate) at: watch::Receiver<NodeBoot>,
}

impl Origin {
    /// An envelope for a member, or for anybody (0).
    pub(crate) fn envelope(&self, to_member: u64) -> pb::Envelope {
        let at = *self.at.borrow();
        pb::Envelope {
            cluster: Bytes::copy_from_slice(&self.cluster),
            group: u32::from(self.group.number()),
            generation: self.generation,
            node: u64::from(at.node.0),
            boot: at.boot,
            to_member,
        }
    }
}

/// Makes [`Peer`]s.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) origin: Origin,
    pub(crate) transport: Arc<dyn Transport>,
}

impl Peers {
    fn peer(&self, member: u64, opening: Option<Duration>) -> Peer {
        Peer {
            peers: self.clone(),
            node: node_of(member),
            member,
            opening,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        self.peer(target, Some(OPENING))
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        self.peer(target, None)
    }
}

/// One other member.
pub(crate) struct Peer {
    peers: Peers,
    node: NodeId,
    member: u64,
    /// Heartbeats have none: their own deadline is the cut-off.
    opening: Option<Duration>,
}

impl Peer {
    fn envelope(&self) -> Option<pb::Envelope> {
        Some(self.peers.origin.envelope(self.member))
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        let request = pb::VoteRequest {
            envelope: self.envelope(),
            vote: Some(types::pb_vote(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(types::pb_log_id),
            pre_vote,
            leader_transfer: rpc.leadership_transfer,
        };
        let reply = self
            .peers
            .transport
            .vote(self.node, request, option.soft_ttl())
            .await
            .map_err(unreachable)?;
        let vote = types::from_pb_vote(reply.vote).map_err(malformed)?;
        Ok(VoteResponse::new(
            vote,
            reply.last_log_id.map(types::from_pb_log_id),
            reply.granted,
        ))
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Error> {
        let mut replies = self
            .stream_append(Box::pin(futures::stream::iter([rpc])), option)
            .await?;
        match replies.next().await {
            Some(Ok(Ok(matching))) => Ok(AppendEntriesResponse::PartialSuccess(matching)),
            Some(Ok(refused)) => Ok(refused.into()),
            Some(Err(error)) => Err(error),
            None => Err(Error::Network(NetworkError::from_string(
                "the stream ended without a reply",
            ))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, Error>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let within = self.opening.unwrap_or(option.soft_ttl());
        let sent = Arc::new(AtomicU64::new(0));
        let mut envelope = self.envelope();
        let count = sent.clone();
        let (transport, node) = (self.peers.transport.clone(), self.node);
        let mut input = input;
        async move {
            // The pause after a failure is in the input: nobody is dialed before there is something
            // to send.
            let Some(first) = input.next().await else {
                return Ok(futures::stream::empty().boxed());
            };
            let input = futures::stream::iter([first]).chain(input);
            // An entry that can't be framed was never appended, so the stream never ends here early.
            let requests = input.map(move |rpc| {
                count.fetch_add(1, Ordering::Relaxed);
                pb_append(rpc, envelope.take())
            });
            let requests = requests.take_while(|request| futures::future::ready(request.is_some()));
            let requests = requests.filter_map(futures::future::ready).boxed();
            let (leash, requests) = leash(requests);
            let opened = transport.append(node, requests.boxed(), within);
            let replies = opened.await.map_err(unreachable)?;
            let progress = Progress {
                replies,
                sent,
                received: 0,
                _requests: leash,
            };
            let results = futures::stream::unfold(Some(progress), |state| async move {
                let mut progress = state?;
                let result = progress.next().await?;
                let ended = !matches!(result, Ok(Ok(_)));
                Some((result, (!ended).then_some(progress)))
            });
            Ok(results.boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        self.ask_vote(rpc, false, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        self.ask_vote(rpc, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let network = |error: std::io::Error| StreamingError::Network(NetworkError::new(&error));
        let meta = types::meta_body(&snapshot.meta)
            .map_err(invalid)
            .map_err(network)?;
        let path = snapshot.snapshot.path().to_owned();
        let file = blocking(move || std::fs::File::open(path))
            .await
            .map_err(network)?;
        let first = pb::SnapshotChunk {
            envelope: self.envelope(),
            vote: Some(types::pb_vote(&vote)),
            meta: meta.into(),
            data: Bytes::new(),
        };
        let rest = futures::stream::unfold(file, |mut file| async move {
            let reading = blocking(move || {
                let mut data = vec![0; CHUNK];
                let len = file.read(&mut data)?;
                data.truncate(len);
                Ok((data, file))
            });
            // A file that can't be read ends early, and the receiver notices that its end is missing.
            let (data, file) = reading.await.ok().filter(|(data, _)| !data.is_empty())?;
            let chunk = pb::SnapshotChunk {
                data: data.into(),
                ..Default::default()
            };
            Some((chunk, file))
        });
        let chunks = futures::stream::iter([first]).chain(rest).boxed();
        let reply = self
            .peers
            .transport
            .install_snapshot(self.node, chunks, option.soft_ttl());
        tokio::select! {
            closed = cancel => Err(closed.into()),
            reply = reply => {
                let reply = reply.map_err(unreachable)?;
                Ok(SnapshotResponse::new(types::from_pb_vote(reply.vote).map_err(malformed)?))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Error> {
        let request = pb::TransferLeaderRequest {
            envelope: self.envelope(),
            from: Some(types::pb_vote(rpc.from_leader())),
            to: *rpc.to_node_id(),
            last_log_id: rpc.last_log_id().map(types::pb_log_id),
        };
        let reply = self
            .peers
            .transport
            .transfer_leader(self.node, request, option.soft_ttl())
            .await
            .map_err(unreachable)?;
        Ok(match reply.vote {
            _ if reply.accepted => Ok(()),
            Some(actual) => Err(TransferLeaderError::VoteChanged {
                expected: *rpc.from_leader(),
                actual: types::from_pb_vote(Some(actual)).map_err(malformed)?,
            }),
            None => Err(TransferLeaderError::LogNotFlushed {
                expected: rpc.last_log_id().copied(),
                actual: reply.last_log_id.map(types::from_pb_log_id),
            }),
        })
    }
}

/// The replies of one append stream, watched for standstill.
struct Progress {
    replies: BoxStream<'static, Result<pb::AppendReply, Unreachable>>,
    sent: Arc<AtomicU64>,
    received: u64,
    /// They end with the replies.
    _requests: Leash<pb::AppendRequest>,
}

impl Progress {
    async fn next(&mut self) -> Option<AppendResult> {
        loop {
            match tokio::time::timeout(STALLED, self.replies.next()).await {
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Some(Err(unreachable(error))),
                Ok(Some(Ok(reply))) => {
                    self.received += 1;
                    return Some(from_pb_append(reply));
                }
                Err(_) if self.sent.load(Ordering::Relaxed) > self.received => {
                    let error = NetworkError::from_string("the peer stopped answering");
                    return Some(Err(Error::Network(error)));
                }
                Err(_) => {}
            }
        }
    }
}

fn pb_append(
    rpc: AppendEntriesRequest<TypeConfig>,
    envelope: Option<pb::Envelope>,
) -> Option<pb::AppendRequest> {
    let entry = |entry: &types::Entry| {
        Some(pb::Entry {
            log_id: Some(types::pb_log_id(&entry.log_id)),
            record: types::entry_record(entry).ok()?,
        })
    };
    Some(pb::AppendRequest {
        envelope,
        vote: Some(types::pb_vote(&rpc.vote)),
        prev_log_id: rpc.prev_log_id.as_ref().map(types::pb_log_id),
        entries: rpc.entries.iter().map(entry).collect::<Option<_>>()?,
        leader_commit: rpc.leader_commit.as_ref().map(types::pb_log_id),
    })
}

/// Reads an append message; the other half of what [`Peer`] sends.
pub(crate) fn from_pb_request(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, types::Malformed> {
    let entry = |entry: pb::Entry| {
        types::read_entry(&entry.record).map_err(|_| types::Malformed("an entry is damaged"))
    };
    Ok(AppendEntriesRequest {
        vote: types::from_pb_vote(request.vote)?,
        prev_log_id: request.prev_log_id.map(types::from_pb_log_id),
        entries: request
            .entries
            .into_iter()
            .map(entry)
            .collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.map(types::from_pb_log_id),
    })
}

/// The reply to an append message.
pub(crate) fn pb_append_reply(result: StreamAppendResult<TypeConfig>) -> pb::AppendReply {
    use pb::append_reply::Result as R;
    let result = match result {
        Ok(None) => R::Success(true),
        Ok(Some(id)) => R::Partial(types::pb_log_id(&id)),
        Err(StreamAppendError::Conflict(id)) => R::Conflict(types::pb_log_id(&id)),
        Err(StreamAppendError::HigherVote(vote)) => R::HigherVote(types::pb_vote(&vote)),
    };
    pb::AppendReply {
        result: Some(result),
    }
}

fn from_pb_append(reply: pb::AppendReply) -> AppendResult {
    use pb::append_reply::Result as R;
    let id = |id: pb::LogId| -> LogId { types::from_pb_log_id(id) };
    Ok(match reply.result {
        Some(R::Success(_)) => Ok(None),
        Some(R::Partial(last)) => Ok(Some(id(last))),
        Some(R::Conflict(at)) => Err(StreamAppendError::Conflict(id(at))),
        Some(R::HigherVote(vote)) => Err(StreamAppendError::HigherVote(
            types::from_pb_vote(Some(vote)).map_err(malformed)?,
        )),
        None => return Err(malformed(types::Malformed("an append reply is empty"))),
    })
}

fn unreachable(error: Unreachable) -> Error {
    Error::Unreachable(openraft::errors::Unreachable::new(&error))
}

fn malformed(error: types::Malformed) -> Error {
    Error::Network(NetworkError::new(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::vote::RaftLeaderId as _;
    use std::sync::Mutex;

    type Requests = BoxStream<'static, pb::AppendRequest>;

    /// Refuses the first message of each stream, and lets go of none, as a connection that is busy does.
    #[derive(Default)]
    struct Holder(Mutex<Vec<Requests>>);

    impl Transport for Holder {
        fn append(
            &self,
            _to: NodeId,
            requests: Requests,
            _within: Duration,
        ) -> BoxFuture<
            'static,
            Result<BoxStream<'static, Result<pb::AppendReply, Unreachable>>, Unreachable>,
        > {
            self.0.lock().unwrap().push(requests);
            let refused = pb_append_reply(Err(StreamAppendError::Conflict(types::log_id(1, 1, 7))));
            let replies = futures::stream::iter([Ok(refused)]).chain(futures::stream::pending());
            futures::future::ready(Ok(replies.boxed())).boxed()
        }

        fn vote(
            &self,
            _to: NodeId,
            _request: pb::VoteRequest,
            _within: Duration,
        ) -> BoxFuture<'static, Result<pb::VoteReply, Unreachable>> {
            futures::future::pending().boxed()
        }

        fn install_snapshot(
            &self,
            _to: NodeId,
            _chunks: BoxStream<'static, pb::SnapshotChunk>,
            _within: Duration,
        ) -> BoxFuture<'static, Result<pb::SnapshotReply, Unreachable>> {
            futures::future::pending().boxed()
        }

        fn transfer_leader(
            &self,
            _to: NodeId,
            _request: pb::TransferLeaderRequest,
            _within: Duration,
        ) -> BoxFuture<'static, Result<pb::TransferLeaderReply, Unreachable>> {
            futures::future::pending().boxed()
        }

        fn propose(
            &self,
            _to: NodeId,
            _request: pb::ProposeRequest,
            _within: Duration,
        ) -> BoxFuture<'static, Result<pb::ProposeReply, Unreachable>> {
            futures::future::pending().boxed()
        }

        fn read_index(
            &self,
            _to: NodeId,
            _request: pb::ReadIndexRequest,
            _within: Duration,
        ) -> BoxFuture<'static, Result<pb::ReadIndexReply, Unreachable>> {
            futures::future::pending().boxed()
        }

        fn beat(
            &self,
            _to: NodeId,
            _request: pb::BeatRequest,
            _within: Duration,
        ) -> BoxFuture<'static, Result<pb::BeatReply, Unreachable>> {
            futures::future::pending().boxed()
        }
    }

    #[tokio::test]
    async fn the_requests_of_a_stream_are_gone_when_its_replies_end() {
        let holder = Arc::new(Holder::default());
        let at = NodeBoot {
            node: NodeId(1),
            boot: 1,
        };
        let peers = Peers {
            origin: Origin {
                cluster: [7; 16],
                group: GroupId::Catalog,
                generation: 1,
                at: watch::channel(at).1,
            },
            transport: holder.clone(),
        };
        let mut peer = peers.peer(2 << 20, Some(OPENING));
        let request = AppendEntriesRequest {
            vote: Vote {
                leader_id: types::LeaderId::new(1, 1),
                committed: true,
            },
            prev_log_id: Some(types::log_id(1, 1, 7)),
            leader_commit: None,
            entries: Vec::new(),
        };
        // What the library locks while it waits for something to send.
        let state = Arc::new(());
        let locked = state.clone();
        let waiting = futures::stream::poll_fn(move |_| {
            let _locked = &locked;
            std::task::Poll::Pending
        });
        let input = Box::pin(futures::stream::iter([request]).chain(waiting));
        let option = RPCOption::new(Duration::from_secs(1));
        let mut replies = peer.stream_append(input, option).await.unwrap();
        let mut held = holder.0.lock().unwrap().pop().unwrap();
        assert!(held.next().await.is_some());
        assert!(futures::poll!(held.next()).is_pending());
        let refused = replies.next().await.unwrap();
        assert!(matches!(refused, Ok(Err(StreamAppendError::Conflict(_)))));
        assert_eq!(Arc::strong_count(&state), 1, "the next stream can lock it");
        assert!(held.next().await.is_none());
    }
}
