//! How many sessions each tenant and version has, so that limits are judged without a scan.

use imbl::OrdMap;
use pontoon_proto::id::{TenantId, VersionId};

/// Sessions by tenant and by version, waiting ones included; nobody is here with none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::directory) struct Tally {
    tenants: OrdMap<TenantId, u64>,
    versions: OrdMap<VersionId, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, tenant: TenantId, version: VersionId) {
        *self.tenants.entry(tenant).or_default() += 1;
        *self.versions.entry(version).or_default() += 1;
    }

    pub(super) fn remove(&mut self, tenant: TenantId, version: VersionId) {
        one_less(&mut self.tenants, tenant);
        one_less(&mut self.versions, version);
    }

    pub(in crate::directory) fn of_tenant(&self, tenant: TenantId) -> u64 {
        self.tenants.get(&tenant).copied().unwrap_or(0)
    }

    pub(in crate::directory) fn of_version(&self, version: VersionId) -> u64 {
        self.versions.get(&version).copied().unwrap_or(0)
    }
}

fn one_less<K: Ord + Clone>(counts: &mut OrdMap<K, u64>, key: K) {
    match counts.get(&key).copied() {
        Some(count) if count > 1 => drop(counts.insert(key, count - 1)),
        _ => drop(counts.remove(&key)),
    }
}
