//! In which order the addresses are tried at which a node's CONNECT may land, and how long each is
//! waited for before the next one is tried as well.
//!
//! The node that wants the tunnel names its own address first, and nodes that relay after it. What
//! surely can be reached are the addresses through which this sidecar is attached: a node of the own
//! region, or a load balancer in front of them.
//!
//! The named order stands until tunnels have shown another one to be better. How long a tunnel took is
//! remembered per node that wants it and address, because a relay is as far as both its hops. While the
//! first address is far away, the others are tried first once, each, so that a faster one is found.
//!
//! Pure: time comes in as a span since any fixed moment.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long an address that could not be reached goes last. Longer than a node's restart would cost a
/// detour; shorter than this would cost each tunnel a wait where only a load balancer can be reached.
const REMEMBER: Duration = Duration::from_secs(60);

/// How often that doubles while it fails again and again, to 4 minutes.
const DOUBLES: u32 = 2;

/// How many unreachable addresses are remembered, and how many times of tunnels; at about 150 bytes
/// each.
const MOST: usize = 1024;

/// The longest that an address is waited for before the next one is dialed as well, and what one gets
/// whose time is not known: above a handshake of TCP and TLS within a continent, and small against the
/// 2 s that a node waits for a tunnel.
const HEAD_START: Duration = Duration::from_millis(400);

/// The shortest: a busy process answers this late without being far away.
const HEAD_START_MIN: Duration = Duration::from_millis(100);

/// How long a measured time counts. Routes change by the hour; every dial by an address renews its own.
const FRESH: Duration = Duration::from_secs(600);

/// A first address that takes at least so long is far: below, no relay saves what trying it costs. Another
/// one is preferred that takes four fifths of it or less; noise is less.
const FAR: Duration = Duration::from_millis(50);

/// One address to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) address: String,
    /// How long it is waited for before the next one is tried as well.
    pub(super) head_start: Duration,
}

/// How long tunnels took.
#[derive(Clone, Copy, Debug)]
struct Measured {
    took: Duration,
    at: Duration,
}

/// What is known of the ways to nodes.
#[derive(Debug, Default)]
pub(super) struct Ways {
    attached: Vec<String>,
    /// Until when each goes last, and how often it has failed in a row.
    failed: BTreeMap<String, (Duration, u32)>,
    /// By the address of the node that wants the tunnel, and the one that was dialed.
    measured: BTreeMap<(String, String), Measured>,
}

impl Ways {
    /// The addresses through which we are attached now, the own region's first.
    pub(super) fn attached_through(&mut self, addresses: Vec<String>) {
        self.attached = addresses;
    }

    /// The ways to try for a tunnel, each address once. The first name is that of the node itself.
    pub(super) fn order(&self, now: Duration, named: &[String]) -> Vec<Way> {
        let mut order: Vec<String> = Vec::new();
        for address in named.iter().chain(&self.attached) {
            if !order.contains(address) {
                order.push(address.clone());
            }
        }
        order.sort_by_key(|address| self.has_failed(now, address));
        let good = order
            .iter()
            .take_while(|address| !self.has_failed(now, address))
            .count();
        let node = named.first().map_or("", String::as_str);
        if let Some(better) = self.better(now, node, &order[..good]) {
            order[..=better].rotate_right(1);
        }
        let ways = order.into_iter().map(|address| Way {
            head_start: self.head_start(now, node, &address),
            address,
        });
        ways.collect()
    }

    /// The place of an address that shall come before the first one: one that is known to be faster, or
    /// one that may be and was not tried lately.
    fn better(&self, now: Duration, node: &str, order: &[String]) -> Option<usize> {
        let first = self.took(now, node, order.first()?)?;
        let others = || (1..).zip(&order[1..]);
        if first < FAR {
            return None;
        }
        let times = others().filter_map(|(at, one)| Some((self.took(now, node, one)?, at)));
        if let Some((took, at)) = times.min()
            && took + took / 4 < first
        {
            return Some(at);
        }
        let mut unknown = others().filter(|(_, one)| self.took(now, node, one).is_none());
        unknown.next().map(|(at, _)| at)
    }

    /// How long a tunnel to a node takes by an address, if that was measured lately.
    fn took(&self, now: Duration, node: &str, address: &str) -> Option<Duration> {
        let key = (node.to_owned(), address.to_owned());
        let known = self.measured.get(&key)?;
        (now < known.at + FRESH).then_some(known.took)
    }

    fn head_start(&self, now: Duration, node: &str, address: &str) -> Duration {
        // Three times what it takes is late for TCP too (RFC 6298: the mean and four deviations).
        let took = self.took(now, node, address);
        took.map_or(HEAD_START, |took| {
            (took * 3).clamp(HEAD_START_MIN, HEAD_START)
        })
    }

    fn has_failed(&self, now: Duration, address: &str) -> bool {
        let failed = self.failed.get(address);
        failed.is_some_and(|(until, _)| now < *until)
    }

    /// An address could not be reached, or another one answered long before it.
    pub(super) fn failed(&mut self, now: Duration, address: &str) {
        if self.failed.len() >= MOST {
            self.failed.retain(|_, (until, _)| now < *until);
        }
        if self.failed.len() < MOST {
            let times = self.failed.get(address).map_or(0, |(_, times)| *times);
            let until = now + REMEMBER * (1 << times.min(DOUBLES));
            let failed = (until, times.saturating_add(1));
            self.failed.insert(address.to_owned(), failed);
        }
    }

