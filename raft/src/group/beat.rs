//! Beats: how a node knows that it counts, and how a leader knows who lives.
//!
//! Each node tells each group's leader once a second that it lives; the leader answers only after a
//! quorum has confirmed it. So a node that got an answer was connected to the majority when it
//! asked, which hearing heartbeats doesn't prove (H-6, H-29). The leader's list of who was heard
//! starts anew with its leadership.

use super::core::{Core, Refused, node_number};
use super::types::LeaderId;
use crate::clock::{self, Instant};
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use std::collections::BTreeMap;
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
pub(crate) struct Beats(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the last beat that was answered had been sent.
    answered: Option<Instant>,
    /// The leadership during which the others were heard, and since when.
    leading: Option<(LeaderId, Instant)>,
    /// Who was heard, when, and as which member.
    heard: BTreeMap<NodeId, (Instant, u64)>,
}

impl Beats {
    /// Since this node's last confirmed word to the group.
    pub(crate) fn age(&self) -> Option<Duration> {
        let answered = self.lock().answered?;
        Some(clock::now().saturating_duration_since(answered))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, node: NodeId, member: u64) {
        self.lock().heard.insert(node, (clock::now(), member));
    }
}

impl Core {
    /// Serves a beat, also this node's own.
    pub(crate) async fn serve_beat(&self, from: NodeId, member: u64) -> Result<(), Refused> {
        if !self.leads() {
            return Err(Refused::NotLeader(self.leader()));
        }
        self.beats.heard(from, member);
        self.confirmed().await.map(|_| ())
    }

    /// The members that were heard of during this leadership; none when this node does not lead.
    pub(crate) fn heard_members(&self) -> Option<Vec<u64>> {
        self.leading()?;
        Some(
            self.beats
                .lock()
                .heard
                .values()
                .map(|(_, member)| *member)
                .collect(),
        )
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
            .map_or(since, |(at, _)| (*at).max(since));
        Some(clock::now().saturating_duration_since(last))
    }

    /// When this leadership was first noticed here.
    fn leading(&self) -> Option<Instant> {
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
                Some(now)
            }
        }
    }

    async fn beat(&self, to: NodeId) -> Result<(), Refused> {
        if to == self.me {
            return self.serve_beat(self.me, self.member).await;
        }
        let within = self.timing.attempt();
        let request = pb::BeatRequest {
            envelope: Some(self.origin.envelope(0)),
            member: self.member,
        };
        let sent = self.transport.beat(to, request, within);
        let Ok(Ok(reply)) = tokio::time::timeout(within, sent).await else {
            return Err(Refused::Unavailable);
        };
        match reply.refusal() {
            pb::Refusal::Unspecified => Ok(()),
            pb::Refusal::NotLeader => Err(Refused::NotLeader(node_number(reply.leader_node))),
            _ => Err(Refused::Unavailable),
        }
    }
}

/// Beats for as long as the core lives.
pub(crate) async fn run(core: Weak<Core>) {
    let mut guess = 0;
    loop {
        let Some(core) = core.upgrade() else { return };
        let sent = clock::now();
        let to = core.leader().or_else(|| next_guess(&core, &mut guess));
        let answered = match to {
            Some(node) => core.beat(node).await,
            None => Err(Refused::Unavailable),
        };
        let pause = match answered {
            Ok(()) => {
                core.beats.lock().answered = Some(sent);
                BEAT
            }
            Err(refused) => {
                let told = match refused {
                    Refused::NotLeader(told) => told,
                    Refused::Unavailable => None,
                };
                *core.hint() = told.filter(|told| *told != core.me);
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
