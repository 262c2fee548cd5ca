//! Commands on their way to the node that leads: those that wait together travel together.
//!
//! While fewer than [`PIPELINE`] messages are on their way, a command leaves at once, from its caller's
//! own task; while that many are, commands gather, so the busier a node is the more of them share a
//! message. A message has one answer: when some of its commands were applied and some were not, all of
//! them are unknown, and their callers repeat them.

use super::core::{Core, node_number};
use super::network::Unreachable;
use super::propose::{BYTES_MAX, COMMANDS_MAX, Outcome, Proposal, QUEUE, answer_all};
use crate::clock::Instant;
use crate::codec::{self, Role};
use crate::tasks;
use bytes::Bytes;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Messages on their way to one node. One would leave the leader idle during a round trip; many would
/// make messages of single commands out of a burst.
const PIPELINE: usize = 4;

/// A command and where it goes.
type Addressed = (NodeId, Proposal);

/// What waits to be forwarded, and how many messages may leave.
#[derive(Debug)]
pub(crate) struct Forwards {
    queue: mpsc::Sender<Addressed>,
    lane: Mutex<Lane>,
}

/// The way to the last node that was asked. Another one has another: messages to a node that does not
/// answer hold up none to its successor.
#[derive(Debug)]
struct Lane {
    to: NodeId,
    permits: Arc<Semaphore>,
}

impl Forwards {
    /// The handle, and the queue for [`run`].
    pub(crate) fn new() -> (Self, mpsc::Receiver<Addressed>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let lane = Mutex::new(Lane {
            to: NodeId(0),
            permits: Arc::new(Semaphore::new(0)),
        });
        (Self { queue, lane }, waiting)
    }

    fn permits(&self, to: NodeId) -> Arc<Semaphore> {
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        if lane.to != to {
            *lane = Lane {
                to,
                permits: Arc::new(Semaphore::new(PIPELINE)),
            };
        }
        lane.permits.clone()
    }

    /// One attempt at another node.
    pub(crate) async fn forward(
        &self,
        core: &Core,
        to: NodeId,
        command: Bytes,
        deadline: Instant,
    ) -> Outcome {
        let (proposal, pending) = Proposal::new(command);
        match self.permits(to).try_acquire_owned() {
            Ok(permit) => {
                let sending = send(core, to, vec![proposal], Some(permit));
                let sent = tokio::time::timeout_at(deadline, sending).await;
                match sent {
                    Ok(()) => pending.outcome(deadline).await,
                    Err(_) => Outcome::Unknown,
                }
            }
            Err(_) => match self.queue.try_send((to, proposal)) {
                Ok(()) => pending.outcome(deadline).await,
                Err(_) => Outcome::Unavailable,
            },
        }
    }
}

/// Sends what waits, for as long as the core lives.
pub(crate) async fn run(core: Weak<Core>, mut queue: mpsc::Receiver<Addressed>) {
    while let Some((mut to, first)) = queue.recv().await {
        let mut batch = vec![first];
        while !batch.is_empty() {
            let Some(alive) = core.upgrade() else { return };
            let permits = alive.forwards.permits(to);
            drop(alive);
            let bytes: usize = batch.iter().map(|proposal| proposal.command.len()).sum();
            let room = batch.len() < COMMANDS_MAX && bytes < BYTES_MAX;
            tokio::select! {
                // What waits goes along.
                biased;
                more = queue.recv(), if room => match more {
                    None => return,
                    Some((node, proposal)) if node == to => batch.push(proposal),
                    Some((node, proposal)) => {
                        // Once per change of the leader a message leaves without a permit.
                        spawn(&core, to, std::mem::take(&mut batch), None);
                        (to, batch) = (node, vec![proposal]);
                    }
                },
                permit = permits.acquire_owned() => {
                    spawn(&core, to, std::mem::take(&mut batch), permit.ok());
                }
            }
        }
    }
}

fn spawn(
    core: &Weak<Core>,
    to: NodeId,
    batch: Vec<Proposal>,
    permit: Option<OwnedSemaphorePermit>,
) {
    let Some(core) = core.upgrade() else { return };
    tasks::spawn(async move { send(&core, to, batch, permit).await });
}

/// One message, and its answer to all who wait for it.
async fn send(
    core: &Core,
    to: NodeId,
    mut batch: Vec<Proposal>,
    permit: Option<OwnedSemaphorePermit>,
) {
    batch.retain(Proposal::sets_out);
    let frame = |proposal: &Proposal| codec::frame(Role::Command, core.kind, 0, &proposal.command);
    let commands: Result<Vec<Bytes>, _> = batch.iter().map(frame).collect();
    let (false, Ok(commands)) = (batch.is_empty(), commands) else {
        // Only a single command beyond every limit can't be framed.
        return answer_all(batch, &Outcome::Unavailable);
    };
    let within = core.timing.attempt();
    let request = pb::ProposeRequest {
        envelope: Some(core.origin.envelope(0)),
        commands,
        wait_ms: within.as_millis() as u64,
        forward: false,
    };
    let sent = core.transport.propose(to, request, within);
    let reply = tokio::time::timeout(within, sent).await;
    drop(permit);
    match reply {
        Err(_) => answer_all(batch, &Outcome::Unknown),
        Ok(Err(Unreachable { unsent, .. })) => {
            core.learn(None);
            let outcome = match unsent {
                true => Outcome::Unavailable,
                false => Outcome::Unknown,
            };
            answer_all(batch, &outcome);
        }
        Ok(Ok(reply)) => settle(core, batch, reply),
    }
}

/// Tells each caller what the answer says of its command.
fn settle(core: &Core, batch: Vec<Proposal>, reply: pb::ProposeReply) {
    let outcome = match reply.refusal() {
        pb::Refusal::Unspecified if reply.replies.len() == batch.len() => {
            for (proposal, record) in batch.into_iter().zip(&reply.replies) {
                let outcome = match codec::unframe(Role::Reply, core.kind, record) {
                    Ok((_, body)) => Outcome::Done {
                        reply: body.to_vec(),
                        index: reply.index,
                    },
                    Err(_) => Outcome::Unknown,
                };
                proposal.answer(outcome);
            }
            return;
        }
        pb::Refusal::Unspecified | pb::Refusal::UnknownOutcome => Outcome::Unknown,
        pb::Refusal::NotLeader => {
            let leader = node_number(reply.leader_node);
            core.learn(leader);
            Outcome::NotLeader(leader)
        }
        pb::Refusal::Unavailable | pb::Refusal::Foreign => Outcome::Unavailable,
    };
    answer_all(batch, &outcome);
}
