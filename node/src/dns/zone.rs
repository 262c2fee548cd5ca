//! The zone: its names, and which of them a question means.
//!
//! ```text
//! ZONE                                   SOA, NS; A, AAAA: the nearest region
//! REGION.ZONE                            A, AAAA: that region and no other
//! _pontoon-SERVICE._tcp.ZONE             SRV: all regions, the nearest first
//! _pontoon-SERVICE._tcp.REGION.ZONE      SRV: that region
//! NODE.SERVICE.ZONE                      A, AAAA: where a node offers it, ready or not
//! ```
//!
//! SERVICE is `client`, `worker`, `peer` or `admin`. Names of regions and nodes are labels without
//! underscores, so nothing here can be two things but `SERVICE.ZONE`, where a region comes first.
//!
//! Pure.

use super::prefixes::Prefixes;
use super::view::{Node, Region, Service, View};
use trust_dns_resolver::proto::ProtoError;
use trust_dns_resolver::proto::rr::Name;

/// What the configuration says of the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its name.
    pub name: Name,
    /// How long answers count that depend on who is ready, in seconds.
    pub ttl: u32,
    /// The names of the servers that answer for it; the first one is called the primary.
    pub servers: Vec<Name>,
    /// The mail address of whoever is responsible, in the form of RFC 1035 8.
    pub contact: Name,
    /// Where clients are.
    pub prefixes: Prefixes,
}

/// What a name of the zone means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The zone itself.
    Apex,
    /// One region.
    Region(&'a Region),
    /// A service, everywhere or in one region.
    Service(Service, Option<&'a Region>),
    /// A node.
    Node(&'a Node, Service),
    /// It has no records, but names below it have (RFC 8020 2).
    Between,
    /// There is no such name.
    Nothing,
}

impl Zone {
    /// The labels of a name in front of the zone's own, in lower case; none for a name that is not in
    /// the zone.
    pub(super) fn inside(&self, name: &Name) -> Option<Vec<String>> {
        if !self.name.zone_of(name) {
            return None;
        }
        let count = name.iter().len() - self.name.iter().len();
        let lower = |label: &[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
        Some(name.iter().take(count).map(lower).collect())
    }

    /// Whether a host's name is in the zone.
    pub(super) fn holds(&self, host: &str) -> bool {
        let name = Name::from_ascii(host);
        name.is_ok_and(|mut name| {
            name.set_fqdn(true);
            self.name.zone_of(&name)
        })
    }

    /// A node's name.
    pub(super) fn of_node(&self, node: &Node, service: Service) -> Result<Name, ProtoError> {
        // As bytes: as text a label that looks like punycode would be taken for it.
        self.name
            .prepend_label(service.label())?
            .prepend_label(node.name.as_bytes())
    }
}

/// What these labels mean.
pub(super) fn place<'a>(view: &'a View, labels: &[String]) -> Place<'a> {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels[..] {
        [] => Place::Apex,
        ["_tcp"] => Place::Between,
        [one] => match (view.region(one), Service::of_label(one)) {
            (Some(region), _) => Place::Region(region),
            (None, Some(_)) => Place::Between,
            (None, None) => Place::Nothing,
        },
        [srv, "_tcp"] => match Service::of_srv(srv) {
            Some(service) => Place::Service(service, None),
            None => Place::Nothing,
        },
        ["_tcp", region] if view.region(region).is_some() => Place::Between,
        [node, service] => match (view.node(node), Service::of_label(service)) {
            (Some(node), Some(service)) => Place::Node(node, service),
            _ => Place::Nothing,
        },
        [srv, "_tcp", region] => match (Service::of_srv(srv), view.region(region)) {
            (Some(service), Some(region)) => Place::Service(service, Some(region)),
            _ => Place::Nothing,
        },
        _ => Place::Nothing,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::view::tests::view;
    use super::*;

    /// `g.example.com`, with clients of 10.2.0.0/16 in `us` and those of 10.3.0.0/16 in `ap`.
    pub(in crate::dns) fn zone() -> Zone {
        let name = |text| Name::from_ascii(text).unwrap();
        let entry = |prefix: &str, region: &str| (prefix.parse().unwrap(), region.to_owned());
        Zone {
            name: name("g.example.com."),
            ttl: 5,
            servers: vec![name("eu-1.client.g.example.com."), name("ns.example.net.")],
            contact: name("hostmaster.example.com."),
            prefixes: Prefixes::new(vec![
                entry("10.2.0.0/16", "us"),
                entry("10.3.0.0/16", "ap"),
                entry("2001:db8::/32", "ap"),
            ]),
        }
    }

    #[test]
    fn each_name_means_one_thing() {
        let (zone, view) = (zone(), view());
        let mean = |text: &str| {
            let labels = zone.inside(&Name::from_ascii(text).unwrap());
            labels.map(|labels| match place(&view, &labels) {
                Place::Apex => "apex".to_owned(),
                Place::Region(region) => format!("region {}", region.name),
                Place::Service(service, None) => format!("all {service:?}"),
                Place::Service(service, Some(region)) => format!("{service:?} of {}", region.name),
                Place::Node(node, service) => format!("{service:?} at {}", node.name),
                Place::Between => "between".to_owned(),
                Place::Nothing => "nothing".to_owned(),
            })
        };
        for (name, meaning) in [
            ("g.example.com.", "apex"),
            ("G.Example.COM.", "apex"),
            ("eu.g.example.com.", "region eu"),
            ("EU.g.example.com.", "region eu"),
            ("sa.g.example.com.", "nothing"),
            ("_tcp.g.example.com.", "between"),
            ("_pontoon-client._tcp.g.example.com.", "all Client"),
            ("_pontoon-peer._tcp.eu.g.example.com.", "Peer of eu"),
            ("_pontoon-peer._tcp.sa.g.example.com.", "nothing"),
            ("_pontoon-ops._tcp.g.example.com.", "nothing"),
            ("_tcp.eu.g.example.com.", "between"),
            ("_tcp.sa.g.example.com.", "nothing"),
            ("worker.g.example.com.", "between"),
            ("us-2.worker.g.example.com.", "Worker at us-2"),
            ("us-3.worker.g.example.com.", "nothing"),
            ("us-2.eu.g.example.com.", "nothing"),
            ("a.us-2.worker.g.example.com.", "nothing"),
        ] {
            assert_eq!(mean(name).as_deref(), Some(meaning), "{name}");
        }
        let odd = Name::from_labels([&[0xFF, 0][..], b"g", b"example", b"com"]).unwrap();
        let labels = zone.inside(&odd).unwrap();
        assert_eq!(place(&view, &labels), Place::Nothing);
        for outside in ["example.com.", ".", "xg.example.com.", "g.example.org."] {
            assert_eq!(mean(outside), None, "{outside}");
        }
        assert!(zone.holds("a.G.example.com") && !zone.holds("a.example.com"));
    }
}
