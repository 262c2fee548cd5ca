//! The verbs that change where state lives: nodes, regions, the autopilot; and what was done.

use super::client;
use super::nouns::{AuditVerb, NodeVerb, Output, RegionVerb, Survive, Switch};
use super::table::{json, list, show};
use super::verbs::{Answer, said, unknown};
use crate::cli::nouns::{Ask, ClusterVerb};
use pontoon_proto::admin as pb;

const NODE: &[&str] = &[
    "name",
    "id",
    "region",
    "standing",
    "life",
    "boot",
    "reachable",
    "rtt_us",
    "client",
    "worker",
    "peer",
    "admin",
    "ops",
];
const REGION: &[&str] = &["name", "number", "survive", "generation", "pace", "nearest"];

pub(super) async fn cluster(verb: ClusterVerb) -> Answer {
    let (ask, cluster) = match verb {
        ClusterVerb::Show(ask) => {
            let mut client = client::connect(&ask).await?;
            let cluster = said(&ask, client.get_cluster(pb::GetClusterRequest {}).await)?;
            (ask, cluster)
        }
        ClusterVerb::Autopilot {
            state,
            dry_run,
            ask,
        } => {
            let request = pb::SetAutopilotRequest {
                on: state == Switch::Resume,
                dry_run,
            };
            let mut client = client::connect(&ask).await?;
            let cluster = said(&ask, client.set_autopilot(request).await)?;
            (ask, cluster)
        }
    };
    if ask.output == Output::Json {
        return Ok(json(&cluster));
    }
    let fields = ["id", "answered_by", "format", "autopilot"];
    Ok(format!(
        "{}\n{}",
        show(ask.output, &cluster, &fields),
        list(ask.output, &cluster.regions, REGION)
    ))
}

pub(super) async fn node(verb: NodeVerb) -> Answer {
    let (NodeVerb::List(ask) | NodeVerb::Show { ask, .. } | NodeVerb::Remove { ask, .. }) = &verb;
    let mut client = client::connect(ask).await?;
    if let NodeVerb::Remove { name, dry_run, .. } = &verb {
        let request = pb::RemoveNodeRequest {
            name: name.clone(),
            dry_run: *dry_run,
        };
        let node = said(ask, client.remove_node(request).await)?;
        return Ok(show(ask.output, &node, NODE));
    }
    let reply = said(ask, client.list_nodes(pb::ListNodesRequest {}).await)?;
    let NodeVerb::Show { name, .. } = &verb else {
        return Ok(list(ask.output, &reply.nodes, NODE));
    };
    let found = reply.nodes.iter().find(|node| node.name == *name);
    let found = found.ok_or_else(|| {
        let names = reply.nodes.iter().map(|node| node.name.as_str());
        unknown("node", name, names)
    })?;
    Ok(show(ask.output, found, NODE))
}

pub(super) async fn region(verb: RegionVerb) -> Answer {
    let (RegionVerb::List(ask)
    | RegionVerb::Survive { ask, .. }
    | RegionVerb::Recover { ask, .. }
    | RegionVerb::Remove { ask, .. }) = &verb;
    let mut client = client::connect(ask).await?;
    let changed = match &verb {
        RegionVerb::List(_) => return regions(ask).await,
        RegionVerb::Survive {
            name,
            what,
            dry_run,
            ..
        } => {
            let request = pb::SetSurviveRequest {
                region: name.clone(),
                survive: match what {
                    Survive::Region => "region",
                    Survive::Zone => "zone",
                }
                .into(),
                dry_run: *dry_run,
            };
            client.set_survive(request).await
        }
        RegionVerb::Recover {
            name,
            seed,
            accept_loss,
            dry_run,
            ..
        } => {
            let request = pb::RecoverRegionRequest {
                region: name.clone(),
                seed: seed.clone(),
                accept_loss: *accept_loss,
                dry_run: *dry_run,
            };
            client.recover_region(request).await
        }
        RegionVerb::Remove { name, dry_run, .. } => {
            let request = pb::RemoveRegionRequest {
                region: name.clone(),
                dry_run: *dry_run,
            };
            client.remove_region(request).await
        }
    };
    Ok(show(ask.output, &said(ask, changed)?, REGION))
}

async fn regions(ask: &Ask) -> Answer {
    let mut client = client::connect(ask).await?;
    let cluster = said(ask, client.get_cluster(pb::GetClusterRequest {}).await)?;
    Ok(list(ask.output, &cluster.regions, REGION))
}

pub(super) async fn audit(verb: AuditVerb) -> Answer {
    let AuditVerb::List { limit, ask } = verb;
    let mut client = client::connect(&ask).await?;
    let request = pb::ListAuditRequest { limit };
    let reply = said(&ask, client.list_audit(request).await)?;
    let fields = ["index", "clock_ms", "actor", "what"];
    Ok(list(ask.output, &reply.entries, &fields))
}
