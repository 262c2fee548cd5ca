//! Sockets of this package: the only file here that names `tokio::net`.
//!
//! Everything is on loopback. Free ports are drawn from below the range that the kernel takes ephemeral
//! ports from, so that no outgoing connection takes one between this check and the process that binds
//! it.

use crate::cluster::Error;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
pub(crate) use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
pub(crate) use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Above the well-known ports and those of common services, below Linux's ephemeral range, which
/// begins at 32,768.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// How long a process of this machine may take to answer a GET.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How often a free port is looked for; with a range half full, 64 draws fail once in 2^64.
const DRAWS_MAX: u32 = 64;

/// Connects to a port of this machine, without Nagle's wait.
pub(crate) async fn dial(port: u16) -> std::io::Result<TcpStream> {
    dial_to(local(port)).await
}

/// Connects, without Nagle's wait.
pub(crate) async fn dial_to(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Listens, with room for thousands that come at once.
pub(crate) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4_096)
}

/// The body of the answer to a GET.
pub(crate) async fn get(at: SocketAddr, path: &str) -> Result<String, Error> {
    let answered = async {
        let mut stream = dial_to(at).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let broken = |error: &dyn std::fmt::Display| Error(format!("GET {path} of {at}: {error}"));
    let answer = tokio::time::timeout(ANSWER_WITHIN, answered).await;
    let answer = answer.map_err(|late| broken(&late))?;
    let answer = answer.map_err(|error| broken(&error))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(broken(&answer)),
    }
}

/// The next connection, without Nagle's wait.
pub(crate) async fn accept(listener: &TcpListener) -> std::io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A port of this machine.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Ports that are free at this moment, all different.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeSet<u16>);

impl Ports {
    pub(crate) fn take(&mut self) -> Result<u16, Error> {
        for _ in 0..DRAWS_MAX {
            let mut random = [0; 2];
            getrandom::fill(&mut random).map_err(|error| Error(error.to_string()))?;
            let port = RANGE.start + u16::from_le_bytes(random) % (RANGE.end - RANGE.start);
            if !self.0.contains(&port) && std::net::TcpListener::bind(local(port)).is_ok() {
                self.0.insert(port);
                return Ok(port);
            }
        }
        Err(Error(format!(
            "no free port between {} and {} on 127.0.0.1",
            RANGE.start, RANGE.end
        )))
    }
}
