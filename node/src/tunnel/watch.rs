//! Keeps tunnels and sidecars in step with the directories.
//!
//! Effects are hints: after a lag, and every 10 s, what this node holds is compared with the replica
//! and the difference acted upon.

use super::close::{CloseReason, end_label};
use super::directories::Unanswered;
use super::{Tunnels, attach, directories};
use crate::{clock, random, tasks};
use pontoon_proto::id::{RegionId, RequestId};
use pontoon_proto::worker::{EndSession, Forget, HeldSession, NodeMessage, node_message};
use pontoon_raft::directory::command::{Binding, Command, Effect, EndReason};
use pontoon_raft::machine::{Clock, Machine as _};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often the difference is looked for.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);

/// How often new regions are looked for, and relays whose node leaves.
const REGIONS_EVERY: Duration = Duration::from_secs(1);

/// How long a proposal is repeated that must not get lost. After that the reconciliation, or the
/// loss of the worker or node, brings the same about.
const INSIST_FOR: Duration = Duration::from_secs(30);

/// For how long after the loss of a node sidecars are asked about the sessions that it left: long enough
/// for one that was paused to be asked again.
const ASK_FOR: Duration = Duration::from_secs(25);

/// How many of them one message holds, each of 40 bytes.
const FORGET_MAX: usize = 4096;

/// Watches every region, until the node stops.
pub(super) async fn run(tunnels: Tunnels) {
    let mut watched: BTreeMap<RegionId, JoinHandle<()>> = BTreeMap::new();
    let mut look = interval(REGIONS_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = tunnels.stop().cancelled() => break,
            _ = look.tick() => {}
        }
        tunnels.0.pool.retire(|node| (tunnels.0.leaves)(node));
        watched.retain(|_, task| !task.is_finished());
        for region in tunnels.0.directories.regions() {
            watched.entry(region).or_insert_with(|| {
                let watch = watch(tunnels.clone(), region);
                tasks::spawn(tasks::Kind::Worker, "region-watch", watch)
            });
        }
    }
    tunnels.0.pool.end_all(CloseReason::NodeStopping);
}

async fn watch(tunnels: Tunnels, region: RegionId) {
    let directories = &tunnels.0.directories;
    let (Some(mut effects), Some(mut restored)) =
        (directories.effects(region), directories.restored(region))
    else {
        return;
    };
    let mut reconcile_at = interval(RECONCILE_EVERY);
    reconcile_at.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = tunnels.stop().cancelled() => return,
            effect = effects.recv() => match effect {
                Ok(Effect::BootOver { .. }) => ask_after_deserted(&tunnels, region),
                Ok(effect) => act(&tunnels, effect).await,
                Err(RecvError::Lagged(_)) => reconcile(&tunnels, region).await,
                Err(RecvError::Closed) => return,
            },
            // A snapshot or a replay brings no hints (H-17).
            moved = restored.changed() => match moved {
                Ok(()) => reconcile(&tunnels, region).await,
                Err(_) => return,
            },
            _ = reconcile_at.tick() => reconcile(&tunnels, region).await,
        }
    }
}

async fn act(tunnels: &Tunnels, effect: Effect) {
    if let Effect::Ended {
        id,
        reason,
        binding,
    } = effect
    {
        tunnels.end(id);
        if let Some(binding) = binding
            && tunnels.sidecars().is_attached(binding.worker)
        {
            let region = id.region().unwrap_or(RegionId(0));
            let generation = tunnels.0.directories.generation(region);
            let message = end_session(id, &binding, reason, generation);
            tunnels.sidecars().pass(binding.worker, message, None).await;
        }
    }
}

/// The message that makes a sidecar let go of a session, in the name of an incarnation of its home group.
pub fn end_session(
    id: RequestId,
    binding: &Binding,
    reason: EndReason,
    generation: u64,
) -> NodeMessage {
    NodeMessage {
        message: Some(node_message::Message::EndSession(EndSession {
            request_id: id.to_bytes().to_vec().into(),
            binding_index: binding.index,
            reason: end_label(reason).to_owned(),
            generation,
        })),
    }
}

async fn reconcile(tunnels: &Tunnels, region: RegionId) {
    strays(tunnels, region).await;
    orphans(tunnels, region);
    ask_after_deserted(tunnels, region);
}

