//! One group on one node, untyped: finding the leader, proposing, reading, beating.
//!
//! [`Core`] is what the typed handle and the serving side share. Everything here deals in encoded
//! commands and answers.

use super::beat::Beats;
use super::forward::Forwards;
use super::machine::Replica;
use super::network::Transport;
use super::peer::Origin;
use super::propose::{self, Outcome, Proposal};
use super::read::Shared;
use super::types::{Timing, TypeConfig};
use crate::catalog::command::Pace;
use crate::clock::{self, Instant};
use crate::member::node_of;
use crate::store::snapshot::Snapshots;
use crate::tasks::Loops;
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Raft, ServerState};
use pontoon_proto::id::{GroupId, NodeId};
use pontoon_proto::peer as pb;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The first wait before another attempt; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(10);

/// The longest wait between attempts: a failover takes several of these.
const RETRY_MAX: Duration = Duration::from_millis(200);

/// Hints that are followed at once; more would be two nodes that point at each other.
const HOPS: u32 = 2;

/// Why a question to the leader has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Perhaps that node leads.
    NotLeader(Option<NodeId>),
    /// No leader, no quorum, or out of reach.
    Unavailable,
}

/// Who is said to lead, by somebody who should know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint {
    leader: NodeId,
    /// Whom this replica saw when it was told: once it sees another one, that is newer.
    instead_of: Option<NodeId>,
}

/// One group on one node.
pub(crate) struct Core {
    pub(crate) id: GroupId,
    pub(crate) generation: u64,
    pub(crate) me: NodeId,
    pub(crate) member: u64,
    pub(crate) kind: u8,
    pub(crate) raft: Raft<TypeConfig, Replica>,
    pub(crate) snapshots: Snapshots,
    pub(crate) origin: Origin,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) timing: Timing,
    pub(crate) pace: Pace,
    pub(crate) queue: mpsc::Sender<Proposal>,
    pub(crate) forwards: Forwards,
    /// Who may know the leader, for a replica that nobody talks to yet.
    pub(crate) roster: Arc<ArcSwap<Vec<NodeId>>>,
    pub(crate) hint: Mutex<Option<Hint>>,
    pub(crate) beats: Arc<Beats>,
    /// "Do I lead, as a quorum sees it, and how far?" Only asked while this node leads.
    pub(crate) confirm: Shared<Result<u64, Refused>>,
    /// "How far must a replica be to answer a linearizable read?"
    pub(crate) reads: Shared<Result<u64, Refused>>,
    pub(crate) loops: Loops,
    /// Whether this replica was stopped.
    pub(crate) ended: watch::Sender<bool>,
    /// Whether the leader has given this node its turn to start again with another timing.
    pub(crate) turn: watch::Sender<bool>,
}

