//! The cluster-wide catalog: tenants, keys, functions, versions, regions and nodes.
//!
//! Small, written rarely and read at every call, from memory. Records are never removed: keys and
//! versions are switched off, nodes and regions are marked, so that lists and the audit trail can
//! name them and no number is given twice. A file per noun has its
//! writes; this one has the state and what can be asked of it.
//!
//! Nodes and regions don't refer to each other by force: at a first boot a region is born and its
//! nodes announce themselves in any order.

mod audit;
mod check;
pub mod command;
mod function;
mod image;
mod key;
mod limit;
mod node;
mod region;
pub mod route;
mod settings;
mod share;
mod tenant;
mod valid;

#[cfg(test)]
mod tests;

pub use audit::Audit;
pub use limit::LIMITS_MAX;
pub use node::boot_before;
pub use settings::Settings;
pub use share::GUESTS_MAX;

use crate::machine::{Clock, Machine};
use command::{
    Command, Effect, Function, Key, Limit, Limited, Node, Region, Reply, Spill, Standing, Tenant,
    Version,
};
use image::Image;
use imbl::{OrdMap, OrdSet, Vector};
use pontoon_proto::id::{FunctionId, KeyId, NodeId, RegionId, TenantId, VersionId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The catalog.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Image", into = "Image")]
pub struct Catalog {
    records: Records,
    indexes: Indexes,
}

/// What snapshots and the state hash are made of; `image` writes them.
///
/// What serde skips came with a later format: `image` puts it behind the rest where that is in force.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Records {
    clock: Clock,
    tenants: OrdMap<TenantId, Arc<Tenant>>,
    keys: OrdMap<KeyId, Arc<Key>>,
    functions: OrdMap<FunctionId, Arc<Function>>,
    versions: OrdMap<VersionId, Arc<Version>>,
    regions: OrdMap<RegionId, Arc<Region>>,
    nodes: OrdMap<NodeId, Arc<Node>>,
    settings: Settings,
    audit: Vector<Arc<Audit>>,
    /// Only those that bound something. From `LIMITS_FORMAT` on.
    #[serde(skip)]
    limits: OrdMap<Limited, Limit>,
    /// Only of functions whose versions have weights. From `ROUTES_FORMAT` on.
    #[serde(skip)]
    weights: OrdMap<FunctionId, Vec<(VersionId, u32)>>,
    /// Only of versions that may not live anywhere. From `ROUTES_FORMAT` on.
    #[serde(skip)]
    spills: OrdMap<VersionId, Spill>,
    /// The tenants beside its own that may call a function. From `SHARES_FORMAT` on.
    #[serde(skip)]
    shares: OrdSet<(FunctionId, TenantId)>,
}

/// What follows from the records.
#[derive(Clone, Debug, Default, PartialEq)]
struct Indexes {
    tenant_by_name: OrdMap<String, TenantId>,
    key_by_hash: OrdMap<[u8; 32], KeyId>,
    functions_of: OrdSet<(TenantId, FunctionId)>,
    versions_of: OrdSet<(FunctionId, VersionId)>,
    region_by_name: OrdMap<String, RegionId>,
    node_by_name: OrdMap<String, NodeId>,
}

impl Indexes {
    fn of(records: &Records) -> Indexes {
        Indexes {
            tenant_by_name: records
                .tenants
                .values()
                .map(|one| (one.name.clone(), one.id))
                .collect(),
            key_by_hash: records
                .keys
                .values()
                .map(|one| (one.hash, one.id))
                .collect(),
            functions_of: records
                .functions
                .values()
                .map(|one| (one.tenant, one.id))
                .collect(),
            versions_of: records
                .versions
                .values()
                .map(|one| (one.function, one.id))
                .collect(),
            region_by_name: records
                .regions
                .values()
                .filter(|one| !one.gone)
                .map(|one| (one.name.clone(), one.number))
                .collect(),
            node_by_name: records
                .nodes
                .values()
                .filter(|one| one.standing != Standing::Removed)
                .map(|one| (one.name.clone(), one.at.node))
                .collect(),
        }
    }
}

/// What an admin write comes to: done, or why not.
type Outcome = Result<(), Reply>;

impl Machine for Catalog {
    type Command = Command;
    type Reply = Reply;
    type Effect = Effect;

    const KIND: u8 = 2;

    fn clock(&self) -> Clock {
        self.records.clock
    }

