//! From the bytes of a question to the bytes of its answer.
//!
//! | a message that | gets | by |
//! | --- | --- | --- |
//! | is no whole head, or an answer | nothing | |
//! | is no query | NOTIMP | RFC 1035 4.1.1 |
//! | breaks the form | FORMERR | RFC 1035, 6891 6.1.1, 7871 7.2.1, 9619 |
//! | has EDNS of another version | BADVERS | RFC 6891 6.1.3 |
//! | asks for another class, another zone, or a transfer | REFUSED | |
//! | asks before this node knows the cluster, or where all that is ready has names that can't be looked up | SERVFAIL | |
//! | asks for a name that there isn't | NXDOMAIN with SOA | RFC 2308 |
//! | asks a name for what it doesn't have | no records, with SOA | RFC 2308 |
//! | asks for ANY | HINFO | RFC 8482 4.2 |
//!
//! Pure: the view, the turn and the bytes come in.

use super::prefixes::{Found, Prefix};
use super::query::{self, Asked, Head, SUBNET, Unread};
use super::view::{Node, Service, View};
use super::zone::{Place, Zone, place};
use std::collections::BTreeSet;
use std::net::IpAddr;
use trust_dns_resolver::proto::ProtoError;
use trust_dns_resolver::proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use trust_dns_resolver::proto::rr::rdata::opt::EdnsOption;
use trust_dns_resolver::proto::rr::rdata::{A, AAAA, HINFO, NS, SOA, SRV};
use trust_dns_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// The largest answer by UDP: what crosses IPv6's smallest MTU in one piece, so that nobody depends on
/// fragments (the DNS flag day of 2020).
pub(super) const UDP_MAX: u16 = 1_232;

/// The largest answer by UDP to somebody who doesn't say more, RFC 1035 4.2.1.
const UDP_PLAIN: u16 = 512;

/// The most nodes, or addresses, in one answer; of more, each answer has others. Over TCP they fill about
/// 12 KiB.
const NODES_MAX: usize = 64;

/// How long the records of nodes count that don't depend on who is ready: a node changes its address
/// only with a restart.
const NODE_TTL: u32 = 60;

/// How long the names of the servers count.
const SERVER_TTL: u32 = 3_600;

/// Serial, refresh, retry and expire of the SOA record. There are no transfers, so nobody compares
/// serials; all servers say the same.
const SOA_NUMBERS: (u32, i32, i32, i32) = (1, 3_600, 600, 86_400);

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the codes")]
pub enum Outcome {
    Answered,
    NoData,
    NxDomain,
    /// By UDP it would be too long, or comes too often: the client is to ask by TCP.
    Truncated,
    FormErr,
    ServFail,
    NotImp,
    Refused,
    BadVers,
}

impl Outcome {
    /// All of them, in order.
    pub const ALL: [Outcome; 9] = [
        Self::Answered,
        Self::NoData,
        Self::NxDomain,
        Self::Truncated,
        Self::FormErr,
        Self::ServFail,
        Self::NotImp,
        Self::Refused,
        Self::BadVers,
    ];

    /// For metrics and the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoData => "nodata",
            Self::NxDomain => "nxdomain",
            Self::Truncated => "truncated",
            Self::FormErr => "formerr",
            Self::ServFail => "servfail",
            Self::NotImp => "notimp",
            Self::Refused => "refused",
            Self::BadVers => "badvers",
        }
    }

    fn code(self) -> ResponseCode {
        match self {
            Self::Answered | Self::NoData | Self::Truncated => ResponseCode::NoError,
            Self::NxDomain => ResponseCode::NXDomain,
            Self::FormErr => ResponseCode::FormErr,
            Self::ServFail => ResponseCode::ServFail,
            Self::NotImp => ResponseCode::NotImp,
            Self::Refused => ResponseCode::Refused,
            Self::BadVers => ResponseCode::BADVERS,
        }
    }
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Udp,
    /// By UDP, from where there come too many: the answer only says that TCP works.
    UdpCut,
    Tcp,
}

