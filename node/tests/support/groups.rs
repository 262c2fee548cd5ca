//! Replicas, looked at from outside: who votes, who listens, and whether all hold the same.

use super::cli;
use super::wait;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long memberships may take to be as they are wanted: a leader acts 3 s after its election,
/// a step at a time, and a change of what a group outlives takes a handful of steps.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// How long replicas may take to stand still at one index after the last write.
const STANDS_WITHIN: Duration = Duration::from_secs(45);

/// One group, as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub leader: String,
    pub voters: BTreeSet<String>,
    pub learners: BTreeSet<String>,
    pub connected: bool,
    pub generation: u64,
    pub term: u64,
    pub applied: u64,
    pub failure_tolerance: i64,
}

/// A number, which JSON may carry as text.
fn number(value: &Value) -> i64 {
    let text = value.as_str().map(str::to_owned);
    let text = text.unwrap_or_else(|| value.to_string());
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is a number"))
}

fn names(value: &Value) -> BTreeSet<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// All groups by name, as a node sees them; `None` when it does not answer.
pub fn seen(admin: &str, token: &str) -> Option<BTreeMap<String, Seen>> {
    let groups = cli::try_ask(admin, token, &["group", "list"])?;
    let all = groups.as_array()?.iter().map(|group| {
        let seen = Seen {
            leader: group["leader"].as_str().unwrap_or_default().to_owned(),
            voters: names(&group["voters"]),
            learners: names(&group["learners"]),
            connected: group["connected"] == true,
            generation: number(&group["generation"]) as u64,
            term: number(&group["term"]) as u64,
            applied: number(&group["applied"]) as u64,
            failure_tolerance: number(&group["failure_tolerance"]),
        };
        (group["name"].as_str().unwrap_or_default().to_owned(), seen)
    });
    Some(all.collect())
}

/// Waits until one node sees all groups in a state.
#[track_caller]
pub fn settle(
    admin: &str,
    token: &str,
    what: &str,
    is_so: impl Fn(&BTreeMap<String, Seen>) -> bool,
) -> BTreeMap<String, Seen> {
    let mut last = None;
    let found = wait::within(SETTLED_WITHIN, || {
        last = seen(admin, token);
        last.clone().filter(&is_so)
    });
    match found {
        Some(found) => found,
        None => panic!("waited {SETTLED_WITHIN:?} in vain: {what}; the last look: {last:#?}"),
    }
}

/// Waits until all these nodes have the same hash of each group at the same index, and the same
/// generation; the generations.
#[track_caller]
pub fn agree(admins: &[String], token: &str) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    let found = wait::within(STANDS_WITHIN, || {
        let mut states: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut generations = BTreeMap::new();
        for admin in admins {
            let groups = cli::try_ask(admin, token, &["group", "hash"])?;
            for group in groups.as_array()? {
                let name = group["name"].as_str()?.to_owned();
                assert_ne!(group["state_hash"], "", "{group}");
                let state = format!(
                    "generation {} applied {} hash {}",
                    group["generation"], group["applied"], group["state_hash"]
                );
                generations.insert(name.clone(), number(&group["generation"]) as u64);
                states.entry(name).or_default().insert(state);
            }
        }
        last = states;
        let equal = last.values().all(|states| states.len() == 1);
        equal.then_some(generations)
    });
    match found {
        Some(found) => found,
        None => panic!("the replicas don't agree within {STANDS_WITHIN:?}: {last:#?}"),
    }
}

/// Remembers terms: a smaller one means that a group was born twice.
#[derive(Debug, Default)]
pub struct Terms(BTreeMap<String, u64>);

impl Terms {
    /// No group has a smaller term than it had.
    #[track_caller]
    pub fn only_rise(&mut self, groups: &BTreeMap<String, Seen>) {
        for (name, group) in groups {
            let before = self.0.insert(name.clone(), group.term).unwrap_or(0);
            assert!(
                group.term >= before,
                "{name}: term {} after {before}",
                group.term
            );
        }
    }
}
