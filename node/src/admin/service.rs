//! The verbs of the admin API, each with the role it takes.

use super::{Context, view};
use pb::admin_server::Admin;
use pontoon_proto::admin as pb;
use pontoon_raft::catalog::command::Role;
use tonic::{Request, Response, Status};

/// The admin API over one node.
pub(super) struct Service(pub(super) Context);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for Service {
    async fn get_cluster(&self, request: Request<pb::GetClusterRequest>) -> Answer<pb::Cluster> {
        self.0.admit(&request, Role::Viewer).await?;
        Ok(Response::new(self.0.show_cluster()))
    }

    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Answer<pb::ListNodesReply> {
        self.0.admit(&request, Role::Viewer).await?;
        Ok(Response::new(self.0.list_nodes()))
    }

    async fn remove_node(&self, request: Request<pb::RemoveNodeRequest>) -> Answer<pb::Node> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.remove_node(caller, request.into_inner()).await
    }

    async fn drain_node(&self, request: Request<pb::DrainNodeRequest>) -> Answer<pb::Node> {
        let caller = self.0.admit(&request, Role::Operator).await?;
        self.0.drain_node(caller, request.into_inner()).await
    }

    async fn undrain_node(&self, request: Request<pb::UndrainNodeRequest>) -> Answer<pb::Node> {
        let caller = self.0.admit(&request, Role::Operator).await?;
        self.0.undrain_node(caller, request.into_inner()).await
    }

    async fn set_survive(&self, request: Request<pb::SetSurviveRequest>) -> Answer<pb::Region> {
        let caller = self.0.admit(&request, Role::Operator).await?;
        self.0.set_survive(caller, request.into_inner()).await
    }

    async fn recover_region(
        &self,
        request: Request<pb::RecoverRegionRequest>,
    ) -> Answer<pb::Region> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.recover_region(caller, request.into_inner()).await
    }

    async fn remove_region(&self, request: Request<pb::RemoveRegionRequest>) -> Answer<pb::Region> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.remove_region(caller, request.into_inner()).await
    }

    async fn set_autopilot(
        &self,
        request: Request<pb::SetAutopilotRequest>,
    ) -> Answer<pb::Cluster> {
        let caller = self.0.admit(&request, Role::Operator).await?;
        self.0.set_autopilot(caller, request.into_inner()).await
    }

    async fn list_audit(
        &self,
        request: Request<pb::ListAuditRequest>,
    ) -> Answer<pb::ListAuditReply> {
        self.0.admit(&request, Role::Viewer).await?;
        Ok(Response::new(self.0.list_audit(request.get_ref().limit)))
    }

    async fn list_groups(
        &self,
        request: Request<pb::ListGroupsRequest>,
    ) -> Answer<pb::ListGroupsReply> {
        self.0.admit(&request, Role::Viewer).await?;
        let with_hash = request.get_ref().with_hash;
        Ok(Response::new(self.0.list_groups(with_hash).await?))
    }

    async fn list_workers(
        &self,
        request: Request<pb::ListWorkersRequest>,
    ) -> Answer<pb::ListWorkersReply> {
        self.0.admit(&request, Role::Viewer).await?;
        Ok(Response::new(
            self.0.list_workers(&request.get_ref().region)?,
        ))
    }

    async fn list_closes(
        &self,
        request: Request<pb::ListClosesRequest>,
    ) -> Answer<pb::ListClosesReply> {
        self.0.admit(&request, Role::Viewer).await?;
        let reply = self.0.list_closes(request.get_ref()).await?;
        Ok(Response::new(reply))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Answer<pb::ListSessionsReply> {
        self.0.admit(&request, Role::Viewer).await?;
        Ok(Response::new(self.0.list_sessions(request.get_ref())?))
    }

    async fn get_session(&self, request: Request<pb::GetSessionRequest>) -> Answer<pb::Session> {
        self.0.admit(&request, Role::Viewer).await?;
        let id = &request.get_ref().request_id;
        Ok(Response::new(self.0.get_session(id).await?))
    }

    async fn end_session(
        &self,
        request: Request<pb::EndSessionRequest>,
    ) -> Answer<pb::EndSessionReply> {
        let caller = self.0.admit(&request, Role::Operator).await?;
        let reply = self.0.end_session(caller, request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    async fn create_tenant(&self, request: Request<pb::CreateTenantRequest>) -> Answer<pb::Tenant> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.create_tenant(caller, request.into_inner()).await
    }

    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Answer<pb::ListTenantsReply> {
        self.0.admit(&request, Role::Viewer).await?;
        let catalog = self.0.catalog();
        let tenants = catalog
            .tenants()
            .map(|tenant| self.0.show_tenant(&catalog, tenant))
            .collect();
        Ok(Response::new(pb::ListTenantsReply { tenants }))
    }

    async fn set_tenant_limit(
        &self,
        request: Request<pb::SetTenantLimitRequest>,
    ) -> Answer<pb::Tenant> {
        let caller = self.0.admit(&request, Role::Operator).await?;
        self.0.set_tenant_limit(caller, request.into_inner()).await
    }

    async fn set_version_limit(
        &self,
        request: Request<pb::SetVersionLimitRequest>,
    ) -> Answer<pb::Version> {
        let caller = self.0.admit(&request, Role::Operator).await?;
        self.0.set_version_limit(caller, request.into_inner()).await
    }

    async fn set_weights(&self, request: Request<pb::SetWeightsRequest>) -> Answer<pb::Function> {
        let caller = self.0.admit(&request, Role::Operator).await?;
        self.0.set_weights(caller, request.into_inner()).await
    }

    async fn set_share(&self, request: Request<pb::SetShareRequest>) -> Answer<pb::Function> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.set_share(caller, request.into_inner()).await
    }

    async fn set_version_regions(
        &self,
        request: Request<pb::SetVersionRegionsRequest>,
    ) -> Answer<pb::Version> {
        let caller = self.0.admit(&request, Role::Operator).await?;
        self.0
            .set_version_regions(caller, request.into_inner())
            .await
    }

    async fn create_key(
        &self,
        request: Request<pb::CreateKeyRequest>,
    ) -> Answer<pb::CreateKeyReply> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.create_key(caller, request.into_inner()).await
    }

    async fn list_keys(&self, request: Request<pb::ListKeysRequest>) -> Answer<pb::ListKeysReply> {
        self.0.admit(&request, Role::Viewer).await?;
        let keys = self.0.catalog().keys().map(|key| view::key(key)).collect();
        Ok(Response::new(pb::ListKeysReply { keys }))
    }

    async fn revoke_key(&self, request: Request<pb::RevokeKeyRequest>) -> Answer<pb::Key> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.revoke_key(caller, request.into_inner()).await
    }

    async fn create_function(
        &self,
        request: Request<pb::CreateFunctionRequest>,
    ) -> Answer<pb::Function> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.create_function(caller, request.into_inner()).await
    }

    async fn list_functions(
        &self,
        request: Request<pb::ListFunctionsRequest>,
    ) -> Answer<pb::ListFunctionsReply> {
        self.0.admit(&request, Role::Viewer).await?;
        let tenant = &request.get_ref().tenant_id;
        Ok(Response::new(self.0.list_functions(tenant)?))
    }

    async fn create_version(
        &self,
        request: Request<pb::CreateVersionRequest>,
    ) -> Answer<pb::Version> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.create_version(caller, request.into_inner()).await
    }

    async fn list_versions(
        &self,
        request: Request<pb::ListVersionsRequest>,
    ) -> Answer<pb::ListVersionsReply> {
        self.0.admit(&request, Role::Viewer).await?;
        let function = &request.get_ref().function_id;
        Ok(Response::new(self.0.list_versions(function)?))
    }

    async fn set_version_state(
        &self,
        request: Request<pb::SetVersionStateRequest>,
    ) -> Answer<pb::Version> {
        let caller = self.0.admit(&request, Role::Admin).await?;
        self.0.set_version_state(caller, request.into_inner()).await
    }
}
