//! Whether this node should take traffic, and why not.
//!
//! ```text
//! starting ──listening, every group connected once──▶ ready ──draining──▶ not ready
//! ```
//!
//! A node becomes ready when it has heard every group: before, it would refuse calls out of
//! ignorance. Afterwards the loss of a quorum does not turn it red: it still carries what it carries,
//! and taking it out of DNS would cut that. `opens_available` says that new sessions are refused
//! here (contract O-LIV-1).
//!
//! Pure but for one latch.

use pontoon_proto::peer::NodeState;
use pontoon_proto::peer::node_state::Stage;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};

/// What readiness is judged by.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Whether every listener is bound and accepts.
    pub listening: bool,
    /// Whether the node is on its way out.
    pub draining: bool,
    /// The catalog and every region's directory, the catalog first.
    pub groups: Vec<GroupFacts>,
    /// How many groups there should be: the regions that the catalog names, and the catalog. While
    /// the catalog names none, the configured ones count.
    pub groups_expected: usize,
}

/// One group as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct GroupFacts {
    /// `catalog` or the region's name.
    pub name: String,
    /// The leader's name, if one is known.
    pub leader: Option<String>,
    /// Whether this node's last quorum-confirmed beat is young enough.
    pub connected: bool,
    /// Raft term.
    pub term: u64,
    /// The newest entry in this node's log.
    pub last_log: u64,
    /// The newest entry known to be committed.
    pub committed: u64,
    /// The newest entry applied to this node's replica.
    pub applied: u64,
    /// How many members vote.
    pub voters: u32,
    /// What a directory counts; none for the catalog.
    pub directory: Option<DirectoryFacts>,
}

/// What one region's directory counts.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the names of the counts")]
pub struct DirectoryFacts {
    pub workers_ready: u64,
    pub workers_other: u64,
    pub slots_free: u64,
    pub sessions_bound: u64,
    pub sessions_held: u64,
    pub sessions_queued: u64,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether to send traffic here.
    pub ready: bool,
    /// Whether a new session can be opened in some region.
    pub opens_available: bool,
    /// Why it is not ready, or what is degraded; empty when all is well.
    pub why_not: Vec<String>,
    /// How far a drain is; left out while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// How far a drain is: what the node still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names of the counts, as in the admin API")]
pub struct Drain {
    /// `draining`, `drained`, or `drained (cut)` when the deadline came before all was done.
    pub stage: &'static str,
    /// How long it may still take.
    pub left_ms: u64,
    pub calls: u64,
    pub connections: u64,
    pub sessions: u64,
    pub tunnels: u64,
    pub relays: u64,
    pub groups_led: u64,
    pub sidecars: u64,
    pub sidecars_only_here: u64,
}

/// The same from a node's state; `None` while it serves.
pub fn drain(state: &NodeState) -> Option<Drain> {
    let stage = match state.stage() {
        Stage::Unspecified | Stage::Serving => return None,
        Stage::Draining => "draining",
        Stage::Drained if state.cut => "drained (cut)",
        Stage::Drained => "drained",
    };
    Some(Drain {
        stage,
        left_ms: state.drain_left_ms,
        calls: state.calls,
        connections: state.connections,
        sessions: state.sessions,
        tunnels: state.tunnels,
        relays: state.relays,
        groups_led: state.groups_led,
        sidecars: state.sidecars,
        sidecars_only_here: state.sidecars_only_here,
    })
}

/// Remembers whether the node has been ready before.
#[derive(Debug, Default)]
pub struct Readiness {
    joined: AtomicBool,
}

impl Readiness {
    /// Judges; once all groups were connected, their loss only degrades.
    pub fn judge(&self, facts: &Facts) -> Verdict {
        let mut why_not = Vec::new();
        let catalog = facts.groups.first().filter(|group| group.name == "catalog");
        for group in &facts.groups {
            let name = &group.name;
            if group.applied == 0 {
                why_not.push(format!("{name}: nothing applied yet"));
            } else if group.leader.is_none() {
                why_not.push(format!("{name}: no leader known"));
            } else if !group.connected {
                why_not.push(format!("{name}: no beat confirmed by a quorum lately"));
            }
        }
        let missing = facts.groups_expected.saturating_sub(facts.groups.len());
        if missing > 0 {
            why_not.push(format!("{missing} groups have not started here yet"));
        }
        let opens_available = catalog.is_some_and(|catalog| catalog.applied > 0)
            && facts.groups.iter().skip(1).any(|group| group.connected);
        if why_not.is_empty() && catalog.is_some() && facts.listening {
            self.joined.store(true, Ordering::Relaxed);
        }
        if !facts.listening {
            why_not.push("the listeners are not up".to_owned());
        }
        if facts.draining {
            why_not.push("draining".to_owned());
        }
        Verdict {
            ready: self.joined.load(Ordering::Relaxed) && facts.listening && !facts.draining,
            opens_available: opens_available && !facts.draining,
            why_not,
            drain: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> GroupFacts {
        GroupFacts {
            name: name.to_owned(),
            leader: Some("a".to_owned()),
            connected: true,
            applied: 3,
            ..Default::default()
        }
    }

    fn healthy() -> Facts {
        Facts {
            listening: true,
            draining: false,
            groups: vec![group("catalog"), group("us-east"), group("us-west")],
            groups_expected: 3,
        }
    }

    #[test]
    fn o_liv_1_a_node_is_ready_once_it_listens_and_has_heard_every_group() {
        let readiness = Readiness::default();
        for (break_it, text) in [
            (
                (|facts| facts.groups[0].applied = 0) as fn(&mut Facts),
                "catalog: nothing applied",
            ),
            (|facts| facts.groups[0].leader = None, "catalog: no leader"),
            (
                |facts| facts.groups[2].connected = false,
                "us-west: no beat",
            ),
            (
                |facts| facts.groups.truncate(2),
                "1 groups have not started",
            ),
            (|facts| facts.listening = false, "listeners"),
        ] {
            let mut facts = healthy();
            break_it(&mut facts);
            let verdict = readiness.judge(&facts);
            assert!(!verdict.ready);
            assert!(verdict.why_not.join(" ").contains(text), "{verdict:?}");
        }
        let verdict = readiness.judge(&healthy());
        assert!(verdict.ready && verdict.opens_available && verdict.why_not.is_empty());
    }

    #[test]
    fn o_liv_1_loss_of_quorum_takes_opens_away_but_not_readiness() {
        let readiness = Readiness::default();
        readiness.judge(&healthy());
        let mut facts = healthy();
        for group in &mut facts.groups {
            group.connected = false;
            group.leader = None;
        }
        let verdict = readiness.judge(&facts);
        assert!(verdict.ready);
        assert!(!verdict.opens_available);
        assert_eq!(verdict.why_not.len(), 3);
        facts.draining = true;
        assert!(!readiness.judge(&facts).ready);
    }
}
