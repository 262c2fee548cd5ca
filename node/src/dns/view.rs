//! What a node knows of its cluster at one moment, and the order in which it sends clients to regions.
//!
//! Pure. A view is built by [`super::roll`] and read by every answer; it never changes.

use pontoon_proto::id::RegionId;
use std::net::IpAddr;

/// What nodes offer, each on a listener of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Calls.
    Client,
    /// Sidecars.
    Worker,
    /// Other nodes.
    Peer,
    /// Operators.
    Admin,
}

impl Service {
    /// All of them, in the order of [`Node::at`].
    pub const ALL: [Service; 4] = [Self::Client, Self::Worker, Self::Peer, Self::Admin];

    /// The name of its listener in the configuration, and in the names of nodes.
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Worker => "worker",
            Self::Peer => "peer",
            Self::Admin => "admin",
        }
    }

    /// The service of `client`, and so on.
    pub(super) fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.label() == label)
    }

    /// The service of `_pontoon-client`, and so on.
    pub(super) fn of_srv(label: &str) -> Option<Self> {
        Self::of_label(label.strip_prefix("_pontoon-")?)
    }
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its number.
    pub number: RegionId,
    /// Its name.
    pub name: String,
    /// The others, the nearest first, as the catalog has them from measured round trips.
    pub nearest: Vec<RegionId>,
}

/// Where one listener of a node is; without addresses when they are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct At {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) port: u16,
    /// It has a name that could not be looked up.
    pub(super) missing: bool,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) region: RegionId,
    /// Whether to send clients and sidecars there.
    pub(super) ready: bool,
    /// Its listeners, by [`Service`].
    pub(super) at: [At; 4],
}

impl Node {
    pub(super) fn at(&self, service: Service) -> &At {
        &self.at[service as usize]
    }

