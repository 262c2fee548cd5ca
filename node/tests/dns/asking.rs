//! Asking: messages made by hand, and the tools that everybody has.

use super::support::skipped;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use trust_dns_resolver::proto::op::Message;

/// How long one answer may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A question as bytes, made by hand: one of the known types.
pub fn question(name: &str, kind: &str) -> Vec<u8> {
    let kind: u16 = match kind {
        "A" => 1,
        "NS" => 2,
        "SOA" => 6,
        "AAAA" => 28,
        "SRV" => 33,
        "ANY" => 255,
        other => panic!("no number for {other}"),
    };
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// The same with an OPT record, so that 1,232 bytes may come back.
pub fn with_edns(mut question: Vec<u8>) -> Vec<u8> {
    question[11] = 1;
    question.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    question
}

/// Sends one message by UDP from an address; its answer.
pub fn exchange(to: SocketAddr, from: Ipv4Addr, bytes: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((from, 0)).expect("a socket");
    socket.set_read_timeout(Some(ANSWER_WITHIN)).expect("set");
    socket.send_to(bytes, to).expect("sent");
    let mut buffer = [0; 4_096];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

/// A message with its length in front, RFC 7766 8.
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A connection to a node's port.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, ANSWER_WITHIN).expect("a connection");
    stream.set_read_timeout(Some(ANSWER_WITHIN)).expect("set");
    stream
}

/// The next answer of a connection.
#[track_caller]
pub fn next(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("an answer's length");
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).expect("an answer");
    Message::from_vec(&bytes).expect("a message")
}

/// The records of an answer, as zone files have them.
pub fn data(message: &Message) -> BTreeSet<String> {
    let records = message.answers.iter();
    records.map(|record| record.data.to_string()).collect()
}

/// The tools that are there; what is missing is said.
pub fn tools() -> &'static [&'static str] {
    static TOOLS: OnceLock<Vec<&str>> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let there = ["dig", "kdig"].into_iter().filter(|tool| {
            let tried = Command::new(tool).arg("-v").output();
            let missing = tried.map_err(|error| skipped(&format!("{tool}: {error}")));
            missing.is_ok()
        });
        there.collect()
    })
}

/// All that a tool prints about a question.
pub fn says(tool: &str, to: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new(tool);
    command
        .arg(format!("@{}", to.ip()))
        .args(["-p", &to.port().to_string()])
        .args(arguments);
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The records of an answer by a tool: `TTL TYPE DATA`.
#[track_caller]
pub fn records(tool: &str, to: SocketAddr, arguments: &[&str]) -> BTreeSet<String> {
    let said = says(tool, to, &[&["+noall", "+answer"], arguments].concat());
    let lines = said
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(';'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(words.len() > 4 && words[2] == "IN", "{said}");
            format!("{} {}", words[1], words[3..].join(" "))
        })
        .collect()
}
