//! The network, from one place: the only file that names `tokio::net`.

pub use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
pub use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};

use crate::discovery;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// After so long without an answer the next socket of an address is dialed beside the one before (RFC
/// 8305 5 has the value).
const BESIDE: Duration = Duration::from_millis(250);

/// Dials an address, see [`discovery`], within a bound; small writes leave at once (TCP_NODELAY). Of
/// several sockets the first one that answers is taken.
pub async fn dial(address: &str, within: Duration) -> io::Result<TcpStream> {
    let reached = async {
        let sockets = discovery::find(address).await?;
        first(&sockets).await
    };
    let stream = tokio::time::timeout(within, reached)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first of these that answers. The next is dialed when one has failed, or takes long.
async fn first(sockets: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut left = sockets.iter();
    let mut dialed = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    loop {
        let next = left.next();
        match next {
            Some(socket) => dialed.push(TcpStream::connect(*socket)),
            None if dialed.is_empty() => return Err(last),
            None => {}
        }
        let patience = async {
            match next {
                Some(_) if left.len() > 0 => tokio::time::sleep(BESIDE).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(answer) = dialed.next() => match answer {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = patience => {}
        }
    }
}

/// Binds a listener; the error says what to do when the port is taken.
pub async fn listen(what: &str, address: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| cannot_listen(what, address, &error))
}

/// The same for messages.
pub async fn receive(what: &str, address: &str) -> io::Result<UdpSocket> {
    UdpSocket::bind(address)
        .await
        .map_err(|error| cannot_listen(what, address, &error))
}

fn cannot_listen(what: &str, address: &str, error: &io::Error) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process has this port: stop it, or choose another",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ => "check the address",
    };
    io::Error::new(
        error.kind(),
        format!("cannot listen on {address} for {what}: {error}; {hint}"),
    )
}

/// Two listeners on one socket: whoever accepts first has the connection.
pub fn share(listener: TcpListener) -> io::Result<(TcpListener, TcpListener)> {
    let listener = listener.into_std()?;
    let other = listener.try_clone()?;
    Ok((
        TcpListener::from_std(listener)?,
        TcpListener::from_std(other)?,
    ))
}

/// Lets the kernel notice a client that vanished, within 30 s (C-LSN-4): a silent one is probed after
/// 10 s and then every 5 s, and the connection ends when nothing was acknowledged for 25 s.
///
/// The kernel counts data that a full window keeps back as unacknowledged, too (tcp(7),
/// TCP_USER_TIMEOUT), so this also ends a client that has taken nothing for so long.
pub fn notice_vanished(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_user_timeout(stream, 25_000)?;
    Ok(())
}

/// Lets the kernel notice a peer that vanished without a word: probes after 30 s of silence, and
/// gives up when nothing was acknowledged for 60 s.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_user_timeout(stream, 60_000)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt;

    #[tokio::test]
    async fn c_lsn_4_the_kernel_looks_for_clients_that_have_no_ping_within_30_s() {
        let listener = listen("a test", "127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stream = dial(&address, Duration::from_secs(5)).await.unwrap();
        notice_vanished(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let silent = sockopt::tcp_keepidle(&stream).unwrap();
        let probes = sockopt::tcp_keepintvl(&stream).unwrap();
        let given_up = Duration::from_millis(sockopt::tcp_user_timeout(&stream).unwrap().into());
        // The end comes with the first probe that is due when the time is over.
        assert!(silent + probes <= given_up);
        assert!(given_up + probes <= Duration::from_secs(30));
    }
}
