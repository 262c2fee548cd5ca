//! What other nodes ask of this one: the serving side of [`super::network::Transport`].

use super::core::{Core, Refused as Unanswered};
use super::machine::Replica;
use super::peer;
use super::propose::{self, Outcome};
use super::types::{self, Malformed, TypeConfig};
use crate::catalog::command::Pace;
use crate::clock;
use crate::codec::{self, Role};
use crate::member::node_of;
use crate::store::snapshot::SnapshotFile;
use crate::tasks::blocking;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::raft::{TransferLeaderError, TransferLeaderRequest, VoteRequest};
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The longest that a forwarded proposal may wait here, whatever its sender says.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Why this node does not take a message. The sender treats it like a node out of reach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is of another cluster, an older incarnation of the group, or for another life of this
    /// replica.
    #[error("the message is not for this node: {0}")]
    Foreign(&'static str),
    /// This node does not run that group, or not yet.
    #[error("this node does not run the group")]
    NotHere,
    /// It makes no sense.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    /// The replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Refused::Malformed(malformed.0)
    }
}

/// The groups that this node runs, by number.
pub struct Registry {
    cluster: [u8; 16],
    groups: RwLock<BTreeMap<u32, Arc<Core>>>,
}

impl Registry {
    /// Without any group yet.
    pub fn new(cluster: [u8; 16]) -> Self {
        Self {
            cluster,
            groups: RwLock::default(),
        }
    }

    /// From now on messages for this group are taken, by this replica of it.
    pub fn add<M: crate::machine::Machine>(&self, group: &super::Group<M>) {
        let number = u32::from(group.id().number());
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups.insert(number, group.core());
    }

    /// Messages for a group are refused from now on.
    pub fn remove(&self, group: pontoon_proto::id::GroupId) {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups.remove(&u32::from(group.number()));
    }

    /// Ends all groups; messages are refused from now on.
    pub async fn stop(&self) {
        let groups =
            std::mem::take(&mut *self.groups.write().unwrap_or_else(PoisonError::into_inner));
        for core in groups.values() {
            core.stop().await;
        }
    }

    fn core(&self, envelope: Option<&pb::Envelope>) -> Result<Arc<Core>, Refused> {
        let envelope = envelope.ok_or(Refused::Malformed("an envelope is missing"))?;
        if envelope.cluster[..] != self.cluster {
            return Err(Refused::Foreign("it is of another cluster"));
        }
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let core = groups.get(&envelope.group).ok_or(Refused::NotHere)?;
        if envelope.generation < core.generation {
            return Err(Refused::Foreign("it is of an older generation"));
        }
        if envelope.generation > core.generation {
            return Err(Refused::NotHere);
        }
        if envelope.to_member != 0 && envelope.to_member != core.member {
            return Err(Refused::Foreign("it is for another life of this replica"));
        }
        Ok(core.clone())
    }

    /// A vote or a pre-vote.
    pub async fn serve_vote(&self, request: pb::VoteRequest) -> Result<pb::VoteReply, Refused> {
        let core = self.core(request.envelope.as_ref())?;
        let rpc = VoteRequest {
            vote: types::from_pb_vote(request.vote)?,
            last_log_id: request.last_log_id.map(types::from_pb_log_id),
            leadership_transfer: request.leader_transfer,
        };
        let reply = if request.pre_vote {
            core.raft.pre_vote(rpc).await
        } else {
            core.raft.vote(rpc).await
        };
        let reply = reply.map_err(stopped)?;
        Ok(pb::VoteReply {
            vote: Some(types::pb_vote(&reply.vote)),
            granted: reply.vote_granted,
            last_log_id: reply.last_log_id.as_ref().map(types::pb_log_id),
        })
    }

