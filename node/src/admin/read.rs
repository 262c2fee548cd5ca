//! What is asked: lists from this node's replicas, one session from its home group.

use super::{Context, GROUP_WAIT, drain, view};
use pontoon_proto::admin as pb;
use pontoon_proto::id::{FunctionId, GroupId, RegionId, RequestId, TenantId};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{Node, Region};
use pontoon_raft::directory::Directory;
use pontoon_raft::group::Group;
use pontoon_raft::machine::Machine;
use std::str::FromStr;
use std::sync::Arc;
use tonic::Status;

/// How many sessions a list holds when nothing is asked for, and at most.
const SESSIONS: usize = 1_000;
const SESSIONS_MAX: usize = 10_000;

impl Context {
    pub(super) fn catalog(&self) -> Arc<Catalog> {
        self.cluster.catalog().state()
    }

    pub(super) fn show_cluster(&self) -> pb::Cluster {
        let me = self.peers.me();
        let catalog = self.catalog();
        pb::Cluster {
            id: hex(&me.cluster),
            answered_by: me.name.clone(),
            format: u32::from(catalog.format()),
            regions: catalog
                .regions()
                .map(|region| view::region(&catalog, region))
                .collect(),
            autopilot: catalog.settings().autopilot,
        }
    }

    pub(super) fn list_nodes(&self) -> pb::ListNodesReply {
        let catalog = self.catalog();
        let nodes = catalog.nodes().map(|node| self.show_node(&catalog, node));
        pb::ListNodesReply {
            nodes: nodes.collect(),
        }
    }

    pub(super) fn show_node(&self, catalog: &Catalog, node: &Node) -> pb::Node {
        let own = self.peers.at().node;
        let rtt = self.peers.rtt(node.at.node);
        let mut view = pb::Node {
            name: node.name.clone(),
            id: u64::from(node.at.node.0),
            region: region_name(catalog, node.region),
            boot: node.at.boot,
            client: node.client.clone(),
            worker: node.worker.clone(),
            peer: node.peer.clone(),
            admin: node.admin.clone(),
            ops: node.ops.clone(),
            reachable: node.at.node == own || rtt.is_some(),
            rtt_us: rtt.map_or(0, |rtt| rtt.as_micros().max(1) as u64),
            standing: view::standing(node.standing).into(),
            life: node.life,
            ..pb::Node::default()
        };
        let state = self.state_of(node.at.node).unwrap_or_default();
        drain::put_state(&mut view, &state);
        view
    }

    pub(super) async fn list_groups(&self, with_hash: bool) -> Result<pb::ListGroupsReply, Status> {
        let mut groups = vec![
            self.group("catalog".into(), self.cluster.catalog(), with_hash)
                .await?,
        ];
        let catalog = self.catalog();
        for (number, group) in self.cluster.regions() {
            let name = region_name(&catalog, number);
            groups.push(self.group(name, &group, with_hash).await?);
        }
        Ok(pb::ListGroupsReply { groups })
    }

    async fn group<M: Machine>(
        &self,
        name: String,
        group: &Group<M>,
        with_hash: bool,
    ) -> Result<pb::Group, Status> {
        let catalog = self.catalog();
        let status = group.status();
        let named = |node| view::node_name(&catalog, node);
        let own = self.peers.at().node;
        let alive = status
            .voters
            .iter()
            .filter(|node| **node == own || self.peers.rtt(**node).is_some())
            .count();
        let quorum = status.voters.len() / 2 + 1;
        let mut view = pb::Group {
            name,
            number: u32::from(group.id().number()),
            generation: group.generation(),
            leader: status.leader.map_or_else(String::new, named),
            voters: status.voters.iter().copied().map(named).collect(),
            learners: status.learners.iter().copied().map(named).collect(),
            term: status.term,
            last_log: status.last_log,
            committed: status.committed,
            applied: status.applied,
            snapshot: status.snapshot,
            connected: group.connected(),
            failure_tolerance: (alive as i32 - quorum as i32).max(-1),
            state_hash: String::new(),
            pace: view::pace(group.pace()).into(),
            failed: status.failed.unwrap_or_default(),
        };
        if with_hash {
            let group = group.clone();
            // A full directory takes seconds to hash, and must not hold up anybody's call.
            let (applied, hash) = tokio::task::spawn_blocking(move || digest(&group))
                .await
                .map_err(|_| Status::internal("hashing the state failed; see the node's log"))?;
            view.applied = applied;
            view.state_hash = hex(&hash);
        }
        Ok(view)
    }

    pub(super) fn list_workers(&self, region: &str) -> Result<pb::ListWorkersReply, Status> {
        let catalog = self.catalog();
        let mut workers = Vec::new();
        for (name, directory) in self.directories(region)? {
            for worker in directory.workers() {
                workers.push(view::worker(&catalog, &name, &directory, worker));
            }
        }
        Ok(pb::ListWorkersReply { workers })
    }

