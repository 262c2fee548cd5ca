//! This node's replicas, as tunnels and calls see them.

use crate::call::CatalogReplica;
use crate::tunnel::{Directories, Grant, KeyRefused, Unanswered};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use pontoon_proto::id::{NodeBoot, NodeId, RegionId};
use pontoon_proto::key;
use pontoon_proto::worker as pb;
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::KeyKind;
use pontoon_raft::cluster::Cluster;
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Command, Effect, Reply};
use pontoon_raft::group::Group;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// How long a linearizable read may take before the asker hears that there is no answer.
const READ_WAIT: Duration = Duration::from_secs(4);

/// The replicas of one node.
#[derive(Clone)]
pub(super) struct Replicas(pub(super) Cluster);

impl Replicas {
    fn directory(&self, region: RegionId) -> Result<Group<Directory>, Unanswered> {
        self.0.region(region).ok_or(Unanswered)
    }

    fn grant(catalog: &Catalog, secret: &str) -> Option<Result<Grant, KeyRefused>> {
        let key = catalog.key_by_hash(&key::hash(secret))?;
        let expired = key
            .expires_unix
            .is_some_and(|at| at <= crate::clock::unix_seconds());
        let KeyKind::Worker { tenant, version } = key.kind else {
            return Some(Err(KeyRefused::Key));
        };
        if key.revoked || expired {
            return Some(Err(KeyRefused::Key));
        }
        let Some(found) = catalog.version(version) else {
            return Some(Err(KeyRefused::Version));
        };
        Some(Ok(Grant {
            tenant,
            function: found.function,
            version,
            slots: found.policy.slots,
        }))
    }
}

#[tonic::async_trait]
impl Directories for Replicas {
    fn boots(&self) -> watch::Receiver<NodeBoot> {
        self.0.boots()
    }

    async fn worker_key(&self, secret: &str) -> Result<Grant, KeyRefused> {
        if key::check(secret).is_err() {
            return Err(KeyRefused::Key);
        }
        if let Some(Ok(grant)) = Self::grant(&self.0.catalog().state(), secret) {
            return Ok(grant);
        }
        // The replica may lag (H-7): only a linearizable read may refuse.
        let certain = self
            .0
            .catalog()
            .read(READ_WAIT)
            .await
            .map_err(|_| KeyRefused::Unavailable)?;
        Self::grant(&certain, secret).unwrap_or(Err(KeyRefused::Key))
    }

    async fn region(&self, name: &str) -> Result<Option<RegionId>, Unanswered> {
        let known = |catalog: &Catalog| catalog.region_by_name(name).map(|region| region.number);
        if let Some(number) = known(&self.0.catalog().state()) {
            return Ok(Some(number));
        }
        let certain = self.0.catalog().read(READ_WAIT).await;
        certain
            .map(|catalog| known(&catalog))
            .map_err(|_| Unanswered)
    }

    fn regions(&self) -> Vec<RegionId> {
        let regions = self.0.regions();
        regions.into_iter().map(|(region, _)| region).collect()
    }

    fn generation(&self, region: RegionId) -> u64 {
        self.0.region(region).map_or(0, |group| group.generation())
    }

    async fn propose(
        &self,
        region: RegionId,
        command: Command,
        within: Duration,
    ) -> Result<Reply, Unanswered> {
        let proposed = self.directory(region)?.propose(command, within).await;
        proposed
            .map(|proposed| proposed.reply)
            .map_err(|_| Unanswered)
    }

    async fn read(&self, region: RegionId, within: Duration) -> Result<Arc<Directory>, Unanswered> {
        let state = self.directory(region)?.read(within).await;
        state.map_err(|_| Unanswered)
    }

    fn replica(&self, region: RegionId) -> Option<Arc<Directory>> {
        self.0.region(region).map(|group| group.state())
    }

    fn effects(&self, region: RegionId) -> Option<broadcast::Receiver<Effect>> {
        self.0.region(region).map(|group| group.effects())
    }

    fn restored(&self, region: RegionId) -> Option<watch::Receiver<u64>> {
        self.0.region(region).map(|group| group.restored())
    }

    fn is_node(&self, node: NodeId) -> bool {
        self.0.catalog().state().node(node).is_some()
    }

    fn nodes(&self) -> Vec<pb::NodeAddress> {
        let catalog = self.0.catalog().state();
        catalog
            .members()
            .map(|node| pb::NodeAddress {
                name: node.name.clone(),
                region: catalog
                    .region(node.region)
                    .map(|region| region.name.clone())
                    .unwrap_or_default(),
                worker: node.worker.clone(),
                node: u64::from(node.at.node.0),
            })
            .collect()
    }
}

impl CatalogReplica for Replicas {
    fn state(&self) -> Arc<Catalog> {
        self.0.catalog().state()
    }

    fn read(&self) -> BoxFuture<'_, Option<Arc<Catalog>>> {
        async move { self.0.catalog().read(READ_WAIT).await.ok() }.boxed()
    }
}
