//! A worker's record, and what happens to it.
//!
//! ```text
//!            AttachWorker            last attachment goes              3 s / 10 s, WorkerDead
//!   (none) ──────────────▶ attached ──────────────────────▶ detached ─────────────────────────▶ lost
//!                             ▲          AttachWorker          │                    sessions swept │
//!                             └────────────────────────────────┘                                  ▼
//!                                                                     remembered for 10 min, then nothing
//! ```
//!
//! Only an attached worker without a drain reason is *ready* and gets new sessions. A lost one reads
//! as gone at once, its sessions as ended, while ticks sweep them.

use super::command::{AttachRefusal, DrainReason, Effect, EndReason, Reply};
use super::{Life, Step};
use crate::machine::Clock;
use imbl::OrdMap;
use pontoon_proto::id::{FunctionId, NodeBoot, NodeId, VersionId, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The most slots of a worker (contract K-SLOT-1).
pub const SLOTS_MAX: u32 = 16_384;

/// How many bytes of a worker's name are kept.
pub const NAME_MAX: usize = 128;

/// How long a worker may be without any control stream before it is lost.
///
/// A node proposes the detach after the stream's own grace (dead after 3 s, grace 2 s), so this is
/// only for the race of a detach here with an attach there: one commit, elections included.
pub const DETACH_GRACE: Duration = Duration::from_secs(3);

/// The same when the last control stream went with its node: the sidecar has to notice and to
/// find another node first, with backoff.
pub const NODE_GRACE: Duration = Duration::from_secs(10);

/// How long a lost worker's id is refused. A sidecar that still holds tunnels under it hears of the
/// loss, or is gone, long before.
pub const LOST_MEMORY: Duration = Duration::from_secs(600);

/// After how many opens in a row without a tunnel a worker is set aside.
pub const FAILED_LINKS_MAX: u32 = 3;

/// A worker, as its control streams and sessions make it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// One life of a worker process.
    pub id: WorkerId,
    /// For display.
    pub name: Arc<str>,
    /// What it runs.
    pub function: FunctionId,
    /// What it runs.
    pub version: VersionId,
    /// How many sessions it takes, 1..=16384.
    pub slots: u32,
    /// The newest control stream at each node, in node order. Those of a boot that is over don't
    /// count; closed ones stay, so that an older message is recognised.
    pub attachments: Vec<Attachment>,
    /// Why it gets no new sessions.
    pub draining: BTreeSet<DrainReason>,
    /// How many opens in a row got no tunnel.
    pub failed_links: u32,
    /// It has no control stream, and is lost then.
    pub lost_at: Option<Clock>,
    /// It is lost; its sessions are being swept.
    pub lost: bool,
}

/// The newest control stream of a worker at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Where, and in which life of that node.
    pub at: NodeBoot,
    /// Which stream of that life.
    pub stream: u64,
    /// Whether it is open.
    pub open: bool,
}

impl Worker {
    /// Whether it takes new sessions, as far as its record knows: attachments of boots that are
    /// over still count here, until it is settled.
    pub(super) fn is_ready(&self) -> bool {
        !self.lost && self.draining.is_empty() && self.attachments.iter().any(|one| one.open)
    }

    /// The same worker without the attachments of boots that are over; `None` when it has none.
    pub(super) fn settled(&self, lives: &OrdMap<NodeId, Life>) -> Option<Worker> {
        let mut next = self.clone();
        let mut went = None;
        next.attachments.retain(|one| {
            let over = lives.get(&one.at.node).filter(|life| life.ended(one.at));
            if let (Some(life), true) = (over, one.open) {
                went = went.max(Some(life.over_at));
            }
            over.is_none()
        });
        if next.attachments.len() == self.attachments.len() {
            return None;
        }
        if let Some(went) = went {
            next.detached_since(went, NODE_GRACE);
        }
        Some(next)
    }

    /// Starts the grace, when no control stream is left.
    fn detached_since(&mut self, at: Clock, grace: Duration) {
        if self.lost_at.is_none() && !self.attachments.iter().any(|one| one.open) {
            self.lost_at = Some(at.after(grace));
        }
    }

    /// Records a stream's opening or end. False when that is known, or newer is.
    fn note(&mut self, at: NodeBoot, stream: u64, open: bool) -> bool {
        let attachment = Attachment { at, stream, open };
        match self
            .attachments
            .binary_search_by_key(&at.node, |known| known.at.node)
        {
            Ok(place) => {
                let known = &mut self.attachments[place];
                let newer =
                    stream > known.stream || (stream == known.stream && known.open && !open);
                if newer {
                    *known = attachment;
                }
                newer
            }
            Err(place) => {
                self.attachments.insert(place, attachment);
                true
            }
        }
    }
}

/// The first `NAME_MAX` bytes, cut between characters.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// What `AttachWorker` says.
pub(super) struct Attaching {
    pub(super) worker: WorkerId,
    pub(super) name: String,
    pub(super) function: FunctionId,
    pub(super) version: VersionId,
    pub(super) slots: u32,
    pub(super) at: NodeBoot,
    pub(super) stream: u64,
}

