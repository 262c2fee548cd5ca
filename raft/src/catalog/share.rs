//! Functions that other tenants than their own may call: their guests.
//!
//! A guest's key opens sessions that are the guest's: they count by its limits, take its turns, and are
//! nobody else's to resume. Workers, worker keys and versions stay the owner's.

use super::command::{Reply, SHARES_FORMAT};
use super::valid::ensure;
use super::{Catalog, Outcome};
use pontoon_proto::id::{FunctionId, TenantId};

/// How many guests a function may have. A share is 32 bytes, and a list of functions shows them all:
/// 40 KB of text for a full one.
pub const GUESTS_MAX: usize = 1_000;

impl Catalog {
    pub(super) fn set_share(
        &mut self,
        index: u64,
        function: FunctionId,
        guest: TenantId,
        shared: bool,
        actor: &str,
    ) -> Outcome {
        self.in_format(SHARES_FORMAT, "sharing functions needs")?;
        let Some(known) = self.function(function) else {
            return Err(Reply::NotFound(format!("there is no function {function}")));
        };
        let owner = known.tenant;
        self.tenant_exists(guest)?;
        ensure(owner != guest, || {
            format!("function {function} is tenant {guest}'s own: share it with another one")
        })?;
        let share = (function, guest);
        if self.records.shares.contains(&share) == shared {
            return Ok(());
        }
        let what = if shared {
            if self.guests(function).count() >= GUESTS_MAX {
                return Err(Reply::Refused(format!(
                    "function {function} is shared with {GUESTS_MAX} tenants already: unshare it \
                     with one first"
                )));
            }
            self.records.shares.insert(share);
            format!("share function {function} with tenant {guest}")
        } else {
            self.records.shares.remove(&share);
            format!("unshare function {function} with tenant {guest}")
        };
        self.log(index, actor, what);
        Ok(())
    }

    /// The tenants beside its own that may call a function, in id order.
    pub fn guests(&self, function: FunctionId) -> impl Iterator<Item = TenantId> {
        let all = (function, TenantId(uuid::Uuid::nil()))..=(function, TenantId(uuid::Uuid::max()));
        self.records.shares.range(all).map(|&(_, guest)| guest)
    }

    /// Whether a tenant's keys may call a function: its own, or one that is shared with it.
    pub fn may_call(&self, tenant: TenantId, function: FunctionId) -> bool {
        let owner = self.function(function).map(|known| known.tenant);
        owner.is_some_and(|owner| {
            owner == tenant || self.records.shares.contains(&(function, tenant))
        })
    }

    /// As [`Self::function_of`], for functions that are shared with the tenant, too.
    pub(super) fn function_for(&self, tenant: TenantId, id: FunctionId) -> Outcome {
        if self.may_call(tenant, id) {
            return Ok(());
        }
        self.function_of(tenant, id)
    }
}
