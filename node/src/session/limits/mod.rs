//! Bounds on new sessions (C-ERR-8): how many exist at once, and how fast they come.
//!
//! Operators set them in the catalog, per tenant and per version. Each node judges its own opens,
//! before it proposes anything: sessions are counted in its replicas of all directories, and a bucket
//! is drained by its own opens at once and by those of other nodes as its replicas apply them. So
//! what is decided here is right but for what other nodes admitted within the replication delay;
//! `docs/limits.md` has the arithmetic. Resumes never come here.
//!
//! [`bucket`] and [`ledger`] decide; this file asks the clock, the catalog and the replicas.

mod bucket;
mod ledger;

use super::{Ask, Sessions};
use crate::ops::metrics::Metrics;
use ledger::{Gate, Ledger, Refusal};
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{TenantId, VersionId};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::Limited;
use pontoon_raft::cluster::Cluster;
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::Effect;
use pontoon_raft::group::Group;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

/// The longest that a client is told to wait, seconds: limits change, and an hour is long enough to
/// look again.
const RETRY_AFTER_MAX: u64 = 3_600;

/// The limits, as one node keeps them.
pub(super) struct Limits {
    cluster: Cluster,
    metrics: Arc<Metrics>,
    began: Instant,
    /// Held for a few map operations, and only by opens of who is limited.
    ledger: Mutex<Ledger>,
}

impl Limits {
    pub(super) fn new(cluster: Cluster, metrics: Arc<Metrics>) -> Limits {
        Limits {
            cluster,
            metrics,
            began: crate::clock::now(),
            ledger: Mutex::default(),
        }
    }

