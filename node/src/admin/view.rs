//! How records of the catalog and the directories look to operators.

use super::access;
use pontoon_proto::admin as pb;
use pontoon_proto::id::{NodeId, RegionId, RequestId};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{
    Function, Key, KeyKind, Limit, Limited, Pace, Pin, Region, Spill, Standing, Survive, Tenant,
    Version, VersionPolicy, VersionState,
};
use pontoon_raft::directory::command::{DrainReason, EndReason};
use pontoon_raft::directory::{Directory, Session, State, Worker};

/// A node's name, or its number while the catalog has no name for it.
pub(super) fn node_name(catalog: &Catalog, node: NodeId) -> String {
    catalog
        .node(node)
        .map_or_else(|| format!("node {node}"), |known| known.name.clone())
}

pub(super) fn region(catalog: &Catalog, region: &Region) -> pb::Region {
    let name = |number: &RegionId| {
        let known = catalog.region(*number);
        known.map_or_else(|| number.to_string(), |known| known.name.clone())
    };
    pb::Region {
        name: region.name.clone(),
        number: u32::from(region.number.0),
        survive: match region.survive {
            Survive::Region => "region",
            Survive::Zone => "zone",
        }
        .into(),
        generation: region.generation,
        pace: pace(region.pace).into(),
        nearest: region.nearest.iter().map(name).collect(),
        gone: region.gone,
    }
}

pub(super) fn pace(pace: Pace) -> &'static str {
    match pace {
        Pace::Lan => "lan",
        Pace::Wan => "wan",
    }
}

pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Member => "member",
        Standing::Dead => "dead",
        Standing::Removed => "removed",
    }
}

pub(super) fn tenant(tenant: &Tenant, bounds: Limit, sessions_now: u64) -> pb::Tenant {
    pb::Tenant {
        id: tenant.id.to_string(),
        name: tenant.name.clone(),
        limit: Some(limit(bounds)),
        sessions_now,
    }
}

fn limit(limit: Limit) -> pb::Limit {
    pb::Limit {
        sessions_max: limit.sessions,
        rate: limit.rate.map(|rate| rate.per_1000s as f64 / 1000.0),
        burst: limit.rate.map(|rate| rate.burst),
    }
}

/// A key without its hash, which is nobody's business.
pub(super) fn key(key: &Key) -> pb::Key {
    let mut view = pb::Key {
        id: key.id.to_string(),
        subject: key.subject.clone(),
        expires_unix: key.expires_unix.unwrap_or(0),
        revoked: key.revoked,
        ..pb::Key::default()
    };
    match &key.kind {
        KeyKind::Client { tenant, functions } => {
            view.kind = "client".into();
            view.tenant_id = tenant.to_string();
            view.function_ids = functions.iter().map(ToString::to_string).collect();
        }
        KeyKind::Worker { tenant, version } => {
            view.kind = "worker".into();
            view.tenant_id = tenant.to_string();
            view.version_id = version.to_string();
        }
        KeyKind::Admin(role) => view.kind = access::name(*role).into(),
    }
    view
}

pub(super) fn function(catalog: &Catalog, function: &Function) -> pb::Function {
    let weights = catalog
        .weights(function.id)
        .iter()
        .map(|(version, weight)| pb::Weight {
            version_id: version.to_string(),
            weight: *weight,
        });
    pb::Function {
        id: function.id.to_string(),
        tenant_id: function.tenant.to_string(),
        name: function.name.clone(),
        weights: weights.collect(),
        shared_with: catalog
            .guests(function.id)
            .map(|guest| guest.to_string())
            .collect(),
    }
}

