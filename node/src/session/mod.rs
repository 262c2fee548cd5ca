//! Sessions, as one node takes part in them: opening, resuming, entering, leaving.

pub mod pin;

use crate::tunnel::Tunnel;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{FunctionId, RegionId, RequestId, TenantId};
use pontoon_raft::catalog::command::Version;
use pontoon_raft::directory::command::Binding;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What a call wants of a session; everything in it was checked against the catalog.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The caller's account.
    pub tenant: TenantId,
    /// The function called.
    pub function: FunctionId,
    /// The versions that it may run on: the one that was named, else all active ones.
    pub versions: Arc<[Arc<Version>]>,
    /// The reconnect window that the client asked for, if any, already capped.
    pub window: Option<Duration>,
    /// When the wait for a worker ends: min(`grpc-timeout`, the version's `wait`).
    pub deadline: Instant,
}

/// Where a session lives, and what a sidecar needs to know to dial for it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The session.
    pub id: RequestId,
    /// Its home region.
    pub region: RegionId,
    /// The generation of its home group.
    pub generation: u64,
    /// Its worker, slot and binding index.
    pub binding: Binding,
}

/// One client connection's part in a session: it counts as entered until this is dropped, and it has
/// a tunnel of its own.
pub struct Joined {
    target: Target,
    tunnel: Tunnel,
}

impl Ask {
    /// What is left until the deadline.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(crate::clock::now())
    }
}

impl Joined {
    /// Where the session lives.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// A live tunnel: the connection's own, or a new one when that has broken.
    pub async fn tunnel(&self, _deadline: Instant) -> Result<Tunnel, Fault> {
        Ok(self.tunnel.clone())
    }

    /// The connection closes cleanly (GOAWAY, FIN with no open stream); without this word the close
    /// counts as unclean.
    pub fn closes_cleanly(&self) {}

    /// The session has ended: nothing more may be carried.
    pub fn ended(&self) -> bool {
        false
    }
}

/// The sessions in which this node takes part.
#[derive(Clone)]
pub struct Sessions {}

impl Sessions {
    /// Opens a session: a worker is bound and a first tunnel is up when this returns.
    pub async fn open(&self, _ask: &Ask) -> Result<Joined, Fault> {
        Err(Fault::NoWorkerInTime)
    }

    /// Joins an existing session.
    pub async fn resume(&self, _id: RequestId, _ask: &Ask) -> Result<Joined, Fault> {
        Err(Fault::SessionNotFound)
    }

    /// Whether this id names a live session of this tenant, function and one of these versions as
    /// far as the local replica knows (a cookie that does not counts as absent, C-RID-4).
    pub fn is_live_here(&self, _id: RequestId, _ask: &Ask) -> bool {
        false
    }
}
