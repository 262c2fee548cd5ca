//! Beats: how a node knows that it counts, and how a leader knows who lives.
//!
//! Each node tells each group's leader once a second that it lives; the leader answers only after a
//! quorum has confirmed it. So a node that got an answer was connected to the majority when it
//! asked, which hearing heartbeats doesn't prove (H-6, H-29). The leader's list of who was heard
//! starts anew with its leadership.

use super::core::{Core, Refused, node_number};
use super::types::LeaderId;
use crate::catalog::command::Pace;
use crate::clock::{self, Instant};
use crate::member::node_of;
use openraft::async_runtime::watch::WatchReceiver as _;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How often a node beats.
const BEAT: Duration = Duration::from_secs(1);

/// The pause after a beat that was not answered: a failover is noticed within a few of these.
const RETRY: Duration = Duration::from_millis(200);

/// A node whose last answered beat is younger counts as connected: two beats may be lost.
pub(crate) const CONNECTED: Duration = Duration::from_secs(3);

/// What one node knows of the beats of one group.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    state: Mutex<State>,
    /// This node is about to leave, and had better not lead.
    leaving: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// When the last beat that was answered had been sent.
    answered: Option<Instant>,
    /// The leadership during which the others were heard, and since when.
    leading: Option<(LeaderId, Instant)>,
    /// Who was heard.
    heard: BTreeMap<NodeId, Heard>,
    /// Whose turn it is to start again with another timing.
    turn: Option<NodeId>,
    /// By the last answer, this node has no vote.
    no_vote: bool,
    /// Another node says that this node's number leads.
    claimed: bool,
}

/// What a leader answers to a beat.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Word {
    /// It is the sender's turn to start again.
    pub(crate) restart: bool,
    /// The sender has no vote, by a committed membership.
    pub(crate) no_vote: bool,
}

/// What a leader knows of one node by its last beat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    /// Which member it is.
    pub(crate) member: u64,
    /// How patient its replica is.
    pub(crate) pace: Pace,
    /// It is about to leave.
    pub(crate) leaving: bool,
}

impl Beats {
    /// Since this node's last confirmed word to the group.
    pub(crate) fn age(&self) -> Option<Duration> {
        let answered = self.lock().answered?;
        Some(clock::now().saturating_duration_since(answered))
    }

    /// Whether a leader has said lately that this node has no vote.
    pub(crate) fn no_vote(&self) -> bool {
        self.age().is_some_and(|age| age < CONNECTED) && self.lock().no_vote
    }

    /// Whether others say that this node's number leads. When it does not, they may not have noticed
    /// yet, or another process leads under it.
    pub(crate) fn claimed(&self) -> bool {
        self.lock().claimed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another incarnation of the group begins: what was confirmed of the one before counts for
    /// nothing.
    pub(crate) fn forget(&self) {
        *self.lock() = State::default();
    }

    /// Says with each beat from now on whether this node is about to leave.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Relaxed);
    }

    /// Whether this node is about to leave.
    pub(crate) fn leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    fn heard(&self, member: u64, pace: Pace, leaving: bool) {
        let heard = Heard {
            at: clock::now(),
            member,
            pace,
            leaving,
        };
        let mut state = self.lock();
        // A late beat of an earlier life says nothing of this one.
        let known = state.heard.entry(node_of(member)).or_insert(heard);
        if known.member <= member {
            *known = heard;
        }
    }
}

impl Core {
    /// Serves a beat, also this node's own.
    pub(crate) async fn serve_beat(
        &self,
        member: u64,
        pace: Pace,
        leaving: bool,
    ) -> Result<Word, Refused> {
        if self.leading().is_none() {
            // This node is no news to whoever asked it, itself included.
            let other = self.leader().filter(|leader| *leader != self.me);
            return Err(Refused::NotLeader(other));
        }
        self.beats.heard(member, pace, leaving);
        // Before the confirmation, which then stands for it too.
        let members = self.members();
        self.confirmed().await?;
        let no_vote = members.is_some_and(|members| {
            let votes = members.voters.iter().any(|set| set.contains(&member));
            members.committed && !votes
        });
        Ok(Word {
            restart: self.beats.lock().turn == Some(node_of(member)),
            no_vote,
        })
    }

    /// Who was heard of during this leadership; none when this node does not lead.
    pub(crate) fn heard(&self) -> Option<BTreeMap<NodeId, Heard>> {
        self.leading()?;
        Some(self.beats.lock().heard.clone())
    }

    /// Gives a node its turn to start again, or nobody.
    pub(crate) fn give_turn(&self, node: Option<NodeId>) {
        self.beats.lock().turn = node;
    }