impl Core {
    /// The leader as this replica sees it, unless somebody has told it better since: a replica that is
    /// no member at present hears of no election, and sees for ever who led before.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let seen = self.seen_leader();
        match *self.hint() {
            Some(hint) if hint.instead_of == seen => Some(hint.leader),
            _ => seen,
        }
    }

    fn seen_leader(&self) -> Option<NodeId> {
        let metrics = self.raft.server_metrics();
        metrics.borrow_watched().current_leader.map(node_of)
    }

    /// Whether this replica believes that it leads. Only a confirmation makes sure.
    pub(crate) fn leads(&self) -> bool {
        self.raft.server_metrics().borrow_watched().state == ServerState::Leader
    }

    fn hint(&self) -> std::sync::MutexGuard<'_, Option<Hint>> {
        self.hint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers who is said to lead, unless it is this node, which would know.
    pub(crate) fn learn(&self, leader: Option<NodeId>) {
        let hint = leader
            .filter(|leader| *leader != self.me)
            .map(|leader| Hint {
                leader,
                instead_of: self.seen_leader(),
            });
        *self.hint() = hint;
    }

    /// Proposes a command wherever the leader is, again and again while that is safe and time
    /// remains: commands are idempotent by their own ids.
    pub(crate) async fn propose(&self, command: Bytes, within: Duration) -> Outcome {
        let deadline = clock::now() + within;
        let mut told = None;
        let mut hops = HOPS;
        let mut unknown = false;
        let mut wait = RETRY_MIN;
        loop {
            let leader = told.take().or_else(|| self.leader());
            let mine = leader.is_none_or(|leader| leader == self.me);
            let outcome = match leader {
                // If another process leads under this number, it is where the catalog has it, and
                // alone can say so; else this node refuses itself.
                _ if mine && self.beats.claimed() && !self.leads() => {
                    let deadline = clock::now() + self.attempt(deadline);
                    self.forwards
                        .forward(self, self.me, command.clone(), deadline)
                        .await
                }
                Some(node) if node == self.me => {
                    propose::propose(&self.queue, command.clone(), deadline).await
                }
                Some(node) => {
                    let deadline = clock::now() + self.attempt(deadline);
                    self.forwards
                        .forward(self, node, command.clone(), deadline)
                        .await
                }
                None => Outcome::NotLeader(None),
            };
            match outcome {
                Outcome::Done { .. } => return outcome,
                Outcome::NotLeader(Some(other)) if hops > 0 => {
                    (told, hops) = (Some(other), hops - 1);
                    continue;
                }
                Outcome::NotLeader(_) | Outcome::Unavailable => {}
                Outcome::Unknown => unknown = true,
            }
            if clock::now() + wait >= deadline {
                return if unknown {
                    Outcome::Unknown
                } else {
                    Outcome::Unavailable
                };
            }
            self.pause(&mut wait).await;
            hops = HOPS;
        }
    }

    /// The index that a replica must have applied to answer a read that starts now.
    pub(crate) async fn read_index(&self, within: Duration) -> Option<u64> {
        let deadline = clock::now() + within;
        let mut wait = RETRY_MIN;
        loop {
            match tokio::time::timeout_at(deadline, self.reads.ask()).await {
                Ok(Some(Ok(index))) => return Some(index),
                Err(_) => return None,
                Ok(_) if clock::now() + wait >= deadline => return None,
                Ok(_) => self.pause(&mut wait).await,
            }
        }
    }

    /// One attempt at a read index, by whoever leads.
    async fn ask_index(&self) -> Result<u64, Refused> {
        match self.leader() {
            Some(node) if node == self.me => self.confirmed().await,
            Some(node) => {
                let within = self.timing.attempt();
                let request = pb::ReadIndexRequest {
                    envelope: Some(self.origin.envelope(0)),
                };
                let asked = self.transport.read_index(node, request, within);
                let Ok(Ok(reply)) = tokio::time::timeout(within, asked).await else {
                    self.learn(None);
                    return Err(Refused::Unavailable);
                };
                match reply.refusal() {
                    pb::Refusal::Unspecified => Ok(reply.index),
                    pb::Refusal::NotLeader => {
                        let leader = node_number(reply.leader_node);
                        self.learn(leader);
                        Err(Refused::NotLeader(leader))
                    }
                    _ => Err(Refused::Unavailable),
                }
            }
            None => Err(Refused::NotLeader(None)),
        }
    }

    /// A read index that a quorum has confirmed after this was called; only at the leader.
    pub(crate) async fn confirmed(&self) -> Result<u64, Refused> {
        self.confirm
            .ask()
            .await
            .unwrap_or(Err(Refused::Unavailable))
    }

    fn attempt(&self, deadline: Instant) -> Duration {
        deadline
            .saturating_duration_since(clock::now())
            .min(self.timing.attempt())
    }

    /// Waits a little, or until the leader changes.
    async fn pause(&self, wait: &mut Duration) {
        let mut metrics = self.raft.server_metrics();
        // A receiver is given out as if what it shows were news; without this nobody would ever wait.
        metrics.changed().now_or_never();
        let changed = async {
            if metrics.changed().await.is_err() {
                // The replica has ended, and nothing will change any more.
                std::future::pending::<()>().await;
            }
        };
        tokio::time::timeout(*wait, changed).await.ok();
        *wait = (*wait * 2).min(RETRY_MAX);
    }

    /// Returns once this replica was stopped.
    pub(crate) async fn ended(&self) {
        self.ended.subscribe().wait_for(|ended| *ended).await.ok();
    }

    /// Ends the replica: its loops, then consensus. The log stays consistent at any point.
    pub(crate) async fn stop(&self) {
        self.ended.send_replace(true);
        self.loops.stop();
        self.raft.shutdown().await.ok();
    }
}

/// One of a core's shared questions, and the loop that asks it.
type Question = (Shared<Result<u64, Refused>>, BoxFuture<'static, ()>);

/// `confirm` and `reads` of a core that is being made.
pub(crate) fn questions(
    raft: Raft<TypeConfig, Replica>,
    timing: Timing,
    core: Weak<Core>,
) -> (Question, Question) {
    let confirm = Shared::new(move || confirm(raft.clone(), timing).boxed());
    let reads = Shared::new(move || {
        let core = core.clone();
        async move {
            match core.upgrade() {
                Some(core) => core.ask_index().await,
                None => Err(Refused::Unavailable),
            }
        }
        .boxed()
    });
    ((confirm.0, confirm.1.boxed()), (reads.0, reads.1.boxed()))
}

/// ReadIndex: a quorum acknowledges this leader once more, after now.
async fn confirm(raft: Raft<TypeConfig, Replica>, timing: Timing) -> Result<u64, Refused> {
    let option =
        LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(timing.attempt());
    let asked = tokio::time::timeout(2 * timing.attempt(), raft.get_read_linearizer(option)).await;
    match asked {
        Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            Err(Refused::NotLeader(forward.leader_id.map(node_of)))
        }
        Ok(Err(_)) | Err(_) => Err(Refused::Unavailable),
    }
}

/// A node number from the wire; 0 is none.
pub(crate) fn node_number(number: u64) -> Option<NodeId> {
    u32::try_from(number)
        .ok()
        .filter(|number| *number != 0)
        .map(NodeId)
}