    /// Whether it belongs into the answers for a service. Nodes find each other whether they are ready
    /// or not: one that comes back must be found to be heard.
    fn offers(&self, service: Service) -> bool {
        (self.ready || service == Service::Peer) && !self.at(service).addresses.is_empty()
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// The region of the node that answers.
    pub(super) own: Option<RegionId>,
    pub(super) regions: Vec<Region>,
    pub(super) nodes: Vec<Node>,
}

impl View {
    pub(super) fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == name)
    }

    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Whether there is a node to send somebody to whose name could not be looked up.
    pub(super) fn misses(&self, service: Service) -> bool {
        let wanted = |node: &&Node| node.ready || service == Service::Peer;
        let mut wanted = self.nodes.iter().filter(wanted);
        wanted.any(|node| node.at(service).missing)
    }

    /// All regions by their distance from one: itself, then as its record has the others, then, by
    /// number, those that nobody has measured from there.
    fn order(&self, from: RegionId) -> Vec<RegionId> {
        let nearest = self.regions.iter().find(|region| region.number == from);
        let nearest = nearest.map_or(&[][..], |region| &region.nearest);
        let rank = |number: RegionId| {
            let place = nearest.iter().position(|one| *one == number);
            match number == from {
                true => 0,
                false => place.map_or(usize::MAX, |place| place + 1),
            }
        };
        let mut order: Vec<RegionId> = self.regions.iter().map(|region| region.number).collect();
        order.sort_by_key(|number| (rank(*number), *number));
        order
    }

    /// One region's nodes that offer a service.
    pub(super) fn offering(&self, region: RegionId, service: Service) -> Vec<&Node> {
        let here = self.nodes.iter().filter(|node| node.region == region);
        here.filter(|node| node.offers(service)).collect()
    }

    /// The regions that offer a service, with their nodes, the nearest to a client first: to the region
    /// that its address belongs to, or else to the node that answers.
    pub(super) fn nearest(&self, home: Option<&str>, service: Service) -> Vec<Vec<&Node>> {
        let home = home.and_then(|name| self.region(name));
        let from = home.map(|region| region.number).or(self.own);
        let order = self.order(from.unwrap_or(RegionId(0)));
        let offers = order
            .into_iter()
            .map(|region| self.offering(region, service));
        offers.filter(|nodes| !nodes.is_empty()).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Regions 1 to 3, `eu`, `us` and `ap`, with two nodes each, `eu-1` at 10.1.0.1 and so on; the node
    /// that answers is in `eu`. The ports count up from 10080.
    pub(in crate::dns) fn view() -> View {
        let regions = [("eu", [2, 3]), ("us", [3, 1]), ("ap", [2, 1])];
        let mut view = View {
            own: Some(RegionId(1)),
            ..View::default()
        };
        for ((name, nearest), number) in regions.into_iter().zip(1..) {
            view.regions.push(Region {
                number: RegionId(number),
                name: name.to_owned(),
                nearest: nearest.map(RegionId).to_vec(),
            });
            for node in 1..=2 {
                let address = IpAddr::from([10, number as u8, 0, node]);
                view.nodes.push(Node {
                    name: format!("{name}-{node}"),
                    region: RegionId(number),
                    ready: true,
                    at: Service::ALL.map(|service| At {
                        addresses: vec![address],
                        port: 10_080 + service as u16,
                        missing: false,
                    }),
                });
            }
        }
        view
    }

    fn set(view: &mut View, down: &[&str]) {
        for node in &mut view.nodes {
            node.ready = !down.contains(&node.name.as_str());
        }
    }

    #[test]
    fn clients_go_to_the_nearest_region_with_a_ready_node_and_then_to_the_next() {
        let mut view = view();
        type Case<'a> = (&'a [&'a str], Option<&'a str>, &'a [&'a [&'a str]]);
        let (eu, us, ap) = (["eu-1", "eu-2"], ["us-1", "us-2"], ["ap-1", "ap-2"]);
        let cases: [Case<'_>; 9] = [
            (&[], None, &[&eu, &us, &ap]),
            (&[], Some("eu"), &[&eu, &us, &ap]),
            (&[], Some("us"), &[&us, &ap, &eu]),
            (&[], Some("ap"), &[&ap, &us, &eu]),
            // A region that there isn't: as if the table had nothing.
            (&[], Some("sa"), &[&eu, &us, &ap]),
            (&["us-1"], Some("us"), &[&["us-2"], &ap, &eu]),
            (&["us-1", "us-2"], Some("us"), &[&ap, &eu]),
            (&["us-1", "us-2", "eu-1", "eu-2"], None, &[&ap]),
            (&["eu-1", "eu-2", "us-1", "us-2", "ap-1", "ap-2"], None, &[]),
        ];
        for (down, home, wanted) in cases {
            set(&mut view, down);
            let found = view.nearest(home, Service::Client);
            let names: Vec<Vec<&str>> = found
                .iter()
                .map(|nodes| nodes.iter().map(|node| node.name.as_str()).collect())
                .collect();
            assert_eq!(names, wanted, "{down:?} {home:?}");
        }
    }

    #[test]
    fn what_nobody_has_measured_goes_by_number_and_without_an_own_region_too() {
        let mut view = view();
        view.regions[0].nearest = vec![RegionId(3)];
        assert_eq!(view.order(RegionId(1)), [1, 3, 2].map(RegionId));
        view.regions[0].nearest.clear();
        assert_eq!(view.order(RegionId(1)), [1, 2, 3].map(RegionId));
        view.own = None;
        assert_eq!(view.nearest(None, Service::Client).len(), 3);
    }

    #[test]
    fn nodes_find_each_other_also_when_they_are_not_ready() {
        let mut view = view();
        set(&mut view, &["eu-1", "eu-2"]);
        for (service, wanted) in [
            (Service::Client, 0),
            (Service::Worker, 0),
            (Service::Admin, 0),
            (Service::Peer, 2),
        ] {
            let found = view.offering(RegionId(1), service).len();
            assert_eq!(found, wanted, "{service:?}");
        }
        view.nodes[0].at[Service::Peer as usize].addresses.clear();
        assert_eq!(view.offering(RegionId(1), Service::Peer).len(), 1);
    }

    #[test]
    fn services_have_their_places() {
        for (place, service) in Service::ALL.into_iter().enumerate() {
            assert_eq!(service as usize, place);
            assert_eq!(Service::of_label(service.label()), Some(service));
            let srv = format!("_pontoon-{}", service.label());
            assert_eq!(Service::of_srv(&srv), Some(service));
        }
        assert_eq!(Service::of_srv("client"), None);
    }
}
