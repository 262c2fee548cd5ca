//! Which nodes to attach to (contract K-ATT-2): at least two, of the own region first.
//!
//! Pure: time comes in as a span since any fixed moment.

use std::collections::BTreeMap;
use std::time::Duration;

/// How many nodes a sidecar attaches to. The loss of any one of two costs no session.
const WANT: usize = 2;

/// How many links may be open or dialed at once: the wanted ones, one more to reach the own region,
/// and one beside a dial that hangs.
const LINKS_MAX: usize = 4;

/// A dial that takes longer than this no longer holds the place of another.
const SLOW: Duration = Duration::from_secs(1);

/// How many node addresses are kept.
const KNOWN_MAX: usize = 1024;

/// Delays after failed links double from the first to the last, with jitter.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A node that leaves is left alone for so long.
const LEAVING_REST: Duration = Duration::from_secs(30);

/// A node as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// host:port of its worker listener.
    pub(super) address: String,
    /// Its name, once it or another node has told.
    pub(super) name: Option<String>,
    /// Its region, likewise.
    pub(super) region: Option<String>,
}

#[derive(Clone, Debug)]
struct Link {
    since: Duration,
    /// The node's name, once it has welcomed us.
    welcomed_by: Option<String>,
}

/// The nodes, and what we have with each.
#[derive(Debug)]
pub(super) struct Roster {
    region: String,
    known: Vec<Known>,
    links: BTreeMap<String, Link>,
    resting: BTreeMap<String, (Duration, u32)>,
}

