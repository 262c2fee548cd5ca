//! Who is ready: what nodes say of themselves, and what counts of those that say nothing.
//!
//! ```text
//!             says that it is ready                says that it is not, or is gone
//! Unknown ───────────────────────────▶ In ◀─────────────────────────────────────▶ Out
//! ```
//!
//! A silent node is gone when it has been silent for a while, and a quorum of the catalog's group has
//! confirmed a beat of this node that was sent since the silence began. So a node that is cut off from
//! the others keeps answering what it last knew, and doesn't call everybody else gone (H-6).
//!
//! Pure: time comes in as a span since any fixed moment.

use super::view::{At, Node, Region, Service, View};
use crate::discovery::address::Address;
use pontoon_proto::id::{NodeId, RegionId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a node may be silent. Nodes are pinged once a second, and a ping that fails is silence: this
/// is two pings that failed.
const SILENT: Duration = Duration::from_millis(1_500);

/// What this node knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// The region of this node, once the catalog has it.
    pub own: Option<RegionId>,
    /// Whether this node takes traffic.
    pub ready: bool,
    /// Since this node's last beat in the catalog's group that a quorum confirmed was sent.
    pub beat_age: Option<Duration>,
    /// The regions that there are.
    pub regions: Vec<Region>,
    /// The nodes that there are, this one included.
    pub nodes: Vec<Member>,
}

/// One node of the catalog.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub number: NodeId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub region: RegionId,
    /// What it advertises, by [`Service`].
    pub advertised: [String; 4],
    /// Whether it is ready, by its own last word; none while it is silent.
    pub word: Option<bool>,
    /// The cluster has given its places to others.
    pub dead: bool,
}

/// What is remembered of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Its last word; false when it is gone; none while nothing is known.
    ready: Option<bool>,
    silent_since: Option<Duration>,
}

/// The addresses of names that nodes advertise; none of a name that was looked up in vain.
pub(super) type Hosts = BTreeMap<String, Option<Vec<IpAddr>>>;

/// The nodes as they were last known.
#[derive(Debug, Default)]
pub(super) struct Roll {
    /// Loopback addresses are answered, too.
    local: bool,
    /// This node has been ready, so its replicas are no empty ones.
    joined: bool,
    /// It has heard of everybody, too.
    settled: bool,
    seen: BTreeMap<NodeId, Seen>,
}

impl Roll {
    /// Nobody is known yet. `local`: questions come from this machine only, and so may answers lead here.
    pub(super) fn new(local: bool) -> Self {
        Self {
            local,
            ..Self::default()
        }
    }

    /// Takes a scene in. None while too little is known to answer: this node was never ready, or since
    /// its start there is a node that it neither heard nor missed for long enough, or a name that was not
    /// looked up (`looked_up`). A node that comes later is not ready before it says so.
    pub(super) fn look(
        &mut self,
        now: Duration,
        scene: &Scene,
        hosts: &Hosts,
        looked_up: bool,
    ) -> Option<View> {
        self.joined |= scene.ready;
        let confirmed = scene.beat_age.map(|age| now.saturating_sub(age));
        self.seen
            .retain(|number, _| scene.nodes.iter().any(|node| node.number == *number));
        for node in &scene.nodes {
            self.seen
                .entry(node.number)
                .or_default()
                .hear(now, node.word, confirmed);
        }
        let seen = &self.seen;
        let ready = |node: &Member| seen.get(&node.number)?.ready;
        let heard = scene.nodes.iter().all(|node| ready(node).is_some());
        self.settled |= self.joined && heard && looked_up;
        if !self.settled {
            return None;
        }
        let nodes = scene.nodes.iter().map(|node| Node {
            name: node.name.clone(),
            region: node.region,
            ready: ready(node) == Some(true) && !node.dead,
            at: Service::ALL.map(|service| self.place(&node.advertised[service as usize], hosts)),
        });
        Some(View {
            own: scene.own,
            regions: scene.regions.clone(),
            nodes: nodes.collect(),
        })
    }

