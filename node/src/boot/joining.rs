//! How a node with a fresh data folder gets its number and its life, and how others get theirs from
//! it.
//!
//! A first member shows its folder to the others, and is founded when enough of them met no other
//! folder under its name. Everybody else, and a first member that lost its folder, is admitted by the
//! catalog. Until then the peer port answers greetings and nothing else.

use super::Error;
use crate::config::Config;
use crate::net::TcpListener;
use crate::ops::metrics::Metrics;
use crate::ops::ready::Facts;
use crate::peer::{self, Handlers, Peers};
use crate::tasks::{self, Kind};
use crate::tls::accept::Incoming;
use crate::{call, clock, net, ops, tunnel};
use futures::FutureExt as _;
use futures::future::join_all;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use pontoon_proto::peer::NodeState;
use pontoon_raft::catalog::command::{Admission, Command, FolderId, Node, Reply, Standing};
use pontoon_raft::cluster::Cluster;
use pontoon_raft::group::FORMAT;
use pontoon_raft::identity::{Identity, IdentityError, Verdict, founded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// How long one greeting, and one request to be admitted, may take: a new leader may have to be
/// elected meanwhile.
const WITHIN: Duration = Duration::from_secs(5);

/// The pause between two rounds: first boots are waited for by people.
const PAUSE: Duration = Duration::from_millis(100);

/// How often it is said what a fresh node waits for.
const SAY: Duration = Duration::from_secs(5);

/// Gives a fresh folder its number and its life; at once when it has both. Gives the connections of
/// peers and the listener of ops back. A peer that is in its handshake meanwhile stays with the node,
/// and is served by what comes after.
pub(super) async fn settle(
    config: &Config,
    identity: &Arc<Identity>,
    peers: Peers,
    mut incoming: Incoming,
    ops: TcpListener,
) -> Result<(Incoming, TcpListener), Error> {
    if identity.settled().is_some() {
        return Ok((incoming, ops));
    }
    let (ops, probed) = net::share(ops)
        .map_err(|error| Error::Start(format!("a listener can't be shared: {error}")))?;
    let probes = crate::ops::serve(probed, waiting());
    let probes = tasks::spawn(Kind::Worker, "probes of a fresh node", probes);
    let stop = CancellationToken::new();
    let (asked, handlers, stopped) = (peers.clone(), fresh(identity), stop.clone());
    let serving = tasks::spawn(Kind::Worker, "greetings", async move {
        if let Err(error) = peer::serve(&mut incoming, asked, None, handlers, stopped).await {
            tracing::error!(%error, "the peer port is broken");
        }
        incoming
    });
    let founder = config.number();
    let settled = match founder {
        Some(number) => found(config, identity, &peers, number).await?,
        None => false,
    };
    if !settled {
        admit(config, identity, &peers).await?;
    }
    stop.cancel();
    let incoming = serving.await;
    probes.abort();
    let broken = |error| Error::Start(format!("the peer port is broken: {error}"));
    Ok((incoming.map_err(broken)?, ops))
}

/// What the ops port says while the folder is fresh: alive, and not ready.
fn waiting() -> ops::Sources {
    ops::Sources {
        alive: Arc::new(|| Ok(())),
        facts: Arc::new(Facts::default),
        readiness: Arc::default(),
        state: Arc::new(NodeState::default),
        metrics: Arc::new(Metrics::new(
            &tunnel::close::labels(),
            &tunnel::close::CODES,
        )),
        clients: Arc::new(|page| call::Counters::default().render(page)),
        certificates: Arc::new(Vec::new),
    }
}

/// Asks the other first members until they vouch for this folder, or say that they can't.
async fn found(
    config: &Config,
    identity: &Arc<Identity>,
    peers: &Peers,
    number: NodeId,
) -> Result<bool, Error> {
    let members = config.members.len();
    let mut verdicts: BTreeMap<NodeId, Verdict> = BTreeMap::new();
    let mut causes: BTreeMap<NodeId, String> = BTreeMap::new();
    let mut said = clock::now();
    loop {
        let known: Vec<Verdict> = verdicts.values().copied().collect();
        match founded(members, &known) {
            Some(true) => {
                settle_as(identity, number, 1).await?;
                return Ok(true);
            }
            Some(false) => {
                tracing::warn!(
                    "another data folder had this node's name before: the cluster has to give it \
                     a new life"
                );
                return Ok(false);
            }
            None => {}
        }
        let missing = (1..=members as u32)
            .map(NodeId)
            .filter(|node| *node != number && !verdicts.contains_key(node));
        let missing: Vec<NodeId> = missing.collect();
        let asked = missing
            .iter()
            .map(|node| peers.greet(*node, number, identity.folder(), WITHIN));
        for (node, answer) in missing.iter().zip(join_all(asked).await) {
            match answer {
                Ok(Some(verdict)) => {
                    verdicts.insert(*node, verdict);
                }
                Ok(None) => {}
                Err(error) => {
                    causes.insert(*node, error.cause);
                }
            }
        }
        if said.elapsed() >= SAY {
            said = clock::now();
            let names = missing.iter().filter(|node| !verdicts.contains_key(node));
            let names = names.filter_map(|node| {
                let member = config.members.get(node.0 as usize - 1)?;
                let cause = causes.get(node).map_or("not asked yet", String::as_str);
                Some(format!("{} ({cause})", member.name))
            });
            let names: Vec<String> = names.collect();
            tracing::warn!(
                "a first boot: waiting for more of the first members; not met yet: {}. Start them, \
                 with the same join token and the same list of first members",
                names.join(", ")
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks the first members in turn until one gives an answer of the catalog's.
async fn admit(config: &Config, identity: &Arc<Identity>, peers: &Peers) -> Result<(), Error> {
    let request = pb::AdmitRequest {
        envelope: None,
        name: config.name.clone(),
        region: config.region.clone(),
        folder: identity.folder().to_vec().into(),
        founder: config.number().map_or(0, |number| u64::from(number.0)),
        format: u32::from(FORMAT),
        client: config.advertise.client.clone(),
        worker: config.advertise.worker.clone(),
        peer: config.advertise.peer.clone(),
        admin: config.advertise.admin.clone(),
        ops: config.advertise.ops.clone(),
    };
    let mut said: Option<tokio::time::Instant> = None;
    loop {
        let mut causes = Vec::new();
        for node in peers.known() {
            match peers.admit_me(node, request.clone(), WITHIN).await {
                Ok(reply) if !reply.refused.is_empty() => {
                    return Err(Error::Start(format!(
                        "the cluster does not admit this node: {}",
                        reply.refused
                    )));
                }
                Ok(reply) => {
                    let number = NodeId(u32::try_from(reply.node).unwrap_or(0));
                    return settle_as(identity, number, reply.life).await;
                }
                Err(error) => causes.push(error.to_string()),
            }
        }
        if said.is_none_or(|said| said.elapsed() >= SAY) {
            said = Some(clock::now());
            tracing::warn!(
                "waiting to be admitted to the cluster by one of its first members: {}. One of them \
                 must run and have a quorum, with this node's join token and list of first members",
                causes.join("; ")
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn settle_as(identity: &Arc<Identity>, number: NodeId, life: u32) -> Result<(), Error> {
    let settled = blocking(identity, move |identity| identity.settle(number, life)).await;
    let at = settled.map_err(|error| Error::Start(error.to_string()))?;
    tracing::info!(%at, life, "this data folder has its number");
    Ok(())
}

async fn blocking<T: Send + 'static>(
    identity: &Arc<Identity>,
    work: impl FnOnce(&Identity) -> Result<T, IdentityError> + Send + 'static,
) -> Result<T, IdentityError> {
    let (dir, identity) = (identity.dir().to_owned(), identity.clone());
    let done = tokio::task::spawn_blocking(move || work(&identity)).await;
    done.unwrap_or_else(|error| {
        Err(IdentityError::Files {
            dir,
            source: std::io::Error::other(error),
        })
    })
}

/// What the peer port answers while the folder is fresh.
fn fresh(identity: &Arc<Identity>) -> Handlers {
    Handlers {
        pass: Arc::new(|_, _, _| async { pb::pass_reply::Outcome::NotAttached }.boxed()),
        relay: crate::relay::refuse_all(),
        greet: greet(identity),
        admit: Arc::new(|_| {
            let status = Status::unavailable("this node has no number itself yet");
            async { Err(status) }.boxed()
        }),
        folder: identity.folder(),
        closes: Arc::new(|_| pb::ClosesReply::default()),
        switch: crate::drain::Switch::default(),
    }
}

/// Another first member shows its folder.
pub(super) fn greet(identity: &Arc<Identity>) -> peer::GreetHandler {
    let identity = identity.clone();
    Arc::new(move |node, folder| {
        let identity = identity.clone();
        async move {
            let verdict = blocking(&identity, move |identity| identity.greet(node, folder)).await;
            verdict.map_err(|error| Status::unavailable(error.to_string()))
        }
        .boxed()
    })
}

/// A node with a fresh folder asks for its number.
pub(super) fn admission(
    config: &Arc<Config>,
    cluster: &Cluster,
    peers: &Peers,
) -> peer::AdmitHandler {
    let (config, cluster, peers) = (config.clone(), cluster.clone(), peers.clone());
    Arc::new(move |request| {
        let (config, cluster, peers) = (config.clone(), cluster.clone(), peers.clone());
        async move { answer(&config, &cluster, &peers, request).await }.boxed()
    })
}

async fn answer(
    config: &Config,
    cluster: &Cluster,
    peers: &Peers,
    request: pb::AdmitRequest,
) -> Result<pb::AdmitReply, Status> {
    let folder = FolderId::try_from(&request.folder[..])
        .map_err(|_| Status::invalid_argument("a folder has 16 bytes"))?;
    let unavailable =
        || Status::unavailable("the catalog has no leader that this node reaches at present");
    let catalog = cluster.catalog().read(WITHIN).await;
    let catalog = catalog.map_err(|_| unavailable())?;
    // Until the first regions are born their names and numbers are spoken for (H-3).
    let born = |name: &str| catalog.all_regions().any(|region| region.name == name);
    if !config.members.iter().all(|member| born(&member.region)) {
        return Err(Status::unavailable(
            "the cluster's first regions are being born",
        ));
    }
    if let Some(known) = catalog.node_by_name(&request.name)
        && known.folder != folder
        && is_alive(known, cluster, peers).await
    {
        return Ok(pb::AdmitReply {
            refused: format!(
                "a node named {} runs at {}: stop it first, or give this one a name of its own",
                known.name, known.peer
            ),
            ..pb::AdmitReply::default()
        });
    }
    let admission = admission_of(config, &request, folder)?;
    let proposed = cluster
        .catalog()
        .propose(Command::AdmitNode(admission), WITHIN);
    let proposed = proposed.await.map_err(|_| unavailable())?;
    match proposed.reply {
        Reply::Admitted { node, life } => Ok(pb::AdmitReply {
            node: u64::from(node.0),
            life,
            refused: String::new(),
        }),
        Reply::Conflict(text) | Reply::Invalid(text) | Reply::Refused(text) => Ok(pb::AdmitReply {
            refused: text,
            ..pb::AdmitReply::default()
        }),
        other => Err(Status::internal(format!("the catalog answered {other:?}"))),
    }
}

fn admission_of(
    config: &Config,
    request: &pb::AdmitRequest,
    folder: FolderId,
) -> Result<Admission, Status> {
    let number = u32::try_from(request.founder)
        .map_err(|_| Status::invalid_argument("a node's number has 32 bits"))?;
    Ok(Admission {
        folder,
        founder: (number > 0).then_some(NodeId(number)),
        founders: config.members.len() as u32,
        region: request.region.clone(),
        survive: config.survive,
        node: Node {
            at: pontoon_proto::id::NodeBoot {
                node: NodeId(number),
                boot: 0,
            },
            name: request.name.clone(),
            region: pontoon_proto::id::RegionId(0),
            client: request.client.clone(),
            worker: request.worker.clone(),
            peer: request.peer.clone(),
            admin: request.admin.clone(),
            ops: request.ops.clone(),
            folder,
            life: 0,
            format: request.format.try_into().unwrap_or(u16::MAX),
            standing: Standing::Member,
        },
    })
}

/// Whether the folder that the catalog knows under a name is in use.
async fn is_alive(known: &Node, cluster: &Cluster, peers: &Peers) -> bool {
    if known.at.node == cluster.at().node {
        return true;
    }
    let answer = peers.folder(known.at.node, WITHIN).await;
    answer.is_ok_and(|folder| folder == known.folder)
}