/// What is sent, and what is counted.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) bytes: Vec<u8>,
    pub(super) outcome: Outcome,
    /// None when there was no question.
    pub(super) question: Option<Query>,
}

/// Why nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Too short.
    Short,
    /// It was an answer.
    Response,
    /// An answer could not be written: a bug.
    Broken,
}

/// One question, answered. `turn` is any number; it turns the order of the records.
pub(super) fn answer(
    zone: &Zone,
    view: Option<&View>,
    bytes: &[u8],
    from: IpAddr,
    way: Way,
    turn: usize,
) -> Result<Reply, Silence> {
    let asked = match query::read(bytes) {
        Ok(asked) => asked,
        Err(Unread::Short) => return Err(Silence::Short),
        Err(Unread::Response) => return Err(Silence::Response),
        Err(Unread::Opcode(head)) => return bare(head, None, Outcome::NotImp),
        Err(Unread::Malformed(head, question)) => return bare(head, question, Outcome::FormErr),
    };
    let mut answer = Answer {
        zone,
        turn,
        message: response(asked.head, Some(&asked.question)),
        scope: 0,
    };
    let outcome = match way {
        Way::UdpCut => Outcome::Truncated,
        Way::Udp | Way::Tcp => answer
            .find(view, &asked, from)
            .map_err(|_| Silence::Broken)?,
    };
    answer.finish(outcome, asked, way)
}

/// An answer without records, to what could not be read.
fn bare(head: Head, question: Option<Query>, outcome: Outcome) -> Result<Reply, Silence> {
    let mut message = response(head, question.as_ref());
    message.metadata.response_code = outcome.code();
    Ok(Reply {
        bytes: message.to_vec().map_err(|_| Silence::Broken)?,
        outcome,
        question,
    })
}

fn response(head: Head, question: Option<&Query>) -> Message {
    let mut message = Message::response(head.id, OpCode::from_u8(head.opcode));
    message.metadata.recursion_desired = head.recursion_desired;
    message.queries.extend(question.cloned());
    message
}

/// An answer on its way.
struct Answer<'a> {
    zone: &'a Zone,
    turn: usize,
    message: Message,
    /// How many bits of the client's address this is good for.
    scope: u8,
}

