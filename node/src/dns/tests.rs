//! Questions and answers as bytes: what each name has, how the protocol's corners are met, and that no
//! message of a stranger does harm.

use super::answer::{Outcome, Reply, Silence, UDP_MAX, Way, answer};
use super::view::View;
use super::view::tests::view;
use super::zone::tests::zone;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use trust_dns_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use trust_dns_resolver::proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use trust_dns_resolver::proto::rr::{Name, RData, RecordType};

const ZONE: &str = "g.example.com.";

/// Nowhere in the table.
const STRANGER: [u8; 4] = [192, 0, 2, 1];

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The same with EDNS, and the option of a client's subnet if there is one.
fn with_edns(name: &str, kind: RecordType, subnet: Option<&[u8]>) -> Message {
    let mut message = question(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(4_096);
    if let Some(data) = subnet {
        edns.options_mut()
            .insert(EdnsOption::Unknown(8, data.to_vec()));
    }
    message.set_edns(edns);
    message
}

fn send(view: Option<&View>, bytes: &[u8], from: [u8; 4], way: Way) -> Result<Reply, Silence> {
    answer(&zone(), view, bytes, IpAddr::from(from), way, 0)
}

#[track_caller]
fn ask_in(view: Option<&View>, message: &Message, from: [u8; 4], way: Way) -> (Outcome, Message) {
    let reply = send(view, &message.to_vec().unwrap(), from, way).unwrap();
    (reply.outcome, Message::from_vec(&reply.bytes).unwrap())
}

#[track_caller]
fn ask(message: &Message) -> (Outcome, Message) {
    ask_in(Some(&view()), message, STRANGER, Way::Udp)
}

/// The data of an answer's records, as zone files have them.
fn data(message: &Message) -> Vec<String> {
    let records = message.answers.iter();
    records.map(|record| record.data.to_string()).collect()
}

#[test]
fn every_name_has_its_records() {
    for (name, kind, wanted) in [
        (ZONE, RecordType::A, &["10.1.0.1", "10.1.0.2"][..]),
        (
            "us.g.example.com.",
            RecordType::A,
            &["10.2.0.1", "10.2.0.2"],
        ),
        ("ap-2.client.g.example.com.", RecordType::A, &["10.3.0.2"]),
        (
            "_pontoon-worker._tcp.us.g.example.com.",
            RecordType::SRV,
            &[
                "0 1 10081 us-1.worker.g.example.com.",
                "0 1 10081 us-2.worker.g.example.com.",
            ],
        ),
        (
            "_pontoon-client._tcp.g.example.com.",
            RecordType::SRV,
            &[
                "0 1 10080 eu-1.client.g.example.com.",
                "0 1 10080 eu-2.client.g.example.com.",
                "1 1 10080 us-1.client.g.example.com.",
                "1 1 10080 us-2.client.g.example.com.",
                "2 1 10080 ap-1.client.g.example.com.",
                "2 1 10080 ap-2.client.g.example.com.",
            ],
        ),
        (
            ZONE,
            RecordType::NS,
            &["eu-1.client.g.example.com.", "ns.example.net."],
        ),
        (
            ZONE,
            RecordType::SOA,
            &["eu-1.client.g.example.com. hostmaster.example.com. 1 3600 600 86400 5"],
        ),
        (ZONE, RecordType::ANY, &["RFC8482 "]),
        ("us.g.example.com.", RecordType::ANY, &["RFC8482 "]),
    ] {
        let (outcome, message) = ask(&question(name, kind));
        assert_eq!(outcome, Outcome::Answered, "{name} {kind}");
        assert_eq!(data(&message), wanted, "{name} {kind}");
        assert!(message.metadata.authoritative && message.metadata.recursion_desired);
        assert!(!message.metadata.recursion_available && message.edns.is_none());
        assert_eq!(message.metadata.id, 4711);
    }
}

#[test]
fn targets_and_servers_of_the_zone_come_with_their_addresses() {
    let of = |name, kind| {
        let (_, message) = ask(&with_edns(name, kind, None));
        let more = message.additionals.iter();
        more.map(|record| format!("{} {}", record.name, record.data))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of("_pontoon-admin._tcp.ap.g.example.com.", RecordType::SRV),
        [
            "ap-1.admin.g.example.com. 10.3.0.1",
            "ap-2.admin.g.example.com. 10.3.0.2"
        ]
    );
    assert_eq!(
        of(ZONE, RecordType::NS),
        ["eu-1.client.g.example.com. 10.1.0.1"]
    );
}

#[test]
fn names_without_such_records_and_names_that_are_none_come_with_the_soa() {
    let empty = [
        (ZONE, RecordType::AAAA),
        (ZONE, RecordType::TXT),
        (ZONE, RecordType::DS),
        ("us.g.example.com.", RecordType::NS),
        ("_tcp.g.example.com.", RecordType::SRV),
        ("_pontoon-client._tcp.g.example.com.", RecordType::A),
        ("worker.g.example.com.", RecordType::A),
        ("ap-2.client.g.example.com.", RecordType::AAAA),
    ];
    for (name, kind) in empty {
        let (outcome, message) = ask(&question(name, kind));
        assert_eq!(outcome, Outcome::NoData, "{name} {kind}");
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        assert_soa(&message);
    }
    for name in ["sa.g.example.com.", "x.eu.g.example.com."] {
        for kind in [RecordType::A, RecordType::ANY] {
            let (outcome, message) = ask(&question(name, kind));
            assert_eq!(outcome, Outcome::NxDomain, "{name} {kind}");
            assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
            assert_soa(&message);
        }
    }
}

#[track_caller]
fn assert_soa(message: &Message) {
    assert!(message.answers.is_empty() && message.metadata.authoritative);
    let [soa] = &message.authorities[..] else {
        panic!("{message}");
    };
    assert_eq!(soa.name.to_ascii(), ZONE);
    // What counts for the absence is the smaller one of the two (RFC 2308 5).
    assert!(matches!(&soa.data, RData::SOA(data) if data.minimum == 5 && soa.ttl == 5));
}

#[test]
fn what_is_none_of_our_business_is_refused() {
    for (name, kind) in [
        ("example.com.", RecordType::A),
        (".", RecordType::NS),
        ("g.example.org.", RecordType::ANY),
        (ZONE, RecordType::AXFR),
        (ZONE, RecordType::IXFR),
    ] {
        let (outcome, message) = ask(&question(name, kind));
        assert_eq!(outcome, Outcome::Refused, "{name} {kind}");
        assert_eq!(message.metadata.response_code, ResponseCode::Refused);
        assert!(!message.metadata.authoritative);
    }
    let mut chaos = question("version.bind.", RecordType::TXT);
    let class = trust_dns_resolver::proto::rr::DNSClass::CH;
    chaos.queries[0].set_query_class(class);
    assert_eq!(ask(&chaos).0, Outcome::Refused);
    chaos.queries[0].set_name(Name::from_ascii(ZONE).unwrap());
    assert_eq!(ask(&chaos).0, Outcome::Refused);
}

#[test]
fn a_region_of_its_own_name_has_no_stand_in_and_the_service_has() {
    let mut view = view();
    for node in &mut view.nodes {
        node.ready = !node.name.starts_with("eu");
    }
    let of = |name: &str| {
        let (outcome, message) = ask_in(
            Some(&view),
            &question(name, RecordType::A),
            STRANGER,
            Way::Udp,
        );
        (outcome, data(&message))
    };
    let us = vec!["10.2.0.1".to_owned(), "10.2.0.2".to_owned()];
    assert_eq!(of(ZONE), (Outcome::Answered, us.clone()));
    assert_eq!(of("us.g.example.com."), (Outcome::Answered, us));
    assert_eq!(of("eu.g.example.com."), (Outcome::NoData, Vec::new()));
    // A node's own name only says where it is.
    let own = of("eu-1.client.g.example.com.");
    assert_eq!(own, (Outcome::Answered, vec!["10.1.0.1".to_owned()]));
    for node in &mut view.nodes {
        node.ready = false;
    }
    let (outcome, _) = ask_in(
        Some(&view),
        &question(ZONE, RecordType::A),
        STRANGER,
        Way::Udp,
    );
    assert_eq!(outcome, Outcome::NoData);
}

#[test]
fn both_families_come_from_the_same_region() {
    let mut view = view();
    for node in &mut view.nodes {
        let last = node.name.as_bytes()[node.name.len() - 1] - b'0';
        if node.name.starts_with("us") {
            node.at[0].addresses = vec![format!("2001:db8::{last}").parse().unwrap()];
        }
    }
    let of = |kind| {
        let from = [10, 2, 0, 9];
        data(&ask_in(Some(&view), &question(ZONE, kind), from, Way::Udp).1)
    };
    assert_eq!(of(RecordType::AAAA), ["2001:db8::1", "2001:db8::2"]);
    // Else a client of both families would go to the farther region half of the time.
    assert!(of(RecordType::A).is_empty());
}

#[test]
fn the_clients_subnet_counts_or_else_the_resolvers_address() {
    let region = |message: &Message, from| {
        let (_, message) = ask_in(Some(&view()), message, from, Way::Udp);
        let address = data(&message).swap_remove(0);
        let option = message.edns.as_ref().and_then(|edns| {
            let option = edns.option(EdnsCode::Subnet)?;
            Vec::<u8>::try_from(option).ok()
        });
        (address, option)
    };
    let plain = question(ZONE, RecordType::A);
    for (from, wanted) in [
        (STRANGER, "10.1.0.1"),
        ([10, 2, 7, 7], "10.2.0.1"),
        ([10, 3, 7, 7], "10.3.0.1"),
    ] {
        assert_eq!(region(&plain, from), (wanted.to_owned(), None));
    }
    // Family, source, scope, address; and with which scope it comes back.
    let cases: [(&[u8], &str, u8); 5] = [
        (&[0, 1, 24, 0, 10, 3, 9], "10.3.0.1", 16),
        (&[0, 1, 32, 0, 10, 2, 9, 9], "10.2.0.1", 16),
        (&[0, 1, 16, 0, 11, 2], "10.1.0.1", 8),
        (&[0, 2, 32, 0, 0x20, 1, 0x0d, 0xb8], "10.3.0.1", 32),
        // Who asks for somebody that it doesn't name is taken for the client.
        (&[0, 1, 0, 0], "10.2.0.1", 0),
    ];
    for (option, wanted, scope) in cases {
        let message = with_edns(ZONE, RecordType::A, Some(option));
        let (address, back) = region(&message, [10, 2, 7, 7]);
        let mut echo = option.to_vec();
        echo[3] = scope;
        assert_eq!((address.as_str(), back), (wanted, Some(echo)), "{option:?}");
    }
    let message = with_edns(ZONE, RecordType::A, Some(&[0; 4]));
    let nobody = ("10.2.0.1".to_owned(), None);
    assert_eq!(region(&message, [10, 2, 7, 7]), nobody);
    // Names that mean the same to everybody are good for everybody.
    let message = with_edns("us.g.example.com.", RecordType::A, Some(&[0, 1, 8, 0, 10]));
    assert_eq!(region(&message, STRANGER).1, Some(vec![0, 1, 8, 0, 10]));
}

#[test]
fn a_subnet_that_breaks_the_form_is_a_form_error() {
    let broken: [&[u8]; 8] = [
        &[0, 1, 24, 0, 10, 3],
        &[0, 1, 24, 0, 10, 3, 9, 0],
        &[0, 1, 20, 0, 10, 3, 0xFF],
        &[0, 1, 24, 16, 10, 3, 9],
        &[0, 1, 33, 0, 10, 3, 9, 9, 0],
        &[0, 3, 8, 0, 10],
        &[0, 1, 24],
        &[],
    ];
    for option in broken {
        let message = with_edns(ZONE, RecordType::A, Some(option));
        assert_eq!(ask(&message).0, Outcome::FormErr, "{option:?}");
    }
}

#[test]
fn edns_is_answered_with_edns_and_another_version_with_badvers() {
    let mut message = with_edns(ZONE, RecordType::A, None);
    let edns = message.edns.as_mut().unwrap();
    edns.set_dnssec_ok(true);
    let (outcome, back) = ask(&message);
    let opt = back.edns.unwrap();
    assert_eq!(outcome, Outcome::Answered);
    assert_eq!((opt.version(), opt.max_payload()), (0, UDP_MAX));
    assert!(opt.flags().dnssec_ok && opt.options().as_ref().is_empty());
    message.edns.as_mut().unwrap().set_version(1);
    let (outcome, back) = ask(&message);
    assert_eq!(outcome, Outcome::BadVers);
    assert_eq!(u16::from(back.metadata.response_code), 16);
    assert_eq!(back.edns.unwrap().version(), 0);
    assert!(back.answers.is_empty());
}

#[test]
fn the_case_of_a_name_comes_back() {
    let asked = "_Pontoon-CLIENT._tCp.g.exAmple.COM.";
    let (_, message) = ask(&question(asked, RecordType::SRV));
    assert!(
        message.queries[0]
            .name()
            .eq_case(&Name::from_ascii(asked).unwrap())
    );
    for record in &message.answers {
        assert_eq!(record.name.to_ascii(), asked);
    }
    let (_, message) = ask(&question("uS.g.example.com.", RecordType::A));
    assert_eq!(message.answers[0].name.to_ascii(), "uS.g.example.com.");
    assert_eq!(data(&message).len(), 2);
}

#[test]
fn nodes_behind_one_balancer_are_answered_once() {
    let mut view = view();
    for node in &mut view.nodes {
        let shared = [[10, 9, 0, 1], [10, 9, 0, 2]].map(IpAddr::from);
        node.at[0].addresses = shared.to_vec();
    }
    let message = question(ZONE, RecordType::A);
    let mut first = BTreeSet::new();
    for turn in 0..2 {
        let bytes = message.to_vec().unwrap();
        let reply = answer(
            &zone(),
            Some(&view),
            &bytes,
            STRANGER.into(),
            Way::Udp,
            turn,
        )
        .unwrap();
        let found = data(&Message::from_vec(&reply.bytes).unwrap());
        assert_eq!(found.len(), 2, "{found:?}");
        first.extend(found.first().cloned());
    }
    assert_eq!(first.len(), 2, "each comes first at times");
}

#[test]
fn where_all_names_are_looked_up_in_vain_another_server_may_know_more() {
    let mut view = view();
    for node in &mut view.nodes {
        for at in &mut node.at {
            (at.addresses, at.missing) = (Vec::new(), true);
        }
    }
    for (name, kind) in [
        (ZONE, RecordType::A),
        ("us.g.example.com.", RecordType::AAAA),
        ("_pontoon-peer._tcp.g.example.com.", RecordType::SRV),
    ] {
        let message = question(name, kind);
        let (outcome, answer) = ask_in(Some(&view), &message, STRANGER, Way::Udp);
        assert_eq!(outcome, Outcome::ServFail, "{name}");
        assert!(!answer.metadata.authoritative);
    }
    // Where one is known, its region stands in.
    let address = IpAddr::from([10, 3, 0, 1]);
    let known = view.nodes.last_mut().unwrap();
    (known.at[0].addresses, known.at[0].missing) = (vec![address], false);
    let (_, answer) = ask_in(
        Some(&view),
        &question(ZONE, RecordType::A),
        STRANGER,
        Way::Udp,
    );
    assert_eq!(data(&answer), ["10.3.0.1"]);
}

#[test]
fn the_order_turns_from_answer_to_answer() {
    let bytes = question(ZONE, RecordType::A).to_vec().unwrap();
    let first = |turn| {
        let from = IpAddr::from(STRANGER);
        let reply = answer(&zone(), Some(&view()), &bytes, from, Way::Udp, turn).unwrap();
        data(&Message::from_vec(&reply.bytes).unwrap()).swap_remove(0)
    };
    let firsts: Vec<String> = (0..4).map(first).collect();
    assert_eq!(firsts, ["10.1.0.1", "10.1.0.2", "10.1.0.1", "10.1.0.2"]);
    assert_eq!(first(usize::MAX).len(), 8);
}

/// Many nodes in the region `eu`.
fn large(nodes: u32) -> View {
    let mut view = view();
    let one = view.nodes[0].clone();
    view.nodes.extend((3..=nodes).map(|number| {
        let mut node = one.clone();
        node.name = format!("eu-{number}");
        for at in &mut node.at {
            at.addresses = vec![std::net::Ipv4Addr::from(0x0A01_0000 + number).into()];
        }
        node
    }));
    view
}

#[test]
fn what_is_too_long_for_udp_is_cut_and_whole_by_tcp() {
    let view = large(100);
    let srv = "_pontoon-client._tcp.eu.g.example.com.";
    let cases = [
        (question(ZONE, RecordType::A), 512),
        (question(srv, RecordType::SRV), 512),
        (with_edns(ZONE, RecordType::A, None), 1_232),
        (with_edns(srv, RecordType::SRV, None), 1_232),
    ];
    for (message, most) in cases {
        let bytes = message.to_vec().unwrap();
        let udp = send(Some(&view), &bytes, STRANGER, Way::Udp).unwrap();
        let fits = udp.outcome == Outcome::Answered;
        let said = Message::from_vec(&udp.bytes).unwrap();
        assert!(udp.bytes.len() <= most);
        assert_eq!(said.metadata.truncation, !fits);
        assert_eq!(said.edns.is_some(), message.edns.is_some());
        // 64 A records take 1,024 bytes.
        let wanted = most == 1_232 && message.queries[0].query_type() == RecordType::A;
        assert_eq!(
            (fits, said.answers.len()),
            (wanted, if wanted { 64 } else { 0 })
        );
        let (outcome, whole) = ask_in(Some(&view), &message, STRANGER, Way::Tcp);
        assert_eq!((outcome, whole.answers.len()), (Outcome::Answered, 64));
        assert!(!whole.metadata.truncation);
    }
    // A little too long: the addresses of the targets are left out, and nothing is said of it.
    let (outcome, said) = ask_in(
        Some(&large(8)),
        &question(srv, RecordType::SRV),
        STRANGER,
        Way::Udp,
    );
    assert_eq!((outcome, said.answers.len()), (Outcome::Answered, 8));
    assert!(said.additionals.is_empty() && !said.metadata.truncation);
}

#[test]
fn of_more_nodes_than_fit_each_answer_has_others() {
    let view = large(100);
    let bytes = question(ZONE, RecordType::A).to_vec().unwrap();
    let mut seen = BTreeSet::new();
    for turn in 0..100 {
        let from = IpAddr::from(STRANGER);
        let reply = answer(&zone(), Some(&view), &bytes, from, Way::Tcp, turn).unwrap();
        seen.extend(data(&Message::from_vec(&reply.bytes).unwrap()));
    }
    assert_eq!(seen.len(), 100);
}

#[test]
fn a_source_over_its_rate_hears_of_tcp_in_no_more_bytes_than_it_sent() {
    let message = with_edns(ZONE, RecordType::A, Some(&[0, 1, 24, 0, 10, 3, 9]));
    let bytes = message.to_vec().unwrap();
    let cut = send(Some(&view()), &bytes, STRANGER, Way::UdpCut).unwrap();
    assert_eq!(cut.outcome, Outcome::Truncated);
    assert_eq!(cut.bytes.len(), bytes.len());
    let said = Message::from_vec(&cut.bytes).unwrap();
    assert!(said.metadata.truncation && said.answers.is_empty());
}

#[test]
fn before_the_cluster_is_known_only_the_zone_itself_is() {
    for (name, kind, wanted) in [
        (ZONE, RecordType::SOA, Outcome::Answered),
        (ZONE, RecordType::NS, Outcome::Answered),
        (ZONE, RecordType::TXT, Outcome::NoData),
        (ZONE, RecordType::A, Outcome::ServFail),
        ("eu.g.example.com.", RecordType::A, Outcome::ServFail),
        ("sa.g.example.com.", RecordType::A, Outcome::ServFail),
        ("example.com.", RecordType::A, Outcome::Refused),
    ] {
        let (outcome, _) = ask_in(None, &question(name, kind), STRANGER, Way::Udp);
        assert_eq!(outcome, wanted, "{name} {kind}");
    }
}

#[test]
fn messages_that_are_no_questions_get_what_the_rfcs_say_or_nothing() {
    let good = question(ZONE, RecordType::A).to_vec().unwrap();
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        send(Some(&view()), &bytes, STRANGER, Way::Udp).map(|reply| {
            let said = Message::from_vec(&reply.bytes).unwrap();
            assert_eq!(said.metadata.id, 4711);
            (reply.outcome, said.metadata.op_code)
        })
    };
    let query = |outcome| Ok((outcome, OpCode::Query));
    assert_eq!(changed(2, 0x01), query(Outcome::Answered));
    assert_eq!(changed(2, 0x81), Err(Silence::Response), "an answer");
    for (opcode, known) in [
        (1, OpCode::Unknown(1)),
        (2, OpCode::Status),
        (4, OpCode::Notify),
        (5, OpCode::Update),
        (6, OpCode::Unknown(6)),
        (15, OpCode::Unknown(15)),
    ] {
        assert_eq!(changed(2, opcode << 3), Ok((Outcome::NotImp, known)));
    }
    // No question, two of them, an answer, and a record that isn't there.
    for (at, count) in [(5, 0), (5, 2), (7, 1), (9, 1), (11, 1)] {
        assert_eq!(changed(at, count), query(Outcome::FormErr), "{at}");
    }
    for length in 0..12 {
        let short = send(Some(&view()), &good[..length], STRANGER, Way::Udp);
        assert_eq!(short.unwrap_err(), Silence::Short);
    }
    for length in 12..good.len() {
        let cut = send(Some(&view()), &good[..length], STRANGER, Way::Udp).unwrap();
        assert_eq!(cut.outcome, Outcome::FormErr);
    }
    let longer = [&good[..], &[0]].concat();
    let reply = send(Some(&view()), &longer, STRANGER, Way::Udp).unwrap();
    assert_eq!(reply.outcome, Outcome::FormErr);
    // A name that points at itself.
    let mut looped = good[..12].to_vec();
    looped.extend([0xC0, 12, 0, 1, 0, 1]);
    let reply = send(Some(&view()), &looped, STRANGER, Way::Udp).unwrap();
    assert_eq!(reply.outcome, Outcome::FormErr);
}

