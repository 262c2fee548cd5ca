//! Look-ups against a DNS server with real sockets.

use super::Names;
use super::address::Address;
use crate::net::UdpSocket;
use crate::tasks::{self, Kind};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use trust_dns_resolver::proto::op::{Message, MessageType, ResponseCode};
use trust_dns_resolver::proto::rr::rdata::{A, SRV};
use trust_dns_resolver::proto::rr::{Name, RData, Record};

/// What a server says.
#[derive(Clone, Default)]
struct Zone {
    records: Vec<(&'static str, RData)>,
    fails: bool,
}

/// A server of one zone, whose records count for a second.
struct Server {
    zone: Arc<Mutex<Zone>>,
    asked: Arc<AtomicU32>,
    names: Names,
}

impl Server {
    async fn start(records: Vec<(&'static str, RData)>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone {
            records,
            fails: false,
        }));
        let asked = Arc::new(AtomicU32::new(0));
        let (served, counted) = (zone.clone(), asked.clone());
        tasks::spawn(Kind::Worker, "a DNS server", async move {
            let mut buffer = [0; 1024];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                counted.fetch_add(1, Ordering::Relaxed);
                let zone = served.lock().unwrap().clone();
                let answer = answer(&zone, &buffer[..length]);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self {
            zone,
            asked,
            names: Names::asking(&[at]),
        }
    }

    async fn find(&self, address: &str) -> Result<BTreeSet<SocketAddr>, String> {
        let address: Address = address.parse().unwrap();
        let found = self.names.find(&address).await;
        found
            .map(|found| found.into_iter().collect())
            .map_err(|error| error.to_string())
    }

    fn says(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.zone.lock().unwrap());
    }

    /// Until the answer for this address is the wanted one: answers count for a second.
    async fn becomes(&self, address: &str, wanted: Result<&[&str], &str>) {
        let mut seen = None;
        for _ in 0..400 {
            let found = self.find(address).await;
            let as_wanted = match (&found, wanted) {
                (Ok(found), Ok(wanted)) => *found == sockets(wanted),
                (Err(error), Err(part)) => error.contains(part),
                _ => false,
            };
            if as_wanted {
                return;
            }
            seen = Some(found);
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("{address} never became {wanted:?}: {seen:?}");
    }
}

fn answer(zone: &Zone, question: &[u8]) -> Vec<u8> {
    let mut message = Message::from_vec(question).unwrap();
    let query = message.queries[0].clone();
    message.metadata.message_type = MessageType::Response;
    message.edns = None;
    if zone.fails {
        message.metadata.response_code = ResponseCode::ServFail;
        return message.to_vec().unwrap();
    }
    let asked = query.name().to_ascii();
    let asked = asked.trim_end_matches('.').to_ascii_lowercase();
    let of_name = zone.records.iter().filter(|(name, _)| *name == asked);
    let known = of_name.clone().count() > 0;
    for (_, data) in of_name.filter(|(_, data)| data.record_type() == query.query_type()) {
        let record = Record::from_rdata(query.name().clone(), 1, data.clone());
        message.add_answer(record);
    }
    if !known {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    message.to_vec().unwrap()
}

fn a(last: u8) -> RData {
    RData::A(A(Ipv4Addr::new(127, 0, 0, last)))
}

fn srv(priority: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(
        priority,
        1,
        port,
        Name::from_ascii(target).unwrap(),
    ))
}

fn sockets(texts: &[&str]) -> BTreeSet<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn two_nodes() -> Vec<(&'static str, RData)> {
    vec![
        ("_p._tcp.example.com", srv(1, 101, "eu-1.example.com.")),
        ("_p._tcp.example.com", srv(2, 102, "eu-2.example.com.")),
        ("eu-1.example.com", a(1)),
        ("eu-2.example.com", a(2)),
        ("all.example.com", a(1)),
        ("all.example.com", a(2)),
    ]
}

#[tokio::test]
async fn names_have_the_addresses_and_services_the_ports_that_dns_says() {
    let server = Server::start(two_nodes()).await;
    let both = sockets(&["127.0.0.1:7", "127.0.0.2:7"]);
    assert_eq!(server.find("all.example.com:7").await, Ok(both));
    let service: Address = "_p._tcp.example.com".parse().unwrap();
    let found = server.names.find(&service).await.unwrap();
    let wanted = ["127.0.0.1:101", "127.0.0.2:102"].map(|text| text.parse().unwrap());
    assert_eq!(found, wanted, "the lower priority first");
    let one = sockets(&["127.0.0.2:102"]);
    assert_eq!(server.find("eu-2@_p._tcp.example.com").await, Ok(one));
    let error = server.find("eu-3@_p._tcp.example.com").await.unwrap_err();
    assert!(
        error.contains("no target whose first label is eu-3"),
        "{error}"
    );
    let error = server.find("nobody.example.com:1").await.unwrap_err();
    assert!(
        error.contains("nobody.example.com can't be found"),
        "{error}"
    );
}

#[tokio::test]
async fn s_10_answers_are_kept_while_the_server_fails_and_followed_when_they_change() {
    let server = Server::start(two_nodes()).await;
    let address = "all.example.com:7";
    server
        .becomes(address, Ok(&["127.0.0.1:7", "127.0.0.2:7"]))
        .await;
    server.says(|zone| zone.fails = true);
    let before = server.asked.load(Ordering::Relaxed);
    // Long after its end, the last answer still counts.
    while server.asked.load(Ordering::Relaxed) < before + 4 {
        server
            .becomes(address, Ok(&["127.0.0.1:7", "127.0.0.2:7"]))
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    server.says(|zone| {
        zone.fails = false;
        zone.records.retain(|(name, _)| *name != "all.example.com");
        zone.records.push(("all.example.com", a(3)));
    });
    server.becomes(address, Ok(&["127.0.0.3:7"])).await;
    server.says(|zone| zone.records.clear());
    server.becomes(address, Err("can't be found")).await;
}

#[tokio::test]
async fn a_name_of_this_machine_needs_no_server() {
    let server = Server::start(Vec::new()).await;
    let found = server.find("localhost:9").await.unwrap();
    assert!(
        found.iter().all(|socket| socket.ip().is_loopback()),
        "{found:?}"
    );
}