    /// An address was reached.
    pub(super) fn reached(&mut self, address: &str) {
        self.failed.remove(address);
    }

    /// A tunnel came up by an address, so long after that was dialed. Smoothed as TCP smooths round
    /// trips (RFC 6298: an eighth of the new sample).
    pub(super) fn measured(&mut self, now: Duration, node: &str, address: &str, took: Duration) {
        let key = (node.to_owned(), address.to_owned());
        let took = match self.took(now, node, address) {
            Some(before) => (before * 7 + took) / 8,
            None => took,
        };
        if self.measured.len() >= MOST && !self.measured.contains_key(&key) {
            self.measured.retain(|_, one| now < one.at + FRESH);
        }
        if self.measured.len() < MOST || self.measured.contains_key(&key) {
            self.measured.insert(key, Measured { took, at: now });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Attached through a load balancer and a node that is named too.
    fn ways() -> (Ways, [String; 2]) {
        let mut ways = Ways::default();
        ways.attached_through(vec!["lb:1".to_owned(), "n2:1".to_owned()]);
        (ways, ["n1:1".to_owned(), "n2:1".to_owned()])
    }

    fn order(ways: &Ways, now: Duration, named: &[String]) -> Vec<String> {
        let ways = ways.order(now, named).into_iter();
        ways.map(|way| way.address).collect()
    }

    #[test]
    fn what_is_named_comes_first_then_where_we_are_attached_and_last_what_failed_lately() {
        let (mut ways, named) = ways();
        assert_eq!(order(&ways, AT, &named), ["n1:1", "n2:1", "lb:1"]);
        ways.failed(AT, "n1:1");
        assert_eq!(order(&ways, AT, &named), ["n2:1", "lb:1", "n1:1"]);
        let again = AT + REMEMBER;
        assert_eq!(order(&ways, again, &named)[0], "n1:1");
        ways.failed(again, "n1:1");
        assert_eq!(order(&ways, again + REMEMBER, &named)[0], "n2:1");
        assert_eq!(order(&ways, again + 2 * REMEMBER, &named)[0], "n1:1");
        ways.reached("n1:1");
        assert_eq!(order(&ways, AT, &named)[0], "n1:1");
    }

    #[test]
    fn a_far_node_has_each_other_way_tried_once_and_then_the_fastest_comes_first() {
        let (mut ways, named) = ways();
        ways.measured(AT, "n1:1", "n1:1", ms(200));
        assert_eq!(order(&ways, AT, &named), ["n2:1", "n1:1", "lb:1"]);
        ways.measured(AT, "n1:1", "n2:1", ms(190));
        assert_eq!(order(&ways, AT, &named), ["lb:1", "n1:1", "n2:1"]);
        ways.measured(AT, "n1:1", "lb:1", ms(120));
        assert_eq!(order(&ways, AT, &named), ["lb:1", "n1:1", "n2:1"]);
        // What holds for one node says nothing of another.
        let other = ["n3:1".to_owned()];
        assert_eq!(order(&ways, AT, &other)[0], "n3:1");
        // Without news the named order is measured anew.
        assert_eq!(order(&ways, AT + FRESH, &named)[0], "n1:1");
    }

    #[test]
    fn a_near_node_is_dialed_directly_and_a_little_faster_is_not_better() {
        let (mut ways, named) = ways();
        ways.measured(AT, "n1:1", "n1:1", ms(4));
        assert_eq!(order(&ways, AT, &named)[0], "n1:1");
        ways.measured(AT, "n1:1", "n2:1", ms(1));
        assert_eq!(order(&ways, AT, &named)[0], "n1:1");
        // One slow tunnel does not make it far.
        ways.measured(AT, "n1:1", "n1:1", ms(300));
        assert_eq!(order(&ways, AT, &named)[0], "n1:1");
    }

    #[test]
    fn a_fast_way_that_can_not_be_reached_goes_last_all_the_same() {
        let (mut ways, named) = ways();
        ways.measured(AT, "n1:1", "n1:1", ms(200));
        ways.measured(AT, "n1:1", "lb:1", ms(20));
        ways.measured(AT, "n1:1", "n2:1", ms(190));
        assert_eq!(order(&ways, AT, &named)[0], "lb:1");
        ways.failed(AT, "lb:1");
        assert_eq!(order(&ways, AT, &named), ["n1:1", "n2:1", "lb:1"]);
    }

    #[test]
    fn a_head_start_is_three_times_what_the_way_takes_within_bounds() {
        let (mut ways, named) = ways();
        for (took, waits) in [(1, 100), (40, 120), (300, 400)] {
            let mut ways = Ways::default();
            ways.measured(AT, "n1:1", "n1:1", ms(took));
            assert_eq!(ways.order(AT, &named)[0].head_start, ms(waits));
        }
        assert_eq!(ways.order(AT, &named)[0].head_start, HEAD_START);
        ways.failed(AT, "n1:1");
        assert_eq!(ways.order(AT, &named)[0].head_start, HEAD_START);
    }
}
