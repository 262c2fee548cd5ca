//! The admin API over loopback, on a real cluster of one node.

use super::*;
use crate::{clock, net, peer, tasks};
use futures::FutureExt as _;
use pontoon_proto::admin as pb;
use pontoon_proto::admin::admin_client::AdminClient;
use pontoon_proto::id::{FunctionId, RegionId, TenantId, VersionId, WorkerId};
use pontoon_proto::key::{self, KeyClass};
use pontoon_proto::peer::{Closed, ClosesReply, ClosesRequest};
use pontoon_raft::catalog::command::{self as catalog, SHARES_FORMAT};
use pontoon_raft::directory::command::{Command, EndReason, Reply};
use pontoon_raft::machine::Machine as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const BOOTSTRAP: &str = "a token that only the configuration knows";
const WITHIN: Duration = Duration::from_secs(10);

/// Puts a token on requests; without one, sends none.
#[derive(Clone)]
struct Token(Option<MetadataValue<Ascii>>);

impl tonic::service::Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

type Client = AdminClient<InterceptedService<Channel, Token>>;

struct World {
    channel: Channel,
    cluster: Cluster,
    _folder: tempfile::TempDir,
}

impl World {
    /// Serves the admin API of a node whose catalog has a leader and a region.
    async fn start() -> World {
        let folder = tempfile::tempdir().unwrap();
        let peers = Peers::new(peer::tests::me(1), None);
        let cluster = peer::tests::lone(folder.path(), &peers).await;
        let listener = net::listen("tests", "127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ending = cluster.clone();
        let context = Context {
            cluster: cluster.clone(),
            peers,
            end: Arc::new(move |id| end(ending.clone(), id).boxed()),
            closes: Arc::new(closed),
            switch: crate::drain::Switch::default(),
            bootstrap: Some(key::hash(BOOTSTRAP)),
        };
        let serving = serve(listener, context, CancellationToken::new());
        tasks::spawn(tasks::Kind::Worker, "test server", serving);
        let give_up = clock::now() + WITHIN;
        let mut changed = cluster.catalog().changed();
        while cluster.region(RegionId(1)).is_none() {
            assert!(clock::now() < give_up, "the region is not born");
            let _ = tokio::time::timeout(Duration::from_millis(50), changed.changed()).await;
        }
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        World {
            channel,
            cluster,
            _folder: folder,
        }
    }

    fn client(&self, token: Option<&str>) -> Client {
        let token = token.map(|token| format!("Bearer {token}").parse().unwrap());
        AdminClient::with_interceptor(self.channel.clone(), Token(token))
    }

    fn root(&self) -> Client {
        self.client(Some(BOOTSTRAP))
    }

    /// A tenant, a function and a version with two slots.
    async fn furnish(&self) -> (TenantId, FunctionId, VersionId) {
        let mut root = self.root();
        let tenant = pb::CreateTenantRequest {
            name: "acme".into(),
            id: String::new(),
        };
        let tenant = root.create_tenant(tenant).await.unwrap().into_inner();
        let function = pb::CreateFunctionRequest {
            tenant_id: tenant.id.clone(),
            name: "sum".into(),
            id: String::new(),
        };
        let function = root.create_function(function).await.unwrap().into_inner();
        let version = pb::CreateVersionRequest {
            function_id: function.id.clone(),
            id: String::new(),
            policy: Some(pb::VersionPolicy {
                slots: 2,
                ..pb::VersionPolicy::default()
            }),
        };
        let version = root.create_version(version).await.unwrap().into_inner();
        assert_eq!(version.state, "active");
        (
            tenant.id.parse().unwrap(),
            function.id.parse().unwrap(),
            version.id.parse().unwrap(),
        )
    }

    /// A worker with one session on it.
    async fn session(&self) -> (WorkerId, RequestId) {
        let (tenant, function, version) = self.furnish().await;
        let group = self.cluster.region(RegionId(1)).unwrap();
        let (worker, at) = (WorkerId::from_random([1; 16]), self.cluster.at());
        let attach = Command::AttachWorker {
            worker,
            name: "w1".into(),
            function,
            version,
            slots: 2,
            at,
            stream: 1,
        };
        let attached = group.propose(attach, WITHIN).await.unwrap();
        assert_eq!(attached.reply, Reply::Attached);
        let id = RequestId::mint(RegionId(1), [9; 16]);
        let open = Command::Open {
            id,
            tenant,
            function,
            version,
            at,
            seq: 1,
            asked: group.state().clock(),
            wait_ms: 1_000,
            window_ms: 30_000,
            absorbed: false,
            window_asked: false,
        };
        let opened = group.propose(open, WITHIN).await.unwrap();
        assert!(
            matches!(opened.reply, Reply::Bound(_)),
            "{:?}",
            opened.reply
        );
        group.applied_at_least(opened.index, WITHIN).await.unwrap();
        (worker, id)
    }
}

async fn end(cluster: Cluster, id: RequestId) -> Result<(), Fault> {
    let group = id.region().and_then(|region| cluster.region(region));
    let group = group.ok_or(Fault::SessionNotFound)?;
    let reason = EndReason::Operator;
    let ended = group.propose(Command::End { id, reason }, WITHIN).await;
    ended.map_err(|_| Fault::DirectoryUnavailable)?;
    Ok(())
}

/// A tunnel and a control stream of whatever is asked for, as far as there is room.
fn closed(asked: &ClosesRequest) -> ClosesReply {
    let tunnel = Closed {
        worker: asked.worker.clone(),
        request_id: vec![7; 16].into(),
        reason: "worker_goaway".into(),
        code: Some(11),
        ago_ms: 20,
        ..Closed::default()
    };
    let stream = Closed {
        request_id: Vec::new().into(),
        reason: "silent".into(),
        code: None,
        ago_ms: 10,
        ..tunnel.clone()
    };
    let closed = [tunnel, stream].into_iter();
    ClosesReply {
        closed: closed.take(asked.limit as usize).collect(),
    }
}

fn of_kind(kind: &str) -> pb::CreateKeyRequest {
    pb::CreateKeyRequest {
        kind: kind.into(),
        subject: format!("the {kind}"),
        ..pb::CreateKeyRequest::default()
    }
}

#[tokio::test]
async fn what_is_created_is_listed_and_a_key_shows_its_secret_once() {
    let world = World::start().await;
    let (tenant, function, version) = world.furnish().await;
    let mut root = world.root();
    let request = pb::CreateKeyRequest {
        tenant_id: tenant.to_string(),
        function_ids: vec![function.to_string()],
        ..of_kind("client")
    };
    let created = root.create_key(request).await.unwrap().into_inner();
    assert_eq!(key::check(&created.secret), Ok(KeyClass::Client));
    let catalog = world.cluster.catalog().state();
    let known = catalog.key_by_hash(&key::hash(&created.secret)).unwrap();
    assert_eq!(known.id.to_string(), created.key.as_ref().unwrap().id);

    let keys = root
        .list_keys(pb::ListKeysRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(keys.keys, [created.key.unwrap()]);
    let hash: String = key::hash(&created.secret)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let text = format!("{keys:?}");
    assert!(!text.contains(&created.secret) && !text.contains(&hash));

    let tenants = root.list_tenants(pb::ListTenantsRequest {}).await.unwrap();
    assert_eq!(tenants.into_inner().tenants[0].id, tenant.to_string());
    let mine = pb::ListFunctionsRequest {
        tenant_id: tenant.to_string(),
    };
    let functions = root.list_functions(mine).await.unwrap().into_inner();
    assert_eq!(functions.functions[0].id, function.to_string());
    let nobodys = pb::ListFunctionsRequest {
        tenant_id: TenantId::from_random([0; 16]).to_string(),
    };
    let functions = root.list_functions(nobodys).await.unwrap().into_inner();
    assert!(functions.functions.is_empty());
    let versions = pb::ListVersionsRequest::default();
    let versions = root.list_versions(versions).await.unwrap().into_inner();
    assert_eq!(versions.versions[0].id, version.to_string());
    assert_eq!(versions.versions[0].policy.as_ref().unwrap().slots, 2);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_the_real_run_does() {
    let world = World::start().await;
    let (_, _, version) = world.furnish().await;
    let mut root = world.root();
    let key = root
        .create_key(of_kind("viewer"))
        .await
        .unwrap()
        .into_inner();
    let id = key.key.unwrap().id;
    let mut viewer = world.client(Some(&key.secret));
    for (dry_run, revoked) in [(true, false), (false, true)] {
        let request = pb::RevokeKeyRequest {
            id: id.clone(),
            dry_run,
        };
        let key = root.revoke_key(request).await.unwrap().into_inner();
        assert_eq!(key.revoked, revoked);
        let listed = viewer.list_tenants(pb::ListTenantsRequest {}).await;
        assert_eq!(listed.is_err(), revoked);
    }
    for (dry_run, state) in [(true, "active"), (false, "inactive")] {
        let request = pb::SetVersionStateRequest {
            id: version.to_string(),
            state: "inactive".into(),
            dry_run,
        };
        let version = root.set_version_state(request).await.unwrap().into_inner();
        assert_eq!(version.state, state);
    }
}

#[tokio::test]
async fn a_function_is_shared_by_an_admin_and_listed_for_its_guest() {
    let world = World::start().await;
    let (_, function, _) = world.furnish().await;
    let mut root = world.root();
    let guest = pb::CreateTenantRequest {
        name: "guest".into(),
        id: String::new(),
    };
    let guest = root.create_tenant(guest).await.unwrap().into_inner().id;
    let share = |tenant: &str, shared, dry_run| pb::SetShareRequest {
        function_id: function.to_string(),
        tenant: tenant.into(),
        shared,
        dry_run,
    };
    let early = root.set_share(share("guest", true, false)).await;
    let early = early.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition, "{early}");
    let group = world.cluster.catalog();
    let format = SHARES_FORMAT;
    let raised = group.propose(catalog::Command::RaiseFormat { format }, WITHIN);
    let raised = raised.await.unwrap();
    group.applied_at_least(raised.index, WITHIN).await.unwrap();
    let dry = root.set_share(share("guest", true, true)).await;
    assert_eq!(dry.unwrap().into_inner().shared_with, Vec::<String>::new());
    let listed = async |root: &mut Client| {
        let theirs = pb::ListFunctionsRequest {
            tenant_id: guest.clone(),
        };
        let functions = root.list_functions(theirs).await.unwrap().into_inner();
        functions.functions
    };
    assert_eq!(listed(&mut root).await, [], "a dry run shares nothing");

    let operator = root.create_key(of_kind("operator")).await.unwrap();
    let mut operator = world.client(Some(&operator.into_inner().secret));
    let refused = operator.set_share(share("guest", true, false)).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

    // By name or id.
    for (tenant, shared) in [("guest", true), (&*guest, false), (&*guest, true)] {
        let answer = root.set_share(share(tenant, shared, false)).await;
        let answer = answer.unwrap().into_inner();
        let wanted: &[String] = if shared {
            std::slice::from_ref(&guest)
        } else {
            &[]
        };
        assert_eq!(answer.shared_with, wanted);
        let found = listed(&mut root).await;
        assert_eq!(found.len(), usize::from(shared));
        assert!(found.iter().all(|one| *one == answer), "{found:?}");
    }
    let limited = pb::CreateKeyRequest {
        tenant_id: guest.clone(),
        function_ids: vec![function.to_string()],
        ..of_kind("client")
    };
    root.create_key(limited).await.unwrap();
    for (tenant, code) in [("nobody", Code::NotFound), ("acme", Code::InvalidArgument)] {
        let status = root.set_share(share(tenant, true, false)).await;
        assert_eq!(status.unwrap_err().code(), code, "{tenant}");
    }
    let audit = root.list_audit(pb::ListAuditRequest { limit: 0 }).await;
    let audit = audit.unwrap().into_inner().entries;
    let said = format!("share function {function} with tenant {guest}");
    let said = audit.iter().filter(|entry| entry.what == said).count();
    assert_eq!(said, 2);
}

#[tokio::test]
async fn a_viewer_reads_an_operator_ends_and_only_an_admin_creates() {
    let world = World::start().await;
    let (_, id) = world.session().await;
    let mut root = world.root();
    let mut clients = Vec::new();
    for kind in ["viewer", "operator", "admin"] {
        let key = root.create_key(of_kind(kind)).await.unwrap().into_inner();
        assert_eq!(key::check(&key.secret), Ok(KeyClass::Admin));
        clients.push(world.client(Some(&key.secret)));
    }
    let dry = pb::EndSessionRequest {
        request_id: id.to_string(),
        dry_run: true,
    };
    for (rank, client) in clients.iter_mut().enumerate() {
        client.list_nodes(pb::ListNodesRequest {}).await.unwrap();
        let ended = client.end_session(dry.clone()).await;
        let created = client.create_key(of_kind("viewer")).await;
        for (answer, least, role) in [
            (ended.map(|_| ()), 1, "operator"),
            (created.map(|_| ()), 2, "admin"),
        ] {
            match answer {
                Ok(()) => assert!(rank >= least),
                Err(status) => {
                    assert!(rank < least, "{status}");
                    assert_eq!(status.code(), Code::PermissionDenied);
                    assert!(status.message().contains(role), "{status}");
                }
            }
        }
    }
}

#[tokio::test]
async fn strangers_are_turned_away_and_told_what_to_send() {
    let world = World::start().await;
    let (tenant, ..) = world.furnish().await;
    let request = pb::CreateKeyRequest {
        tenant_id: tenant.to_string(),
        ..of_kind("client")
    };
    let client_key = world.root().create_key(request).await.unwrap().into_inner();
    let unknown = key::mint(KeyClass::Admin, [5; key::RANDOM_LEN]);
    for (token, code, says) in [
        (None, Code::Unauthenticated, "Bearer"),
        (Some("garbage"), Code::Unauthenticated, "pnt_a_"),
        (Some(unknown.expose()), Code::Unauthenticated, "not known"),
        (
            Some(client_key.secret.as_str()),
            Code::PermissionDenied,
            "pnt_a_",
        ),
    ] {
        let answer = world
            .client(token)
            .get_cluster(pb::GetClusterRequest {})
            .await;
        let status = answer.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(says), "{status}");
        assert!(
            !status.message().contains(token.unwrap_or("\n")),
            "{status}"
        );
    }
}

#[tokio::test]
async fn what_can_not_be_created_says_why() {
    let world = World::start().await;
    world.furnish().await;
    let mut root = world.root();
    let tenant = |name: &str, id: &str| pb::CreateTenantRequest {
        name: name.into(),
        id: id.into(),
    };
    let taken = root.create_tenant(tenant("acme", "")).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    let empty = root.create_tenant(tenant("", "")).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument, "{empty}");
    let malformed = root
        .create_tenant(tenant("x", "no uuid"))
        .await
        .unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
    assert!(malformed.message().starts_with("id is not a UUID"));
    let function = pb::CreateFunctionRequest {
        tenant_id: TenantId::from_random([0; 16]).to_string(),
        name: "f".into(),
        id: String::new(),
    };
    let nobodys = root.create_function(function).await.unwrap_err();
    assert_eq!(nobodys.code(), Code::NotFound, "{nobodys}");
    let expired = pb::CreateKeyRequest {
        expires_unix: 1,
        ..of_kind("viewer")
    };
    let expired = root.create_key(expired).await.unwrap_err();
    assert_eq!(expired.code(), Code::InvalidArgument, "{expired}");

