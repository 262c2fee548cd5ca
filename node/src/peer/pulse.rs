//! The pulse of the other nodes: a ping each second to each, reachable or not, and how far away.

use super::Peers;
use crate::tasks;
use futures::future::join_all;
use pontoon_proto::id::NodeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How often every node is pinged, and how long it has to answer: at most one ping per node is ever
/// under way.
const EVERY: Duration = Duration::from_secs(1);

/// Smoothed round trips of the nodes that answered their last ping.
#[derive(Default)]
pub(super) struct Pulse(Mutex<BTreeMap<NodeId, Duration>>);

impl Pulse {
    pub(super) fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.table().get(&node).copied()
    }

    /// Notes an answer, smoothed as TCP smooths its own (RFC 6298: an eighth of the new sample), or
    /// its absence, after which smoothing starts anew.
    fn note(&self, node: NodeId, sample: Option<Duration>) {
        let mut table = self.table();
        match (sample, table.get(&node).copied()) {
            (None, _) => table.remove(&node),
            (Some(first), None) => table.insert(node, first),
            (Some(sample), Some(old)) => table.insert(node, (old * 7 + sample) / 8),
        };
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pings all known nodes for as long as anybody holds the peers.
pub(super) fn start(peers: &Peers) {
    let held = Arc::downgrade(&peers.0);
    tasks::spawn(tasks::Kind::Worker, "peer pulse", async move {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let Some(inner) = held.upgrade() else { return };
            let peers = Peers(inner);
            let known = peers.known();
            peers.0.pulse.table().retain(|node, _| known.contains(node));
            join_all(known.into_iter().map(|node| {
                let peers = &peers;
                async move {
                    let answer = peers.ping(node, EVERY).await;
                    peers.0.pulse.note(node, answer.ok());
                }
            }))
            .await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_answer_moves_the_round_trip_by_an_eighth_and_silence_forgets_it() {
        let (pulse, node) = (Pulse::default(), NodeId(7));
        pulse.note(node, Some(Duration::from_millis(80)));
        pulse.note(node, Some(Duration::from_millis(160)));
        assert_eq!(pulse.rtt(node), Some(Duration::from_millis(90)));
        pulse.note(node, None);
        assert_eq!(pulse.rtt(node), None);
        pulse.note(node, Some(Duration::from_millis(20)));
        assert_eq!(pulse.rtt(node), Some(Duration::from_millis(20)));
    }
}
