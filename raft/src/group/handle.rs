//! The typed face of a group.

use super::beat::{self, Beats, CONNECTED};
use super::core::{self, Core};
use super::forward::{self, Forwards};
use super::log::{GroupLog, invalid};
use super::machine::{Published, Replica, Typed};
use super::network::Transport;
use super::peer::{Origin, Peers};
use super::propose::{self, Outcome, Proposer};
use super::types::{self, Timing, TypeConfig};
use crate::catalog::command::Pace;
use crate::clock::{self, Instant};
use crate::codec;
use crate::machine::Machine;
use crate::member::node_of;
use crate::store::snapshot::Snapshots;
use crate::store::{Store, StoreError};
use crate::tasks::Loops;
use arc_swap::ArcSwap;
use bytes::Bytes;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver as _;
use pontoon_proto::id::{GroupId, NodeBoot, NodeId};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
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
    /// The catalog speaks of an incarnation before the one that this folder has.
    #[error("{group} waits for the catalog to catch up: this folder has a later incarnation of it")]
    Superseded {
        /// Which group.
        group: GroupId,
    },
    /// Its log was damaged too often.
    #[error(
        "the log of {group} was damaged 255 times on this disk: replace the disk, and start this \
             node with an empty data folder"
    )]
    WornOut {
        /// Which group.
        group: GroupId,
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
    /// Which member this node is, see [`crate::member`].
    pub member: u64,
    /// The way to other nodes.
    pub transport: Arc<dyn Transport>,
    /// How fast it notices things; the same on all voters.
    pub timing: Timing,
    /// What others are told about the timing.
    pub pace: Pace,
    /// The newest entry format that the cluster allows.
    pub format: Arc<AtomicU16>,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Where snapshots go.
    pub data_dir: PathBuf,
    /// Where the log goes.
    pub store: Store,
    /// This node's part in the group's birth.
    pub birth: Birth,
    /// Nodes that may know the leader.
    pub roster: Arc<ArcSwap<Vec<NodeId>>>,
}

/// A node's part in a group's birth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Birth {
    /// It is one of the first voters: while it has no data of the group, it gives birth to it with
    /// exactly this set.
    First {
        /// The members that vote first, this one included.
        voters: BTreeSet<u64>,
        /// Whether this node stands for election at once, so that a new group has its leader where
        /// it belongs, and need not wait for a timeout.
        stands_first: bool,
    },
    /// The group goes on from this node's log, whatever of it was committed, and this node is its
    /// only voter.
    Seed,
    /// It comes later: the leader adds it.
    Later,
}

/// One replicated group, as one node takes part in it.
///
/// The replica behind the handle can be exchanged ([`Group::restart`]): what readers see only moves
/// forward meanwhile, and callers that wait go on with the new one.
pub struct Group<M: Machine>(Arc<Inner<M>>);