impl Roster {
    /// Starts from configured addresses, tried in their order.
    pub(super) fn new(region: &str, addresses: &[String]) -> Self {
        let unknown = |address: &String| Known {
            address: address.clone(),
            name: None,
            region: None,
        };
        Self {
            region: region.to_owned(),
            known: addresses.iter().map(unknown).collect(),
            links: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// A node told of the cluster's nodes. Configured addresses stay: they may be a load balancer's.
    pub(super) fn learn(&mut self, nodes: impl IntoIterator<Item = Known>) {
        for node in nodes {
            let same = |k: &Known| k.address == node.address;
            match self.known.iter().position(same) {
                Some(at) => self.known[at] = node,
                None if self.known.len() < KNOWN_MAX => self.known.push(node),
                None => {}
            }
        }
    }

    /// The address to dial now, if one more link is wanted.
    pub(super) fn next(&self, now: Duration) -> Option<String> {
        if self.links.len() >= LINKS_MAX {
            return None;
        }
        let counts = |link: &&Link| link.welcomed_by.is_some() || now < link.since + SLOW;
        let counted = self.links.values().filter(counts).count();
        let mut candidates = self.known.iter().filter(|known| self.is_free(known, now));
        let mut others = candidates.clone();
        let own = candidates.find(|known| known.region.as_ref() == Some(&self.region));
        if counted < WANT {
            own.or_else(|| others.next()).map(|k| k.address.clone())
        } else if self.is_at_home() {
            None
        } else {
            own.map(|known| known.address.clone())
        }
    }

    fn is_free(&self, known: &Known, now: Duration) -> bool {
        let linked = self.links.contains_key(&known.address);
        let rests = self
            .resting
            .get(&known.address)
            .is_some_and(|(until, _)| now < *until);
        !linked && !rests && !known.name.as_ref().is_some_and(|name| self.has(name))
    }

    fn has(&self, name: &str) -> bool {
        let by = |link: &Link| link.welcomed_by.as_deref() == Some(name);
        self.links.values().any(by)
    }

    /// Whether a link to the own region stands or is being made, as far as is known.
    fn is_at_home(&self) -> bool {
        self.known.iter().any(|known| {
            known.region.as_ref() == Some(&self.region)
                && (self.links.contains_key(&known.address)
                    || known.name.as_ref().is_some_and(|name| self.has(name)))
        })
    }

    /// A link is being made.
    pub(super) fn dialing(&mut self, address: &str, now: Duration) {
        let link = Link {
            since: now,
            welcomed_by: None,
        };
        self.links.insert(address.to_owned(), link);
    }

    /// A node has welcomed us; false when it is one that we are attached to by another address.
    pub(super) fn welcomed(&mut self, address: &str, name: &str) -> bool {
        if self.has(name) {
            return false;
        }
        if let Some(link) = self.links.get_mut(address) {
            link.welcomed_by = Some(name.to_owned());
        }
        self.resting.remove(address);
        true
    }

    /// A link has ended. `jitter` is in 0..1.
    pub(super) fn ended(&mut self, address: &str, now: Duration, jitter: f64) {
        self.links.remove(address);
        let tries = self.resting.get(address).map_or(0, |(_, tries)| *tries);
        let rest = REST.0.saturating_mul(1 << tries.min(8)).min(REST.1);
        let until = now + rest.mul_f64(0.5 + jitter / 2.0);
        self.resting
            .insert(address.to_owned(), (until, tries.saturating_add(1)));
    }

    /// A node leaves: its link no longer counts, and it is not asked again for a while.
    pub(super) fn leaving(&mut self, address: &str, now: Duration) {
        self.links.remove(address);
        self.resting
            .insert(address.to_owned(), (now + LEAVING_REST, 0));
    }

    /// The names of the nodes that have welcomed us.
    pub(super) fn attached(&self) -> Vec<String> {
        let names = self.links.values().filter_map(|l| l.welcomed_by.clone());
        names.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, region: &str) -> Known {
        Known {
            address: format!("{name}:10086"),
            name: Some(name.to_owned()),
            region: Some(region.to_owned()),
        }
    }

    fn attach(roster: &mut Roster, now: u64) -> Option<String> {
        let now = Duration::from_secs(now);
        let address = roster.next(now)?;
        roster.dialing(&address, now);
        let name = address.split(':').next().unwrap().to_owned();
        assert!(roster.welcomed(&address, &name));
        Some(name)
    }

    #[test]
    fn k_att_2_two_nodes_are_attached_the_own_region_first() {
        let mut roster = Roster::new("b", &["a1:10086".to_owned()]);
        roster.learn([
            node("a1", "a"),
            node("a2", "a"),
            node("b1", "b"),
            node("c1", "c"),
        ]);
        assert_eq!(attach(&mut roster, 0).as_deref(), Some("b1"));
        assert_eq!(attach(&mut roster, 0).as_deref(), Some("a1"));
        assert_eq!(attach(&mut roster, 0), None);
        roster.ended("b1:10086", Duration::ZERO, 0.0);
        assert_eq!(attach(&mut roster, 0).as_deref(), Some("a2"));
        // The own region is sought even though two nodes are attached.
        assert_eq!(attach(&mut roster, 1).as_deref(), Some("b1"));
        assert_eq!(attach(&mut roster, 1), None);
    }

    #[test]
    fn k_att_2_failed_nodes_rest_at_most_a_second() {
        let mut roster = Roster::new("b", &["x:1".to_owned()]);
        let mut now = Duration::ZERO;
        for _ in 0..20 {
            roster.dialing("x:1", now);
            roster.ended("x:1", now, 1.0);
            assert_eq!(roster.next(now), None);
            now += Duration::from_secs(1);
            assert_eq!(roster.next(now).as_deref(), Some("x:1"));
        }
    }

    #[test]
    fn one_node_behind_two_addresses_is_attached_once() {
        let mut roster = Roster::new("b", &["x:1".to_owned(), "y:1".to_owned()]);
        roster.dialing("x:1", Duration::ZERO);
        roster.dialing("y:1", Duration::ZERO);
        assert!(roster.welcomed("x:1", "n"));
        assert!(!roster.welcomed("y:1", "n"));
        assert_eq!(roster.attached(), ["n"]);
    }

    #[test]
    fn a_dial_that_hangs_makes_room_for_another() {
        let addresses = ["x:1", "y:1", "z:1"].map(str::to_owned);
        let mut roster = Roster::new("b", &addresses);
        roster.dialing("x:1", Duration::ZERO);
        roster.dialing("y:1", Duration::ZERO);
        assert_eq!(roster.next(Duration::ZERO), None);
        let next = roster.next(Duration::from_secs(1));
        assert_eq!(next.as_deref(), Some("z:1"));
    }
}
