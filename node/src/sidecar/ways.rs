//! In which order the addresses are tried at which a node's CONNECT may land.
//!
//! The node that wants the tunnel names its own address first, and nodes that relay after it. What
//! surely can be reached are the addresses through which this sidecar is attached: a node of the own
//! region, or a load balancer in front of them.
//!
//! Pure: time comes in as a span since any fixed moment.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long an address that could not be reached goes last. Longer than a node's restart would cost a
/// detour; shorter than this would cost each tunnel a wait where only a load balancer can be reached.
const REMEMBER: Duration = Duration::from_secs(60);

/// How many unreachable addresses are remembered.
const FAILED_MAX: usize = 1024;

/// What is known of the ways to nodes.
#[derive(Debug, Default)]
pub(super) struct Ways {
    attached: Vec<String>,
    failed: BTreeMap<String, Duration>,
}

impl Ways {
    /// The addresses through which we are attached now, the own region's first.
    pub(super) fn attached_through(&mut self, addresses: Vec<String>) {
        self.attached = addresses;
    }

    /// The addresses to try for a tunnel, each once.
    pub(super) fn order(&self, now: Duration, named: &[String]) -> Vec<String> {
        let mut order: Vec<String> = Vec::new();
        for address in named.iter().chain(&self.attached) {
            if !order.contains(address) {
                order.push(address.clone());
            }
        }
        order.sort_by_key(|address| {
            let failed = self.failed.get(address);
            failed.is_some_and(|at| now < *at + REMEMBER)
        });
        order
    }

    /// An address could not be reached, or another one answered long before it.
    pub(super) fn failed(&mut self, now: Duration, address: &str) {
        if self.failed.len() >= FAILED_MAX {
            self.failed.retain(|_, at| now < *at + REMEMBER);
        }
        if self.failed.len() < FAILED_MAX {
            self.failed.insert(address.to_owned(), now);
        }
    }

    /// An address was reached.
    pub(super) fn reached(&mut self, address: &str) {
        self.failed.remove(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_comes_first_then_where_we_are_attached_and_last_what_failed_lately() {
        let mut ways = Ways::default();
        ways.attached_through(vec!["lb:1".to_owned(), "n2:1".to_owned()]);
        let named = ["n1:1".to_owned(), "n2:1".to_owned()];
        let at = Duration::from_secs(5);
        assert_eq!(ways.order(at, &named), ["n1:1", "n2:1", "lb:1"]);
        ways.failed(at, "n1:1");
        assert_eq!(ways.order(at, &named), ["n2:1", "lb:1", "n1:1"]);
        assert_eq!(ways.order(at + REMEMBER, &named)[0], "n1:1");
        ways.reached("n1:1");
        assert_eq!(ways.order(at, &named)[0], "n1:1");
    }
}