    /// Where an advertised address leads.
    fn place(&self, advertised: &str, hosts: &Hosts) -> At {
        let (mut addresses, port, missing) = match advertised.parse() {
            Ok(Address::Socket(socket)) => (vec![socket.ip()], socket.port(), false),
            Ok(Address::Host(host, port)) => {
                let found = hosts.get(&host);
                let missing = found.is_some_and(Option::is_none);
                (found.cloned().flatten().unwrap_or_default(), port, missing)
            }
            // A service has no address of its own.
            Ok(Address::Service { .. }) | Err(_) => return At::default(),
        };
        addresses.retain(|address| why_not(*address, self.local).is_none());
        At {
            addresses,
            port,
            missing,
        }
    }

    /// The names that have to be looked up, and the addresses that are of no use. A name in the zone
    /// itself would be looked up here.
    pub(super) fn names(
        &self,
        scene: &Scene,
        in_zone: impl Fn(&str) -> bool,
    ) -> (BTreeSet<Arc<str>>, BTreeSet<Unusable>) {
        let (mut hosts, mut unusable) = (BTreeSet::new(), BTreeSet::new());
        for node in &scene.nodes {
            for service in Service::ALL {
                let advertised = &node.advertised[service as usize];
                let why = match advertised.parse() {
                    Ok(Address::Socket(socket)) => why_not(socket.ip(), self.local),
                    Ok(Address::Host(host, _)) if in_zone(&host) => {
                        Some("its name is in the zone that is answered from it")
                    }
                    Ok(Address::Host(host, _)) => {
                        hosts.insert(host.into());
                        None
                    }
                    Ok(Address::Service { .. }) => Some("it is a service, not an address"),
                    Err(_) => Some("it is not host:port"),
                };
                unusable.extend(why.map(|why| Unusable {
                    node: node.name.clone(),
                    service: service.label(),
                    advertised: advertised.clone(),
                    why,
                }));
            }
        }
        (hosts, unusable)
    }
}

/// Why nobody else could dial an address.
fn why_not(address: IpAddr, local: bool) -> Option<&'static str> {
    match address {
        address if address.is_unspecified() => Some("it leads nowhere"),
        address if address.is_loopback() && !local => {
            Some("it is loopback, and questions come from other machines")
        }
        _ => None,
    }
}

impl Seen {
    /// `confirmed`: when this node's last beat was sent that a quorum confirmed.
    fn hear(&mut self, now: Duration, word: Option<bool>, confirmed: Option<Duration>) {
        if word.is_some() {
            (self.ready, self.silent_since) = (word, None);
            return;
        }
        let since = *self.silent_since.get_or_insert(now);
        if now >= since + SILENT && confirmed.is_some_and(|confirmed| confirmed > since) {
            self.ready = Some(false);
        }
    }
}

