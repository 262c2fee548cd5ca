//! A region's directory: workers, sessions and the queue.
//!
//! Records ([`session`], [`worker`], lives of nodes, tombstones) and what follows from them
//! (`index`). One command is one [`Step`]: it changes records through the `put_*` functions here,
//! which keep the indexes, and touches at most [`TOUCHES_MAX`] sessions; the rest is left to ticks
//! (`expiry`). Everything is in persistent maps, so that a clone is a dozen reference counts.
//!
//! Read next: [`command`], then [`session`]. Left out on purpose: who acts on all this. Replicas
//! compute; nodes compare the directory with what they hold, and act on the difference.

mod check;
pub mod command;
mod dense;
mod expiry;
mod image;
mod index;
pub mod queue;
mod read;
pub mod session;
pub mod worker;

#[cfg(test)]
mod tests;

pub use expiry::Life;
pub use session::{Hold, Session, State};
pub use worker::Worker;

use crate::machine::{Clock, Machine};
use command::{Command, Effect, EndReason, Reply};
use expiry::Due;
use image::Image;
use imbl::OrdMap;
use index::Indexes;
use pontoon_proto::id::{NodeId, RegionId, RequestId, WorkerId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How many sessions and workers one command may touch.
///
/// A touch is a few map updates, 5-10 µs, so a step stays under 10 ms, far below the 50 ms that
/// would be felt by heartbeats and by calls that wait for their `Enter`.
pub const TOUCHES_MAX: u32 = 1_000;

/// How many sessions, queued ones included, one region's directory may hold.
///
/// A session takes about half a kilobyte with its index entries, so a full directory is about
/// 500 MB on each node; further opens are answered `QueueFull`.
pub const SESSIONS_MAX: usize = 1_000_000;

/// A region's directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Image", into = "Image")]
pub struct Directory {
    region: RegionId,
    clock: Clock,
    /// The last binding index given.
    bindings: u64,
    /// The last place in a queue, or turn, given.
    arrivals: u64,
    sessions: OrdMap<RequestId, Arc<Session>>,
    workers: OrdMap<WorkerId, Arc<Worker>>,
    lives: OrdMap<NodeId, Life>,
    tombs: OrdMap<RequestId, Tomb>,
    /// Workers that are gone for good, until when that is remembered.
    lost: OrdMap<WorkerId, Clock>,
    indexes: Indexes,
    /// The format of the entry that is being applied; it comes with each and is in no snapshot.
    format: u16,
}

/// What is kept of an ended session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tomb {
    reason: EndReason,
    until: Clock,
}

/// What is known of a request id.
pub(crate) enum Found<'a> {
    /// It lives.
    Live(&'a Arc<Session>),
    /// It has ended, whether or not that has been swept yet.
    Ended(EndReason),
    /// It never was, or was forgotten.
    Unknown,
}

/// One command being applied.
struct Step<'a> {
    state: &'a mut Directory,
    index: u64,
    /// How many more sessions and workers may be touched.
    touches: u32,
    effects: &'a mut Vec<Effect>,
}

