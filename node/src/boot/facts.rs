//! What the ops port is told about this node.

use super::wiring::Parts;
use crate::dns;
use crate::drain::{Draining, Stage, Switch};
use crate::ops::Sources;
use crate::ops::ready::{DirectoryFacts, Facts, GroupFacts};
use pontoon_proto::id::NodeId;
use pontoon_raft::catalog::Catalog;
use pontoon_raft::cluster::Cluster;
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::session::State;
use pontoon_raft::group::{Group, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The sources of one node's ops port.
pub(super) fn sources(
    parts: &Parts,
    draining: Draining,
    switch: &Switch,
    questions: Option<Arc<dns::Counters>>,
) -> Sources {
    let storing = parts.cluster.clone();
    let counters = parts.counters.clone();
    let tls = parts.peers.tls().cloned();
    let front = parts.clients.front.clone();
    Sources {
        alive: Arc::new(move || match storing.storage_failure() {
            None => Ok(()),
            Some(error) => Err(format!(
                "nothing more is written to the data folder ({error}): make room or replace the disk, \
                 and start this node again"
            )),
        }),
        facts: facts(parts, draining, true),
        readiness: parts.readiness.clone(),
        state: switch.state.clone(),
        metrics: parts.metrics.clone(),
        clients: Arc::new(move |page| {
            counters.render(page);
            if let Some(questions) = &questions {
                questions.render(page);
            }
        }),
        certificates: Arc::new(move || {
            let mut ends = Vec::new();
            if let Some(tls) = &tls {
                let expiry = tls.expiry();
                ends.extend([("node", expiry.node), ("ca", expiry.ca)]);
            }
            if let Some(front) = &front {
                ends.push(("client", front.ends()));
            }
            ends
        }),
    }
}

/// How this node is told to drain, and says how it is.
pub(super) fn switch(parts: &Parts, draining: Draining) -> Switch {
    parts.leaving.switch(ready(parts, draining))
}

/// Whether this node takes traffic.
pub(super) fn ready(
    parts: &Parts,
    draining: Draining,
) -> impl Fn() -> bool + Send + Sync + 'static {
    let facts = facts(parts, draining, false);
    let readiness = parts.readiness.clone();
    move || readiness.judge(&facts()).ready
}

/// What readiness is judged by; `counted`: with what the directories count, which walks them.
fn facts(parts: &Parts, draining: Draining, counted: bool) -> Arc<dyn Fn() -> Facts + Send + Sync> {
    let cluster = parts.cluster.clone();
    let members = parts.config.members.clone();
    let listening = parts.listening.clone();
    Arc::new(move || {
        let catalog = cluster.catalog().state();
        let configured: std::collections::BTreeSet<_> =
            members.iter().map(|member| &member.region).collect();
        let draining = draining.stage() >= Stage::Draining;
        Facts {
            // A draining node has closed its ports, and that is told once.
            listening: draining || listening.load(Ordering::Relaxed),
            draining,
            groups: groups(&cluster, &catalog, counted),
            groups_expected: 1 + catalog.regions().count().max(configured.len()),
        }
    })
}

fn groups(cluster: &Cluster, catalog: &Catalog, counted: bool) -> Vec<GroupFacts> {
    let group = cluster.catalog();
    let mut facts = vec![one(
        "catalog".into(),
        &group.status(),
        group.connected(),
        catalog,
    )];
    for (region, group) in cluster.regions() {
        let name = catalog
            .region(region)
            .map_or_else(|| region.to_string(), |region| region.name.clone());
        facts.push(GroupFacts {
            directory: counted.then(|| count(&group)),
            ..one(name, &group.status(), group.connected(), catalog)
        });
    }
    facts
}

fn one(name: String, status: &Status, connected: bool, catalog: &Catalog) -> GroupFacts {
    let node_name = |id: NodeId| {
        catalog
            .node(id)
            .map_or_else(|| format!("node {id}"), |node| node.name.clone())
    };
    GroupFacts {
        name,
        leader: status.leader.map(node_name),
        connected,
        term: status.term,
        last_log: status.last_log,
        committed: status.committed,
        applied: status.applied,
        voters: status.voters.len() as u32,
        directory: None,
    }
}

fn count(group: &Group<Directory>) -> DirectoryFacts {
    let state = group.state();
    let mut facts = DirectoryFacts::default();
    for worker in state.workers() {
        let ready = worker.draining.is_empty() && state.attached(worker).next().is_some();
        if ready {
            facts.workers_ready += 1;
            facts.slots_free += u64::from(worker.slots.saturating_sub(state.slots_used(worker.id)));
        } else {
            facts.workers_other += 1;
        }
    }
    for session in state.sessions() {
        match (&session.state, state.hold(session)) {
            (State::Queued(_) | State::Next(..), _) => facts.sessions_queued += 1,
            (_, Some(_)) => facts.sessions_held += 1,
            (_, None) => facts.sessions_bound += 1,
        }
    }
    facts
}
