//! Which nodes to attach to (contract K-ATT-2): at least two, of the own region first.
//!
//! A configured address may be a load balancer's: then it has several nodes behind it, and which one a
//! new connection meets is not ours to choose. So such an address may have several links, one dial at a
//! time; a dial that meets a node that we have already is made again, each time after a longer rest.
//!
//! Pure: time comes in as a span since any fixed moment.

use std::collections::{BTreeMap, BTreeSet};
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

/// The last delay of an address that meets a node that we have already: with two nodes behind it, one
/// dial in a hundred gets that far; with one node, this is what the search for another one costs.
const SAME_REST: Duration = Duration::from_secs(10);

/// A node that leaves is left alone for so long, ...
const LEAVING_REST: Duration = Duration::from_secs(30);

/// ... or for so long after it has closed the link: then it has stopped, and a restart takes seconds.
const LEFT_REST: Duration = Duration::from_secs(1);

/// A node as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// host:port of its worker listener.
    pub(super) address: String,
    /// Its name, once it or another node has told; none where several nodes have this address.
    pub(super) name: Option<String>,
    /// Its region, likewise; that of all nodes with this address, if it is one.
    pub(super) region: Option<String>,
}

/// One of our links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId(u64);

/// How a link ended, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It broke, or was never made.
    Failed,
    /// It met a node that we are attached to already.
    Same,
}

#[derive(Clone, Debug)]
struct Link {
    address: String,
    since: Duration,
    /// The node's name, once it has welcomed us.
    welcomed_by: Option<String>,
}