    /// A replication stream. It ends at the first message that makes no sense.
    pub async fn serve_append(
        &self,
        mut requests: BoxStream<'static, pb::AppendRequest>,
    ) -> Result<BoxStream<'static, pb::AppendReply>, Refused> {
        let first = requests
            .next()
            .await
            .ok_or(Refused::Malformed("the stream is empty"))?;
        let core = self.core(first.envelope.as_ref())?;
        let requests = futures::stream::iter([first]).chain(requests);
        let rpcs = requests.map(|request| peer::from_pb_request(request).ok());
        let rpcs = rpcs.take_while(|rpc| futures::future::ready(rpc.is_some()));
        let results = core
            .raft
            .stream_append(rpcs.filter_map(futures::future::ready));
        let results = results.take_while(|result| futures::future::ready(result.is_ok()));
        let replies = results.filter_map(|result| futures::future::ready(result.ok()));
        Ok(replies.map(peer::pb_append_reply).boxed())
    }

    /// A snapshot, in pieces.
    pub async fn serve_install_snapshot(
        &self,
        mut chunks: BoxStream<'static, pb::SnapshotChunk>,
    ) -> Result<pb::SnapshotReply, Refused> {
        let first = chunks
            .next()
            .await
            .ok_or(Refused::Malformed("the stream is empty"))?;
        let core = self.core(first.envelope.as_ref())?;
        let vote = types::from_pb_vote(first.vote)?;
        let meta = types::read_meta(&first.meta)
            .map_err(|_| Refused::Malformed("the metadata is damaged"))?;
        let file = core.snapshots.aside();
        let received = receive(&file, first.data, chunks).await;
        let checked = match received {
            Ok(()) => {
                let file = file.clone();
                blocking(move || file.read().map(|_| ())).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = checked {
            std::fs::remove_file(file.path()).ok();
            tracing::warn!(group = %core.id, %error, "a snapshot did not arrive whole");
            return Err(Refused::Malformed("the snapshot did not arrive whole"));
        }
        let snapshot = openraft::alias::SmSnapshotOf::<TypeConfig, Replica> {
            meta,
            snapshot: file,
        };
        let reply = core
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(stopped)?;
        Ok(pb::SnapshotReply {
            vote: Some(types::pb_vote(&reply.vote)),
        })
    }

    /// The leader wants this node to lead.
    pub async fn serve_transfer_leader(
        &self,
        request: pb::TransferLeaderRequest,
    ) -> Result<pb::TransferLeaderReply, Refused> {
        let core = self.core(request.envelope.as_ref())?;
        let from = types::from_pb_vote(request.from)?;
        let last = request.last_log_id.map(types::from_pb_log_id);
        let rpc = TransferLeaderRequest::new(from, request.to, last);
        let mut reply = pb::TransferLeaderReply::default();
        match core
            .raft
            .handle_transfer_leader(rpc)
            .await
            .map_err(stopped)?
        {
            Ok(()) => reply.accepted = true,
            Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                reply.vote = Some(types::pb_vote(&actual))
            }
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                reply.last_log_id = actual.as_ref().map(types::pb_log_id);
            }
        }
        Ok(reply)
    }

    /// Commands of a node that does not lead: they are proposed here or nowhere. Those of a caller
    /// that is no node (`forward`) are proposed wherever the leader is.
    pub async fn serve_propose(&self, request: pb::ProposeRequest) -> pb::ProposeReply {
        let refuse = |refusal: pb::Refusal, leader: Option<NodeId>| pb::ProposeReply {
            refusal: refusal.into(),
            leader_node: leader.map_or(0, |leader| u64::from(leader.0)),
            ..Default::default()
        };
        let core = match self.core(request.envelope.as_ref()) {
            Ok(core) => core,
            Err(Refused::NotHere) => return refuse(pb::Refusal::Unavailable, None),
            Err(_) => return refuse(pb::Refusal::Foreign, None),
        };
        if !request.forward && !core.leads() {
            return refuse(
                pb::Refusal::NotLeader,
                core.leader().filter(|leader| *leader != core.me),
            );
        }
        let commands = request
            .commands
            .iter()
            .map(|record| codec::unframe(Role::Command, core.kind, record));
        let Ok(commands) = commands.collect::<Result<Vec<(u64, Bytes)>, _>>() else {
            return refuse(pb::Refusal::Foreign, None);
        };
        let within = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
        let deadline = clock::now() + within;
        let propose = async |command| match request.forward {
            true => core.propose(command, within).await,
            false => propose::propose(&core.queue, command, deadline).await,
        };
        let proposals = commands.into_iter().map(|(_, command)| propose(command));
        let mut reply = pb::ProposeReply::default();
        let mut refused = None;
        for outcome in futures::future::join_all(proposals).await {
            match outcome {
                Outcome::Done { reply: body, index } => {
                    reply.index = reply.index.max(index);
                    match codec::frame(Role::Reply, core.kind, 0, &body) {
                        Ok(record) => reply.replies.push(record),
                        Err(_) => refused = Some(refuse(pb::Refusal::UnknownOutcome, None)),
                    }
                }
                Outcome::NotLeader(leader) => {
                    refused = Some(refuse(pb::Refusal::NotLeader, leader))
                }
                Outcome::Unavailable => refused = Some(refuse(pb::Refusal::Unavailable, None)),
                Outcome::Unknown => return refuse(pb::Refusal::UnknownOutcome, None),
            }
        }
        match refused {
            None => reply,
            // Some were applied, some were not: the sender must take all of them as unknown.
            Some(_) if !reply.replies.is_empty() => refuse(pb::Refusal::UnknownOutcome, None),
            Some(refused) => refused,
        }
    }

    /// How far a replica must be to answer a linearizable read.
    pub async fn serve_read_index(&self, request: pb::ReadIndexRequest) -> pb::ReadIndexReply {
        let answer = match self.core(request.envelope.as_ref()) {
            Ok(core) if core.leads() => core.confirmed().await,
            Ok(core) => Err(Unanswered::NotLeader(
                core.leader().filter(|leader| *leader != core.me),
            )),
            Err(_) => Err(Unanswered::Unavailable),
        };
        let (refusal, leader) = refusal(answer.err());
        pb::ReadIndexReply {
            index: answer.unwrap_or(0),
            refusal,
            leader_node: leader,
        }
    }

    /// A node lives.
    pub async fn serve_beat(&self, request: pb::BeatRequest) -> pb::BeatReply {
        let from = request
            .envelope
            .as_ref()
            .and_then(|envelope| super::core::node_number(envelope.node));
        let pace = match request.pace() {
            pb::Pace::Lan => Pace::Lan,
            pb::Pace::Wan | pb::Pace::Unspecified => Pace::Wan,
        };
        let answer = match (self.core(request.envelope.as_ref()), from) {
            (Ok(core), Some(from)) if node_of(request.member) == from => {
                core.serve_beat(request.member, pace, request.leaving).await
            }
            _ => Err(Unanswered::Unavailable),
        };
        let (refusal, leader) = refusal(answer.err());
        let word = answer.unwrap_or_default();
        pb::BeatReply {
            refusal,
            leader_node: leader,
            restart: word.restart,
            no_vote: word.no_vote,
        }
    }
}

fn refusal(unanswered: Option<Unanswered>) -> (i32, u64) {
    match unanswered {
        None => (pb::Refusal::Unspecified.into(), 0),
        Some(Unanswered::NotLeader(leader)) => (
            pb::Refusal::NotLeader.into(),
            leader.map_or(0, |leader| u64::from(leader.0)),
        ),
        Some(Unanswered::Unavailable) => (pb::Refusal::Unavailable.into(), 0),
    }
}

async fn receive(
    file: &SnapshotFile,
    first: Bytes,
    mut chunks: BoxStream<'static, pb::SnapshotChunk>,
) -> std::io::Result<()> {
    let path = file.path().to_owned();
    let write = |mut out: std::fs::File, data: Bytes| {
        blocking(move || {
            out.write_all(&data)?;
            Ok(out)
        })
    };
    let out = blocking(move || std::fs::File::create(path)).await?;
    let mut out = write(out, first).await?;
    while let Some(chunk) = chunks.next().await {
        out = write(out, chunk.data).await?;
    }
    blocking(move || out.sync_all()).await
}

fn stopped(error: impl ToString) -> Refused {
    Refused::Stopped(error.to_string())
}