struct Inner<M: Machine> {
    id: GroupId,
    core: watch::Sender<Arc<Core>>,
    published: Arc<Published<M>>,
    beats: Arc<Beats>,
    empty: M,
    stopped: AtomicBool,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Machine> Group<M> {
    /// Recovers the replica from snapshot and log, and takes part. `machine` is the empty state.
    pub async fn start(setup: Setup, machine: M) -> Result<Self, GroupError> {
        let published = Arc::new(Published::new(&machine));
        let beats = Arc::<Beats>::default();
        let id = setup.id;
        let core = begin(setup, machine.clone(), &published, &beats).await?;
        Ok(Self(Arc::new(Inner {
            id,
            core: watch::channel(core).0,
            published,
            beats,
            empty: machine,
            stopped: AtomicBool::new(false),
        })))
    }

    /// Exchanges the replica: another timing, or another incarnation, whose state may be older than
    /// what was seen of the one before. The old one must have been stopped by [`Self::pause`].
    pub async fn restart(&self, setup: Setup) -> Result<(), GroupError> {
        if setup.generation != self.generation() {
            self.0.published.reset(&self.0.empty);
            self.0.beats.forget();
        }
        let empty = self.0.empty.clone();
        let core = begin(setup, empty, &self.0.published, &self.0.beats).await?;
        self.0.core.send_replace(core);
        Ok(())
    }

    /// Stops the replica until [`Self::restart`]; callers wait for that.
    pub async fn pause(&self) {
        self.core().stop().await;
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.0.id
    }

    /// Its incarnation.
    pub fn generation(&self) -> u64 {
        self.core().generation
    }

    /// How patient this replica is.
    pub fn pace(&self) -> Pace {
        self.core().pace
    }

    /// Which member this replica is.
    pub fn member(&self) -> u64 {
        self.core().member
    }

    /// Whether the leader has given this node its turn to start the replica again.
    pub(crate) fn has_turn(&self) -> bool {
        *self.core().turn.borrow()
    }

    /// Whether the replica was paused and not started again.
    pub(crate) fn ended(&self) -> bool {
        *self.core().ended.borrow()
    }

    /// Returns true once something of the group is on this node's disk, false when the replica ends
    /// before.
    pub(crate) async fn holds_data(&self) -> bool {
        let core = self.core();
        let mut data = core.raft.metrics();
        loop {
            let holds = {
                let metrics = data.borrow_watched();
                metrics.last_log_index.is_some() || metrics.vote.leader_id.term > 0
            };
            if holds {
                return true;
            }
            tokio::select! {
                changed = data.changed() => if changed.is_err() { return false },
                () = core.ended() => return false,
            }
        }
    }

    /// This replica's state, as of the last applied batch. Takes no lock.
    pub fn state(&self) -> Arc<M> {
        self.0.published.state.load_full()
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
        let command: Bytes = codec::encode(&command)
            .map_err(|_| ProposeError::Unavailable)?
            .into();
        let deadline = clock::now() + within;
        let mut unknown = false;
        loop {
            let core = self.core();
            let rest = deadline.saturating_duration_since(clock::now());
            let outcome = tokio::select! {
                outcome = core.propose(command.clone(), rest) => outcome,
                () = core.ended() => {
                    // It may have been on its way; commands are idempotent, so it goes again.
                    unknown = true;
                    if self.exchanged(&core, deadline).await {
                        continue;
                    }
                    Outcome::Unknown
                }
            };
            return match outcome {
                Outcome::Done { reply, index } => {
                    let reply = codec::decode(&reply).map_err(|_| ProposeError::Unknown)?;
                    Ok(Proposed { reply, index })
                }
                Outcome::NotLeader(_) | Outcome::Unavailable if !unknown => {
                    Err(ProposeError::Unavailable)
                }
                _ => Err(ProposeError::Unknown),
            };
        }
    }

    /// The state as of now or later: whatever was answered before this call is in it.
    ///
    /// One ReadIndex at the leader serves all callers that wait for it to start.
    pub async fn read(&self, within: Duration) -> Result<Arc<M>, Unavailable> {
        let deadline = clock::now() + within;
        loop {
            let core = self.core();
            let rest = deadline.saturating_duration_since(clock::now());
            let index = tokio::select! {
                index = core.read_index(rest) => index.ok_or(Unavailable)?,
                () = core.ended() => match self.exchanged(&core, deadline).await {
                    true => continue,
                    false => return Err(Unavailable),
                },
            };
            let rest = deadline.saturating_duration_since(clock::now());
            return self.applied_at_least(index, rest).await;
        }
    }

    /// Waits for another replica than this one; false when there is none in time, or never.
    async fn exchanged(&self, old: &Arc<Core>, deadline: Instant) -> bool {
        if self.0.stopped.load(Ordering::Acquire) {
            return false;
        }
        let mut cores = self.0.core.subscribe();
        let other = cores.wait_for(|core| !Arc::ptr_eq(core, old));
        matches!(tokio::time::timeout_at(deadline, other).await, Ok(Ok(_)))
    }

    /// The state once this replica has applied the entry at `index`.
    pub async fn applied_at_least(
        &self,
        index: u64,
        within: Duration,
    ) -> Result<Arc<M>, Unavailable> {
        let mut applied = self.0.published.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= index);
        match tokio::time::timeout(within, reached).await {
            Ok(Ok(_)) => Ok(self.state()),
            _ => Err(Unavailable),
        }
    }

    /// Hints that something changed: entries that were not in the log when this node started. A
    /// snapshot emits none. Whoever lags or comes late must reconcile from [`Self::state`].
    pub fn effects(&self) -> broadcast::Receiver<M::Effect> {
        self.0.published.effects.subscribe()
    }

    /// Changes whenever the state has moved without effects: by a snapshot, by the replay of a start,
    /// by another incarnation. Whoever acts on effects reconciles then.
    pub fn restored(&self) -> watch::Receiver<u64> {
        self.0.published.restored.subscribe()
    }

    /// The index of the last applied entry, as it changes.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.published.applied.subscribe()
    }

    /// Since this node's last beat that a quorum confirmed was sent.
    pub fn beat_age(&self) -> Option<Duration> {
        self.0.beats.age()
    }

    /// Whether this node counts: its last confirmed beat is younger than 3 s.
    pub fn connected(&self) -> bool {
        self.beat_age().is_some_and(|age| age < CONNECTED)
    }

    /// Whether the group counts on this node's vote: by its own replica, unless the leader knows
    /// better. A replica that was dropped from the group gets no entries, and believes for ever that
    /// it votes.
    pub fn needs_me(&self) -> bool {
        self.status().votes && !self.0.beats.no_vote()
    }

    /// For people.
    pub fn status(&self) -> Status {
        let core = self.core();
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let index = |id: &Option<types::LogId>| id.map_or(0, |id| id.index);
        Status {
            leader: core.leader(),
            voters: members.voter_ids().map(node_of).collect(),
            learners: members.learner_ids().map(node_of).collect(),
            votes: members.voter_ids().any(|member| member == core.member),
            membership: index(metrics.membership_config.log_id()),
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
        self.core().raft.trigger().snapshot().await.ok();
    }

    /// Says whether this node is about to leave: then others lead the group instead, while there are
    /// others.
    pub fn set_leaving(&self, leaving: bool) {
        self.0.beats.set_leaving(leaving);
    }

    /// Whether this replica believes that it leads; only a read or a beat makes sure.
    pub fn leads(&self) -> bool {
        self.core().leads()
    }

    /// Since when this leader has not heard of a node; none when it does not lead.
    pub fn silent_for(&self, node: NodeId) -> Option<Duration> {
        self.core().silent_for(node)
    }

    pub(crate) fn core(&self) -> Arc<Core> {
        self.0.core.borrow().clone()
    }

    /// Ends this node's part for good.
    pub async fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.core().stop().await;
    }
}