/// What is wrong with an advertised address, for the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unusable {
    /// Whose, and of what.
    pub(super) node: String,
    pub(super) service: &'static str,
    pub(super) advertised: String,
    pub(super) why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn member(number: u32, word: Option<bool>) -> Member {
        Member {
            number: NodeId(number),
            name: format!("n{number}"),
            region: RegionId(1),
            advertised: Service::ALL.map(|_| format!("10.0.0.{number}:7")),
            word,
            dead: false,
        }
    }

    /// This node, and another one that says so.
    fn scene(word: Option<bool>, beat_age: Option<Duration>) -> Scene {
        Scene {
            own: Some(RegionId(1)),
            ready: true,
            beat_age,
            regions: Vec::new(),
            nodes: vec![member(1, Some(true)), member(2, word)],
        }
    }

    /// Whether the other one is ready.
    fn look(roll: &mut Roll, now: Duration, scene: &Scene) -> Option<bool> {
        let view = roll.look(now, scene, &Hosts::new(), true)?;
        Some(view.nodes[1].ready)
    }

    #[test]
    fn a_word_counts_at_once_and_silence_after_two_pings() {
        let mut roll = Roll::default();
        let beat = Some(Duration::ZERO);
        assert_eq!(look(&mut roll, S, &scene(Some(true), beat)), Some(true));
        assert_eq!(look(&mut roll, S, &scene(Some(false), beat)), Some(false));
        assert_eq!(look(&mut roll, S, &scene(Some(true), beat)), Some(true));
        assert_eq!(look(&mut roll, 2 * S, &scene(None, beat)), Some(true));
        assert_eq!(look(&mut roll, 3 * S, &scene(None, beat)), Some(true));
        assert_eq!(look(&mut roll, 4 * S, &scene(None, beat)), Some(false));
        assert_eq!(look(&mut roll, 5 * S, &scene(Some(true), beat)), Some(true));
        let mut dead = scene(Some(true), beat);
        dead.nodes[1].dead = true;
        assert_eq!(look(&mut roll, 6 * S, &dead), Some(false));
    }

    #[test]
    fn h_6_a_node_that_is_cut_off_answers_what_it_last_knew() {
        let mut roll = Roll::default();
        let beat = Some(Duration::ZERO);
        look(&mut roll, S, &scene(Some(true), beat));
        for second in 2..100 {
            let now = second * S;
            // The last confirmed beat was sent as the silence began.
            let late = scene(None, Some(now - 2 * S));
            assert_eq!(look(&mut roll, now, &late), Some(true));
        }
        assert_eq!(look(&mut roll, 100 * S, &scene(None, None)), Some(true));
        // It is among the others again, and one of them is not.
        assert_eq!(look(&mut roll, 101 * S, &scene(None, beat)), Some(false));
        // What was gone stays gone.
        assert_eq!(look(&mut roll, 102 * S, &scene(None, None)), Some(false));
    }

    #[test]
    fn a_node_answers_only_once_it_was_ready_and_knows_of_everybody() {
        let mut roll = Roll::default();
        let beat = Some(Duration::ZERO);
        let mut starting = scene(Some(true), beat);
        starting.ready = false;
        assert_eq!(look(&mut roll, S, &starting), None);
        starting.ready = true;
        starting.nodes.push(member(3, None));
        assert_eq!(look(&mut roll, 2 * S, &starting), None);
        assert_eq!(look(&mut roll, 4 * S, &starting), Some(true));
        let mut more = scene(Some(true), beat);
        more.ready = false;
        more.nodes.push(member(4, None));
        assert_eq!(look(&mut roll, 5 * S, &more), Some(true), "it drains");
        assert_eq!(roll.seen.len(), 3, "removed nodes are forgotten");
        let view = roll.look(5 * S, &more, &Hosts::new(), true).unwrap();
        assert!(!view.nodes[2].ready, "a node that nobody has heard yet");
    }

    #[test]
    fn addresses_are_taken_as_they_are_names_are_looked_up_and_the_rest_is_said() {
        let mut scene = scene(Some(true), None);
        scene.nodes[1].advertised = [
            "n2.example.com:81".to_owned(),
            "n2.client.zone.test:82".to_owned(),
            "n2@_pontoon-peer._tcp.example.com".to_owned(),
            "0.0.0.0:84".to_owned(),
        ];
        let mut roll = Roll::default();
        let (hosts, unusable) = roll.names(&scene, |name| name.ends_with("zone.test"));
        assert_eq!(hosts.len(), 1);
        assert!(hosts.contains("n2.example.com"));
        let said: Vec<_> = unusable.iter().map(|one| one.service).collect();
        assert_eq!(said, ["admin", "peer", "worker"]);
        let found = Hosts::from([(
            "n2.example.com".to_owned(),
            Some(vec![[10, 0, 0, 9].into()]),
        )]);
        assert!(roll.look(S, &scene, &Hosts::new(), false).is_none());
        let view = roll.look(S, &scene, &found, true).unwrap();
        assert_eq!(view.nodes[0].at[0].addresses, [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(view.nodes[1].at[0].addresses, [IpAddr::from([10, 0, 0, 9])]);
        assert_eq!(view.nodes[1].at[0].port, 81);
        assert!(view.nodes[1].at[1].addresses.is_empty());
        assert!(!view.nodes[1].at[0].missing);
        let in_vain = Hosts::from([("n2.example.com".to_owned(), None)]);
        let view = roll.look(S, &scene, &in_vain, true).unwrap();
        assert!(view.nodes[1].at[0].missing);
    }

    #[test]
    fn loopback_is_an_answer_only_to_questions_from_this_machine() {
        let mut scene = scene(Some(true), None);
        let own = |port| format!("127.0.0.1:{port}");
        scene.nodes[0].advertised = [1, 2, 3, 4].map(own);
        for (local, unusable) in [(false, 4), (true, 0)] {
            let mut roll = Roll::new(local);
            assert_eq!(roll.names(&scene, |_| false).1.len(), unusable);
            let view = roll.look(S, &scene, &Hosts::new(), true).unwrap();
            assert_eq!(view.nodes[0].at[0].addresses.is_empty(), !local);
            assert!(!view.nodes[1].at[0].addresses.is_empty());
        }
    }
}