    pub(super) fn list_sessions(
        &self,
        request: &pb::ListSessionsRequest,
    ) -> Result<pb::ListSessionsReply, Status> {
        let limit = match request.limit as usize {
            0 => SESSIONS,
            asked => asked.min(SESSIONS_MAX),
        };
        let catalog = self.catalog();
        let mut sessions = Vec::new();
        for (name, directory) in self.directories(&request.region)? {
            let room = limit + 1 - sessions.len();
            for session in directory.sessions().take(room) {
                sessions.push(view::session(&catalog, &name, &directory, session));
            }
        }
        let truncated = sessions.len() > limit;
        sessions.truncate(limit);
        Ok(pb::ListSessionsReply {
            sessions,
            truncated,
        })
    }

    /// One session by its id, certain: a linearizable read at its home group.
    pub(super) async fn get_session(&self, text: &str) -> Result<pb::Session, Status> {
        let id: RequestId = parse("request_id", text)?;
        let home = id.region().ok_or_else(|| {
            Status::not_found("no cluster of this kind minted that request id: it names no region")
        })?;
        let catalog = self.catalog();
        let name = region_name(&catalog, home);
        let group = self.cluster.region(home).ok_or_else(|| {
            Status::not_found(format!(
                "the id names region {home}, which this node does not know; regions: {}",
                names(catalog.regions())
            ))
        })?;
        let directory = group.read(GROUP_WAIT).await.map_err(|_| {
            Status::unavailable(format!(
                "the group of region {name} can't be asked at present: try again, or see `pontoon \
                 group list`"
            ))
        })?;
        if let Some(session) = directory.session(id) {
            return Ok(view::session(&catalog, &name, &directory, session));
        }
        match directory.ended(id) {
            Some(reason) => Ok(view::ended_session(&name, id, reason)),
            None => Err(Status::not_found(format!(
                "there is no session {id}: it never was, or it ended more than a minute ago"
            ))),
        }
    }

    /// The directories of all regions, or of the named one.
    fn directories(&self, only: &str) -> Result<Vec<(String, Arc<Directory>)>, Status> {
        let catalog = self.catalog();
        if !only.is_empty() && catalog.region_by_name(only).is_none() {
            return Err(Status::not_found(format!(
                "there is no region {only:?}; regions: {}",
                names(catalog.regions())
            )));
        }
        Ok(self
            .cluster
            .regions()
            .into_iter()
            .map(|(number, group)| (region_name(&catalog, number), group.state()))
            .filter(|(name, _)| only.is_empty() || name == only)
            .collect())
    }

    pub(super) fn list_functions(&self, tenant: &str) -> Result<pb::ListFunctionsReply, Status> {
        let tenant: Option<TenantId> = parse_or_none("tenant_id", tenant)?;
        let catalog = self.catalog();
        Ok(pb::ListFunctionsReply {
            functions: catalog
                .functions()
                .filter(|function| {
                    tenant.is_none_or(|tenant| catalog.may_call(tenant, function.id))
                })
                .map(|function| view::function(&catalog, function))
                .collect(),
        })
    }

    pub(super) fn list_versions(&self, function: &str) -> Result<pb::ListVersionsReply, Status> {
        let function: Option<FunctionId> = parse_or_none("function_id", function)?;
        let catalog = self.catalog();
        Ok(pb::ListVersionsReply {
            versions: catalog
                .versions()
                .filter(|version| function.is_none_or(|function| version.function == function))
                .map(|version| self.show_version(&catalog, version))
                .collect(),
        })
    }
}

/// The state's hash and the index that it is of. While entries keep coming, the last of a few tries
/// may be of an index shortly after.
fn digest<M: Machine>(group: &Group<M>) -> (u64, [u8; 32]) {
    let applied = group.changed();
    let mut tries = 3;
    loop {
        let before = *applied.borrow();
        let hash = group.state().digest();
        tries -= 1;
        if *applied.borrow() == before || tries == 0 {
            return (before, hash);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn region_name(catalog: &Catalog, number: RegionId) -> String {
    catalog.region(number).map_or_else(
        || GroupId::Region(number).to_string(),
        |region| region.name.clone(),
    )
}

fn names<'a>(regions: impl Iterator<Item = &'a Arc<Region>>) -> String {
    let names: Vec<&str> = regions.map(|region| region.name.as_str()).collect();
    if names.is_empty() {
        return "none yet".into();
    }
    names.join(", ")
}

/// Reads an id that must be there.
pub(super) fn parse<T: FromStr>(field: &str, text: &str) -> Result<T, Status> {
    text.parse().map_err(|_| {
        Status::invalid_argument(match text {
            "" => format!("{field} is missing: give the UUID that the list verb prints"),
            _ => format!("{field} is not a UUID: give it as the list verb prints it"),
        })
    })
}

/// Reads an id that may be left out.
pub(super) fn parse_or_none<T: FromStr>(field: &str, text: &str) -> Result<Option<T>, Status> {
    (!text.is_empty()).then(|| parse(field, text)).transpose()
}