    let given = TenantId::from_random([4; 16]).to_string();
    for _ in 0..2 {
        let again = root.create_tenant(tenant("other", &given)).await;
        assert_eq!(again.unwrap().into_inner().id, given);
    }
}

#[tokio::test]
async fn a_session_is_listed_shown_and_ended() {
    let world = World::start().await;
    let (worker, id) = world.session().await;
    let mut root = world.root();
    let workers = root.list_workers(pb::ListWorkersRequest::default()).await;
    let workers = workers.unwrap().into_inner().workers;
    assert_eq!(workers[0].id, worker.to_string());
    assert_eq!((workers[0].slots_used, workers[0].slots), (1, 2));
    assert_eq!(workers[0].state, "ready");
    let sessions = root.list_sessions(pb::ListSessionsRequest::default()).await;
    let sessions = sessions.unwrap().into_inner();
    assert!(!sessions.truncated);
    let shown = pb::GetSessionRequest {
        request_id: id.to_string(),
    };
    let session = root.get_session(shown.clone()).await.unwrap().into_inner();
    assert_eq!(sessions.sessions, std::slice::from_ref(&session));
    assert_eq!(session.state, "bound");
    assert_eq!(session.worker_id, worker.to_string());
    assert_eq!(session.region, "us-east");

    for (dry_run, after) in [(true, "bound"), (false, "ended (operator)")] {
        let request = pb::EndSessionRequest {
            request_id: id.to_string(),
            dry_run,
        };
        let reply = root.end_session(request).await.unwrap().into_inner();
        assert_eq!(reply.ended, !dry_run);
        let session = root.get_session(shown.clone()).await.unwrap().into_inner();
        assert_eq!(session.state, after);
    }
    let again = pb::EndSessionRequest {
        request_id: id.to_string(),
        dry_run: false,
    };
    let gone = root.end_session(again).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    for stranger in [
        RequestId::mint(RegionId(1), [1; 16]).to_string(),
        RequestId::mint(RegionId(77), [1; 16]).to_string(),
        "67e55044-10b1-426f-9247-bb680e5fe0c8".into(),
    ] {
        let request = pb::GetSessionRequest {
            request_id: stranger,
        };
        let status = root.get_session(request).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
    let elsewhere = pb::ListSessionsRequest {
        region: "mars".into(),
        limit: 0,
    };
    let status = root.list_sessions(elsewhere).await.unwrap_err();
    assert!(status.message().contains("us-east"), "{status}");
}

#[tokio::test]
async fn k_cls_1_closes_are_listed_the_newest_first_and_a_wrong_id_is_refused() {
    let world = World::start().await;
    let mut root = world.root();
    let worker = WorkerId::from_random([3; 16]).to_string();
    let of = |worker_id: &str, limit| pb::ListClosesRequest {
        worker_id: worker_id.into(),
        request_id: String::new(),
        limit,
    };
    let reply = root.list_closes(of(&worker, 0)).await.unwrap().into_inner();
    assert!(reply.unheard.is_empty(), "{reply:?}");
    let said = reply.closes.iter().map(|one| {
        assert_eq!(one.worker_id, worker);
        assert!(!one.node.is_empty());
        (&*one.what, &*one.reason, one.code, one.request_id.len())
    });
    let wanted = [
        ("sidecar", "silent", None, 0),
        ("tunnel", "worker_goaway", Some(11), 36),
    ];
    assert!(said.eq(wanted), "{reply:?}");
    let one = root.list_closes(of("", 1)).await.unwrap().into_inner();
    assert_eq!(one.closes.len(), 1);
    let wrong = root.list_closes(of("no uuid", 0)).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong}");
}