/// Recovers a replica and lets it take part.
async fn begin<M: Machine>(
    setup: Setup,
    machine: M,
    published: &Arc<Published<M>>,
    beats: &Arc<Beats>,
) -> Result<Arc<Core>, GroupError> {
    let group = setup.id;
    let files = |source| GroupError::Files { group, source };
    let (log, found) = setup.store.log(group).await?;
    let mut log = GroupLog::new(log, found).map_err(files)?;
    let snapshots = Snapshots::open(&setup.data_dir, group).map_err(files)?;
    let snapshot = match snapshots.current().map_err(files)? {
        Some((meta, _)) => {
            let meta = types::read_meta(&meta);
            let meta = meta.map_err(|why| files(invalid(why)))?;
            meta.last_log_id
        }
        None => None,
    };
    log.give_way(snapshot).await.map_err(files)?;
    if setup.birth == Birth::Seed {
        log.seize(setup.member).await.map_err(files)?;
    }
    let pristine = log.is_pristine();
    let tick = codec::encode(&M::tick()).map_err(|why| files(io::Error::other(why)))?;
    let replayed_upto = log.last().map(|last| last.index);
    let applier = Box::new(Typed::new(machine, published.clone()));
    let replica = Replica::new(applier, snapshots.clone(), replayed_upto);
    let consensus = |why: String| GroupError::Consensus { group, why };
    let config = setup.timing.config(group.to_string(), setup.snapshot_every);
    let config = config
        .validate()
        .map_err(|error| consensus(error.to_string()))?;
    let origin = Origin {
        cluster: setup.cluster,
        group,
        generation: setup.generation,
        at: setup.at.clone(),
    };
    let peers = Peers {
        origin: origin.clone(),
        transport: setup.transport.clone(),
    };
    let raft = Raft::new(setup.member, Arc::new(config), peers, log, replica)
        .await
        .map_err(|error| consensus(error.to_string()))?;
    let birth = setup.birth.clone();
    let core = assemble::<M>(
        setup,
        raft,
        snapshots,
        origin,
        published,
        beats,
        tick.into(),
    );
    if let Birth::First {
        voters,
        stands_first,
    } = birth
        && pristine
    {
        // Another voter's message may have come first; then it is born already.
        if let Err(error) = core.raft.initialize(voters).await {
            tracing::info!(%group, %error, "the group was born elsewhere first");
        }
        if stands_first {
            core.raft.trigger().elect(true).await.ok();
        }
    }
    Ok(core)
}

/// Starts the loops around a replica.
fn assemble<M: Machine>(
    setup: Setup,
    raft: Raft<TypeConfig, Replica>,
    snapshots: Snapshots,
    origin: Origin,
    published: &Arc<Published<M>>,
    beats: &Arc<Beats>,
    tick: Bytes,
) -> Arc<Core> {
    let (queue, proposals) = mpsc::channel(propose::QUEUE);
    let proposer = Proposer::new(
        raft.clone(),
        proposals,
        published.pulse.clone(),
        M::KIND,
        tick,
        setup.format,
    );
    let (forwards, forwarded) = Forwards::new();
    let mut running = Vec::new();
    let core = Arc::new_cyclic(|core| {
        let ((confirm, confirming), (reads, reading)) =
            core::questions(raft.clone(), setup.timing, core.clone());
        running.extend([confirming, reading]);
        Core {
            id: setup.id,
            generation: setup.generation,
            me: setup.at.borrow().node,
            member: setup.member,
            kind: M::KIND,
            raft,
            snapshots,
            origin,
            transport: setup.transport,
            timing: setup.timing,
            pace: setup.pace,
            queue,
            forwards,
            roster: setup.roster,
            hint: Mutex::default(),
            beats: beats.clone(),
            confirm,
            reads,
            loops: Loops::default(),
            ended: watch::channel(false).0,
            turn: watch::channel(false).0,
        }
    });
    for run in running {
        core.loops.spawn(run);
    }
    core.loops.spawn(proposer.run());
    core.loops
        .spawn(forward::run(Arc::downgrade(&core), forwarded));
    core.loops.spawn(beat::run(Arc::downgrade(&core)));
    core
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
    /// Whether this replica votes; a node may vote by an earlier member only, whose data is gone.
    pub votes: bool,
    /// The entry that holds the membership.
    pub membership: u64,
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