impl Step<'_> {
    /// A control stream opened: creates the worker or adds to it, and serves who waits.
    pub(super) fn attach(&mut self, attaching: Attaching) -> Reply {
        let Attaching {
            worker: id,
            name,
            function,
            version,
            slots,
            at,
            stream,
        } = attaching;
        let known = self.state.workers.get(&id);
        if self.state.lost.contains_key(&id) || known.is_some_and(|worker| worker.lost) {
            return Reply::AttachRefused(AttachRefusal::Lost);
        }
        let same = known.is_none_or(|worker| {
            (worker.function, worker.version, worker.slots) == (function, version, slots)
        });
        if !same || !(1..=SLOTS_MAX).contains(&slots) {
            return Reply::AttachRefused(AttachRefusal::Changed);
        }
        if self.state.boot_over(at) {
            return Reply::AttachRefused(AttachRefusal::StaleNode);
        }
        self.witness(at);
        let mut worker = self.settled_worker(id).unwrap_or_else(|| Worker {
            id,
            name: Arc::from(cut(&name)),
            function,
            version,
            slots,
            attachments: Vec::new(),
            draining: BTreeSet::new(),
            failed_links: 0,
            lost_at: None,
            lost: false,
        });
        if worker.note(at, stream, true) {
            worker.lost_at = None;
            self.state.put_worker(worker);
            self.serve(version);
        }
        Reply::Attached
    }

    /// A control stream ended. One that has a successor, or whose node's life is over, is no news.
    pub(super) fn detach(&mut self, id: WorkerId, at: NodeBoot, stream: u64) -> Reply {
        if self.state.boot_over(at) {
            return Reply::Done;
        }
        self.witness(at);
        if let Some(mut worker) = self.settled_worker(id)
            && worker.note(at, stream, false)
        {
            worker.detached_since(self.now(), DETACH_GRACE);
            self.state.put_worker(worker);
        }
        Reply::Done
    }

    /// Adds or removes a reason; when none is left, serves who waits.
    pub(super) fn drain(&mut self, id: WorkerId, reason: DrainReason, on: bool) -> Reply {
        let Some(mut worker) = self.settled_worker(id) else {
            return Reply::NotFound;
        };
        if on {
            worker.draining.insert(reason);
        } else {
            worker.draining.remove(&reason);
        }
        if reason == DrainReason::NoLink && !on {
            worker.failed_links = 0;
        }
        let version = worker.version;
        self.state.put_worker(worker);
        self.serve(version);
        Reply::Done
    }

    /// The worker is gone: from now on its sessions read as ended.
    pub(super) fn dead(&mut self, id: WorkerId) -> Reply {
        match self.state.workers.get(&id) {
            Some(worker) if !worker.lost => {
                let worker = Worker {
                    lost: true,
                    ..Worker::clone(worker)
                };
                self.state.put_worker(worker);
                self.effects.push(Effect::WorkerLost { worker: id });
                self.sweep_worker(id);
            }
            Some(_) => {}
            // Its attach may still be on its way: it must not find the id free.
            None => self.state.remember_lost(id),
        }
        Reply::Done
    }

    /// A tunnel came up: whatever kept the worker's links from working has passed.
    pub(super) fn link_up(&mut self, id: WorkerId) -> Reply {
        let failed = self.state.worker(id).is_some_and(|worker| {
            worker.failed_links > 0 || worker.draining.contains(&DrainReason::NoLink)
        });
        if failed {
            self.drain(id, DrainReason::NoLink, false)
        } else {
            Reply::Done
        }
    }

    /// An open got no tunnel; three in a row set the worker aside.
    pub(super) fn link_failed(&mut self, id: WorkerId) {
        if let Some(mut worker) = self.settled_worker(id) {
            worker.failed_links += 1;
            if worker.failed_links >= FAILED_LINKS_MAX {
                worker.draining.insert(DrainReason::NoLink);
            }
            self.state.put_worker(worker);
        }
    }

    /// A worker that has had no control stream for its grace, or is being swept, is due.
    pub(super) fn worker_due(&mut self, id: WorkerId) {
        if self
            .state
            .workers
            .get(&id)
            .is_some_and(|worker| worker.lost)
        {
            self.sweep_worker(id);
        } else {
            self.dead(id);
        }
    }

    /// Ends as many sessions of a lost worker as the step may still touch, then forgets it.
    fn sweep_worker(&mut self, id: WorkerId) {
        while let Some(session) = self.state.indexes.first_session_of(id) {
            if !self.spend() {
                return;
            }
            self.finish(session, EndReason::WorkerLost);
        }
        self.state.drop_worker(id);
        self.state.remember_lost(id);
    }

    /// The live worker without the attachments of boots that are over.
    fn settled_worker(&self, id: WorkerId) -> Option<Worker> {
        let worker = self.state.worker(id)?;
        Some(
            worker
                .settled(&self.state.lives)
                .unwrap_or_else(|| Worker::clone(worker)),
        )
    }
}