pub(super) fn version(catalog: &Catalog, version: &Version, sessions_now: u64) -> pb::Version {
    let (spill, regions) = match catalog.spill(version.id) {
        Spill::Any => ("any", &[][..]),
        Spill::Home => ("home", &[][..]),
        Spill::Only(regions) => ("only", regions.as_slice()),
    };
    let name = |number: &RegionId| match catalog.region(*number) {
        Some(region) => region.name.clone(),
        None => number.to_string(),
    };
    let bounds = catalog.limit(Limited::Version(version.id));
    pb::Version {
        id: version.id.to_string(),
        function_id: version.function.to_string(),
        policy: Some(policy(&version.policy)),
        state: match version.state {
            VersionState::Active => "active",
            VersionState::Inactive => "inactive",
        }
        .into(),
        limit: Some(limit(bounds)),
        sessions_now,
        weight: catalog.weight(version.function, version.id),
        spill: spill.into(),
        regions: regions.iter().map(name).collect(),
    }
}

fn policy(policy: &VersionPolicy) -> pb::VersionPolicy {
    pb::VersionPolicy {
        slots: policy.slots,
        window_ms: Some(policy.window_ms),
        window_max_ms: Some(policy.window_max_ms),
        idle_ms: Some(policy.idle_ms),
        wait_ms: Some(policy.wait_ms),
        forward_credentials: policy.forward_credentials,
        pin: match policy.pin {
            Pin::Connection => "connection",
            Pin::Never => "never",
        }
        .into(),
    }
}

pub(super) fn worker(
    catalog: &Catalog,
    region: &str,
    directory: &Directory,
    worker: &Worker,
) -> pb::Worker {
    let attached: Vec<String> = directory
        .attached(worker)
        .map(|at| node_name(catalog, at.node))
        .collect();
    let reasons: Vec<&str> = worker
        .draining
        .iter()
        .map(|one| drain_reason(*one))
        .collect();
    pb::Worker {
        id: worker.id.to_string(),
        name: worker.name.to_string(),
        region: region.into(),
        function_id: worker.function.to_string(),
        version_id: worker.version.to_string(),
        slots: worker.slots,
        slots_used: directory.slots_used(worker.id),
        state: if attached.is_empty() {
            "detached".into()
        } else if reasons.is_empty() {
            "ready".into()
        } else {
            format!("draining ({})", reasons.join(", "))
        },
        attached_at: attached,
    }
}

pub(super) fn session(
    catalog: &Catalog,
    region: &str,
    directory: &Directory,
    session: &Session,
) -> pb::Session {
    let binding = session.binding();
    let state = match &session.state {
        State::Queued(_) | State::Next(..) => "queued",
        // A session whose nodes are all lost is held, whatever its record still says.
        _ if directory.hold(session).is_some() => "held",
        State::Bound(_) | State::Held(..) => "bound",
    };
    pb::Session {
        request_id: session.id.to_string(),
        region: region.into(),
        tenant_id: session.tenant.to_string(),
        function_id: session.function.to_string(),
        version_id: session.version.to_string(),
        worker_id: binding.map_or_else(String::new, |binding| binding.worker.to_string()),
        slot: binding.map_or(0, |binding| binding.slot),
        binding_index: binding.map_or(0, |binding| binding.index),
        state: state.into(),
        entered_at: directory
            .entered(session)
            .map(|at| node_name(catalog, at.node))
            .collect(),
        window_ms: session.window_ms,
    }
}

/// What is left of a session that ended less than a minute ago.
pub(super) fn ended_session(region: &str, id: RequestId, reason: EndReason) -> pb::Session {
    pb::Session {
        request_id: id.to_string(),
        region: region.into(),
        state: format!("ended ({})", end_reason(reason)),
        ..pb::Session::default()
    }
}

fn drain_reason(reason: DrainReason) -> &'static str {
    match reason {
        DrainReason::Health => "health",
        DrainReason::Sidecar => "sidecar",
        DrainReason::Operator => "operator",
        DrainReason::NoLink => "no link",
    }
}

fn end_reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Released => "released",
        EndReason::Expired => "expired",
        EndReason::WorkerLost => "worker lost",
        EndReason::Cancelled => "cancelled",
        EndReason::NoLink => "no link",
        EndReason::Preempted => "preempted",
        EndReason::TimedOut => "timed out",
        EndReason::NodeLost => "node lost",
        EndReason::Operator => "operator",
    }
}
