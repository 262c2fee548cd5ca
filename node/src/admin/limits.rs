//! The limits of tenants and versions: how many sessions, and how fast they may come.

use super::access::Caller;
use super::read::parse;
use super::write::{Written, unknown};
use super::{Context, view};
use crate::session::limits::live;
use pontoon_proto::admin as pb;
use pontoon_proto::id::{TenantId, VersionId};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{Command, LimitChange, Limited, Tenant, Version};
use tonic::{Response, Status};

impl Context {
    pub(super) async fn set_tenant_limit(
        &self,
        caller: Caller,
        request: pb::SetTenantLimitRequest,
    ) -> Result<Response<pb::Tenant>, Status> {
        let id = self.tenant_called(&request.tenant)?;
        let of = Limited::Tenant(id);
        let written = self
            .set_limit(caller, of, request.change, request.dry_run)
            .await?;
        let catalog = self.catalog();
        let tenant = catalog.tenant(id);
        let tenant = tenant.ok_or_else(|| unknown("tenant", &request.tenant))?;
        Ok(written.with(self.show_tenant(&catalog, tenant)))
    }

    pub(super) async fn set_version_limit(
        &self,
        caller: Caller,
        request: pb::SetVersionLimitRequest,
    ) -> Result<Response<pb::Version>, Status> {
        let id: VersionId = parse("id", &request.id)?;
        let of = Limited::Version(id);
        let written = self
            .set_limit(caller, of, request.change, request.dry_run)
            .await?;
        let catalog = self.catalog();
        let version = catalog.version(id);
        let version = version.ok_or_else(|| unknown("version", &request.id))?;
        Ok(written.with(self.show_version(&catalog, version)))
    }

    async fn set_limit(
        &self,
        caller: Caller,
        of: Limited,
        asked: Option<pb::LimitChange>,
        dry_run: bool,
    ) -> Result<Written, Status> {
        let command = Command::SetLimit {
            of,
            change: change(asked.unwrap_or_default())?,
            actor: caller.actor,
        };
        // A build that knows no limits must not find one in its log, so this is asked beforehand; the
        // format never falls again.
        self.rehearse(command.clone())?;
        if dry_run {
            return Ok(Written::default());
        }
        let id = match of {
            Limited::Tenant(id) => id.to_string(),
            Limited::Version(id) => id.to_string(),
        };
        self.write(command, &format!("the limit of {id}")).await
    }

    /// A tenant by its name, or by its id.
    pub(super) fn tenant_called(&self, name: &str) -> Result<TenantId, Status> {
        let catalog = self.catalog();
        let by_id = || catalog.tenant(name.parse().ok()?);
        let known = catalog.tenant_by_name(name).or_else(by_id);
        known
            .map(|tenant| tenant.id)
            .ok_or_else(|| unknown("tenant", &format!("{name:?}")))
    }

    /// A tenant with its limit, and what it has in all regions.
    pub(super) fn show_tenant(&self, catalog: &Catalog, tenant: &Tenant) -> pb::Tenant {
        let of = Limited::Tenant(tenant.id);
        let sessions_now = live(&self.cluster, of);
        view::tenant(tenant, catalog.limit(of), sessions_now)
    }

    /// A version with its limit, and what it has in all regions.
    pub(super) fn show_version(&self, catalog: &Catalog, version: &Version) -> pb::Version {
        let of = Limited::Version(version.id);
        let sessions_now = live(&self.cluster, of);
        view::version(catalog, version, sessions_now)
    }
}

/// A change as the catalog has it: rates in whole numbers.
fn change(asked: pb::LimitChange) -> Result<LimitChange, Status> {
    if asked == pb::LimitChange::default() {
        return Err(Status::invalid_argument(
            "no limit to set: give at least one of sessions_max, rate and burst; 0 means no limit",
        ));
    }
    let per_1000s = match asked.rate {
        None => None,
        Some(rate) if rate == 0.0 || (0.001..=1e6).contains(&rate) => {
            Some((rate * 1000.0).round() as u64)
        }
        Some(rate) => {
            return Err(Status::invalid_argument(format!(
                "rate is {rate}: give 0.001 to 1000000 new sessions per second, or 0 for no limit"
            )));
        }
    };
    Ok(LimitChange {
        sessions: asked.sessions_max,
        per_1000s,
        burst: asked.burst,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(rate: f64) -> Result<Option<u64>, Status> {
        let asked = pb::LimitChange {
            rate: Some(rate),
            ..pb::LimitChange::default()
        };
        change(asked).map(|change| change.per_1000s)
    }

    #[test]
    fn c_err_8_a_rate_is_kept_in_thousandths_and_a_wrong_one_says_what_is_right() {
        for (asked, kept) in [(0.0, 0), (0.001, 1), (2.5, 2_500), (1e6, 1_000_000_000)] {
            assert_eq!(rate(asked).unwrap(), Some(kept), "{asked}");
        }
        for wrong in [-1.0, 0.0001, 1e7, f64::NAN, f64::INFINITY] {
            let status = rate(wrong).unwrap_err();
            assert!(status.message().contains("0 for no limit"), "{status}");
        }
        let nothing = change(pb::LimitChange::default()).unwrap_err();
        assert!(nothing.message().contains("sessions_max"), "{nothing}");
    }
}
