//! The typed face of a group.

use super::beat::{self, CONNECTED};
use super::core::{self, Core};
use super::log::GroupLog;
use super::machine::{Published, Replica, Typed};
use super::network::Transport;
use super::peer::{Origin, Peers};
use super::propose::{self, Outcome, Proposer};
use super::types::{self, Timing};
use crate::codec;
use crate::machine::Machine;
use crate::store::snapshot::Snapshots;
use crate::store::{Store, StoreError};
use crate::tasks::Loops;
use arc_swap::ArcSwap;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver as _;
use pontoon_proto::id::{GroupId, NodeBoot, NodeId};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};

/// Surely nothing was read: no leader, no quorum, or it took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the group is unavailable")]
pub struct Unavailable;

/// Why a proposal has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Surely nothing was proposed.
    #[error("the group is unavailable")]
    Unavailable,
    /// It may have been applied, or may yet be.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
}

/// The answer to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed<R> {
    /// What the state machine said.
    pub reply: R,
    /// The entry that holds the command.
    pub index: u64,
}

/// Why a group did not start.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Its log.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its files.
    #[error("{group} can't start: {source}")]
    Files {
        /// Which group.
        group: GroupId,
        /// What went wrong.
        source: io::Error,
    },
    /// Consensus.
    #[error("{group} can't start: {why}")]
    Consensus {
        /// Which group.
        group: GroupId,
        /// What the library said.
        why: String,
    },
}

/// What a group's replica needs to start.
pub struct Setup {
    /// Which group.
    pub id: GroupId,
    /// Its incarnation.
    pub generation: u64,
    /// The cluster.
    pub cluster: [u8; 16],
    /// This node and its present boot.
    pub at: watch::Receiver<NodeBoot>,
    /// The way to other nodes.
    pub transport: Arc<dyn Transport>,
    /// How fast it notices things; the same on all voters.
    pub timing: Timing,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Where snapshots go.
    pub data_dir: PathBuf,
    /// Where the log goes.
    pub store: Store,
    /// The first voters: the group is born with exactly this set, by a node that has no data of it.
    pub voters: BTreeSet<NodeId>,
    /// Whether this node stands for election as soon as it has given birth to the group, so that a
    /// new group has its leader where it belongs, and need not wait for a timeout.
    pub stands_first: bool,
    /// Nodes that may know the leader.
    pub roster: Arc<ArcSwap<Vec<NodeId>>>,
}

/// One replicated group, as one node takes part in it.
pub struct Group<M: Machine> {
    core: Arc<Core>,
    published: Arc<Published<M>>,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
            published: self.published.clone(),
        }
    }
}

impl<M: Machine> Group<M> {
    /// Recovers the replica from snapshot and log, and takes part. `machine` is the empty state.
    pub async fn start(setup: Setup, machine: M) -> Result<Self, GroupError> {
        let group = setup.id;
        let files = |source| GroupError::Files { group, source };
        let (log, found) = setup.store.log(group).await?;
        let life = types::read_life(found.life.as_ref())
            .map_err(|why| files(io::Error::new(io::ErrorKind::InvalidData, why)))?;
        let log = GroupLog::new(log, found).map_err(files)?;
        let snapshots = Snapshots::open(&setup.data_dir, group).map_err(files)?;
        let pristine = log.is_pristine();
        let me = setup.at.borrow().node;
        let member = types::member(me, life);

        let published = Arc::new(Published::new(&machine));
        let tick = codec::encode(&M::tick()).map_err(|why| files(io::Error::other(why)))?;
        let applier = Box::new(Typed::new(machine, published.clone()));
        let replica = Replica::new(
            applier,
            snapshots.clone(),
            log.last().map(|last| last.index),
        );
        let config = setup.timing.config(group.to_string(), setup.snapshot_every);
        let consensus = |why: String| GroupError::Consensus { group, why };
        let config = Arc::new(
            config
                .validate()
                .map_err(|error| consensus(error.to_string()))?,
        );
        let origin = Origin {
            cluster: setup.cluster,
            group,
            generation: setup.generation,
            at: setup.at,
        };
        let peers = Peers {
            origin: origin.clone(),
            transport: setup.transport.clone(),
        };
        let raft = Raft::new(member, config, peers, log, replica)
            .await
            .map_err(|error| consensus(error.to_string()))?;

        let (queue, proposals) = mpsc::channel(propose::QUEUE);
        let proposer = Proposer::new(
            raft.clone(),
            proposals,
            published.pulse.clone(),
            M::KIND,
            tick.into(),
        );
        let mut running = Vec::new();
        let core = Arc::new_cyclic(|core| {
            let ((confirm, confirming), (reads, reading)) =
                core::questions(raft.clone(), setup.timing, core.clone());
            running.extend([confirming, reading]);
            Core {
                id: group,
                generation: setup.generation,
                me,
                member,
                kind: M::KIND,
                raft,
                snapshots,
                origin,
                transport: setup.transport,
                timing: setup.timing,
                applied: published.applied.subscribe(),
                queue,
                roster: setup.roster,
                hint: Mutex::default(),
                beats: Default::default(),
                confirm,
                reads,
                loops: Loops::default(),
            }
        });
        for run in running {
            core.loops.spawn(run);
        }
        core.loops.spawn(proposer.run());
        core.loops.spawn(beat::run(Arc::downgrade(&core)));

        if pristine && setup.voters.contains(&me) {
            let voters: BTreeSet<u64> = setup
                .voters
                .iter()
                .map(|node| types::member(*node, 1))
                .collect();
            // Another voter's message may have come first; then it is born already.
            if let Err(error) = core.raft.initialize(voters).await {
                tracing::info!(%group, %error, "the group was born elsewhere first");
            }
            if setup.stands_first {
                core.raft.trigger().elect(true).await.ok();
            }
        }
        Ok(Self { core, published })
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.core.id
    }

