//! What can be said to a region's directory, and what it answers.
//!
//! The order of variants is part of the log format: append, never insert (a test pins the indices).
//! Every command is idempotent by its own ids, so that a retry after an unknown outcome is safe:
//! `Open` by its request id, `Enter` and `Leave` by (node, boot, sequence), the rest by nature.

use crate::machine::Clock;
use pontoon_proto::id::{FunctionId, NodeBoot, RequestId, TenantId, VersionId, WorkerId};
use serde::{Deserialize, Serialize};

/// A proposal to the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A sidecar's control stream is open at a node.
    AttachWorker {
        /// Whose sidecar.
        worker: WorkerId,
        /// For display; at most 128 bytes, cut by the proposer.
        name: String,
        /// What the worker runs.
        function: FunctionId,
        /// What the worker runs.
        version: VersionId,
        /// min(the version's, the sidecar's), 1..=16384; fixed for a worker id.
        slots: u32,
        /// Where, and in which life of that node.
        at: NodeBoot,
        /// Rises with each control stream of that node's life: a late detach of an older stream
        /// does not undo a newer attach.
        stream: u64,
    },
    /// The control stream ended.
    DetachWorker {
        /// Whose sidecar.
        worker: WorkerId,
        /// Where it was attached.
        at: NodeBoot,
        /// Which of the streams.
        stream: u64,
    },
    /// Adds or removes one reason for not giving this worker new sessions.
    DrainWorker {
        /// Which worker.
        worker: WorkerId,
        /// Who wants it.
        reason: DrainReason,
        /// Whether the reason holds.
        on: bool,
    },
    /// The worker is gone for good; its sessions end.
    WorkerDead {
        /// Which worker.
        worker: WorkerId,
    },
    /// Asks for a new session, and is its first `Enter`.
    Open {
        /// Minted by the proposer, with this group's region in it.
        id: RequestId,
        /// Who calls.
        tenant: TenantId,
        /// What is called.
        function: FunctionId,
        /// Which revision.
        version: VersionId,
        /// The entry node.
        at: NodeBoot,
        /// The first sequence number of (entry node, session).
        seq: u64,
        /// The state clock that the proposer saw: an `Open` older than the tombstones is refused.
        asked: Clock,
        /// How long it may wait in the queue, milliseconds. 0: answer `NoSlot` instead of queueing.
        wait_ms: u64,
        /// The reconnect window, milliseconds, capped by the proposer.
        window_ms: u64,
        /// Starts held and unentered; never preempted.
        absorbed: bool,
        /// The client asked for this window itself: never preempted.
        window_asked: bool,
    },
    /// The proposer gave the open up. Leaves a tombstone also for an id never seen; ends a session
    /// that was bound in the meantime.
    CancelOpen {
        /// Which open.
        id: RequestId,
    },
    /// A node's count of connections in a session went from 0 to 1.
    Enter {
        /// Which session.
        id: RequestId,
        /// The node, in its present life.
        at: NodeBoot,
        /// Older numbers of the same (node, boot) are ignored; a retry repeats its own.
        seq: u64,
        /// A window that the client asked for, milliseconds, capped by the proposer; the largest
        /// one counts.
        window_ms: Option<u64>,
    },
    /// A node's count of connections in a session went from 1 to 0.
    Leave {
        /// Which session.
        id: RequestId,
        /// The node.
        at: NodeBoot,
        /// As in `Enter`.
        seq: u64,
        /// Whether the connection closed cleanly (then preemption may end the hold early).
        clean: bool,
    },
    /// Ends a session.
    End {
        /// Which session.
        id: RequestId,
        /// Why.
        reason: EndReason,
    },
    /// A node lives in this boot; entries, attachments and queued opens of older boots go.
    NodeUp {
        /// The node and its present boot.
        at: NodeBoot,
    },
    /// A node was silent for too long; what it did in this boot and before goes.
    NodeLost {
        /// The node and the boot that was lost.
        at: NodeBoot,
    },
    /// Lets time act: expiry of holds, tombstones, queued opens, detached workers.
    Tick,
    /// A tunnel to this worker came up; it clears the count of failed links.
    LinkUp {
        /// Which worker.
        worker: WorkerId,
    },
}

/// Why a worker gets no new sessions. A set of these: one never undoes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DrainReason {
    /// It answers `not serving`.
    Health,
    /// Its sidecar got SIGTERM.
    Sidecar,
    /// An operator said so.
    Operator,
    /// Three opens in a row got no tunnel.
    NoLink,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EndReason {
    /// A client or operator was done with it.
    Released,
    /// Its reconnect window passed.
    Expired,
    /// Its worker died or was lost.
    WorkerLost,
    /// Its open was given up.
    Cancelled,
    /// No tunnel came up for its open.
    NoLink,
    /// A waiting open needed its slot.
    Preempted,
    /// It waited for a slot until its deadline.
    TimedOut,
    /// The node that waited for it is gone.
    NodeLost,
    /// An operator ended it.
    Operator,
}

/// Where a session lives: written once, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The worker.
    pub worker: WorkerId,
    /// Its slot, 0-based.
    pub slot: u32,
    /// Higher is newer, for fencing by slot; no two bindings of a directory share one.
    ///
    /// It is `max(last + 1, log index << 16)`. One entry may bind several sessions, and may end one
    /// and bind another to the same slot, so the log index alone would not tell them apart. The
    /// shift leaves 65,536 numbers per entry, where one command binds at most 1,000, and 2^48
    /// entries; `index >> 16` still names the entry for people who read logs.
    pub index: u64,
}

/// What the directory answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, or already so.
    Done,
    /// `AttachWorker`: the attach stands.
    Attached,
    /// `AttachWorker`: not under this id.
    AttachRefused(AttachRefusal),
    /// `Open` and `Enter`: the session is bound.
    Bound(Binding),
    /// `Open` and `Enter`: it waits; watch the replica.
    Queued,
    /// `Open` with no wait: no worker of the version has a free slot here.
    NoSlot,
    /// `Open`: the queue of the version or tenant is full, or the whole directory.
    QueueFull,
    /// `Open`: too old by the state clock, or another region's id. `Open`, `Enter`, `Leave`,
    /// `NodeUp`: from a boot that is over. Nothing was done.
    Stale,
    /// `Open`, `Enter`, `End`: the session has ended so (a tombstone), ...
    Ended(EndReason),
    /// ... or is not known at all.
    NotFound,
}

/// Why an attach was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachRefusal {
    /// This worker id was declared lost or dead: mint a new one.
    Lost,
    /// Slots, function or version differ from what the id stands for, or slots are not 1..=16384.
    Changed,
    /// The attaching boot of the node is not its present one.
    StaleNode,
}

/// A hint that something changed; nodes act on those that concern them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A queued session got its slot.
    Bound {
        /// Which.
        id: RequestId,
        /// Where it lives now.
        binding: Binding,
    },
    /// A session ended; tunnels close, the sidecar lets go.
    Ended {
        /// Which.
        id: RequestId,
        /// Why.
        reason: EndReason,
        /// Where it lived; none when it was never bound.
        binding: Option<Binding>,
    },
    /// A worker was lost.
    WorkerLost {
        /// Which.
        worker: WorkerId,
    },
    /// A node's boot, and those before it, were declared over; it may be the reader's own.
    BootOver {
        /// The newest that is over.
        at: NodeBoot,
    },
    /// There is a new session, bound or queued.
    Opened {
        /// Whose.
        tenant: TenantId,
        /// On what.
        version: VersionId,
        /// Its entry node.
        at: NodeBoot,
    },
}