#[test]
fn two_opt_records_or_one_of_another_name_are_a_form_error() {
    let good = with_edns(ZONE, RecordType::A, None).to_vec().unwrap();
    let opt = good[good.len() - 11..].to_vec();
    let mut two = [&good[..], &opt].concat();
    two[11] = 2;
    let mut named = good[..good.len() - 11].to_vec();
    // A pointer to the question's name.
    named.extend([&[0xC0, 12], &opt[1..]].concat());
    let mut early = good.clone();
    (early[9], early[11]) = (1, 0);
    for bytes in [two, named, early] {
        let reply = send(Some(&view()), &bytes, STRANGER, Way::Udp).unwrap();
        assert_eq!(reply.outcome, Outcome::FormErr);
    }
    // Any other record is skipped.
    let mut more = good.clone();
    more.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 7]);
    more[11] = 2;
    let reply = send(Some(&view()), &more, STRANGER, Way::Udp).unwrap();
    assert_eq!(reply.outcome, Outcome::Answered);
}

/// What holds for the answer to any bytes.
fn is_harmless(bytes: &[u8], way: Way) -> Result<(), TestCaseError> {
    for view in [Some(&large(40)), None] {
        let Ok(reply) = send(view, bytes, STRANGER, way) else {
            continue;
        };
        let said = Message::from_vec(&reply.bytes);
        prop_assert!(said.is_ok(), "{:?}", said);
        let most = if way == Way::Tcp { u16::MAX } else { UDP_MAX };
        prop_assert!(reply.bytes.len() <= usize::from(most));
        prop_assert_eq!(&reply.bytes[..2], &bytes[..2]);
        prop_assert_eq!(reply.bytes[2] & 0x80, 0x80);
        prop_assert_eq!(reply.bytes[2] & 0x79, bytes[2] & 0x79, "opcode and RD");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        is_harmless(&bytes, Way::Udp)?;
    }

    #[test]
    fn any_bytes_behind_the_head_of_a_question_do_no_harm(
        counts in proptest::collection::vec(0u8..3, 4),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = vec![1, 2, 1, 0];
        bytes.extend(counts.iter().flat_map(|count| [0, *count]));
        bytes.extend(rest);
        is_harmless(&bytes, Way::Tcp)?;
    }

    #[test]
    fn good_questions_with_a_few_bytes_changed_do_no_harm(
        which in 0usize..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let names = [ZONE, "_pontoon-client._tcp.g.example.com.", "us.g.example.com.", "x.y."];
        let kinds = [RecordType::A, RecordType::SRV, RecordType::ANY, RecordType::NS];
        let subnet: &[u8] = &[0, 1, 24, 0, 10, 3, 9];
        let mut bytes = with_edns(names[which], kinds[which], Some(subnet)).to_vec().unwrap();
        for (at, value) in changes {
            let length = bytes.len();
            bytes[at.index(length)] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        is_harmless(&bytes, Way::Udp)?;
    }

    /// Whoever asks in good form is answered, whatever the name.
    #[test]
    fn any_name_and_type_is_answered(
        labels in proptest::collection::vec("[a-zA-Z0-9_]{1,20}", 0..5),
        kind in any::<u16>(),
        inside in any::<bool>(),
    ) {
        let mut name = labels.join(".");
        name.push_str(if inside { ".g.example.com." } else { ".test." });
        let message = question(name.trim_start_matches('.'), RecordType::from(kind));
        let reply = send(Some(&view()), &message.to_vec().unwrap(), STRANGER, Way::Udp);
        let outcome = reply.unwrap().outcome;
        prop_assert_ne!(outcome, Outcome::FormErr);
        prop_assert_eq!(outcome == Outcome::Refused, !inside || [251, 252].contains(&kind));
    }
}