    /// Starts the list of who was heard anew, after a pause in which nobody could be.
    pub(crate) fn forget_heard(&self) {
        self.beats.lock().leading = None;
    }

    /// Since when this leader has not heard of a node; none when this node does not lead.
    pub(crate) fn silent_for(&self, node: NodeId) -> Option<Duration> {
        let since = self.leading()?;
        let state = self.beats.lock();
        let last = state
            .heard
            .get(&node)
            .map_or(since, |heard| heard.at.max(since));
        Some(clock::now().saturating_duration_since(last))
    }

    /// When this leadership was first noticed here; none when this node does not lead.
    pub(crate) fn leading(&self) -> Option<Instant> {
        let leader = self.raft.as_leader().ok().filter(|_| self.leads());
        let mut state = self.beats.lock();
        let Some(leader) = leader else {
            state.leading = None;
            return None;
        };
        match state.leading {
            Some((id, since)) if id == *leader.leader_id() => Some(since),
            _ => {
                let now = clock::now();
                state.leading = Some((*leader.leader_id(), now));
                state.heard.clear();
                state.turn = None;
                Some(now)
            }
        }
    }

    /// Whether the replica has stopped for good, as it does when its storage fails.
    fn stopped(&self) -> bool {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().running_state.is_err()
    }

    async fn beat(&self, to: NodeId) -> Result<Word, Refused> {
        let leaving = self.beats.leaving();
        if to == self.me {
            return self.serve_beat(self.member, self.pace, leaving).await;
        }
        let within = self.timing.attempt();
        let request = pb::BeatRequest {
            envelope: Some(self.origin.envelope(0)),
            member: self.member,
            pace: pace_number(self.pace),
            leaving,
        };
        let sent = self.transport.beat(to, request, within);
        let Ok(Ok(reply)) = tokio::time::timeout(within, sent).await else {
            return Err(Refused::Unavailable);
        };
        match reply.refusal() {
            pb::Refusal::Unspecified => Ok(Word {
                restart: reply.restart,
                no_vote: reply.no_vote,
            }),
            pb::Refusal::NotLeader => Err(Refused::NotLeader(node_number(reply.leader_node))),
            _ => Err(Refused::Unavailable),
        }
    }
}

/// A pace on the wire.
fn pace_number(pace: Pace) -> i32 {
    match pace {
        Pace::Lan => pb::Pace::Lan.into(),
        Pace::Wan => pb::Pace::Wan.into(),
    }
}

/// Beats for as long as the core lives.
pub(crate) async fn run(core: Weak<Core>) {
    let mut guess = 0;
    // Whoever is said to lead may be gone, and then only others can say who leads now.
    let mut failed = false;
    loop {
        let Some(core) = core.upgrade() else { return };
        if core.stopped() {
            // It applies nothing any more, so whatever others confirm, this node must not count: who waits
            // for it would wait for ever.
            core.beats.forget();
            drop(core);
            tokio::time::sleep(RETRY).await;
            continue;
        }
        let sent = clock::now();
        let known = core.leader().filter(|_| !failed);
        let to = known.or_else(|| next_guess(&core, &mut guess));
        let answered = match to {
            Some(node) => core.beat(node).await,
            None => Err(Refused::Unavailable),
        };
        let pause = match answered {
            Ok(word) => {
                failed = false;
                if to != core.leader() {
                    core.learn(to);
                }
                let mut state = core.beats.lock();
                (state.answered, state.no_vote) = (Some(sent), word.no_vote);
                state.claimed = false;
                drop(state);
                core.turn
                    .send_if_modified(|now| std::mem::replace(now, word.restart) != word.restart);
                BEAT
            }
            Err(refused) => {
                let told = match refused {
                    Refused::NotLeader(told) => told,
                    Refused::Unavailable => None,
                };
                core.learn(told);
                if to != Some(core.me) {
                    core.beats.lock().claimed = told == Some(core.me);
                }
                failed = told.is_none() && !failed;
                RETRY
            }
        };
        drop(core);
        tokio::time::sleep(pause).await;
    }
}

/// Who else may know the leader, in turn.
fn next_guess(core: &Arc<Core>, guess: &mut usize) -> Option<NodeId> {
    let roster = core.roster.load();
    let others: Vec<NodeId> = roster
        .iter()
        .copied()
        .filter(|node| *node != core.me)
        .collect();
    *guess = guess.wrapping_add(1);
    (!others.is_empty()).then(|| others[*guess % others.len()])
}