#[tokio::test]
async fn groups_show_who_leads_and_hash_their_state_when_asked() {
    let world = World::start().await;
    let mut root = world.root();
    let region = world.cluster.region(RegionId(1)).unwrap();
    region.read(WITHIN).await.unwrap();
    let plain = pb::ListGroupsRequest { with_hash: false };
    let groups = root.list_groups(plain).await.unwrap().into_inner().groups;
    let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["catalog", "us-east"]);
    for group in &groups {
        assert_eq!(group.voters.len(), 1, "{group:?}");
        assert_eq!(group.failure_tolerance, 0, "{group:?}");
        assert!(!group.leader.is_empty() && group.state_hash.is_empty());
    }
    let hashed = pb::ListGroupsRequest { with_hash: true };
    let groups = root.list_groups(hashed).await.unwrap().into_inner().groups;
    assert!(groups.iter().all(|group| group.state_hash.len() == 64));
    let cluster = root.get_cluster(pb::GetClusterRequest {}).await.unwrap();
    assert_eq!(cluster.into_inner().regions[0].name, "us-east");
}

#[tokio::test]
async fn health_is_served_without_a_token() {
    let world = World::start().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(world.channel.clone());
    let request = tonic_health::pb::HealthCheckRequest {
        service: "pontoon.admin.v1.Admin".into(),
    };
    let status = health.check(request).await.unwrap().into_inner().status();
    assert_eq!(
        status,
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
}