    /// Its incarnation.
    pub fn generation(&self) -> u64 {
        self.core.generation
    }

    /// This replica's state, as of the last applied batch. Takes no lock.
    pub fn state(&self) -> Arc<M> {
        self.published.state.load_full()
    }

    /// Proposes a command and waits until it is applied here or at the leader, whichever answers.
    ///
    /// It is batched with others at the leader, forwarded from elsewhere, and repeated while that is
    /// safe: commands are idempotent by their own ids.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`]: surely nothing was proposed. [`ProposeError::Unknown`]: some
    /// attempt may have been applied, or may yet be.
    pub async fn propose(
        &self,
        command: M::Command,
        within: Duration,
    ) -> Result<Proposed<M::Reply>, ProposeError> {
        let command = codec::encode(&command).map_err(|_| ProposeError::Unavailable)?;
        match self.core.propose(command.into(), within).await {
            Outcome::Done { reply, index } => {
                let reply = codec::decode(&reply).map_err(|_| ProposeError::Unknown)?;
                Ok(Proposed { reply, index })
            }
            Outcome::Unknown => Err(ProposeError::Unknown),
            Outcome::NotLeader(_) | Outcome::Unavailable => Err(ProposeError::Unavailable),
        }
    }

    /// The state as of now or later: whatever was answered before this call is in it.
    ///
    /// One ReadIndex at the leader serves all callers that wait for it to start.
    pub async fn read(&self, within: Duration) -> Result<Arc<M>, Unavailable> {
        let deadline = crate::clock::now() + within;
        let index = self.core.read_index(within).await.ok_or(Unavailable)?;
        let rest = deadline.saturating_duration_since(crate::clock::now());
        self.applied_at_least(index, rest).await
    }

    /// The state once this replica has applied the entry at `index`.
    pub async fn applied_at_least(
        &self,
        index: u64,
        within: Duration,
    ) -> Result<Arc<M>, Unavailable> {
        match self.core.applied_at_least(index, within).await {
            true => Ok(self.state()),
            false => Err(Unavailable),
        }
    }

    /// Hints that something changed: entries that were not in the log when this node started. A
    /// snapshot emits none. Whoever lags or comes late must reconcile from [`Self::state`].
    pub fn effects(&self) -> broadcast::Receiver<M::Effect> {
        self.published.effects.subscribe()
    }

    /// The index of the last applied entry, as it changes.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.published.applied.subscribe()
    }

    /// Since this node's last beat that a quorum confirmed was sent.
    pub fn beat_age(&self) -> Option<Duration> {
        self.core.beats.age()
    }

    /// Whether this node counts: its last confirmed beat is younger than 3 s.
    pub fn connected(&self) -> bool {
        self.beat_age().is_some_and(|age| age < CONNECTED)
    }

    /// For people.
    pub fn status(&self) -> Status {
        let metrics = self.core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let index = |id: &Option<types::LogId>| id.map_or(0, |id| id.index);
        Status {
            leader: self.core.leader(),
            voters: members.voter_ids().map(types::node_of).collect(),
            learners: members.learner_ids().map(types::node_of).collect(),
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            failed: metrics
                .running_state
                .as_ref()
                .err()
                .map(ToString::to_string),
        }
    }

    /// Takes a snapshot now and forgets what it makes superfluous, at the next policy point.
    pub async fn snapshot(&self) {
        self.core.raft.trigger().snapshot().await.ok();
    }

    /// Whether this replica believes that it leads; only a read or a beat makes sure.
    pub fn leads(&self) -> bool {
        self.core.leads()
    }

    /// Since when this leader has not heard of a node; none when it does not lead.
    pub fn silent_for(&self, node: NodeId) -> Option<Duration> {
        self.core.silent_for(node)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Ends this node's part.
    pub async fn stop(&self) {
        self.core.stop().await;
    }
}

/// How a group is doing, as one replica sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who leads, as far as this replica knows.
    pub leader: Option<NodeId>,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who only listens.
    pub learners: Vec<NodeId>,
    /// The present term.
    pub term: u64,
    /// The last entry in this replica's log.
    pub last_log: u64,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// The last entry that it has applied.
    pub applied: u64,
    /// The last entry in its snapshot.
    pub snapshot: u64,
    /// The last entry that it has forgotten.
    pub purged: u64,
    /// Why this replica has stopped, if it has.
    pub failed: Option<String>,
}
