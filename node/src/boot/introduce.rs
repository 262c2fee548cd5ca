//! Keeps the catalog's record of this node, and this node's table of the others.

use super::member_places;
use crate::clock;
use crate::config::Config;
use crate::peer::{Peers, Place};
use pontoon_proto::id::{NodeBoot, NodeId};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{Command, Node, Reply, Standing};
use pontoon_raft::cluster::Cluster;
use pontoon_raft::group::FORMAT;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often this node's table of addresses follows the catalog.
const FOLLOW_CATALOG: Duration = Duration::from_millis(500);

/// How long a removed node stays for groups that count on its vote and give no sign of life: they
/// have no quorum with it either, and nothing says that they ever will. A group that works lets go of
/// it within a few steps of half a second each, and is waited for.
const LEAVE_MAX: Duration = Duration::from_secs(60);

/// How often a removed node says what it waits for.
const SAY: Duration = Duration::from_secs(10);

/// How long one attempt to write the record may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Writes this node into the catalog, under each boot that it takes, and follows the catalog for the
/// other nodes' addresses. Returns only when this node has no place in the cluster any more; the text
/// says why, and what to do.
pub(super) async fn keep(config: Arc<Config>, cluster: Cluster, peers: Peers) -> String {
    let mut known: Option<NodeBoot> = None;
    let mut leaving = Leaving::default();
    loop {
        let at = cluster.at();
        peers.set_boot(at.boot);
        let state = cluster.catalog().state();
        if let Some(why) = expelled(&state, &config, &cluster) {
            if !is_removed(&state, &cluster) || !leaving.stays(&state, &cluster) {
                return why;
            }
            peers.set_places(places(&state, &config, &cluster));
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
        peers.set_places(places(&state, &config, &cluster));
        tokio::time::sleep(FOLLOW_CATALOG).await;
    }
}

fn is_removed(state: &Catalog, cluster: &Cluster) -> bool {
    let node = state.node(cluster.at().node);
    node.is_some_and(|node| node.standing == Standing::Removed)
}

/// The stay of a removed node: a group that still counts on its vote may have no quorum without it.
#[derive(Default)]
struct Leaving {
    since: Option<Instant>,
    said: Option<Instant>,
}

impl Leaving {
    /// Whether a group still needs this node, and can let go of it.
    fn stays(&mut self, state: &Catalog, cluster: &Cluster) -> bool {
        let waited = self.since.get_or_insert_with(clock::now).elapsed();
        let needing = needing(state, cluster);
        if needing.is_empty() {
            return false;
        }
        let names: Vec<&str> = needing.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        let silent = |age: &Option<Duration>| age.unwrap_or(waited).min(waited) >= LEAVE_MAX;
        if needing.iter().all(|(_, age)| silent(age)) {
            tracing::warn!(
                groups = names,
                "this node ends although these groups have its vote: they had no quorum with it \
                 for {LEAVE_MAX:?}. A region's group that stays without one needs `pontoon region \
                 recover`"
            );
            return false;
        }
        if self.said.is_none_or(|said| said.elapsed() >= SAY) {
            self.said = Some(clock::now());
            tracing::warn!(
                groups = names,
                autopilot = state.settings().autopilot,
                "this node was removed: it stays until the autopilot has taken its vote out of \
                 these groups"
            );
        }
        true
    }
}

/// The groups that count on this node's vote, with the age of their last sign of life.
fn needing(state: &Catalog, cluster: &Cluster) -> Vec<(String, Option<Duration>)> {
    let mut needing = Vec::new();
    if cluster.catalog().needs_me() {
        needing.push(("catalog".to_owned(), cluster.catalog().beat_age()));
    }
    for (number, group) in cluster.regions() {
        if group.needs_me() {
            let region = state.region(number);
            let name = region.map_or_else(|| number.to_string(), |region| region.name.clone());
            needing.push((name, group.beat_age()));
        }
    }
    needing
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

/// Where the other nodes are. A removed one stays in the table while it may be a member of a group:
/// whoever shall lead there instead of it needs its vote, and it has to be told that it has none.
fn places(state: &Catalog, config: &Config, cluster: &Cluster) -> BTreeMap<NodeId, Place> {
    let mut places = member_places(config);
    for node in state.nodes() {
        let place = Place {
            name: node.name.clone(),
            address: node.peer.clone(),
        };
        places.insert(node.at.node, place);
    }
    let wanted = cluster.wanted_peers();
    places.retain(|node, _| wanted.contains(node));
    places
}
