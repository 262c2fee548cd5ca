//! Being asked for names: what the keys of `[dns_service]` must mean together.

use super::raw::{DnsService, Raw};
use super::{ConfigError, bad, is_label};
use crate::dns::prefixes::{PREFIXES_MAX, Prefix, Prefixes};
use crate::dns::{Settings, Zone};
use std::net::SocketAddr;
use trust_dns_resolver::proto::rr::Name;

/// The longest name that a zone may have: with the longest labels of a node or region, and those of a
/// service, in front of it a name must not pass the 255 bytes of RFC 1035 2.3.4. `_pontoon-worker`,
/// `_tcp` and a region of 63 take 85.
const ZONE_MAX: usize = 160;

/// Reads the keys; `None` when nothing is to be answered.
pub(super) fn check(raw: &Raw) -> Result<Option<Settings>, ConfigError> {
    let service = &raw.dns_service;
    let Some(listen) = service.listen else {
        return unheard(service);
    };
    taken(raw, listen)?;
    let Some(zone) = &service.zone else {
        return bad(
            "dns_service.listen without dns_service.zone: say whose names are answered, for example \
             zone = \"grpc.example.com\"",
        );
    };
    let name = name("zone", zone)?;
    if name.is_root() || name.len() > ZONE_MAX {
        return bad(format!(
            "dns_service.zone is {zone:?}: it must have a label, and {ZONE_MAX} characters at most"
        ));
    }
    if service.name_servers.is_empty() {
        return bad(
            "dns_service.name_servers is empty: name the servers of the zone as its parent has them, \
             for example [\"ns1.example.com\"]",
        );
    }
    let servers = service.name_servers.iter();
    let servers = servers.map(|server| self::name("name_servers", server));
    Ok(Some(Settings {
        listen,
        zone: Zone {
            contact: contact(service.contact.as_deref(), &name)?,
            servers: servers.collect::<Result<_, _>>()?,
            prefixes: prefixes(service)?,
            ttl: service.ttl_seconds,
            name,
        },
        rate: service.answers_per_second,
    }))
}

/// Keys that say something to nobody are a mistake.
fn unheard(service: &DnsService) -> Result<Option<Settings>, ConfigError> {
    let set = [
        ("zone", service.zone.is_some()),
        ("name_servers", !service.name_servers.is_empty()),
        ("contact", service.contact.is_some()),
        ("prefixes", !service.prefixes.is_empty()),
    ];
    match set.iter().find(|(_, set)| *set) {
        None => Ok(None),
        Some((key, _)) => bad(format!(
            "dns_service.{key} without dns_service.listen: nothing is answered before it says where, \
             for example listen = \"0.0.0.0:10053\""
        )),
    }
}

/// The TCP side of its address is a listener like the others.
fn taken(raw: &Raw, listen: SocketAddr) -> Result<(), ConfigError> {
    let mut others = raw.listen.all().into_iter();
    match others.find(|(_, address)| *address == listen && listen.port() != 0) {
        None => Ok(()),
        Some((key, _)) => bad(format!(
            "dns_service.listen and listen.{key} are both {listen}: each needs its own port"
        )),
    }
}

/// A name of hosts: letters, digits, hyphens, and underscores where somebody has them.
fn name(key: &str, text: &str) -> Result<Name, ConfigError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let parsed = text.bytes().all(good).then(|| Name::from_ascii(text));
    match parsed {
        Some(Ok(mut name)) if !text.is_empty() => {
            name.set_fqdn(true);
            Ok(name)
        }
        _ => bad(format!(
            "dns_service.{key}: {text:?} is no name like grpc.example.com"
        )),
    }
}

/// A mail address as a name: what is before the `@` is one label, whatever is in it (RFC 1035 8).
fn contact(address: Option<&str>, zone: &Name) -> Result<Name, ConfigError> {
    let wrong = |text: &str| {
        bad(format!(
            "dns_service.contact: {text:?} is no mail address like hostmaster@example.com"
        ))
    };
    let (local, domain) = match address {
        None => ("hostmaster", zone.clone()),
        Some(address) => match address.split_once('@') {
            Some((local, domain)) if !domain.is_empty() => (local, name("contact", domain)?),
            _ => return wrong(address),
        },
    };
    match domain.prepend_label(local.as_bytes()) {
        Ok(name) if !local.is_empty() => Ok(name),
        _ => wrong(address.unwrap_or_default()),
    }
}

