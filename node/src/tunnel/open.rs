//! A new tunnel: a ticket, an `OpenTunnel` passed to where the sidecar is attached, and the wait for
//! its CONNECT.

use super::desk::{Incoming, Waiting};
use super::sidecars::PassOutcome;
use super::spare::Spare;
use super::wire::Carries;
use super::{LinkError, Shared, Tunnel, driver};
use crate::session::Target;
use crate::{clock, random};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pontoon_proto::id::{NodeId, RequestId, WorkerId};
use pontoon_proto::peer::PassRequest;
use pontoon_proto::worker::{NodeMessage, OpenTunnel, node_message};
use pontoon_raft::directory::command::EndReason;
use prost::Message as _;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long one node may take with an `OpenTunnel` before the next one is asked as well: above a
/// round trip around the world.
const STAGGER: Duration = Duration::from_millis(400);

/// How long to wait before looking again where the sidecar is attached, and before asking a node
/// again that could not pass the message on.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// When a message that was passed and brought no dial is passed again. The node that took it may have
/// lost the sidecar's control stream in that moment, and nobody would ever know. A dial takes one round
/// trip for the message and two for itself: 0.6 s around the world. A message that comes twice does
/// no harm: one ticket is one dial.
const AGAIN: Duration = Duration::from_secs(1);

/// Dials a tunnel for a session, within a bound.
pub(super) async fn dial(
    shared: &Shared,
    target: &Target,
    carries: Carries,
    within: Duration,
) -> Result<Tunnel, LinkError> {
    let deadline = clock::now() + within;
    let dialing = shared.pool.dialing(target.id);
    let mut waiting = shared
        .desk
        .register(target.id, target.binding.worker)
        .ok_or(LinkError::NoDial)?;
    let message = open_tunnel(shared, target, &waiting);
    let up = tokio::select! {
        biased;
        stream = &mut waiting.stream => stream.map_err(|_| LinkError::NoDial),
        error = pass(shared, target, &message, deadline) => Err(error),
        () = sleep_until(deadline) => Err(last_word(shared, target)),
    };
    let stream = match up {
        // A dial that failed may be the second one with this ticket: then the first one counts.
        Err(_) if waiting.is_shown() => timeout(LOOK_AGAIN, &mut waiting.stream)
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(LinkError::NoDial)?,
        up => up?,
    };
    driver::start(shared, dialing, *target, carries, stream)
        .await
        .ok_or(LinkError::NoDial)
}

fn open_tunnel(shared: &Shared, target: &Target, waiting: &Waiting) -> NodeMessage {
    NodeMessage {
        message: Some(node_message::Message::OpenTunnel(OpenTunnel {
            urls: ways_here(shared, attached_at(shared, target)),
            ..order(target, waiting.ticket.encode())
        })),
    }
}

/// What a sidecar is told of a session's tunnel, wherever it is to be dialed.
pub(super) fn order(target: &Target, ticket: String) -> OpenTunnel {
    OpenTunnel {
        request_id: target.id.to_bytes().to_vec().into(),
        generation: target.generation,
        binding_index: target.binding.index,
        slot: target.binding.slot,
        ticket,
        worker_id: target.binding.worker.to_bytes().to_vec().into(),
        ..OpenTunnel::default()
    }
}

/// Where a sidecar may dial for a tunnel to this node: here, or where it is attached, from where it is
/// relayed.
fn ways_here(shared: &Shared, attached: Option<Vec<NodeId>>) -> Vec<String> {
    let attached = attached.unwrap_or_default();
    let mut relays: Vec<_> = attached
        .iter()
        .filter(|node| **node != shared.at().node)
        .collect();
    // What is relayed by a node that leaves has to move soon.
    relays.sort_by_key(|node| (shared.leaves)(**node));
    let known = shared.directories.nodes();
    let relays = relays.into_iter().filter_map(|node| {
        let place = known.iter().find(|at| at.node == u64::from(node.0))?;
        Some(place.worker.clone())
    });
    let here = shared.advertised.clone();
    std::iter::once(here).chain(relays).collect()
}

/// Gets the message to the sidecar, through every node where it is attached and again and again;
/// returns only when there is no use in waiting on.
///
/// Each question stays open for as long as the dial is waited for, so that a failure is heard whichever
/// node hears of it: at most ten a second, for the 10 s that a dial may take.
async fn pass(
    shared: &Shared,
    target: &Target,
    message: &NodeMessage,
    deadline: Instant,
) -> LinkError {
    let worker = target.binding.worker;
    let mut asked = FuturesUnordered::new();
    // When each node may be asked again.
    let mut due: BTreeMap<NodeId, Instant> = BTreeMap::new();
    loop {
        let Some(nodes) = attached_at(shared, target) else {
            return LinkError::NotAttached;
        };
        let now = clock::now();
        let is_due = |node: &&NodeId| due.get(node).is_none_or(|at| *at <= now);
        let next = nodes.iter().filter(is_due).min_by_key(|node| due.get(node));
        let mut pause = LOOK_AGAIN;
        if let Some(node) = next.copied() {
            due.insert(node, now + AGAIN);
            pause = STAGGER;
            asked.push(ask(shared, worker, node, message, deadline));
        }
        tokio::select! {
            Some((node, outcome)) = asked.next() => match outcome {
                PassOutcome::DialFailed => return LinkError::NoDial,
                PassOutcome::Passed => {}
                // The sidecar may just be on its way from one node to another.
                PassOutcome::NotAttached | PassOutcome::Unconfirmed => {
                    due.insert(node, clock::now() + LOOK_AGAIN);
                }
            },
            () = sleep(pause) => {}
        }
    }
}

