//! The verbs that change where state lives: nodes, regions, the autopilot; and what was done.

use super::client;
use super::exit::{Code, Failure};
use super::nouns::{AuditVerb, NodeVerb, Output, RegionVerb, Survive, Switch};
use super::table::{json, list, show};
use super::verbs::{Answer, note, said, unknown, would};
use crate::cli::nouns::{Ask, ClusterVerb};
use crate::clock;
use pontoon_proto::admin as pb;
use std::time::Duration;

/// How often a drain is looked at, ...
const LOOK: Duration = Duration::from_millis(500);

/// ... how old the asked node's word of another one may be, ...
const STALE: Duration = Duration::from_secs(3);

/// ... and how long the node may be silent meanwhile: a few of the pings that tell of it.
const SILENT_MAX: Duration = Duration::from_secs(10);

const NODE: &[&str] = &[
    "name",
    "id",
    "region",
    "standing",
    "life",
    "boot",
    "reachable",
    "stage",
    "ready",
    "calls",
    "connections",
    "sessions",
    "tunnels",
    "relays",
    "groups_led",
    "sidecars",
    "sidecars_only_here",
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
    match verb {
        NodeVerb::List(ask) => Ok(list(ask.output, &nodes(&ask).await?, NODE)),
        NodeVerb::Show { name, ask } => {
            let node = named(&name, nodes(&ask).await?)?;
            Ok(show(ask.output, &node, NODE))
        }
        NodeVerb::Drain {
            name,
            deadline,
            wait,
            force,
            dry_run,
            ask,
        } => {
            let request = pb::DrainNodeRequest {
                name: name.clone(),
                within_ms: deadline.map_or(0, |span| span.as_millis().max(1) as u64),
                force,
                dry_run,
            };
            let mut client = client::connect(&ask).await?;
            let mut node = said(&ask, client.drain_node(request).await)?;
            would(dry_run, &format!("drain {name}"));
            if wait && !dry_run {
                node = drained(&ask, node).await?;
            }
            Ok(show(ask.output, &node, NODE))
        }
        NodeVerb::Undrain { name, ask } => {
            let mut client = client::connect(&ask).await?;
            let request = pb::UndrainNodeRequest { name };
            let node = said(&ask, client.undrain_node(request).await)?;
            Ok(show(ask.output, &node, NODE))
        }
        NodeVerb::Remove { name, dry_run, ask } => {
            let mut client = client::connect(&ask).await?;
            let request = pb::RemoveNodeRequest { name, dry_run };
            let node = said(&ask, client.remove_node(request).await)?;
            Ok(show(ask.output, &node, NODE))
        }
    }
}

async fn nodes(ask: &Ask) -> Result<Vec<pb::Node>, Failure> {
    let mut client = client::connect(ask).await?;
    let reply = said(ask, client.list_nodes(pb::ListNodesRequest {}).await)?;
    Ok(reply.nodes)
}

fn named(name: &str, nodes: Vec<pb::Node>) -> Result<pb::Node, Failure> {
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let found = nodes.into_iter().find(|node| node.name == *name);
    found.ok_or_else(|| unknown("node", name, names.iter().map(String::as_str)))
}

/// Waits until a node is drained, with a line on stderr whenever it got further.
async fn drained(ask: &Ask, begun: pb::Node) -> Result<pb::Node, Failure> {
    let name = begun.name.clone();
    let (mut node, mut said) = (begun, String::new());
    let (began, mut silent) = (clock::now(), None);
    loop {
        let line = progress(&node);
        if line != said {
            note(&line);
            said = line;
        }
        match node.stage.as_str() {
            "drained" => return Ok(node),
            "drained (cut)" => {
                let text = format!(
                    "{name} is drained, but its deadline came first: what was left was cut"
                );
                return Err(Failure::new(Code::Other, text));
            }
            "serving" if began.elapsed() > STALE => {
                let text = format!("{name} serves again: somebody has cancelled the drain");
                return Err(Failure::new(Code::Other, text));
            }
            // It ended, or can't be reached for a while.
            "unknown" => {
                let since = *silent.get_or_insert_with(clock::now);
                if since.elapsed() > SILENT_MAX {
                    let text = format!("{name} does not answer any more: was it stopped?");
                    return Err(Failure::new(Code::Unreachable, text));
                }
            }
            _ => silent = None,
        }
        tokio::time::sleep(LOOK).await;
        node = named(&name, nodes(ask).await?)?;
    }
}

/// How far a drain is, in one line.
fn progress(node: &pb::Node) -> String {
    format!(
        "{}: {}; {} calls, {} connections, {} sessions, {} relayed tunnels, {} groups led, {} \
         sidecars attached nowhere else",
        node.name,
        node.stage,
        node.calls,
        node.connections,
        node.sessions,
        node.relays,
        node.groups_led,
        node.sidecars_only_here
    )
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
