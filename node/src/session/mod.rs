//! Sessions, as one node takes part in them.
//!
//! [`open`] makes a new one, [`resume`] joins an existing one, [`local`] counts this node's
//! connections in each and proposes the edges `Enter` and `Leave`, [`watch`] acts on what the
//! directories say, [`end`] ends one on request, [`limits`] bounds new ones, `patience` says how long
//! a group that gives no answer is waited for. A client connection holds a [`Joined`] for each of its
//! sessions; dropping it leaves.

pub mod end;
mod joins;
pub(crate) mod limits;
pub mod local;
pub mod open;
mod patience;
pub mod pin;
pub mod resume;
mod route;
pub mod watch;

pub use local::Joined;

use crate::ops::metrics::Metrics;
use crate::tunnel::{Carries, Tunnels};
use limits::Limits;
use local::Locals;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{FunctionId, RegionId, RequestId, TenantId, VersionId};
use pontoon_raft::catalog::command::Version;
use pontoon_raft::cluster::Cluster;
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::Binding;
use pontoon_raft::directory::session::Session;
use pontoon_raft::group::Group;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use watch::Waiters;

/// How long one proposal or read to a home group may take where something else can be done without
/// it: a WAN election (1.6 s and two round trips) fits twice.
const GROUP_WAIT: Duration = Duration::from_secs(4);

/// What a call wants of a session; everything in it was checked against the catalog.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The caller's account.
    pub tenant: TenantId,
    /// The function called.
    pub function: FunctionId,
    /// The versions that it may run on: the one that was named, else all active ones.
    pub versions: Arc<[Arc<Version>]>,
    /// The call names its version: weights don't count for it.
    pub named: bool,
    /// The reconnect window that the client asked for, if any, already capped.
    pub window: Option<Duration>,
    /// When the wait for a worker ends: min(`grpc-timeout`, the version's `wait`).
    pub deadline: Instant,
    /// What the tunnel to the worker is for.
    pub carries: Carries,
    /// When the call's head arrived.
    pub began: Instant,
}

impl Ask {
    /// Whether the caller may take part in this session (C-ERR-6: one answer for all mismatches).
    pub fn fits(&self, tenant: TenantId, function: FunctionId, version: VersionId) -> bool {
        tenant == self.tenant
            && function == self.function
            && self.versions.iter().any(|allowed| allowed.id == version)
    }

    /// What is left until the deadline.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(crate::clock::now())
    }

    fn fits_session(&self, session: &Session) -> bool {
        self.fits(session.tenant, session.function, session.version)
    }
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

/// The sessions in which this node takes part.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    cluster: Cluster,
    tunnels: Tunnels,
    /// This node's region, by name: where opens are tried first.
    region: String,
    locals: Locals,
    waiters: Waiters,
    limits: Limits,
    metrics: Arc<Metrics>,
    started: Instant,
}

impl Sessions {
    /// Starts taking part: from now on the directories' effects are acted on.
    pub fn start(
        cluster: Cluster,
        tunnels: Tunnels,
        region: &str,
        metrics: Arc<Metrics>,
    ) -> Sessions {
        let sessions = Sessions(Arc::new(Inner {
            limits: Limits::new(cluster.clone(), metrics.clone()),
            metrics,
            cluster,
            tunnels,
            region: region.into(),
            locals: Locals::default(),
            waiters: Waiters::default(),
            started: crate::clock::now(),
        }));
        sessions.watch_directories();
        sessions
    }

    /// How many sessions client connections of this node are in.
    pub fn count(&self) -> usize {
        self.0.locals.count()
    }

    /// Whether this id names a live session of this tenant, function and one of these versions as
    /// far as the local replica knows (a cookie that does not counts as absent, C-RID-4).
    pub fn is_live_here(&self, id: RequestId, ask: &Ask) -> bool {
        id.region()
            .and_then(|region| self.0.cluster.region(region))
            .is_some_and(|group| {
                group
                    .state()
                    .session(id)
                    .is_some_and(|session| ask.fits_session(session))
            })
    }

    /// The session, if the local replica has ever heard of it, is another function's or version's
    /// (a cookie of which counts as absent).
    pub fn is_known_foreign(&self, id: RequestId, ask: &Ask) -> bool {
        id.region()
            .and_then(|region| self.0.cluster.region(region))
            .is_some_and(|group| {
                group
                    .state()
                    .session(id)
                    .is_some_and(|session| !ask.fits_session(session))
            })
    }

    /// The group that an id names by itself. An unknown region number is asked at the catalog, so
    /// that an id of a region born a moment ago is not refused from ignorance (H-7).
    async fn home(&self, id: RequestId, deadline: Instant) -> Result<Group<Directory>, Fault> {
        let region = id.region().ok_or(Fault::SessionNotFound)?;
        if let Some(group) = self.0.cluster.region(region) {
            return Ok(group);
        }
        let catalog = self.0.cluster.catalog();
        let mut known = catalog.state();
        if known.region(region).is_none() {
            known = self.certain(catalog, deadline).await?;
        }
        match known.region(region) {
            Some(known) if !known.gone => self.comes_up(region, deadline).await,
            // Never born, or gone for good: numbers are not used again.
            _ => Err(Fault::SessionNotFound),
        }
    }
}
