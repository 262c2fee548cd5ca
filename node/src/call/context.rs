//! What every call of a node shares, and the two seams behind which the cluster lies: the catalog's
//! replica and the sessions. Tests stand in for both.

use super::chatter::Chatter;
use super::connection::Connection;
use super::counters::Counters;
use super::dress::CookiePolicy;
use crate::listen::limits::Limits;
use crate::session::Ask;
use crate::tunnel::{Carries, Wire};
use futures::future::BoxFuture;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{RequestId, VersionId};
use pontoon_raft::catalog::Catalog;
use std::future::Future;
use std::sync::Arc;
use tokio::time::Instant;

/// What every call of a node shares.
pub struct Context<J: Joins> {
    /// This node's replica of the catalog.
    pub catalog: Arc<dyn CatalogReplica>,
    /// The sessions in which this node takes part.
    pub sessions: J,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// How much is logged of calls that came to no session.
    pub chatter: Arc<Chatter>,
    /// The bounds of connections and streams.
    pub limits: Limits,
    /// This node's region, by name.
    pub region: String,
    /// How cookies are set.
    pub cookies: CookiePolicy,
    /// Whether workers are told the client's address (C-FWD-9).
    pub forwards_address: bool,
}

impl<J: Joins> Context<J> {
    /// The attributes with which a session's cookie goes with this answer; `None` when the
    /// connection has it already.
    pub(super) fn cookie(
        &self,
        connection: &Connection<J::Joined>,
        id: RequestId,
    ) -> Option<&'static str> {
        let due = connection.gives_cookie(id);
        due.then(|| self.cookies.attributes(connection.origin.tls))
    }
}

/// This node's replica of the catalog.
pub trait CatalogReplica: Send + Sync + 'static {
    /// What it knows now, without asking anybody.
    fn state(&self) -> Arc<Catalog>;

    /// What it knows after it has caught up with everything that was committed before now; `None`
    /// when no quorum can be reached in time. Concurrent callers share one read.
    fn read(&self) -> BoxFuture<'_, Option<Arc<Catalog>>>;
}

/// The ways into a session.
pub trait Joins: Send + Sync + 'static {
    /// A connection's part in one.
    type Joined: Member;

    /// Opens a session: a worker is bound and a first tunnel is up when this returns. Dropping the
    /// future gives the open up.
    fn open(&self, ask: &Ask) -> impl Future<Output = Result<Self::Joined, Fault>> + Send;

    /// Opens a session that starts held, without a connection (C-ABS-1).
    fn absorb(&self, ask: &Ask) -> impl Future<Output = Result<RequestId, Fault>> + Send;

    /// Joins an existing session.
    fn resume(
        &self,
        id: RequestId,
        ask: &Ask,
    ) -> impl Future<Output = Result<Self::Joined, Fault>> + Send;

    /// Ends a session and returns once its sidecar has let go (C-ABS-2).
    fn release(&self, id: RequestId, ask: &Ask) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Whether the local replica shows this as a live session that fits.
    fn is_live_here(&self, id: RequestId, ask: &Ask) -> bool;

    /// Whether the local replica shows this as a live session of something else.
    fn is_known_foreign(&self, id: RequestId, ask: &Ask) -> bool;
}

/// One client connection's part in a session; dropping it leaves.
pub trait Member: Send + Sync + 'static {
    /// The session.
    fn id(&self) -> RequestId;

    /// The version that it runs on.
    fn version(&self) -> VersionId;

    /// Our side of a live tunnel that suits: the connection's own, or a new one.
    fn wire(
        &self,
        carries: Carries,
        deadline: Instant,
    ) -> impl Future<Output = Result<Wire, Fault>> + Send;

    /// The coming drop is a clean close.
    fn closes_cleanly(&self);

    /// The session has ended: nothing more may be carried.
    fn ended(&self) -> bool;
}
