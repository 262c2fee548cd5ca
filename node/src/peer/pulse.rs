//! The pulse of the other nodes: a ping each second to each, reachable or not, and how far away.

use super::Peers;
use crate::clock;
use crate::tasks;
use futures::future::join_all;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer::NodeState;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often every node is pinged, and how long it has to answer: at most one ping per node is ever
/// under way.
const EVERY: Duration = Duration::from_secs(1);

/// Smoothed round trips of the nodes that answered their last ping.
#[derive(Default)]
pub(super) struct Pulse(Mutex<BTreeMap<NodeId, Beat>>);

/// What is known of a node that answered its last ping.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Beat {
    rtt: Duration,
    /// When it was asked, and what it said of itself.
    asked: Instant,
    state: Option<NodeState>,
}

impl Pulse {
    pub(super) fn rtt(&self, node: NodeId) -> Option<Duration> {
        Some(self.table().get(&node)?.rtt)
    }

    /// What it said of itself.
    pub(super) fn state(&self, node: NodeId) -> Option<NodeState> {
        self.table().get(&node)?.state
    }

    /// Notes an answer, smoothed as TCP smooths its own (RFC 6298: an eighth of the new sample), or
    /// its absence, after which smoothing starts anew.
    fn note(&self, node: NodeId, answer: Option<Beat>) {
        let mut table = self.table();
        match (answer, table.get(&node).copied()) {
            (None, _) => table.remove(&node),
            (Some(first), None) => table.insert(node, first),
            (Some(answer), Some(old)) => {
                let newer = if old.asked > answer.asked {
                    old
                } else {
                    answer
                };
                let rtt = (old.rtt * 7 + answer.rtt) / 8;
                table.insert(node, Beat { rtt, ..newer })
            }
        };
    }

    /// Notes what a node has said of itself just now; an answer to an earlier ping does not undo it.
    pub(super) fn told(&self, node: NodeId, state: NodeState) {
        if let Some(beat) = self.table().get_mut(&node) {
            beat.asked = clock::now();
            beat.state = Some(state);
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Beat>> {
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
                    let asked = clock::now();
                    let answer = peers.hello(node, EVERY).await;
                    let beat = answer.map(|(reply, rtt)| Beat {
                        rtt,
                        asked,
                        state: reply.state,
                    });
                    peers.0.pulse.note(node, beat.ok());
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
        let asked = clock::now();
        let beat = |rtt| {
            Some(Beat {
                rtt,
                asked,
                state: None,
            })
        };
        pulse.note(node, beat(Duration::from_millis(80)));
        pulse.note(node, beat(Duration::from_millis(160)));
        assert_eq!(pulse.rtt(node), Some(Duration::from_millis(90)));
        pulse.note(node, None);
        assert_eq!(pulse.rtt(node), None);
        pulse.note(node, beat(Duration::from_millis(20)));
        assert_eq!(pulse.rtt(node), Some(Duration::from_millis(20)));
    }
}