fn prefixes(service: &DnsService) -> Result<Prefixes, ConfigError> {
    if service.prefixes.len() > PREFIXES_MAX {
        return bad(format!(
            "dns_service.prefixes has {} entries, and at most {PREFIXES_MAX} are looked at for each \
             answer",
            service.prefixes.len()
        ));
    }
    let mut entries: Vec<(Prefix, String)> = Vec::new();
    for (text, region) in &service.prefixes {
        let prefix = text
            .parse()
            .map_err(|why| ConfigError(format!("dns_service.prefixes: {text:?} {why}")))?;
        if !is_label(region) {
            return bad(format!(
                "dns_service.prefixes: {text:?} is in {region:?}, which is no name of a region"
            ));
        }
        if entries.iter().any(|(other, _)| *other == prefix) {
            return bad(format!("dns_service.prefixes has {text:?} twice"));
        }
        entries.push((prefix, region.clone()));
    }
    Ok(Prefixes::new(entries))
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;
    use super::*;

    const GOOD: &str = "[dns_service]\nlisten = \"127.0.0.1:10053\"\nzone = \"grpc.example.com\"\n\
                        name_servers = [\"ns1.example.com\", \"a.client.grpc.example.com.\"]\n";

    fn settings(text: &str) -> Result<Settings, ConfigError> {
        let loaded = load(|file| file + text)?;
        Ok(loaded.dns_service.expect("it listens"))
    }

    #[test]
    fn it_is_off_until_it_says_where_to_listen() {
        assert!(load(|file| file).unwrap().dns_service.is_none());
        for line in [
            "zone = \"z\"",
            "name_servers = [\"n\"]",
            "contact = \"a@b\"",
            "[dns_service.prefixes]\n\"10.0.0.0/8\" = \"us-east\"",
        ] {
            let error = load(|file| format!("{file}[dns_service]\n{line}\n")).unwrap_err();
            assert!(error.0.contains("without dns_service.listen"), "{error}");
        }
    }

    #[test]
    fn names_are_absolute_and_the_contact_is_one_of_them() {
        let good = settings(GOOD).unwrap();
        assert_eq!(good.zone.name.to_ascii(), "grpc.example.com.");
        assert_eq!((good.zone.ttl, good.rate), (5, 1_000));
        let servers: Vec<String> = good.zone.servers.iter().map(Name::to_ascii).collect();
        assert_eq!(servers, ["ns1.example.com.", "a.client.grpc.example.com."]);
        let contact = good.zone.contact.to_ascii();
        assert_eq!(contact, "hostmaster.grpc.example.com.");
        let other = settings(&format!("{GOOD}contact = \"dns.admin@example.org\"\n")).unwrap();
        assert_eq!(other.zone.contact.to_ascii(), "dns\\.admin.example.org.");
    }

    #[test]
    fn o_cfg_1_what_makes_no_sense_is_said_with_its_key() {
        let cases = [
            ("zone = \"grpc.example.com\"\n", "", "dns_service.zone"),
            ("\"grpc.example.com\"", "\".\"", "must have a label"),
            ("\"grpc.example.com\"", "\"a b\"", "dns_service.zone"),
            ("\"grpc.example.com\"", "\"a..b\"", "dns_service.zone"),
            (
                "\"ns1.example.com\", ",
                "\"\", ",
                "dns_service.name_servers",
            ),
            ("127.0.0.1:10053", "127.0.0.1:10085", "listen.peer"),
        ];
        for (from, to, expected) in cases {
            let error = settings(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.0.contains(expected), "{expected}: {error}");
        }
        let long = format!("\"{}\"", ["a"; 90].join("."));
        let error = settings(&GOOD.replacen("\"grpc.example.com\"", &long, 1)).unwrap_err();
        assert!(error.0.contains("160 characters"), "{error}");
        let none = "[dns_service]\nlisten = \"127.0.0.1:1\"\nzone = \"z\"\n";
        let error = settings(none).unwrap_err();
        assert!(error.0.contains("name_servers is empty"), "{error}");
        for (line, expected) in [
            ("contact = \"nobody\"", "no mail address"),
            ("contact = \"@example.com\"", "no mail address"),
            (
                "prefixes = { \"10.0.0.1/8\" = \"eu\" }",
                "behind its prefix",
            ),
            (
                "prefixes = { \"10.0.0.0/8\" = \"E U\" }",
                "no name of a region",
            ),
            (
                "prefixes = { \"10.0.0.0/8\" = \"eu\", \"10.0.0.0/08\" = \"us\" }",
                "twice",
            ),
        ] {
            let error = settings(&format!("{GOOD}{line}\n")).unwrap_err();
            assert!(error.0.contains(expected), "{expected}: {error}");
        }
    }
}
