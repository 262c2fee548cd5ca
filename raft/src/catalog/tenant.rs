//! Accounts.

use super::command::{Reply, Tenant};
use super::{Catalog, Outcome, valid};
use std::sync::Arc;

impl Catalog {
    pub(super) fn create_tenant(&mut self, index: u64, tenant: Tenant) -> Outcome {
        if let Some(known) = self.tenant(tenant.id) {
            let same = known.name == tenant.name;
            return if same {
                Ok(())
            } else {
                Err(Reply::Conflict(taken("tenant", tenant.id)))
            };
        }
        valid::name("a tenant's name", &tenant.name)?;
        if let Some(other) = self.tenant_by_name(&tenant.name) {
            return Err(Reply::Conflict(format!(
                "the name is taken by tenant {}",
                other.id
            )));
        }
        self.log(
            index,
            &tenant.actor,
            format!("create tenant {} ({})", tenant.name, tenant.id),
        );
        self.indexes
            .tenant_by_name
            .insert(tenant.name.clone(), tenant.id);
        self.records.tenants.insert(tenant.id, Arc::new(tenant));
        Ok(())
    }

    pub(super) fn tenant_exists(&self, id: super::TenantId) -> Outcome {
        match self.tenant(id) {
            Some(_) => Ok(()),
            None => Err(Reply::NotFound(format!("there is no tenant {id}"))),
        }
    }
}

/// An id that was created with other content.
pub(super) fn taken(noun: &str, id: impl std::fmt::Display) -> String {
    format!("{noun} {id} exists with other content")
}