/// Asks the sidecars here about sessions whose nodes are all gone. An entry node that died between
/// its open and the first tunnel left a session that nobody knows and nobody will resume: its slot is
/// not to wait out the window (hazard H-15). Only the sidecar can tell, and [`super::control`] hears it.
fn ask_after_deserted(tunnels: &Tunnels, region: RegionId) {
    let Some(replica) = tunnels.0.directories.replica(region) else {
        return;
    };
    let lately = |since: Clock| replica.clock().since(since) <= ASK_FOR;
    // As a rule no node was lost, and nothing is looked through.
    if !replica.last_loss().is_some_and(lately) {
        return;
    }
    let generation = tunnels.0.directories.generation(region);
    for id in tunnels.sidecars().workers() {
        let suspects = replica.sessions_of(id).filter_map(|session| {
            let binding = session.binding()?;
            lately(replica.deserted(session)?).then(|| HeldSession {
                request_id: session.id.to_bytes().to_vec().into(),
                generation,
                binding_index: binding.index,
                slot: binding.slot,
            })
        });
        let suspects: Vec<HeldSession> = suspects.collect();
        for sessions in suspects.chunks(FORGET_MAX) {
            let sessions = sessions.to_vec();
            let forget = node_message::Message::Forget(Forget { sessions });
            tunnels.sidecars().tell(id, forget);
        }
    }
}

/// Closes the tunnels of sessions that are over. The replica only raises the suspicion, since it may
/// be behind; a linearizable read decides.
async fn strays(tunnels: &Tunnels, region: RegionId) {
    let shared = &tunnels.0;
    let Some(replica) = shared.directories.replica(region) else {
        return;
    };
    let mut suspects = shared.pool.targets();
    suspects.retain(|target| {
        let bound = |d| directories::binding(d, target.id) == Some(target.binding);
        target.region == region && !bound(&replica)
    });
    if suspects.is_empty() {
        return;
    }
    // Losing the directory never cuts a live stream.
    let Ok(directory) = shared.directories.read(region, attach::ASK_WITHIN).await else {
        return;
    };
    for target in suspects {
        if directories::binding(&directory, target.id) != Some(target.binding) {
            tunnels.end(target.id);
        }
    }
}

/// Detaches workers whose control stream here is gone: their detach got lost.
fn orphans(tunnels: &Tunnels, region: RegionId) {
    let at = tunnels.0.at();
    let here = tunnels.sidecars().attached();
    let Some(replica) = tunnels.0.directories.replica(region) else {
        return;
    };
    for worker in replica.attached_at(at.node) {
        let known = replica.worker(worker).into_iter();
        let attachments = known.flat_map(|worker| &worker.attachments);
        for one in attachments.filter(|one| one.open && one.at == at) {
            let stream = one.stream;
            if !here
                .iter()
                .any(|(id, number)| *id == worker && *number >= stream)
            {
                let detach = Command::DetachWorker { worker, at, stream };
                suggest(tunnels, region, detach);
            }
        }
    }
}

/// Proposes once, in the background: whoever calls this looks again later.
pub(super) fn suggest(tunnels: &Tunnels, region: RegionId, command: Command) {
    let tunnels = tunnels.clone();
    tasks::spawn(tasks::Kind::Worker, "suggest", async move {
        let directories = &tunnels.0.directories;
        let _looked_at_again = directories
            .propose(region, command, attach::ASK_WITHIN)
            .await;
    });
}

/// Proposes in the background until there is an answer, within [`INSIST_FOR`].
pub(super) fn insist(tunnels: &Tunnels, region: RegionId, command: Command) {
    let tunnels = tunnels.clone();
    tasks::spawn(tasks::Kind::Worker, "insist", async move {
        let deadline = clock::now() + INSIST_FOR;
        let directories = &tunnels.0.directories;
        while let Err(Unanswered) = directories
            .propose(region, command.clone(), attach::ASK_WITHIN)
            .await
        {
            if clock::now() >= deadline {
                tracing::warn!(?command, "a proposal about a worker got no answer");
                return;
            }
            tokio::time::sleep(Duration::from_millis(100).mul_f64(1.0 + random::fraction())).await;
        }
    });
}
