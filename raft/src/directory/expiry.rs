//! What time and the loss of nodes bring about, a bounded piece at a time.
//!
//! Everything that will happen by itself stands in one index by the clock at which it is due. What
//! is due at once but too much for one step (a lost node with 100,000 sessions) stands there at
//! clock 0 and is taken up again by each following tick, at most [`super::TOUCHES_MAX`] sessions at
//! a time.

use super::command::{Effect, EndReason, Reply};
use super::index::Stake;
use super::session::{State, TOMBSTONE};
use super::worker::LOST_MEMORY;
use super::{Directory, Step, Tomb};
use crate::machine::Clock;
use pontoon_proto::id::{NodeBoot, NodeId, RequestId, VersionId, WorkerId};
use serde::{Deserialize, Serialize};

/// What is due. At one clock, in this order: queues are served before sweeps go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A version has waiting opens, and a slot for the first of them.
    Queue(VersionId),
    /// A node's retired boots are to be swept.
    Node(NodeId),
    /// A worker is lost now, or is being swept.
    Worker(WorkerId),
    /// A hold or a wait is over.
    Session(RequestId),
    /// An ended id may be forgotten.
    Tomb(RequestId),
    /// A lost worker's id may be forgotten.
    Lost(WorkerId),
}

/// What is known of a node's lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// This boot and all before it are over.
    pub over: u64,
    /// When the newest of them was declared so.
    pub over_at: Clock,
    /// They may have left something that is still to be swept.
    pub sweeping: bool,
}

impl Life {
    /// Whether this boot of the node is over.
    pub(super) fn ended(&self, at: NodeBoot) -> bool {
        at.boot <= self.over
    }
}

impl Step<'_> {
    /// Does what is due, earliest first, as far as one step may.
    pub(super) fn tick(&mut self) -> Reply {
        while let Some(due) = self.state.indexes.first_due(self.now()) {
            if !self.spend() {
                break;
            }
            match due {
                Due::Queue(version) => self.serve(version),
                Due::Node(node) => self.sweep_node(node),
                Due::Worker(worker) => self.worker_due(worker),
                Due::Session(id) => self.session_due(id),
                Due::Tomb(id) => self.state.drop_tomb(id),
                Due::Lost(id) => self.state.drop_lost(id),
            }
        }
        Reply::Done
    }

    fn session_due(&mut self, id: RequestId) {
        let Some(session) = self.state.sessions.get(&id) else {
            return;
        };
        let version = session.version;
        let reason = match &session.state {
            State::Queued(waiting) | State::Next(waiting, _) => {
                if self.state.boot_over(waiting.at) {
                    EndReason::NodeLost
                } else {
                    EndReason::TimedOut
                }
            }
            State::Bound(binding) | State::Held(binding, _) => {
                if self.state.indexes.is_lost(binding.worker) {
                    EndReason::WorkerLost
                } else {
                    EndReason::Expired
                }
            }
        };
        self.finish(id, reason);
        self.serve(version);
    }

    /// A node says that it lives in this boot.
    pub(super) fn node_up(&mut self, at: NodeBoot) -> Reply {
        if self.state.boot_over(at) {
            return Reply::Stale;
        }
        self.witness(at);
        Reply::Done
    }

    /// A node that speaks in one boot has no earlier one, said so or not.
    pub(super) fn witness(&mut self, at: NodeBoot) {
        self.retire(NodeBoot {
            boot: at.boot.saturating_sub(1),
            ..at
        });
    }

    /// Ends a boot and those before it. What they left counts no more from here on; ticks sweep it.
    pub(super) fn retire(&mut self, at: NodeBoot) {
        let life = self.state.lives.get(&at.node).copied().unwrap_or_default();
        if life.ended(at) {
            return;
        }
        let life = Life {
            over: at.boot,
            over_at: self.now(),
            sweeping: self.state.indexes.stakes.first(at).is_some(),
        };
        self.state.put_life(at.node, life);
        self.effects.push(Effect::BootOver { at });
    }

    fn sweep_node(&mut self, node: NodeId) {
        let Some(life) = self.state.lives.get(&node).copied() else {
            return;
        };
        let over = NodeBoot {
            node,
            boot: life.over,
        };
        while let Some(stake) = self.state.indexes.stakes.first(over) {
            if !self.spend() {
                return;
            }
            match stake {
                Stake::Attached(id) => {
                    let settled = self
                        .state
                        .workers
                        .get(&id)
                        .and_then(|one| one.settled(&self.state.lives));
                    if let Some(worker) = settled {
                        self.state.put_worker(worker);
                    }
                }
                Stake::Waiting(id) => self.finish(id, EndReason::NodeLost),
                Stake::Inside(id) => {
                    let settled = self
                        .state
                        .sessions
                        .get(&id)
                        .and_then(|one| one.settled(&self.state.lives));
                    if let Some(session) = settled {
                        self.state.put_session(session);
                    }
                }
            }
        }
        self.state.put_life(
            node,
            Life {
                sweeping: false,
                ..life
            },
        );
    }

    /// Ends a session: its slot is free, its id is buried. Whoever waits is served by the caller.
    pub(super) fn finish(&mut self, id: RequestId, reason: EndReason) {
        if let Some(session) = self.state.drop_session(id) {
            let binding = session.binding();
            self.effects.push(Effect::Ended {
                id,
                reason,
                binding,
            });
            self.bury(id, reason);
            if let Some(turn) = session.turn() {
                self.pass_turn(session.version, session.tenant, turn);
            }
        }
    }

    /// Remembers that an id has ended.
    pub(super) fn bury(&mut self, id: RequestId, reason: EndReason) {
        let until = self.now().after(TOMBSTONE);
        self.state.put_tomb(id, Tomb { reason, until });
    }
}

impl Directory {
    /// Refuses a lost worker's id for a while.
    pub(super) fn remember_lost(&mut self, id: WorkerId) {
        let until = self.clock.after(LOST_MEMORY);
        self.put_lost(id, until);
    }
}
