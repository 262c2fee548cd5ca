//! What the DNS service is told of the cluster: the catalog's regions and nodes, and what each node
//! last said of itself. All of it is this node's own memory.

use super::Error;
use super::facts;
use super::wiring::Parts;
use crate::dns::{self, Counters, Member, Region, Scene, Sockets};
use crate::drain::Draining;
use crate::net;
use crate::peer::Peers;
use pontoon_proto::id::NodeId;
use pontoon_raft::catalog::command::{Node, Standing};
use std::net::SocketAddr;
use std::sync::Arc;

/// What listens there, for the error of a port that is taken.
const WHAT: &str = "DNS questions";

/// Binds one port for both.
pub(super) async fn bind(address: SocketAddr) -> Result<Sockets, Error> {
    let both = async {
        let udp = net::receive(WHAT, &address.to_string()).await?;
        // Port 0 was a wish for any.
        let tcp = net::listen(WHAT, &udp.local_addr()?.to_string()).await?;
        Ok::<_, std::io::Error>(Sockets { udp, tcp })
    };
    both.await.map_err(|error| Error::Start(error.to_string()))
}

/// Starts the service, where the configuration wants it.
pub(super) fn serve(
    parts: &Parts,
    sockets: Option<Sockets>,
    draining: Draining,
) -> Option<Arc<Counters>> {
    let settings = parts.config.dns_service.clone()?;
    Some(dns::start(settings, sockets?, look(parts, draining)))
}

fn look(parts: &Parts, draining: Draining) -> dns::Look {
    let (cluster, peers) = (parts.cluster.clone(), parts.peers.clone());
    let region = parts.config.region.clone();
    let ready = facts::ready(parts, draining);
    Arc::new(move || {
        let catalog = cluster.catalog().state();
        let (here, ready) = (cluster.at().node, ready());
        let regions = catalog.regions().filter(|region| !region.gone);
        let nodes = catalog.members().map(|node| Member {
            word: match node.at.node == here {
                true => Some(ready),
                false => word(&peers, node.at.node),
            },
            ..member(node)
        });
        Scene {
            own: catalog.region_by_name(&region).map(|own| own.number),
            ready,
            beat_age: cluster.catalog().beat_age(),
            regions: regions
                .map(|region| Region {
                    number: region.number,
                    name: region.name.clone(),
                    nearest: region.nearest.clone(),
                })
                .collect(),
            nodes: nodes.collect(),
        }
    })
}

/// Whether a node is ready, by its answer to the last ping. An older build that doesn't say takes
/// traffic as long as it answers.
fn word(peers: &Peers, node: NodeId) -> Option<bool> {
    match peers.state(node) {
        Some(state) => Some(state.ready),
        None => peers.rtt(node).map(|_| true),
    }
}

fn member(node: &Node) -> Member {
    Member {
        number: node.at.node,
        name: node.name.clone(),
        region: node.region,
        // In the order of `Service::ALL`.
        advertised: [&node.client, &node.worker, &node.peer, &node.admin].map(String::clone),
        word: None,
        dead: node.standing == Standing::Dead,
    }
}