impl Step<'_> {
    fn now(&self) -> Clock {
        self.state.clock
    }

    /// Accounts for one touch; false when the rest is to be left to the next tick.
    fn spend(&mut self) -> bool {
        let left = self.touches.checked_sub(1);
        self.touches = left.unwrap_or(0);
        left.is_some()
    }

    fn run(&mut self, command: Command) -> Reply {
        match command {
            Command::AttachWorker {
                worker,
                name,
                function,
                version,
                slots,
                at,
                stream,
            } => self.attach(worker::Attaching {
                worker,
                name,
                function,
                version,
                slots,
                at,
                stream,
            }),
            Command::DetachWorker { worker, at, stream } => self.detach(worker, at, stream),
            Command::DrainWorker { worker, reason, on } => self.drain(worker, reason, on),
            Command::WorkerDead { worker } => self.dead(worker),
            Command::LinkUp { worker } => self.link_up(worker),
            Command::Open {
                id,
                tenant,
                function,
                version,
                at,
                seq,
                asked,
                wait_ms,
                window_ms,
                absorbed,
                window_asked,
            } => {
                let session = Session {
                    id,
                    tenant,
                    function,
                    version,
                    opened: self.now(),
                    window_ms,
                    window_asked,
                    absorbed,
                    // Overwritten by the step that stores it.
                    state: State::Queued(session::Waiting {
                        at,
                        seq,
                        arrival: 0,
                        deadline: Clock(0),
                    }),
                    entries: Box::default(),
                };
                let wait = Duration::from_millis(wait_ms);
                self.open(session::Opening {
                    session,
                    at,
                    seq,
                    asked,
                    wait,
                })
            }
            Command::CancelOpen { id } => self.cancel(id),
            Command::Enter {
                id,
                at,
                seq,
                window_ms,
            } => self.enter(id, at, seq, window_ms),
            Command::Leave { id, at, seq, clean } => self.leave(id, at, seq, clean),
            Command::End { id, reason } => self.end(id, reason),
            Command::NodeUp { at } => self.node_up(at),
            Command::NodeLost { at } => {
                self.retire(at);
                Reply::Done
            }
            Command::Tick => self.tick(),
        }
    }
}

impl Machine for Directory {
    type Command = Command;
    type Reply = Reply;
    type Effect = Effect;

    const KIND: u8 = 1;

    fn clock(&self) -> Clock {
        self.clock
    }

    fn governed_by(&mut self, format: u16) {
        self.format = format;
    }

    fn apply(
        &mut self,
        index: u64,
        now: Clock,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        self.clock = self.clock.advanced_to(now);
        Step {
            state: self,
            index,
            touches: TOUCHES_MAX,
            effects,
        }
        .run(command)
    }

    fn next_due(&self) -> Option<Clock> {
        self.indexes.next_due().map(|(at, _)| at.max(self.clock))
    }

    fn tick() -> Command {
        Command::Tick
    }

    fn check(&self) -> Result<(), String> {
        check::check(self)
    }
}

impl Directory {
    /// The directory of a region that was just born.
    pub fn new(region: RegionId) -> Directory {
        Directory::from(Image {
            region,
            clock: Clock::default(),
            bindings: 0,
            arrivals: 0,
            sessions: OrdMap::new(),
            workers: OrdMap::new(),
            lives: OrdMap::new(),
            tombs: OrdMap::new(),
            lost: OrdMap::new(),
        })
    }

    fn put_session(&mut self, session: Session) {
        let session = Arc::new(session);
        let before = self.sessions.insert(session.id, session.clone());
        self.indexes
            .session_changed(before.as_deref(), Some(&session));
    }

    fn drop_session(&mut self, id: RequestId) -> Option<Arc<Session>> {
        let before = self.sessions.remove(&id);
        self.indexes.session_changed(before.as_deref(), None);
        before
    }

    fn put_worker(&mut self, worker: Worker) {
        let worker = Arc::new(worker);
        let before = self.workers.insert(worker.id, worker.clone());
        self.indexes
            .worker_changed(before.as_deref(), Some(&worker));
    }

    fn drop_worker(&mut self, id: WorkerId) {
        let before = self.workers.remove(&id);
        self.indexes.worker_changed(before.as_deref(), None);
    }

    fn put_life(&mut self, node: NodeId, life: Life) {
        self.lives.insert(node, life);
        self.indexes.life_changed(node, life);
    }

    fn put_tomb(&mut self, id: RequestId, tomb: Tomb) {
        let before = self.tombs.insert(id, tomb).map(|tomb| tomb.until);
        self.indexes.moved(Due::Tomb(id), before, Some(tomb.until));
    }

    fn drop_tomb(&mut self, id: RequestId) {
        let before = self.tombs.remove(&id).map(|tomb| tomb.until);
        self.indexes.moved(Due::Tomb(id), before, None);
    }

    fn put_lost(&mut self, id: WorkerId, until: Clock) {
        let before = self.lost.insert(id, until);
        self.indexes.moved(Due::Lost(id), before, Some(until));
    }

    fn drop_lost(&mut self, id: WorkerId) {
        let before = self.lost.remove(&id);
        self.indexes.moved(Due::Lost(id), before, None);
    }
}
