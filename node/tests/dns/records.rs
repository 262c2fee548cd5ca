//! What each name has, and for whom.

use super::asking::{connect, data, framed, next, question, records, says, tools};
use super::support::alone;
use super::world::{REGIONS, World, ZONE, home, ip};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;

#[test]
fn dig_kdig_and_our_own_client_read_the_same_records() {
    let _alone = alone();
    let world = World::get();
    let [client, worker, _] = world.ports;
    let own = home("us").to_string();
    let node = |name: &str, service: &str| format!("{name}.{service}.{ZONE}.");
    let srv = |priority, port, name, service| {
        format!("5 SRV {priority} 1 {port} {}", node(name, service))
    };
    let addresses = |names: &[&str], ttl| {
        let all = names.iter().map(|name| format!("{ttl} A {}", ip(name)));
        all.collect::<Vec<_>>()
    };
    let cases = [
        (ZONE.to_owned(), "A", addresses(&["us-1", "us-2"], 5)),
        (format!("ap.{ZONE}"), "A", addresses(&["ap-1", "ap-2"], 5)),
        (node("eu-2", "client"), "A", addresses(&["eu-2"], 60)),
        (node("eu-2", "worker"), "A", addresses(&["eu-2"], 60)),
        (
            node("eu-2", "admin"),
            "A",
            vec!["60 A 127.0.0.1".to_owned()],
        ),
        (
            format!("_pontoon-worker._tcp.ap.{ZONE}"),
            "SRV",
            ["ap-1", "ap-2"]
                .map(|name| srv(0, worker, name, "worker"))
                .to_vec(),
        ),
        (
            format!("_pontoon-client._tcp.us.{ZONE}"),
            "SRV",
            ["us-1", "us-2"]
                .map(|name| srv(0, client, name, "client"))
                .to_vec(),
        ),
        (
            node("us-2", "admin"),
            "A",
            vec!["60 A 127.0.0.1".to_owned()],
        ),
        (
            ZONE.to_owned(),
            "NS",
            [node("eu-1", "client"), "ns.example.net.".to_owned()]
                .map(|server| format!("3600 NS {server}"))
                .to_vec(),
        ),
        (
            ZONE.to_owned(),
            "SOA",
            vec![format!(
                "5 SOA {} dns\\.admin.example.com. 1 3600 600 86400 5",
                node("eu-1", "client")
            )],
        ),
        (
            ZONE.to_owned(),
            "ANY",
            vec!["3600 HINFO \"RFC8482\" \"\"".to_owned()],
        ),
        (ZONE.to_owned(), "AAAA", Vec::new()),
        (format!("nobody.{ZONE}"), "A", Vec::new()),
    ];
    let mut connection = connect(world.dns("eu-1"));
    for (name, kind, wanted) in cases {
        let wanted: BTreeSet<String> = wanted.into_iter().collect();
        let to = world.dns("eu-1");
        for program in tools() {
            for way in ["+notcp", "+tcp"] {
                let found = records(program, to, &["-b", &own, way, &name, kind]);
                assert_eq!(found, wanted, "{program} {way} {name} {kind}");
            }
        }
        let udp = world.ask("eu-1", home("us"), &name, kind);
        // What holds for both ways: the tools' data are ours.
        if kind != "ANY" && kind != "SOA" {
            let plain = wanted.iter().filter_map(|line| line.splitn(3, ' ').nth(2));
            assert_eq!(
                data(&udp),
                plain.map(str::to_owned).collect(),
                "{name} {kind}"
            );
        }
        assert_eq!(udp.answers.len(), wanted.len());
        // One after the other over one connection, which comes from nowhere in the table.
        connection
            .write_all(&framed(&question(&name, kind)))
            .expect("sent");
        assert_eq!(
            next(&mut connection).answers.len(),
            wanted.len(),
            "{name} {kind}"
        );
    }
    // All nodes are in the SRV records of the zone, the nearest region first.
    let all = world.ask(
        "eu-1",
        home("us"),
        &format!("_pontoon-peer._tcp.{ZONE}"),
        "SRV",
    );
    assert!(
        all.metadata.truncation,
        "512 bytes are too few for six targets"
    );
    for program in tools() {
        // Both ask again by TCP by themselves.
        let name = format!("_pontoon-client._tcp.{ZONE}");
        let found = records(
            program,
            world.dns("eu-1"),
            &["-b", &own, "+noedns", &name, "SRV"],
        );
        assert_eq!(found.len(), 6, "{program}: {found:?}");
        let first = found.iter().filter(|line| line.starts_with("5 SRV 0 "));
        assert!(first.clone().count() == 2 && first.clone().all(|line| line.contains(" us-")));
        let text = says(
            program,
            world.dns("eu-1"),
            &["-b", &own, "+noedns", "+ignore", &name, "SRV"],
        );
        assert!(
            text.contains(" tc") || text.contains(" TC"),
            "{program}: {text}"
        );
    }
}

#[test]
fn the_client_subnet_decides_or_else_the_resolvers_address_or_else_the_nodes_region() {
    let _alone = alone();
    let world = World::get();
    let of = |region: &str| -> BTreeSet<String> {
        (1..=2)
            .map(|number| ip(&format!("{region}-{number}")).to_string())
            .collect()
    };
    for node in ["eu-1", "us-2", "ap-1"] {
        for region in REGIONS {
            assert_eq!(world.addresses(node, region, ZONE), of(region), "{node}");
        }
        // From nowhere in the table.
        let stranger = Ipv4Addr::new(127, 3, 0, 1);
        let own = node.split('-').next().expect("a region");
        assert_eq!(data(&world.ask(node, stranger, ZONE, "A")), of(own));
    }
    for program in tools() {
        let subnet = ["-b", "127.2.1.9", "+subnet=127.2.3.0/24", ZONE, "A"];
        let found = records(program, world.dns("eu-1"), &subnet);
        let wanted = of("ap")
            .iter()
            .map(|address| format!("5 A {address}"))
            .collect();
        assert_eq!(found, wanted, "{program}");
        let text = says(program, world.dns("eu-1"), &subnet);
        // dig and kdig: `CLIENT-SUBNET: 127.2.3.0/24/24`, `CLIENT-SUBNET: 127.2.3.0/24/24`.
        assert!(text.contains("127.2.3.0/24/24"), "{program}: {text}");
        let nobody = ["-b", "127.2.1.9", "+subnet=0.0.0.0/0", ZONE, "A"];
        let wanted = of("eu")
            .iter()
            .map(|address| format!("5 A {address}"))
            .collect();
        assert_eq!(
            records(program, world.dns("us-1"), &nobody),
            wanted,
            "{program}"
        );
    }
    let firsts: BTreeSet<String> = (0..30)
        .map(|_| {
            world.ask("eu-1", home("ap"), ZONE, "A").answers[0]
                .data
                .to_string()
        })
        .collect();
    assert_eq!(firsts, of("ap"), "the order turns");
}
