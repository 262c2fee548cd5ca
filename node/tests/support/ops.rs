//! What ops ports show, over plain HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);

/// What is answered to a head, until the other side closes; `None` when nobody answers.
pub fn exchange(address: &str, head: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(WITHIN)).ok()?;
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A page: status and body; `None` when nobody answers.
pub fn page(address: &str, path: &str) -> Option<(u16, String)> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(address, &head)?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A series on a page of metrics; 0 where it is not.
pub fn value(page: &str, name: &str) -> f64 {
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().expect("a number"))
}

/// A series of a process; 0 where it is not, or nobody answers.
pub fn series(ops: &str, name: &str) -> f64 {
    let (_, page) = page(ops, "/metrics").unwrap_or_default();
    value(&page, name)
}
