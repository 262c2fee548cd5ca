//! The invariants of the catalog, and its indexes against a full scan.

use super::audit::AUDIT_MAX;
use super::command::{
    KeyKind, LIMITS_FORMAT, Limit, Limited, ROUTES_FORMAT, SHARES_FORMAT, Spill, Standing,
};
use super::limit::LIMITS_MAX;
use super::{Catalog, Indexes};

/// Checks everything; the error names what is broken.
pub(super) fn check(catalog: &Catalog) -> Result<(), String> {
    let records = &catalog.records;
    let ensure = |holds: bool, broken: &str| {
        if holds {
            Ok(())
        } else {
            Err(broken.to_owned())
        }
    };
    let indexes = &catalog.indexes;
    ensure(
        *indexes == Indexes::of(records),
        "an index does not fit the records",
    )?;
    ensure(
        indexes.tenant_by_name.len() == records.tenants.len(),
        "two tenants share a name",
    )?;
    ensure(
        indexes.key_by_hash.len() == records.keys.len(),
        "two keys share a hash",
    )?;
    ensure(
        indexes.region_by_name.len() == catalog.regions().count(),
        "two regions share a name",
    )?;
    ensure(
        indexes.node_by_name.len() == catalog.members().count(),
        "two nodes share a name",
    )?;
    let dead: std::collections::BTreeSet<_> = catalog
        .nodes()
        .filter(|node| node.standing == Standing::Dead)
        .map(|node| node.region)
        .collect();
    ensure(dead.len() <= 1, "nodes of two regions are dead at once")?;
    let owned = records
        .functions
        .values()
        .all(|one| records.tenants.contains_key(&one.tenant));
    ensure(owned, "a function has no tenant")?;
    let owned = records
        .versions
        .values()
        .all(|one| records.functions.contains_key(&one.function));
    ensure(owned, "a version has no function")?;
    let founded = records.keys.values().all(|key| match &key.kind {
        KeyKind::Client { tenant, functions } => {
            records.tenants.contains_key(tenant)
                && functions
                    .iter()
                    .all(|id| records.functions.contains_key(id))
        }
        KeyKind::Worker { tenant, version } => {
            records.tenants.contains_key(tenant) && records.versions.contains_key(version)
        }
        KeyKind::Admin(_) => true,
    });
    ensure(founded, "a key opens what does not exist")?;
    let owned = catalog.limits().all(|(of, limit)| {
        let known = match of {
            Limited::Tenant(id) => records.tenants.contains_key(&id),
            Limited::Version(id) => records.versions.contains_key(&id),
        };
        known && limit != Limit::default()
    });
    ensure(owned, "a limit bounds nothing")?;
    let room = if catalog.format() < LIMITS_FORMAT {
        0
    } else {
        LIMITS_MAX
    };
    ensure(records.limits.len() <= room, "there are too many limits")?;
    let weighed = records.weights.iter().all(|(function, weights)| {
        let of = |id| records.versions.get(id).map(|one| one.function);
        !weights.is_empty() && weights.iter().all(|(id, _)| of(id) == Some(*function))
    });
    ensure(weighed, "a weight is no version's of its function")?;
    let placed = records
        .spills
        .iter()
        .all(|(id, spill)| *spill != Spill::Any && records.versions.contains_key(id));
    ensure(placed, "no version lives where it may")?;
    let routed = !records.weights.is_empty() || !records.spills.is_empty();
    ensure(
        !routed || catalog.format() >= ROUTES_FORMAT,
        "there are routes before their format",
    )?;
    let foreign = records.shares.iter().all(|(function, guest)| {
        let owner = records.functions.get(function).map(|one| one.tenant);
        records.tenants.contains_key(guest) && owner.is_some_and(|owner| owner != *guest)
    });
    ensure(foreign, "a function is shared with nobody else")?;
    ensure(
        records.shares.is_empty() || catalog.format() >= SHARES_FORMAT,
        "there are shares before their format",
    )?;
    ensure(
        records.audit.len() <= AUDIT_MAX,
        "the audit trail is too long",
    )
}
