//! Names: a DNS server of one zone, and what it can be made to say instead (S-10).
//!
//! Nodes and sidecars ask it, over UDP, wherever they dial each other. Records count for a second, so that
//! what it says instead is soon believed, and soon forgotten.

use crate::cluster::Error;
use crate::net::UdpSocket;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinSet;

/// The zone: `test` is nobody's (RFC 6761).
pub const ZONE: &str = "chaos.test";

/// How long records count, seconds.
const TTL: u32 = 1;

/// Where nobody listens.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(127, 66, 66, 66);

/// What is said instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// SERVFAIL.
    Fails,
    /// Nothing at all: the question times out.
    Silent,
    /// NXDOMAIN: there is no such name.
    Nothing,
    /// An address where nobody is, as of a machine that is gone.
    Nowhere,
    /// The address of the next node, as of a machine whose address was given to another.
    Another,
}

/// The server.
#[derive(Debug)]
pub struct Names {
    state: Arc<State>,
    at: SocketAddr,
    // Ends with it.
    _server: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The nodes' names and addresses, in their order.
    hosts: Vec<(String, Ipv4Addr)>,
    wrong: Mutex<BTreeMap<usize, Answer>>,
    wronged: AtomicU64,
}

/// The name of a node.
pub fn of(node: &str) -> String {
    format!("{node}.{ZONE}")
}

impl Names {
    /// Serves the names of these nodes.
    pub async fn serve(hosts: Vec<(String, Ipv4Addr)>, at: Ipv4Addr) -> Result<Self, Error> {
        let socket = UdpSocket::bind(SocketAddr::from((at, 0))).await;
        let failed = |error: std::io::Error| Error(format!("cannot serve names: {error}"));
        let socket = socket.map_err(failed)?;
        let at = socket.local_addr().map_err(failed)?;
        let state = Arc::new(State {
            hosts,
            ..State::default()
        });
        let (mut server, serving) = (JoinSet::new(), Arc::clone(&state));
        server.spawn(async move {
            let mut question = [0; 512];
            loop {
                // An error is that of an earlier answer, whose asker is gone.
                if let Ok((length, from)) = socket.recv_from(&mut question).await
                    && let Some(answer) = serving.answer(&question[..length])
                {
                    socket.send_to(&answer, from).await.ok();
                }
            }
        });
        Ok(Self {
            state,
            at,
            _server: server,
        })
    }

    /// Where it is asked.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// What it says of a node from now on; none is the truth.
    pub fn say(&self, node: usize, answer: Option<Answer>) {
        let mut wrong = self.state.wrong();
        match answer {
            Some(answer) => drop(wrong.insert(node, answer)),
            None => drop(wrong.remove(&node)),
        }
    }

    /// How many questions were not answered with the truth so far.
    pub fn wronged(&self) -> u64 {
        self.state.wronged.load(Ordering::Relaxed)
    }
}

/// The type A, and the class IN.
const A_IN: [u8; 4] = [0, 1, 0, 1];

/// An answer of an authority that recurses, as far as its asker cares.
const FLAGS: u16 = 0x8580;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;

impl State {
    fn wrong(&self) -> MutexGuard<'_, BTreeMap<usize, Answer>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a question; none when there is none, or the question is none.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = name(question.get(12..)?)?;
        let kind: [u8; 4] = rest.get(..4)?.try_into().ok()?;
        let asked = &question[12..question.len() - rest.len() + 4];
        let reply = |code: u16, address: Option<Ipv4Addr>| {
            let mut reply = question[..2].to_vec();
            reply.extend((FLAGS | code).to_be_bytes());
            // One question, so many answers, and nothing else.
            reply.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
            reply.extend(asked);
            if let Some(address) = address {
                // The name is the one at offset 12.
                reply.extend([0xc0, 12]);
                reply.extend(A_IN);
                reply.extend(TTL.to_be_bytes());
                reply.extend([0, 4]);
                reply.extend(address.octets());
            }
            Some(reply)
        };
        let known = self.hosts.iter().position(|(host, _)| of(host) == name);
        let Some(node) = known else {
            return reply(NXDOMAIN, None);
        };
        let wrong = self.wrong().get(&node).copied();
        if wrong.is_some() {
            self.wronged.fetch_add(1, Ordering::Relaxed);
        }
        let address = match wrong {
            Some(Answer::Silent) => return None,
            Some(Answer::Fails) => return reply(SERVFAIL, None),
            Some(Answer::Nothing) => return reply(NXDOMAIN, None),
            Some(Answer::Nowhere) => NOWHERE,
            Some(Answer::Another) => self.hosts[(node + 1) % self.hosts.len()].1,
            None => self.hosts[node].1,
        };
        // There are no addresses of other kinds.
        reply(0, (kind == A_IN).then_some(address))
    }
}

/// A name in lower case, and what comes after it.
fn name(mut bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut labels = Vec::new();
    loop {
        let (length, rest) = bytes.split_first()?;
        if *length == 0 {
            return Some((labels.join("."), rest));
        }
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        labels.push(String::from_utf8(label.to_ascii_lowercase()).ok()?);
        bytes = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for a host of the zone.
    fn question(host: &str, kind: u8) -> Vec<u8> {
        let mut question = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in of(host).split('.') {
            question.push(label.len() as u8);
            question.extend(label.bytes());
        }
        question.extend([0, 0, kind, 0, 1]);
        question
    }

    #[tokio::test]
    async fn a_name_is_answered_with_its_address_or_as_wrongly_as_was_asked_for() {
        let [one, other] = [1, 2].map(|number| Ipv4Addr::new(127, 1, 0, number));
        let hosts = vec![("A-1".to_lowercase(), one), ("b-1".to_owned(), other)];
        let names = Names::serve(hosts, Ipv4Addr::LOCALHOST).await.unwrap();
        let ask = async |host: &str, kind| {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let to = names.at();
            socket.send_to(&question(host, kind), to).await.unwrap();
            let mut answer = [0; 512];
            let within = std::time::Duration::from_secs(1);
            let heard = tokio::time::timeout(within, socket.recv(&mut answer)).await;
            let length = heard.ok()?.unwrap();
            assert_eq!(answer[..2], [7, 9]);
            let address: [u8; 4] = answer[length - 4..length].try_into().unwrap();
            Some((answer[3] & 0xf, answer[7], address))
        };
        assert_eq!(ask("a-1", 1).await, Some((0, 1, one.octets())));
        assert_eq!(ask("A-1", 1).await, Some((0, 1, one.octets())));
        assert_eq!(
            ask("a-1", 28).await.map(|said| (said.0, said.1)),
            Some((0, 0))
        );
        assert_eq!(
            ask("c-1", 1).await.map(|said| (said.0, said.1)),
            Some((3, 0))
        );
        names.say(0, Some(Answer::Another));
        assert_eq!(ask("a-1", 1).await, Some((0, 1, other.octets())));
        names.say(0, Some(Answer::Nowhere));
        assert_eq!(ask("a-1", 1).await, Some((0, 1, NOWHERE.octets())));
        names.say(0, Some(Answer::Fails));
        assert_eq!(
            ask("a-1", 1).await.map(|said| (said.0, said.1)),
            Some((2, 0))
        );
        names.say(0, Some(Answer::Silent));
        assert_eq!(ask("a-1", 1).await, None);
        assert_eq!(ask("b-1", 1).await, Some((0, 1, other.octets())));
        assert_eq!(names.wronged(), 4);
        names.say(0, None);
        assert_eq!(ask("a-1", 1).await, Some((0, 1, one.octets())));
    }
}