/// The nodes, and what we have with each.
#[derive(Debug)]
pub(super) struct Roster {
    region: String,
    /// The configured addresses first, then what nodes told of.
    known: Vec<Known>,
    configured: usize,
    /// The nodes of the own region, as nodes told.
    home: BTreeSet<String>,
    /// The node that each configured address has met last.
    met: BTreeMap<String, String>,
    links: BTreeMap<LinkId, Link>,
    /// Links to nodes that leave: open, and not counted.
    left: BTreeMap<LinkId, Link>,
    next_link: u64,
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
            configured: addresses.len(),
            home: BTreeSet::new(),
            met: BTreeMap::new(),
            links: BTreeMap::new(),
            left: BTreeMap::new(),
            next_link: 0,
            resting: BTreeMap::new(),
        }
    }

    /// A node told of the cluster's nodes: what others told before counts no more. Configured addresses
    /// stay: they may be a load balancer's. So may an address that several nodes advertise.
    pub(super) fn learn(&mut self, nodes: impl IntoIterator<Item = Known>) {
        let nodes: Vec<Known> = nodes.into_iter().take(KNOWN_MAX).collect();
        if nodes.is_empty() {
            return;
        }
        self.known.truncate(self.configured);
        for known in &mut self.known {
            (known.name, known.region) = (None, None);
        }
        let own = nodes
            .iter()
            .filter(|node| node.region.as_ref() == Some(&self.region));
        self.home = own.filter_map(|node| node.name.clone()).collect();
        let mut told = BTreeSet::new();
        for node in nodes {
            let first = told.insert(node.address.clone());
            let same = |k: &&mut Known| k.address == node.address;
            match self.known.iter_mut().find(same) {
                Some(known) if first => *known = node,
                Some(known) => {
                    known.name = None;
                    known.region = known
                        .region
                        .take()
                        .filter(|one| Some(one) == node.region.as_ref());
                }
                None => self.known.push(node),
            }
        }
        let (known, met) = (&self.known, &self.met);
        self.resting.retain(|address, _| {
            known.iter().any(|k| k.address == *address) || met.contains_key(address)
        });
    }

    /// The address to dial now, if one more link is wanted.
    pub(super) fn next(&self, now: Duration) -> Option<String> {
        if self.links.len() >= LINKS_MAX {
            return None;
        }
        let counts = |link: &&Link| link.welcomed_by.is_some() || now < link.since + SLOW;
        let counted = self.links.values().filter(counts).count();
        if counted >= WANT && self.is_at_home() {
            return None;
        }
        let free = self.known.iter().filter(|known| self.is_free(known, now));
        let wanted = free.filter(|known| counted < WANT || self.is_own(known));
        let failing = |known: &Known| self.resting.contains_key(&known.address);
        wanted
            .min_by_key(|known| (failing(known), !self.is_own(known)))
            .map(|known| known.address.clone())
    }

    /// Whether an address may be dialed. One that no node calls its own, or that several do, may lead to
    /// several nodes.
    fn is_free(&self, known: &Known, now: Duration) -> bool {
        let several = known.name.is_none();
        let blocks =
            |link: &Link| link.address == known.address && (!several || link.welcomed_by.is_none());
        let rests = self
            .resting
            .get(&known.address)
            .is_some_and(|(until, _)| now < *until);
        !self.links.values().any(blocks)
            && !rests
            && !known.name.as_ref().is_some_and(|name| self.has(name))
    }

    fn has(&self, name: &str) -> bool {
        let by = |link: &Link| link.welcomed_by.as_deref() == Some(name);
        self.links.values().any(by)
    }

    /// Whether an address is of the own region: by what nodes told of it, or of the node that it met.
    fn is_own(&self, known: &Known) -> bool {
        match &known.region {
            Some(region) => *region == self.region,
            None => self
                .met
                .get(&known.address)
                .is_some_and(|name| self.is_home(name)),
        }
    }

    /// Whether a node is of the own region.
    fn is_home(&self, name: &str) -> bool {
        self.home.contains(name)
    }

    /// Whether a link to the own region stands or is being made, as far as is known.
    fn is_at_home(&self) -> bool {
        self.links.values().any(|link| match &link.welcomed_by {
            Some(name) => self.is_home(name),
            None => self
                .known
                .iter()
                .any(|known| known.address == link.address && self.is_own(known)),
        })
    }

    /// A link is being made.
    pub(super) fn dialing(&mut self, address: &str, now: Duration) -> LinkId {
        let link = Link {
            address: address.to_owned(),
            since: now,
            welcomed_by: None,
        };
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(id, link);
        id
    }

    /// A node has welcomed us; false when it is one that we are attached to by another link.
    pub(super) fn welcomed(&mut self, link: LinkId, name: &str) -> bool {
        if self.has(name) {
            return false;
        }
        if let Some(link) = self.links.get_mut(&link) {
            link.welcomed_by = Some(name.to_owned());
            self.resting.remove(&link.address);
            if self.known[..self.configured]
                .iter()
                .any(|known| known.address == link.address)
            {
                self.met.insert(link.address.clone(), name.to_owned());
            }
        }
        true
    }

    /// A link has ended. `jitter` is in 0..1.
    pub(super) fn ended(&mut self, link: LinkId, outcome: Outcome, now: Duration, jitter: f64) {
        if let Some(Link { address, .. }) = self.left.remove(&link) {
            let rest = LEFT_REST.mul_f64(0.5 + jitter / 2.0);
            self.resting.insert(address, (now + rest, 0));
            return;
        }
        let Some(Link { address, .. }) = self.links.remove(&link) else {
            return;
        };
        // Without any link, the node that has us is about to notice that it doesn't.
        let most = match outcome {
            Outcome::Same if !self.attached().is_empty() => SAME_REST,
            _ => REST.1,
        };
        let tries = self.resting.get(&address).map_or(0, |(_, tries)| *tries);
        let rest = REST.0.saturating_mul(1 << tries.min(8)).min(most);
        let until = now + rest.mul_f64(0.5 + jitter / 2.0);
        self.resting
            .insert(address, (until, tries.saturating_add(1)));
    }

    /// A node leaves: its link no longer counts, and it is not asked again for a while. Behind a load
    /// balancer's address there are others.
    pub(super) fn leaving(&mut self, link: LinkId, now: Duration) {
        let Some(known) = self.links.remove(&link) else {
            return;
        };
        let address = known.address.clone();
        self.left.insert(link, known);
        let mut known = self.known.iter();
        let several = known.any(|known| known.address == address && known.name.is_none());
        let rest = if several { REST.0 } else { LEAVING_REST };
        self.resting.insert(address, (now + rest, 0));
    }

    /// A node that said it would leave stays: its link counts again.
    pub(super) fn staying(&mut self, link: LinkId) {
        if let Some(known) = self.left.remove(&link) {
            self.resting.remove(&known.address);
            self.links.insert(link, known);
        }
    }

    /// The names of the nodes that have welcomed us.
    pub(super) fn attached(&self) -> Vec<String> {
        let names = self.links.values().filter_map(|l| l.welcomed_by.clone());
        names.collect()
    }

    /// The addresses through which nodes have welcomed us, those that lead to the own region first.
    pub(super) fn reached(&self) -> Vec<String> {
        let welcomed = self.links.values().filter_map(|link| {
            let name = link.welcomed_by.as_ref()?;
            Some((!self.is_home(name), link.address.clone()))
        });
        let mut welcomed: Vec<_> = welcomed.collect();
        welcomed.sort();
        welcomed.dedup();
        welcomed.into_iter().map(|(_, address)| address).collect()
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

    fn attach(roster: &mut Roster, now: u64) -> Option<(String, LinkId)> {
        let now = Duration::from_secs(now);
        let address = roster.next(now)?;
        let link = roster.dialing(&address, now);
        let name = address.split(':').next().unwrap().to_owned();
        assert!(roster.welcomed(link, &name));
        Some((name, link))
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
        let (first, home) = attach(&mut roster, 0).unwrap();
        assert_eq!(first, "b1");
        assert_eq!(attach(&mut roster, 0).unwrap().0, "a1");
        assert_eq!(attach(&mut roster, 0), None);
        roster.ended(home, Outcome::Failed, Duration::ZERO, 0.0);
        assert_eq!(attach(&mut roster, 0).unwrap().0, "a2");
        // The own region is sought even though two nodes are attached.
        assert_eq!(attach(&mut roster, 1).unwrap().0, "b1");
        assert_eq!(attach(&mut roster, 1), None);
    }

    #[test]
    fn k_att_2_failed_nodes_rest_at_most_a_second() {
        let mut roster = Roster::new("b", &["x:1".to_owned()]);
        let mut now = Duration::ZERO;
        for _ in 0..20 {
            let link = roster.dialing("x:1", now);
            roster.ended(link, Outcome::Failed, now, 1.0);
            assert_eq!(roster.next(now), None);
            now += Duration::from_secs(1);
            assert_eq!(roster.next(now).as_deref(), Some("x:1"));
        }
    }

    #[test]
    fn one_node_behind_two_addresses_is_attached_once() {
        let mut roster = Roster::new("b", &["x:1".to_owned(), "y:1".to_owned()]);
        let x = roster.dialing("x:1", Duration::ZERO);
        let y = roster.dialing("y:1", Duration::ZERO);
        assert!(roster.welcomed(x, "n"));
        assert!(!roster.welcomed(y, "n"));
        assert_eq!(roster.attached(), ["n"]);
    }

    #[test]
    fn k_att_2_a_node_that_leaves_does_not_count_until_it_says_that_it_stays() {
        let mut roster = Roster::new("b", &["b1:10086".to_owned()]);
        roster.learn([node("b1", "b"), node("b2", "b"), node("b3", "b")]);
        let (first, link) = attach(&mut roster, 0).unwrap();
        attach(&mut roster, 0).unwrap();
        assert_eq!(attach(&mut roster, 0), None);
        roster.leaving(link, Duration::ZERO);
        assert_eq!(attach(&mut roster, 1).unwrap().0, "b3");
        assert!(!roster.attached().contains(&first));
        roster.staying(link);
        assert!(roster.attached().contains(&first));
        roster.leaving(link, Duration::ZERO);
        roster.ended(link, Outcome::Failed, Duration::ZERO, 1.0);
        roster.staying(link);
        assert!(!roster.attached().contains(&first), "it is closed");
    }

    #[test]
    fn a_node_that_left_and_stopped_is_tried_again_while_a_rolling_restart_goes_on() {
        let mut roster = Roster::new("b", &["b1:10086".to_owned()]);
        roster.learn([node("b1", "b"), node("b2", "b")]);
        let (_, first) = attach(&mut roster, 0).unwrap();
        let (_, second) = attach(&mut roster, 0).unwrap();
        roster.leaving(first, Duration::ZERO);
        let second_later = LEAVING_REST - Duration::from_secs(1);
        assert_eq!(roster.next(second_later), None, "it is still leaving");
        roster.ended(first, Outcome::Failed, Duration::from_secs(5), 1.0);
        assert_eq!(roster.next(Duration::from_millis(5_900)), None);
        roster.leaving(second, Duration::from_secs(6));
        let back = roster.next(Duration::from_secs(6));
        assert_eq!(back.as_deref(), Some("b1:10086"));
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

    /// A load balancer in front of these nodes of region `b`, and two more of region `a` that can't be
    /// reached but are told of.
    fn balanced() -> Roster {
        let mut roster = Roster::new("b", &["lb:1".to_owned(), "far:1".to_owned()]);
        let link = roster.dialing("lb:1", Duration::ZERO);
        assert!(roster.welcomed(link, "b1"));
        roster.learn([node("b1", "b"), node("b2", "b"), node("a1", "a")]);
        roster
    }

    #[test]
    fn k_att_2_one_address_of_a_load_balancer_is_dialed_until_two_nodes_are_met() {
        let mut roster = balanced();
        let mut now = Duration::ZERO;
        let mut rests = Vec::new();
        while rests.len() < 8 {
            assert!(now < Duration::from_secs(60), "{roster:?}");
            if let Some(address) = roster.next(now) {
                let link = roster.dialing(&address, now);
                // What is told of and can't be reached does not stand in the way.
                let outcome = match address.as_str() {
                    "lb:1" => {
                        assert!(!roster.welcomed(link, "b1"), "it is met again");
                        rests.push(now);
                        Outcome::Same
                    }
                    _ => Outcome::Failed,
                };
                roster.ended(link, outcome, now, 1.0);
            }
            now += Duration::from_millis(50);
        }
        let last = rests[7] - rests[6];
        assert!(
            last >= Duration::from_secs(6),
            "longer each time: {rests:?}"
        );
        now += SAME_REST;
        assert_eq!(roster.next(now).as_deref(), Some("lb:1"));
        let link = roster.dialing("lb:1", now);
        assert!(roster.welcomed(link, "b2"));
        assert_eq!(roster.attached(), ["b1", "b2"]);
        assert_eq!(roster.next(now), None);
        assert_eq!(roster.reached(), ["lb:1"]);
    }

    #[test]
    fn k_att_2_an_address_that_several_nodes_advertise_is_dialed_until_two_of_them_are_met() {
        let told = |name: &str, region: &str| Known {
            address: format!("lb-{region}:1"),
            ..node(name, region)
        };
        let all = || [("b1", "b"), ("b2", "b"), ("a1", "a"), ("a2", "a")];
        let mut roster = Roster::new("b", &["lb-b:1".to_owned()]);
        let mut links = Vec::new();
        for (name, _) in &all()[..2] {
            assert_eq!(roster.next(Duration::ZERO).as_deref(), Some("lb-b:1"));
            let link = roster.dialing("lb-b:1", Duration::ZERO);
            assert!(roster.welcomed(link, name));
            links.push(link);
            roster.learn(all().map(|(name, region)| told(name, region)));
        }
        assert_eq!(roster.next(Duration::ZERO), None, "two, and at home");
        for link in links {
            roster.ended(link, Outcome::Failed, Duration::ZERO, 1.0);
        }
        for name in ["a1", "a2"] {
            assert_eq!(roster.next(Duration::ZERO).as_deref(), Some("lb-a:1"));
            let link = roster.dialing("lb-a:1", Duration::ZERO);
            assert!(roster.welcomed(link, name));
        }
        let later = Duration::from_secs(1);
        assert_eq!(roster.next(later).as_deref(), Some("lb-b:1"), "home again");
        let link = roster.dialing("lb-b:1", later);
        assert!(roster.welcomed(link, "b2"));
        assert_eq!(roster.next(later), None);
    }

    #[test]
    fn k_att_2_without_the_own_regions_load_balancer_another_one_serves_until_it_is_back() {
        let mut roster = balanced();
        let near = LinkId(0);
        roster.ended(near, Outcome::Failed, Duration::ZERO, 1.0);
        let mut now = Duration::ZERO;
        let mut far = 0;
        while far < 2 {
            now += Duration::from_millis(50);
            assert!(now < Duration::from_secs(3), "{roster:?}");
            let Some(address) = roster.next(now) else {
                continue;
            };
            let link = roster.dialing(&address, now);
            match address.as_str() {
                "far:1" => {
                    far += 1;
                    assert!(roster.welcomed(link, &format!("a{far}")));
                }
                _ => roster.ended(link, Outcome::Failed, now, 1.0),
            }
        }
        // The own region is sought by its load balancer all the time.
        let tried = (0..40).any(|step| {
            let now = now + Duration::from_millis(50) * step;
            roster.next(now).as_deref() == Some("lb:1")
        });
        assert!(tried, "{roster:?}");
    }
}
