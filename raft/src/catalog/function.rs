//! Functions and their versions.

use super::command::{Function, Reply, Version, VersionState};
use super::tenant::taken;
use super::{Catalog, Outcome, valid};
use pontoon_proto::id::{FunctionId, TenantId, VersionId};
use std::sync::Arc;

impl Catalog {
    pub(super) fn create_function(&mut self, index: u64, function: Function) -> Outcome {
        if let Some(known) = self.function(function.id) {
            let same = (known.tenant, &known.name) == (function.tenant, &function.name);
            return if same {
                Ok(())
            } else {
                Err(Reply::Conflict(taken("function", function.id)))
            };
        }
        valid::name("a function's name", &function.name)?;
        self.tenant_exists(function.tenant)?;
        self.log(
            index,
            &function.actor,
            format!("create function {} ({})", function.name, function.id),
        );
        self.indexes
            .functions_of
            .insert((function.tenant, function.id));
        self.records
            .functions
            .insert(function.id, Arc::new(function));
        Ok(())
    }

    pub(super) fn create_version(&mut self, index: u64, version: Version) -> Outcome {
        if let Some(known) = self.version(version.id) {
            // A retry is the same version also after it was switched off.
            let same = (known.function, &known.policy) == (version.function, &version.policy);
            return if same {
                Ok(())
            } else {
                Err(Reply::Conflict(taken("version", version.id)))
            };
        }
        valid::policy(&version.policy)?;
        if self.function(version.function).is_none() {
            return Err(Reply::NotFound(format!(
                "there is no function {}",
                version.function
            )));
        }
        let what = format!(
            "create version {} of function {}",
            version.id, version.function
        );
        self.log(index, &version.actor, what);
        self.indexes
            .versions_of
            .insert((version.function, version.id));
        self.records.versions.insert(version.id, Arc::new(version));
        Ok(())
    }

    pub(super) fn set_version_state(
        &mut self,
        index: u64,
        id: VersionId,
        state: VersionState,
        actor: &str,
    ) -> Outcome {
        let Some(known) = self.version(id) else {
            return Err(Reply::NotFound(format!("there is no version {id}")));
        };
        if known.state != state {
            let version = Version {
                state,
                ..Version::clone(known)
            };
            self.log(index, actor, format!("set version {id} {state:?}"));
            self.records.versions.insert(id, Arc::new(version));
        }
        Ok(())
    }

    /// Whether a function is there and this tenant's; another's is not there.
    pub(super) fn function_of(&self, tenant: TenantId, id: FunctionId) -> Outcome {
        match self.function(id) {
            Some(function) if function.tenant == tenant => Ok(()),
            _ => Err(Reply::NotFound(format!(
                "tenant {tenant} has no function {id}"
            ))),
        }
    }
}
