//! Nodes, regions and what memberships may do: the verbs that change where state lives.

use super::access::Caller;
use super::write::Written;
use super::{Context, view};
use pontoon_proto::admin as pb;
use pontoon_proto::id::NodeId;
use pontoon_raft::catalog::command::{Command, Node, Region, Survive};
use std::sync::Arc;
use tonic::{Response, Status};

impl Context {
    pub(super) async fn remove_node(
        &self,
        caller: Caller,
        request: pb::RemoveNodeRequest,
    ) -> Result<Response<pb::Node>, Status> {
        let node = self.node_named(&request.name)?;
        let id = node.at.node;
        let command = Command::RemoveNode {
            node: id,
            actor: caller.actor,
        };
        let written = self.carry_out(command, &request.name, request.dry_run);
        let written = written.await?;
        let catalog = self.catalog();
        let node = catalog.node(id).unwrap_or(&node).clone();
        Ok(written.with(self.show_node(&catalog, &node)))
    }

    pub(super) async fn set_survive(
        &self,
        caller: Caller,
        request: pb::SetSurviveRequest,
    ) -> Result<Response<pb::Region>, Status> {
        let region = self.region_named(&request.region)?;
        let survive = match request.survive.as_str() {
            "region" => Survive::Region,
            "zone" => Survive::Zone,
            _ => {
                return Err(Status::invalid_argument(
                    "survive is neither `region` nor `zone`",
                ));
            }
        };
        let command = Command::SetSurvive {
            region: region.number,
            survive,
            actor: caller.actor,
        };
        self.change_region(command, &region, request.dry_run).await
    }

    pub(super) async fn recover_region(
        &self,
        caller: Caller,
        request: pb::RecoverRegionRequest,
    ) -> Result<Response<pb::Region>, Status> {
        let region = self.region_named(&request.region)?;
        let seed = self.node_named(&request.seed)?;
        if !request.accept_loss {
            return Err(Status::invalid_argument(
                "what the seed's replica lacks is lost for good: say accept_loss when that is \
                 accepted",
            ));
        }
        let works = self
            .cluster
            .region(region.number)
            .is_some_and(|group| group.connected());
        if works {
            return Err(Status::failed_precondition(format!(
                "the group of region {} has a leader and a quorum: there is nothing to recover",
                region.name
            )));
        }
        let command = Command::RecoverRegion {
            region: region.number,
            generation: region.generation + 1,
            seed: seed.at.node,
            actor: caller.actor,
        };
        self.change_region(command, &region, request.dry_run).await
    }

    pub(super) async fn remove_region(
        &self,
        caller: Caller,
        request: pb::RemoveRegionRequest,
    ) -> Result<Response<pb::Region>, Status> {
        let region = self.region_named(&request.region)?;
        let command = Command::RemoveRegion {
            region: region.number,
            actor: caller.actor,
        };
        self.change_region(command, &region, request.dry_run).await
    }

    pub(super) async fn set_autopilot(
        &self,
        caller: Caller,
        request: pb::SetAutopilotRequest,
    ) -> Result<Response<pb::Cluster>, Status> {
        let command = Command::SetAutopilot {
            on: request.on,
            actor: caller.actor,
        };
        let written = self.carry_out(command, "the setting", request.dry_run);
        let written = written.await?;
        Ok(written.with(self.show_cluster()))
    }

    pub(super) fn list_audit(&self, limit: u32) -> pb::ListAuditReply {
        let catalog = self.catalog();
        let all = catalog.audit();
        let limit = if limit == 0 {
            usize::MAX
        } else {
            limit as usize
        };
        let skip = catalog.audit().count().saturating_sub(limit);
        let entries = all.skip(skip).map(|audit| pb::Audit {
            index: audit.index,
            clock_ms: audit.clock.0,
            actor: audit.actor.clone(),
            what: audit.what.clone(),
        });
        pb::ListAuditReply {
            entries: entries.collect(),
        }
    }

    /// Writes, or only says whether that would be refused.
    async fn carry_out(
        &self,
        command: Command,
        what: &str,
        dry_run: bool,
    ) -> Result<Written, Status> {
        if dry_run {
            self.rehearse(command)?;
            return Ok(Written::default());
        }
        self.write(command, what).await
    }

    async fn change_region(
        &self,
        command: Command,
        region: &Arc<Region>,
        dry_run: bool,
    ) -> Result<Response<pb::Region>, Status> {
        let written = self.carry_out(command, &region.name, dry_run).await?;
        let catalog = self.catalog();
        let region = catalog.region(region.number).unwrap_or(region);
        Ok(written.with(view::region(&catalog, region)))
    }

    pub(super) fn node_named(&self, name: &str) -> Result<Arc<Node>, Status> {
        let catalog = self.catalog();
        let by_number = || catalog.node(NodeId(name.parse().ok()?));
        let node = catalog.node_by_name(name).or_else(by_number).cloned();
        node.ok_or_else(|| {
            Status::not_found(format!(
                "there is no node {name:?}: see `pontoon node list`"
            ))
        })
    }

    fn region_named(&self, name: &str) -> Result<Arc<Region>, Status> {
        let region = self.catalog().region_by_name(name).cloned();
        region.ok_or_else(|| {
            Status::not_found(format!(
                "there is no region {name:?}: see `pontoon region list`"
            ))
        })
    }
}