    fn apply(
        &mut self,
        index: u64,
        now: Clock,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        self.records.clock = self.records.clock.advanced_to(now);
        let outcome = match command {
            Command::CreateTenant(tenant) => self.create_tenant(index, tenant),
            Command::CreateKey(key) => self.create_key(index, key),
            Command::RevokeKey { id, actor } => self.revoke_key(index, id, &actor, effects),
            Command::CreateFunction(function) => self.create_function(index, function),
            Command::CreateVersion(version) => self.create_version(index, version),
            Command::SetVersionState { id, state, actor } => {
                self.set_version_state(index, id, state, &actor)
            }
            Command::AddRegion(region) => self.add_region(index, region, effects),
            Command::PutNode(node) => self.put_node(node, effects),
            Command::Tick => Ok(()),
            Command::AdmitNode(admission) => {
                return self
                    .admit_node(index, admission, effects)
                    .unwrap_or_else(|refused| refused);
            }
            Command::MarkNode { node, dead } => self.mark_node(index, node, dead, effects),
            Command::RemoveNode { node, actor } => self.remove_node(index, node, &actor, effects),
            Command::SetSurvive {
                region,
                survive,
                actor,
            } => self.set_survive(index, region, survive, &actor, effects),
            Command::SetPace { group, pace } => self.set_pace(index, group, pace, effects),
            Command::SetNearest { region, nearest } => {
                self.set_nearest(index, region, nearest, effects)
            }
            Command::RecoverRegion {
                region,
                generation,
                seed,
                actor,
            } => self.recover_region(index, region, generation, seed, &actor, effects),
            Command::RemoveRegion { region, actor } => {
                self.remove_region(index, region, &actor, effects)
            }
            Command::SetAutopilot { on, actor } => self.set_autopilot(index, on, &actor),
            Command::RaiseFormat { format } => self.raise_format(index, format),
            Command::Note { what } => {
                self.log(index, "autopilot", what);
                Ok(())
            }
            Command::SetLimit { of, change, actor } => self.set_limit(index, of, change, &actor),
            Command::SetWeights {
                function,
                weights,
                actor,
            } => self.set_weights(index, function, weights, &actor),
            Command::SetSpill {
                version,
                spill,
                actor,
            } => self.set_spill(index, version, spill, &actor),
            Command::Record { what, actor } => self.record(index, what, &actor),
            Command::SetShare {
                function,
                tenant,
                shared,
                actor,
            } => self.set_share(index, function, tenant, shared, &actor),
        };
        outcome.err().unwrap_or(Reply::Done)
    }

    fn next_due(&self) -> Option<Clock> {
        None
    }

    fn tick() -> Command {
        Command::Tick
    }

    fn check(&self) -> Result<(), String> {
        check::check(self)
    }
}

impl Catalog {
    /// The catalog of a cluster that was just born.
    pub fn new() -> Catalog {
        Catalog::default()
    }

    /// An account.
    pub fn tenant(&self, id: TenantId) -> Option<&Arc<Tenant>> {
        self.records.tenants.get(&id)
    }

    /// An account by its unique name.
    pub fn tenant_by_name(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenant(*self.indexes.tenant_by_name.get(name)?)
    }

    /// All accounts, in id order.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.records.tenants.values()
    }

    /// A key by its public name.
    pub fn key(&self, id: KeyId) -> Option<&Arc<Key>> {
        self.records.keys.get(&id)
    }

    /// A key by the SHA-256 of its secret. Revoked and expired ones are found too: the caller judges.
    pub fn key_by_hash(&self, hash: &[u8; 32]) -> Option<&Arc<Key>> {
        self.key(*self.indexes.key_by_hash.get(hash)?)
    }

    /// All keys, in id order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.records.keys.values()
    }

    /// Something to invoke.
    pub fn function(&self, id: FunctionId) -> Option<&Arc<Function>> {
        self.records.functions.get(&id)
    }

    /// All functions, in id order.
    pub fn functions(&self) -> impl Iterator<Item = &Arc<Function>> {
        self.records.functions.values()
    }

    /// The functions of an account, in id order.
    pub fn functions_of(&self, tenant: TenantId) -> impl Iterator<Item = &Arc<Function>> {
        let all = (tenant, FunctionId(uuid::Uuid::nil()))..=(tenant, FunctionId(uuid::Uuid::max()));
        self.indexes
            .functions_of
            .range(all)
            .filter_map(|&(_, id)| self.function(id))
    }

    /// A revision.
    pub fn version(&self, id: VersionId) -> Option<&Arc<Version>> {
        self.records.versions.get(&id)
    }

    /// All versions, in id order.
    pub fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.records.versions.values()
    }

    /// The revisions of a function, active or not, in id order.
    pub fn versions_of(&self, function: FunctionId) -> impl Iterator<Item = &Arc<Version>> {
        let all =
            (function, VersionId(uuid::Uuid::nil()))..=(function, VersionId(uuid::Uuid::max()));
        self.indexes
            .versions_of
            .range(all)
            .filter_map(|&(_, id)| self.version(id))
    }

    /// What bounds the sessions of a tenant or version; nothing unless somebody said so.
    pub fn limit(&self, of: Limited) -> Limit {
        self.records.limits.get(&of).copied().unwrap_or_default()
    }

    /// A region by its number, also one that is gone.
    pub fn region(&self, number: RegionId) -> Option<&Arc<Region>> {
        self.records.regions.get(&number)
    }

    /// A region by its unique name.
    pub fn region_by_name(&self, name: &str) -> Option<&Arc<Region>> {
        self.region(*self.indexes.region_by_name.get(name)?)
    }

    /// All regions that are not gone, by number.
    pub fn regions(&self) -> impl Iterator<Item = &Arc<Region>> {
        self.records.regions.values().filter(|region| !region.gone)
    }

    /// All regions that ever were, by number.
    pub fn all_regions(&self) -> impl Iterator<Item = &Arc<Region>> {
        self.records.regions.values()
    }

    /// A node by its number, also one that was removed.
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.records.nodes.get(&id)
    }

    /// A node by its unique name.
    pub fn node_by_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.node(*self.indexes.node_by_name.get(name)?)
    }

    /// All nodes, removed ones included, by number; see [`Self::members`].
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.records.nodes.values()
    }

    /// The newest admin writes, oldest first.
    pub fn audit(&self) -> impl Iterator<Item = &Arc<Audit>> {
        self.records.audit.iter()
    }
}
