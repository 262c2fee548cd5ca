//! Watches the terms of the groups during a run, by what nodes' metrics say.

use super::Elected;
use crate::history::Recorder;
use crate::net;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// How often nodes are asked.
const EVERY: Duration = Duration::from_secs(1);

/// How the series begins.
const SERIES: &str = "pontoon_group_term{group=\"";

/// Asks until it is dropped or read.
#[derive(Debug)]
pub struct Leaders {
    seen: Arc<Mutex<Vec<Elected>>>,
    /// Ends with us.
    _asking: JoinSet<()>,
}

impl Leaders {
    /// Begins to ask nodes, at these ops addresses.
    pub fn watch(nodes: Vec<SocketAddr>, record: &Recorder) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (found, record) = (Arc::clone(&seen), record.clone());
        let mut asking = JoinSet::new();
        asking.spawn(async move {
            let mut terms: BTreeMap<String, u64> = BTreeMap::new();
            loop {
                for node in &nodes {
                    let page = net::get(*node, "/metrics").await.unwrap_or_default();
                    for (group, term) in page.lines().filter_map(term) {
                        // What was there before the first look is no news.
                        let known = terms.entry(group.clone()).or_insert(term);
                        if term > *known {
                            *known = term;
                            let at = record.now();
                            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                            found.push(Elected { at, group, term });
                        }
                    }
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        Self {
            seen,
            _asking: asking,
        }
    }

    /// Stops, and gives what was seen.
    pub fn stop(self) -> Vec<Elected> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A group's term, if the line says one.
fn term(line: &str) -> Option<(String, u64)> {
    let (group, value) = line.strip_prefix(SERIES)?.split_once("\"} ")?;
    Some((group.to_owned(), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_from_a_page_of_metrics() {
        let line = "pontoon_group_term{group=\"us-east\"} 12";
        assert_eq!(term(line), Some(("us-east".to_owned(), 12)));
        assert_eq!(term("# HELP pontoon_group_term Raft's term."), None);
    }
}
