//! The protocol's corners, and those who go beyond them.

use super::asking::{ANSWER_WITHIN, connect, exchange, framed, next, question, says, tools};
use super::support::{alone, wait};
use super::world::{RATE, World, ZONE, home};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;
use trust_dns_resolver::proto::op::{Message, ResponseCode};

#[test]
fn corners_of_the_protocol_are_as_the_tools_expect_them() {
    let _alone = alone();
    let world = World::get();
    let to = world.dns("eu-1");
    let name = format!("_pontoon-client._tcp.eu.{ZONE}");
    for (arguments, wanted) in [
        (vec!["+edns=1", "+noednsnegotiation", ZONE, "A"], "BADVERS"),
        (vec!["+opcode=status", ZONE, "A"], "NOTIMP"),
        (vec!["+opcode=notify", ZONE, "SOA"], "NOTIMP"),
        (vec!["CH", "TXT", "version.bind"], "REFUSED"),
        (vec!["example.com", "A"], "REFUSED"),
        (vec!["nobody.eu.example.com", "A"], "REFUSED"),
        (vec![name.as_str(), "TXT"], "NOERROR"),
    ] {
        let said = says("dig", to, &arguments);
        assert!(
            said.contains(&format!("status: {wanted}")),
            "{arguments:?}: {said}"
        );
    }
    let missing = format!("nobody.{ZONE}");
    for program in tools() {
        let said = says(program, to, &[&missing, "A"]);
        assert!(said.contains("status: NXDOMAIN"), "{program}: {said}");
        assert!(said.contains("SOA"), "{program}: {said}");
        let said = says(program, to, &["+tcp", ZONE, "AXFR"]);
        let refused = said.contains("Transfer failed") || said.contains("REFUSED");
        assert!(refused, "{program}: {said}");
    }
    // Cases mixed, which resolvers do to be harder to fool, come back as they went.
    let mixed: String = name
        .chars()
        .enumerate()
        .map(|(at, letter)| {
            if at % 2 == 0 {
                letter.to_ascii_uppercase()
            } else {
                letter
            }
        })
        .collect();
    let bytes = question(&mixed, "SRV");
    let answer = exchange(to, home("eu"), &bytes).expect("an answer");
    assert_eq!(answer[12..bytes.len()], bytes[12..]);
    // Garbage gets a form error when it has a head, and an answer nothing at all.
    let garbage = exchange(to, home("eu"), &[7; 40]);
    assert!(garbage.is_some_and(|answer| answer[..2] == [7, 7]));
    let before = world.metrics("eu-1", "pontoon_dns_dropped_total{reason=\"response\"}");
    let socket = UdpSocket::bind((home("eu"), 0)).expect("a socket");
    let mut response = question(ZONE, "A");
    response[2] |= 0x80;
    socket.send_to(&response, to).expect("sent");
    socket.send_to(&[0; 3], to).expect("sent");
    socket.send_to(&bytes, to).expect("sent");
    socket.set_read_timeout(Some(ANSWER_WITHIN)).expect("set");
    let mut buffer = [0; 1_500];
    let (length, _) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(
        buffer[12..bytes.len()],
        bytes[12..],
        "{length}: only the question is answered"
    );
    let after = world.metrics("eu-1", "pontoon_dns_dropped_total{reason=\"response\"}");
    assert_eq!(after - before, 1.0);
    // Several questions at once over one connection, in pieces; the last is garbage, which ends it.
    let mut stream = connect(to);
    let all = [
        framed(&bytes),
        framed(&question(ZONE, "NS")),
        framed(&[1, 2, 3]),
    ]
    .concat();
    for piece in all.chunks(7) {
        stream.write_all(piece).expect("sent");
    }
    assert_eq!(next(&mut stream).answers.len(), 2);
    assert_eq!(
        next(&mut stream).metadata.response_code,
        ResponseCode::NoError
    );
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    let refused = "pontoon_dns_queries_total{type=\"A\",outcome=\"refused\"}";
    assert!(world.metrics("eu-1", refused) >= 2.0);
}

#[test]
fn a_flood_from_one_prefix_is_held_up_and_nobody_else_is() {
    let _alone = alone();
    let world = World::get();
    let to = world.dns("ap-2");
    let flood = UdpSocket::bind((Ipv4Addr::new(127, 9, 9, 9), 0)).expect("a socket");
    let bytes = question(ZONE, "A");
    flood.set_nonblocking(true).expect("set");
    let (mut whole, mut cut) = (0, 0);
    let mut buffer = [0; 1_500];
    // No more at once than the socket's buffer holds, until the rate is passed.
    wait::until(2 * ANSWER_WITHIN, "the flood is held up", || {
        for _ in 0..100 {
            flood.send_to(&bytes, to).expect("sent");
        }
        while let Ok((length, _)) = flood.recv_from(&mut buffer) {
            let answer = Message::from_vec(&buffer[..length]).expect("a message");
            match answer.metadata.truncation {
                true => cut += 1,
                false => whole += 1,
            }
        }
        (cut >= 10).then_some(())
    });
    assert!(whole >= RATE, "{whole} {cut}");
    // Somebody else.
    assert_eq!(world.addresses("ap-2", "ap", ZONE).len(), 2);
    // Whoever is sent to TCP is served there.
    let mut stream = connect(to);
    stream.write_all(&framed(&bytes)).expect("sent");
    assert_eq!(next(&mut stream).answers.len(), 2);
    wait::until(ANSWER_WITHIN, "what was dropped is counted", || {
        let dropped = world.metrics("ap-2", "pontoon_dns_dropped_total{reason=\"rate\"}");
        (dropped >= 1.0).then_some(())
    });
    assert!(world.metrics("ap-2", "pontoon_dns_limited_total") >= 10.0);
}

#[test]
fn a_connection_without_questions_is_closed() {
    let mut stream = connect(World::get().dns("us-2"));
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("set");
    let began = pontoon::clock::now();
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    assert!(
        began.elapsed() >= Duration::from_secs(9),
        "{:?}",
        began.elapsed()
    );
}
