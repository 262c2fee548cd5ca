//! Keeps the catalog's record of this node, and this node's table of the others.

use super::member_places;
use crate::clock;
use crate::config::Config;
use crate::peer::{Peers, Place};
use pontoon_proto::id::NodeBoot;
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{Command, Node, Reply, Standing};
use pontoon_raft::cluster::Cluster;
use pontoon_raft::group::FORMAT;
use std::sync::Arc;
use std::time::Duration;

/// How often this node's table of addresses follows the catalog.
const FOLLOW_CATALOG: Duration = Duration::from_millis(500);

/// How long a removed node stays for the groups that have it as a voter. They let go of it within a
/// few steps of half a second each; a replica that is no member any more is not told, so that its own
/// word is not waited for any longer.
const LEAVE_MAX: Duration = Duration::from_secs(15);

/// How long one attempt to write the record may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Writes this node into the catalog, under each boot that it takes, and follows the catalog for the
/// other nodes' addresses. Returns only when this node has no place in the cluster any more; the text
/// says why, and what to do.
pub(super) async fn keep(config: Arc<Config>, cluster: Cluster, peers: Peers) -> String {
    let mut known: Option<NodeBoot> = None;
    let mut leaving = None;
    loop {
        let at = cluster.at();
        peers.set_boot(at.boot);
        let state = cluster.catalog().state();
        if let Some(why) = expelled(&state, &config, &cluster) {
            // A group that still counts on this node's vote may have no quorum without it.
            if !is_removed(&state, &cluster) || !votes(&cluster) {
                return why;
            }
            let since = *leaving.get_or_insert_with(|| {
                tracing::warn!("this node was removed: it ends when no group counts on its vote");
                clock::now()
            });
            if since.elapsed() >= LEAVE_MAX {
                return why;
            }
            tokio::time::sleep(FOLLOW_CATALOG).await;
            continue;
        }
        if known != Some(at) {
            match announce(&state, &config, &cluster, at).await {
                Ok(true) => known = Some(at),
                Ok(false) => {}
                Err(why) => return why,
            }
        }
        peers.set_places(places(&state, &config));
        tokio::time::sleep(FOLLOW_CATALOG).await;
    }
}

fn is_removed(state: &Catalog, cluster: &Cluster) -> bool {
    let node = state.node(cluster.at().node);
    node.is_some_and(|node| node.standing == Standing::Removed)
}

/// Whether any group has this node as a voter.
fn votes(cluster: &Cluster) -> bool {
    let me = cluster.at().node;
    let regions = cluster.regions();
    let voting = regions.iter().map(|(_, group)| group.status().voters);
    voting
        .chain([cluster.catalog().status().voters])
        .any(|voters| voters.contains(&me))
}

/// Whether the catalog says that this folder's time is over.
fn expelled(state: &Catalog, config: &Config, cluster: &Cluster) -> Option<String> {
    let node = state.node(cluster.at().node)?;
    let identity = cluster.identity();
    let life = identity.settled().map_or(0, |(_, life)| life);
    if node.standing == Standing::Removed {
        return Some(format!(
            "node {} was removed from the cluster: to use this machine again, give it an empty data \
             folder",
            config.name
        ));
    }
    let other = node.life == life && node.folder != identity.folder();
    (node.life > life || other).then(|| out_of_date(config, cluster))
}

fn out_of_date(config: &Config, cluster: &Cluster) -> String {
    format!(
        "node {} came back with another data folder, or a copy of this one is in use: this one ({}) \
         is out of date; give this process an empty one and a name of its own",
        config.name,
        cluster.identity().dir().display()
    )
}

/// Writes the record once; whether it stands.
async fn announce(
    state: &Catalog,
    config: &Config,
    cluster: &Cluster,
    at: NodeBoot,
) -> Result<bool, String> {
    let Some(region) = state.region_by_name(&config.region) else {
        return Ok(false);
    };
    let identity = cluster.identity();
    let advertise = config.advertise.clone();
    let node = Node {
        at,
        name: config.name.clone(),
        region: region.number,
        client: advertise.client,
        worker: advertise.worker,
        peer: advertise.peer,
        admin: advertise.admin,
        ops: advertise.ops,
        folder: identity.folder(),
        life: identity.settled().map_or(0, |(_, life)| life),
        format: FORMAT,
        standing: Standing::Member,
    };
    let put = cluster.catalog().propose(Command::PutNode(node), WITHIN);
    match put.await.map(|proposed| proposed.reply) {
        Ok(Reply::Done) => Ok(true),
        Ok(Reply::Refused(why) | Reply::Conflict(why) | Reply::Invalid(why)) => {
            Err(format!("the catalog refuses this node: {why}"))
        }
        // The catalog knows a later boot of this name, and it is not one of this process's.
        Ok(Reply::Stale) if cluster.at() == at => Err(out_of_date(config, cluster)),
        Ok(reply) => {
            tracing::debug!(?reply, "this node is not in the catalog yet");
            Ok(false)
        }
        Err(error) => {
            tracing::debug!(%error, "not in the catalog yet; trying again");
            Ok(false)
        }
    }
}

fn places(
    state: &Catalog,
    config: &Config,
) -> std::collections::BTreeMap<pontoon_proto::id::NodeId, Place> {
    let mut places = member_places(config);
    for node in state.nodes() {
        if node.standing == Standing::Removed {
            places.remove(&node.at.node);
            continue;
        }
        let place = Place {
            name: node.name.clone(),
            address: node.peer.clone(),
        };
        places.insert(node.at.node, place);
    }
    places
}
