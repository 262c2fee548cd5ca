//! The verbs that show and set the limits of tenants and versions.

use super::client;
use super::nouns::{Ask, Limit};
use super::table::show;
use super::verbs::{Answer, TENANT, VERSION, said, unknown, would};
use pontoon_proto::admin as pb;

/// Sets what flags name of a tenant's limit; without flags, shows it.
pub(super) async fn tenant(name: String, limit: Limit, dry_run: bool, ask: Ask) -> Answer {
    let mut client = client::connect(&ask).await?;
    let Some(change) = change(limit) else {
        let reply = said(&ask, client.list_tenants(pb::ListTenantsRequest {}).await)?;
        let mut all = reply.tenants.iter();
        let found = all.find(|one| one.name == name || one.id == name);
        let names = reply.tenants.iter().map(|one| one.name.as_str());
        let found = found.ok_or_else(|| unknown("tenant", &name, names))?;
        return Ok(show(ask.output, found, TENANT));
    };
    let request = pb::SetTenantLimitRequest {
        tenant: name,
        change: Some(change),
        dry_run,
    };
    let tenant = said(&ask, client.set_tenant_limit(request).await)?;
    would(dry_run, "change the limit of this tenant");
    Ok(show(ask.output, &tenant, TENANT))
}

/// The same for a version.
pub(super) async fn version(id: String, limit: Limit, dry_run: bool, ask: Ask) -> Answer {
    let mut client = client::connect(&ask).await?;
    let Some(change) = change(limit) else {
        let all = client.list_versions(pb::ListVersionsRequest::default());
        let reply = said(&ask, all.await)?;
        let found = reply.versions.iter().find(|one| one.id == id);
        let ids = reply.versions.iter().map(|one| one.id.as_str());
        let found = found.ok_or_else(|| unknown("version", &id, ids))?;
        return Ok(show(ask.output, found, VERSION));
    };
    let request = pb::SetVersionLimitRequest {
        id,
        change: Some(change),
        dry_run,
    };
    let version = said(&ask, client.set_version_limit(request).await)?;
    would(dry_run, "change the limit of this version");
    Ok(show(ask.output, &version, VERSION))
}

/// None: no flag was given.
fn change(limit: Limit) -> Option<pb::LimitChange> {
    let change = pb::LimitChange {
        sessions_max: limit.sessions,
        rate: limit.rate,
        burst: limit.burst,
    };
    (change != pb::LimitChange::default()).then_some(change)
}