impl Answer<'_> {
    /// Finds the records.
    fn find(
        &mut self,
        view: Option<&View>,
        asked: &Asked,
        from: IpAddr,
    ) -> Result<Outcome, ProtoError> {
        let (name, kind) = (asked.question.name(), asked.question.query_type());
        if asked.edns.as_ref().is_some_and(|edns| edns.version != 0) {
            return Ok(Outcome::BadVers);
        }
        let transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
        let foreign = asked.question.query_class() != DNSClass::IN;
        let labels = match self.zone.inside(name) {
            Some(labels) if !foreign && !transfer => labels,
            _ => return Ok(Outcome::Refused),
        };
        self.message.metadata.authoritative = true;
        let address = matches!(kind, RecordType::A | RecordType::AAAA);
        let Some(view) = view else {
            // What the zone itself is, this node knows by its configuration.
            if !labels.is_empty() || address {
                self.message.metadata.authoritative = false;
                return Ok(Outcome::ServFail);
            }
            return self.put(&View::default(), Place::Apex, asked, Vec::new());
        };
        let place = place(view, &labels);
        let (service, region, fits) = match place {
            Place::Apex if address => (Service::Client, None, true),
            Place::Region(region) if address => (Service::Client, Some(region), true),
            Place::Service(service, region) => (service, region, kind == RecordType::SRV),
            _ => return self.put(view, place, asked, Vec::new()),
        };
        let nodes = match region {
            Some(region) => vec![view.offering(region.number, service)],
            None => self.nearest(view, service, asked, from),
        };
        // Others may know where those nodes are: that there is nothing would be believed for a while.
        if fits && nodes.iter().all(Vec::is_empty) && view.misses(service) {
            self.message.metadata.authoritative = false;
            return Ok(Outcome::ServFail);
        }
        self.put(view, place, asked, nodes)
    }

    /// The regions' nodes, the nearest first, for whoever asks.
    fn nearest<'v>(
        &mut self,
        view: &'v View,
        service: Service,
        asked: &Asked,
        from: IpAddr,
    ) -> Vec<Vec<&'v Node>> {
        let subnet = asked.edns.as_ref().and_then(|edns| edns.subnet.as_ref());
        let client = subnet.and_then(|subnet| subnet.client);
        let found = |client| self.zone.prefixes.find(client);
        let Found { region, scope } = found(client.unwrap_or(Prefix::of(from, u8::MAX)));
        let nearest = view.nearest(region, service);
        if client.is_some() {
            self.scope = scope;
        }
        nearest
    }

    /// Writes the records that a place has of the wanted kind.
    fn put(
        &mut self,
        view: &View,
        place: Place<'_>,
        asked: &Asked,
        nodes: Vec<Vec<&Node>>,
    ) -> Result<Outcome, ProtoError> {
        let zone = self.zone;
        let (name, kind) = (asked.question.name(), asked.question.query_type());
        let mut records = Vec::new();
        match (place, kind) {
            (Place::Nothing, _) => {
                self.message.add_authority(soa(zone));
                return Ok(Outcome::NxDomain);
            }
            (_, RecordType::ANY) => {
                let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
                records.push(Record::from_rdata(
                    name.clone(),
                    SERVER_TTL,
                    RData::HINFO(hinfo),
                ));
            }
            (Place::Apex, RecordType::SOA) => {
                let mut soa = soa(zone);
                soa.name = name.clone();
                records.push(soa);
            }
            (Place::Apex, RecordType::NS) => {
                for server in &zone.servers {
                    let ns = RData::NS(NS(server.clone()));
                    records.push(Record::from_rdata(name.clone(), SERVER_TTL, ns));
                    self.glue(view, server);
                }
            }
            (Place::Apex | Place::Region(_), RecordType::A | RecordType::AAAA) => {
                let nodes = nodes.into_iter().next().unwrap_or_default();
                // Nodes behind one balancer share its addresses, and each is answered once (RFC 2181 5).
                let all = nodes
                    .iter()
                    .flat_map(|node| &node.at(Service::Client).addresses);
                let all: BTreeSet<IpAddr> = all.copied().collect();
                let of_family = |address: &IpAddr| address.is_ipv4() == (kind == RecordType::A);
                let mut all: Vec<IpAddr> = all.into_iter().filter(of_family).collect();
                turn(&mut all, self.turn);
                all.truncate(NODES_MAX);
                records.extend(of_kind(name, zone.ttl, kind, &all));
            }
            (Place::Node(node, service), RecordType::A | RecordType::AAAA) => {
                let addresses = &node.at(service).addresses;
                records.extend(of_kind(name, NODE_TTL, kind, addresses));
            }
            (Place::Service(service, _), RecordType::SRV) => {
                let mut left = NODES_MAX;
                for (mut nodes, priority) in nodes.into_iter().zip(0..) {
                    turn(&mut nodes, self.turn);
                    for node in nodes.into_iter().take(left) {
                        left -= 1;
                        records.push(self.target(name, node, service, priority)?);
                    }
                }
            }
            _ => {}
        }
        if records.is_empty() {
            self.message.add_authority(soa(zone));
            return Ok(Outcome::NoData);
        }
        self.message.add_answers(records);
        Ok(Outcome::Answered)
    }

    /// The SRV record of a node. Its addresses go along (RFC 2782).
    fn target(
        &mut self,
        name: &Name,
        node: &Node,
        service: Service,
        priority: u16,
    ) -> Result<Record, ProtoError> {
        let target = self.zone.of_node(node, service)?;
        let at = node.at(service);
        for kind in [RecordType::A, RecordType::AAAA] {
            let records = of_kind(&target, NODE_TTL, kind, &at.addresses);
            self.message.add_additionals(records);
        }
        let srv = SRV::new(priority, 1, at.port, target);
        Ok(Record::from_rdata(
            name.clone(),
            self.zone.ttl,
            RData::SRV(srv),
        ))
    }

    /// The addresses of a server that is a node of this zone.
    fn glue(&mut self, view: &View, server: &Name) {
        let labels = self.zone.inside(server).unwrap_or_default();
        if let Place::Node(node, service) = place(view, &labels) {
            for kind in [RecordType::A, RecordType::AAAA] {
                let records = of_kind(server, NODE_TTL, kind, &node.at(service).addresses);
                self.message.add_additionals(records);
            }
        }
    }

    /// Puts OPT on, and sees to it that the answer fits.
    fn finish(mut self, outcome: Outcome, asked: Asked, way: Way) -> Result<Reply, Silence> {
        self.message.metadata.response_code = outcome.code();
        self.message.metadata.truncation = outcome == Outcome::Truncated;
        let most = match (way, &asked.edns) {
            (Way::Tcp, _) => usize::from(u16::MAX),
            (_, None) => usize::from(UDP_PLAIN),
            (_, Some(edns)) => usize::from(edns.payload.clamp(UDP_PLAIN, UDP_MAX)),
        };
        if let Some(edns) = &asked.edns {
            let mut opt = Edns::new();
            opt.set_max_payload(UDP_MAX).set_dnssec_ok(edns.dnssec_ok);
            if let Some(subnet) = &edns.subnet {
                let data = subnet.scoped(self.scope);
                opt.options_mut().insert(EdnsOption::Unknown(SUBNET, data));
            }
            self.message.set_edns(opt);
        }
        let question = Some(asked.question);
        let write = |message: &Message| message.to_vec().map_err(|_| Silence::Broken);
        let mut bytes = write(&self.message)?;
        if bytes.len() > most && !self.message.additionals.is_empty() {
            // Those are a courtesy, and nothing is said of their absence (RFC 2181 9).
            self.message.additionals.clear();
            bytes = write(&self.message)?;
        }
        if bytes.len() <= most {
            return Ok(Reply {
                bytes,
                outcome,
                question,
            });
        }
        // Half a set of records could be mistaken for a whole one.
        Ok(Reply {
            bytes: write(&self.message.truncate())?,
            outcome: Outcome::Truncated,
            question,
        })
    }
}

/// Moves the first ones to the end, so many as it is the turn of.
fn turn<T>(values: &mut [T], turn: usize) {
    if !values.is_empty() {
        values.rotate_left(turn % values.len());
    }
}

fn of_kind(name: &Name, ttl: u32, kind: RecordType, addresses: &[IpAddr]) -> Vec<Record> {
    let data = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(four) if kind == RecordType::A => Some(RData::A(A(*four))),
        IpAddr::V6(six) if kind == RecordType::AAAA => Some(RData::AAAA(AAAA(*six))),
        _ => None,
    });
    data.map(|data| Record::from_rdata(name.clone(), ttl, data))
        .collect()
}

/// The record that says who answers, and for how long it counts that something is not there: as long as
/// anything else, because a node that comes back shouldn't wait for it.
fn soa(zone: &Zone) -> Record {
    let (serial, refresh, retry, expire) = SOA_NUMBERS;
    let primary = zone.servers.first().unwrap_or(&zone.name).clone();
    let contact = zone.contact.clone();
    let soa = SOA::new(primary, contact, serial, refresh, retry, expire, zone.ttl);
    Record::from_rdata(zone.name.clone(), zone.ttl, RData::SOA(soa))
}