/// Asks one node after the other, the next one as soon as one fails or is slow. `None` when none of
/// them could pass the message on.
async fn ask_in_turn(
    shared: &Shared,
    worker: WorkerId,
    nodes: &[NodeId],
    message: &NodeMessage,
    deadline: Instant,
) -> Option<PassOutcome> {
    let mut asked = FuturesUnordered::new();
    let mut nodes = nodes.iter();
    loop {
        let next = nodes.next();
        if let Some(node) = next {
            asked.push(ask(shared, worker, *node, message, deadline));
        } else if asked.is_empty() {
            return None;
        }
        tokio::select! {
            Some((_, outcome)) = asked.next() => match outcome {
                PassOutcome::NotAttached | PassOutcome::Unconfirmed => {}
                told => return Some(told),
            },
            () = sleep(STAGGER), if next.is_some() => {}
        }
    }
}

async fn ask(
    shared: &Shared,
    worker: WorkerId,
    node: NodeId,
    message: &NodeMessage,
    deadline: Instant,
) -> (NodeId, PassOutcome) {
    let left = deadline.saturating_duration_since(clock::now());
    if node == shared.at().node {
        let message = message.clone();
        let outcome = shared.sidecars.pass(worker, message, Some(left)).await;
        return (node, outcome);
    }
    let request = PassRequest {
        envelope: None,
        worker: worker.to_bytes().to_vec().into(),
        message: message.encode_to_vec().into(),
        wait_ms: left.as_millis() as u64,
    };
    let outcome = match (shared.passer)(node, request, left).await {
        Ok(reply) => reply.outcome().into(),
        Err(error) => {
            tracing::debug!(%error, "a message for a sidecar was not passed on");
            PassOutcome::NotAttached
        }
    };
    (node, outcome)
}

/// Where the sidecar is attached, this node first; `None` when the worker is lost or unknown.
fn attached_at(shared: &Shared, target: &Target) -> Option<Vec<NodeId>> {
    let worker = target.binding.worker;
    let here = shared.at().node;
    let mut nodes = Vec::new();
    if shared.sidecars.is_attached(worker) {
        nodes.push(here);
    }
    let directory = shared.directories.replica(target.region);
    match directory
        .as_ref()
        .and_then(|d| Some((d, d.worker(worker)?)))
    {
        Some((directory, worker)) => {
            let elsewhere = directory.attached(worker).map(|at| at.node);
            nodes.extend(elsewhere.filter(|node| *node != here));
        }
        None if nodes.is_empty() => return None,
        None => {}
    }
    Some(nodes)
}

fn last_word(shared: &Shared, target: &Target) -> LinkError {
    match attached_at(shared, target) {
        Some(nodes) if !nodes.is_empty() => LinkError::NoDial,
        _ => LinkError::NotAttached,
    }
}

/// Makes the session's sidecar let go of it, wherever it is attached; true once it has said so.
pub(super) async fn let_go(
    shared: &Shared,
    target: &Target,
    reason: EndReason,
    within: Duration,
) -> bool {
    let message = super::end_session(target.id, &target.binding, reason, target.generation);
    let deadline = clock::now() + within;
    let Some(nodes) = attached_at(shared, target) else {
        return false;
    };
    let worker = target.binding.worker;
    let asked = ask_in_turn(shared, worker, &nodes, &message, deadline).await;
    asked == Some(PassOutcome::Passed)
}

/// How long a tunnel may take that no session waits for.
const AHEAD_WITHIN: Duration = Duration::from_secs(5);

/// Whether a sidecar that is attached here can dial this node and its worker: the tunnel that shows
/// it belongs to no session, and closes at once.
pub(super) async fn probe(shared: &Shared, worker: WorkerId) -> bool {
    let probe = OpenTunnel {
        probe: true,
        urls: vec![shared.advertised.clone()],
        ..OpenTunnel::default()
    };
    ahead(shared, worker, probe).await.is_some()
}

/// A tunnel of a sidecar that is attached here, for no session so far.
pub(super) async fn spare(shared: &Shared, worker: WorkerId) -> Option<Spare> {
    let spare = OpenTunnel {
        spare: true,
        urls: ways_here(shared, None),
        ..OpenTunnel::default()
    };
    let (ticket, incoming) = ahead(shared, worker, spare).await?;
    Some(Spare {
        ticket,
        incoming,
        idle: shared.metrics.spares_idle.enter(),
    })
}

/// Asks for a tunnel without a session; gives its ticket, too.
async fn ahead(shared: &Shared, worker: WorkerId, order: OpenTunnel) -> Option<(String, Incoming)> {
    // A version 4 UUID: never one of a session.
    let id = RequestId::from_random(random::bytes());
    let mut waiting = shared.desk.register(id, worker)?;
    let ticket = waiting.ticket.encode();
    let message = NodeMessage {
        message: Some(node_message::Message::OpenTunnel(OpenTunnel {
            request_id: id.to_bytes().to_vec().into(),
            ticket: ticket.clone(),
            worker_id: worker.to_bytes().to_vec().into(),
            ..order
        })),
    };
    shared.sidecars.pass(worker, message, None).await;
    let up = timeout(AHEAD_WITHIN, &mut waiting.stream).await;
    Some((ticket, up.ok()?.ok()?))
}