    /// Begins the way of one open through its limits.
    pub(super) fn pass(&self, tenant: TenantId) -> Pass<'_> {
        Pass {
            limits: self,
            tenant,
            version: None,
            coming: Vec::new(),
            beside: false,
        }
    }

    /// A queue for a worker is full: the same answer, without a limit of anybody.
    pub(super) fn queue_is_full(&self) -> Fault {
        self.metrics.opens_refused.add("queue");
        Fault::RateExceeded
    }

    /// Drains buckets by what other nodes open in one region. What is missed, by a subscriber that
    /// lags thousands of effects behind or by a snapshot, was admitted all the same: then this node
    /// is too generous once, by so many.
    pub(super) async fn watch(&self, group: &Group<Directory>) {
        let mut effects = group.effects();
        loop {
            match effects.recv().await {
                Ok(Effect::Opened {
                    tenant,
                    version,
                    at,
                }) if at.node != self.cluster.at().node => self.opened_elsewhere(tenant, version),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                // The group has stopped: the process is on its way out.
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    fn opened_elsewhere(&self, tenant: TenantId, version: VersionId) {
        let catalog = self.cluster.catalog().state();
        for of in [Limited::Tenant(tenant), Limited::Version(version)] {
            if let Some(rate) = catalog.limit(of).rate {
                self.lock().take(of, rate, self.now());
            }
        }
    }

    fn gate(&self, catalog: &Catalog, of: Limited) -> Option<Gate> {
        let limit = catalog.limit(of);
        if limit.sessions.is_none() && limit.rate.is_none() {
            return None;
        }
        let live = match limit.sessions {
            Some(_) => live(&self.cluster, of),
            None => 0,
        };
        Some(Gate { of, limit, live })
    }

    fn now(&self) -> Duration {
        crate::clock::now().saturating_duration_since(self.began)
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many sessions of a tenant or version exist in all regions, as far as this node's replicas
/// know.
pub(crate) fn live(cluster: &Cluster, of: Limited) -> u64 {
    let regions = cluster.regions().into_iter();
    let counts = regions.map(|(_, group)| match of {
        Limited::Tenant(id) => group.state().sessions_of_tenant(id),
        Limited::Version(id) => group.state().sessions_of_version(id),
    });
    counts.sum()
}

/// One open on its way through its limits. It is charged once to its tenant, and once to each version
/// that it is tried on.
pub(super) struct Pass<'a> {
    limits: &'a Limits,
    tenant: TenantId,
    /// To which version it was charged last; then its tenant was charged too.
    version: Option<VersionId>,
    /// Under which limits it counts as on its way.
    coming: Vec<Limited>,
    /// Whether it is counted there: not while the replicas show it.
    beside: bool,
}

impl Pass<'_> {
    /// What may be asked for: versions whose limits are exhausted are left out.
    ///
    /// # Errors
    ///
    /// C-ERR-8 when the tenant's limit is exhausted, or no version is left.
    pub(super) fn allowed<'a>(&self, ask: &'a Ask) -> Result<Cow<'a, Ask>, Fault> {
        let catalog = self.limits.cluster.catalog().state();
        let now = self.limits.now();
        if self.version.is_none()
            && let Some(gate) = self.limits.gate(&catalog, Limited::Tenant(self.tenant))
        {
            let asked = self.limits.lock().ask(&gate, now);
            asked.map_err(|refusal| self.refused(refusal))?;
        }
        let mut soonest: Option<Refusal> = None;
        let mut left = Vec::with_capacity(ask.versions.len());
        for version in ask.versions.iter() {
            let charged = self.version == Some(version.id);
            let of = Limited::Version(version.id);
            let gate = self.limits.gate(&catalog, of).filter(|_| !charged);
            match gate.map_or(Ok(()), |gate| self.limits.lock().ask(&gate, now)) {
                Ok(()) => left.push(version.clone()),
                Err(refusal) => {
                    let sooner = soonest.is_none_or(|known| refusal.wait < known.wait);
                    soonest = if sooner { Some(refusal) } else { soonest };
                }
            }
        }
        match soonest {
            None => Ok(Cow::Borrowed(ask)),
            Some(refusal) if left.is_empty() => Err(self.refused(refusal)),
            Some(_) => Ok(Cow::Owned(Ask {
                versions: left.into(),
                ..ask.clone()
            })),
        }
    }

    /// Charges the open to its tenant and to this version. False: another open was quicker, and what
    /// is allowed has changed.
    pub(super) fn charge(&mut self, version: VersionId) -> bool {
        if self.version == Some(version) {
            self.count(true);
            return true;
        }
        let catalog = self.limits.cluster.catalog().state();
        let tenant = Limited::Tenant(self.tenant);
        let first = self.version.is_none().then_some(tenant);
        let wanted = first.into_iter().chain([Limited::Version(version)]);
        let gates: Vec<Gate> = wanted
            .filter_map(|of| self.limits.gate(&catalog, of))
            .collect();
        if !gates.is_empty() {
            let now = self.limits.now();
            let mut ledger = self.limits.lock();
            if ledger.admit(&gates, now).is_err() {
                return false;
            }
            // In the same breath, so that two opens never take one place.
            for gate in &gates {
                ledger.comes(gate.of);
            }
            ledger.sweep(|of| catalog.limit(of).rate, now);
        }
        self.count(false);
        self.coming.retain(|of| *of == tenant);
        self.count(true);
        self.coming.extend(gates.iter().map(|gate| gate.of));
        self.version = Some(version);
        true
    }

    /// The group has answered, and this node's replica shows the session.
    pub(super) fn shown(&mut self) {
        self.count(false);
    }

    /// Counts the open beside the replicas, or not.
    fn count(&mut self, beside: bool) {
        if self.beside == beside {
            return;
        }
        self.beside = beside;
        if self.coming.is_empty() {
            return;
        }
        let mut ledger = self.limits.lock();
        for of in &self.coming {
            match beside {
                true => ledger.comes(*of),
                false => ledger.came(*of),
            }
        }
    }

    fn refused(&self, refusal: Refusal) -> Fault {
        self.limits.metrics.opens_refused.add(refusal.by);
        let millis = u64::try_from(refusal.wait.as_millis()).unwrap_or(u64::MAX);
        let seconds = millis.saturating_add(999) / 1000;
        Fault::LimitReached {
            retry_after: seconds.clamp(1, RETRY_AFTER_MAX) as u32,
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.count(false);
    }
}

impl Sessions {
    /// Counts what other nodes open in a region, for as long as the process lives.
    pub(super) async fn watch_limits(&self, group: Group<Directory>) {
        self.0.limits.watch(&group).await;
    }
}
