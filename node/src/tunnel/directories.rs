//! What tunnels need of the replicated state: one face for the region groups and the catalog.
//!
//! The node's cluster implements it; the tests of this folder and of the sidecar have a second one in
//! memory, so that the whole of both runs over real sockets without a consensus group.

use pontoon_proto::id::{
    FunctionId, NodeBoot, NodeId, RegionId, RequestId, TenantId, VersionId, WorkerId,
};
use pontoon_proto::worker as pb;
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Binding, Command, Effect, Reply};
use pontoon_raft::directory::session::Session;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// What a worker key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The account.
    pub tenant: TenantId,
    /// The function.
    pub function: FunctionId,
    /// The only version that it may attach workers of.
    pub version: VersionId,
    /// That version's slots per worker.
    pub slots: u32,
}

/// Why a worker key got no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRefused {
    /// Unknown, revoked, expired or of another kind; certain, by a linearizable read.
    Key,
    /// The key is good, but its version does not exist.
    Version,
    /// The catalog can't be asked.
    Unavailable,
}

/// No answer: nothing is known, a proposal may or may not have been applied. Everything that is
/// proposed here is idempotent, so the answer to it is to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the group gave no answer in time")]
pub struct Unanswered;

/// The directories of all regions and the catalog, as one node sees them.
#[tonic::async_trait]
pub trait Directories: Send + Sync + 'static {
    /// This node's present life, and later ones.
    fn boots(&self) -> watch::Receiver<NodeBoot>;

    /// What a worker key allows. One that the local replica does not know is looked up by a
    /// linearizable read before it is refused.
    async fn worker_key(&self, secret: &str) -> Result<Grant, KeyRefused>;

    /// The number of a region; `None` only when a linearizable read does not know it either.
    async fn region(&self, name: &str) -> Result<Option<RegionId>, Unanswered>;

    /// The regions whose groups this node has a replica of.
    fn regions(&self) -> Vec<RegionId>;

    /// The generation of a region's group; 0 when it is not known here.
    fn generation(&self, region: RegionId) -> u64;

    /// Proposes to a region's group.
    async fn propose(
        &self,
        region: RegionId,
        command: Command,
        within: Duration,
    ) -> Result<Reply, Unanswered>;

    /// A region's directory by a linearizable read.
    async fn read(&self, region: RegionId, within: Duration) -> Result<Arc<Directory>, Unanswered>;

    /// A region's directory by the local replica: a hint.
    fn replica(&self, region: RegionId) -> Option<Arc<Directory>>;

    /// Hints of what changes in a region, from now on.
    fn effects(&self, region: RegionId) -> Option<broadcast::Receiver<Effect>>;

    /// Changes when a region's directory has moved without hints: by a snapshot, a replay, another
    /// incarnation.
    fn restored(&self, region: RegionId) -> Option<watch::Receiver<u64>>;

    /// Whether the catalog has a node of this number.
    fn is_node(&self, node: NodeId) -> bool;

    /// The nodes that sidecars may attach to.
    fn nodes(&self) -> Vec<pb::NodeAddress>;
}

/// Where a live session is bound.
pub(super) fn binding(directory: &Directory, id: RequestId) -> Option<Binding> {
    directory.session(id).and_then(Session::binding)
}

/// Whether a live session is bound to this worker by this very binding.
pub(super) fn is_bound(directory: &Directory, id: RequestId, worker: WorkerId, index: u64) -> bool {
    binding(directory, id).is_some_and(|b| (b.worker, b.index) == (worker, index))
}
