//! Finds out who comes and what it speaks, before anything is served.

use super::Origin;
use super::close::CloseReason;
use super::proxies::Proxies;
use super::tongue::{DECIDED_WITHIN, Tongue, tongue};
use crate::net::{self, TcpStream};
use crate::prefixed::Prefixed;
use crate::tls::front::Front;
use crate::tls::said::Said;
use bytes::BytesMut;
use pontoon_proto::proxy_header::{self, Parsed};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How much is read at once before it is known what comes: a head of HTTP/1.1 as a rule.
const FIRST_READ: usize = 1024;

/// A socket whose first bytes were looked at.
type Socket = Prefixed<TcpStream>;

/// A connection that can be served.
pub(super) enum Greeted {
    /// In clear text.
    Clear(Socket, Origin, Tongue),
    /// Over TLS. Boxed, because rustls's state is about 1 KiB.
    Tls(Box<Prefixed<TlsStream<Socket>>>, Origin, Tongue),
}

/// Greets the clients of one door.
pub(super) struct Greeter {
    tls: Option<Front>,
    proxies: Proxies,
    /// For each step: a PROXY header, a handshake, the first bytes.
    within: Duration,
    said: Said,
}

impl Greeter {
    pub(super) fn new(tls: Option<Front>, proxies: Proxies, within: Duration) -> Self {
        Self {
            tls,
            proxies,
            within,
            said: Said::default(),
        }
    }

    /// Why not is [`CloseReason::Mute`] or [`CloseReason::Header`].
    pub(super) async fn greet(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<Greeted, CloseReason> {
        let mut read = BytesMut::with_capacity(FIRST_READ);
        let client = match self.proxies.include(peer.ip()) {
            true => self.proxied(&mut stream, &mut read, peer).await?,
            false => peer,
        };
        let origin = Origin {
            peer: client,
            tls: self.tls.is_some(),
        };
        let Some(tls) = &self.tls else {
            let tongue = self.tongue(&mut stream, &mut read, peer).await?;
            if tongue != Tongue::Http2 {
                notice_vanished(&stream);
            }
            return Ok(Greeted::Clear(
                Prefixed::new(read.freeze(), stream),
                origin,
                tongue,
            ));
        };
        let stream = Prefixed::new(read.freeze(), stream);
        let handshake = TlsAcceptor::from(tls.config()).accept(stream);
        let mut stream = match tokio::time::timeout(self.within, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a client's TLS handshake failed");
                return Err(CloseReason::Mute);
            }
            Err(_) => return Err(CloseReason::Mute),
        };
        let mut read = BytesMut::new();
        let tongue = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Tongue::Http2,
            Some(_) => Tongue::Http1,
            None => {
                read.reserve(FIRST_READ);
                self.tongue(&mut stream, &mut read, peer).await?
            }
        };
        if tongue != Tongue::Http2 {
            notice_vanished(stream.get_ref().0.get_ref());
        }
        let stream = Prefixed::new(read.freeze(), stream);
        Ok(Greeted::Tls(Box::new(stream), origin, tongue))
    }

    /// Takes the PROXY header that this peer must send; gives whom it speaks for. What follows the
    /// header stays in `read`.
    async fn proxied(
        &self,
        stream: &mut TcpStream,
        read: &mut BytesMut,
        peer: SocketAddr,
    ) -> Result<SocketAddr, CloseReason> {
        let header = decide(stream, read, proxy_header::LENGTH_MAX, |bytes| {
            let parsed = proxy_header::parse(bytes);
            (parsed != Parsed::NeedsMore).then_some(parsed)
        });
        match tokio::time::timeout(self.within, header).await {
            Ok(Some(Parsed::Complete { length, addresses })) => {
                let _header = read.split_to(length);
                Ok(addresses.map_or(peer, |addresses| addresses.source))
            }
            Ok(Some(Parsed::Malformed(why))) => {
                let why = why.to_string();
                if self.said.is_news(&peer.ip().to_string(), &why) {
                    tracing::warn!(
                        from = %peer.ip(),
                        "a connection from an address in proxy_from was closed: {why}; let the \
                         balancer send PROXY headers, or take its address out of the list"
                    );
                }
                Err(CloseReason::Header)
            }
            // A balancer's probe that only connects, or silence.
            Ok(_) | Err(_) => Err(CloseReason::Mute),
        }
    }

    async fn tongue<IO: AsyncRead + Unpin>(
        &self,
        io: &mut IO,
        read: &mut BytesMut,
        peer: SocketAddr,
    ) -> Result<Tongue, CloseReason> {
        let tongue = decide(io, read, DECIDED_WITHIN, tongue);
        match tokio::time::timeout(self.within, tongue).await {
            Ok(Some(tongue @ (Tongue::Http1 | Tongue::Http2))) => Ok(tongue),
            Ok(Some(Tongue::Proxy)) => {
                if self.said.is_news(&peer.ip().to_string(), "PROXY") {
                    tracing::warn!(
                        from = %peer.ip(),
                        "a connection was closed: it begins with a PROXY header, and its address is \
                         not in this listener's proxy_from"
                    );
                }
                Err(CloseReason::Header)
            }
            Ok(Some(Tongue::Tls)) => {
                if self.said.is_news(&peer.ip().to_string(), "TLS") {
                    tracing::info!(
                        from = %peer.ip(),
                        "a client speaks TLS to the port for clear text; listen.client_tls has TLS"
                    );
                }
                Err(CloseReason::Mute)
            }
            Ok(None) | Err(_) => Err(CloseReason::Mute),
        }
    }
}

/// Lets the kernel find a client that vanished. HTTP/2 has PING for it, and so needs no such bound on
/// how long a client may take nothing.
fn notice_vanished(stream: &TcpStream) {
    if let Err(error) = net::notice_vanished(stream) {
        tracing::debug!(%error, "a vanished client will be noticed late");
    }
}

/// Reads until the bytes decide; `None` when the stream ends before, or `most` bytes don't.
async fn decide<IO: AsyncRead + Unpin, T>(
    io: &mut IO,
    read: &mut BytesMut,
    most: usize,
    decided: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    loop {
        if let Some(decision) = decided(read) {
            return Some(decision);
        }
        if read.len() >= most || io.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use tokio::io::AsyncWriteExt as _;

    const WITHIN: Duration = Duration::from_millis(200);

    /// How a door with these proxies greets a client that says this.
    async fn greeted(
        proxies: &[&str],
        says: &[u8],
    ) -> Result<(Origin, Tongue, Vec<u8>), CloseReason> {
        let listener = net::listen("a test", "127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        client.write_all(says).await.unwrap();
        client.shutdown().await.unwrap();
        let ranges = proxies.iter().map(|range| range.parse().unwrap()).collect();
        let greeter = Greeter::new(None, Proxies::new(ranges), WITHIN);
        match greeter.greet(stream, peer).await? {
            Greeted::Clear(mut io, origin, tongue) => {
                let mut rest = Vec::new();
                io.read_to_end(&mut rest).await.unwrap();
                Ok((origin, tongue, rest))
            }
            Greeted::Tls(..) => panic!("no TLS here"),
        }
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";

    #[tokio::test]
    async fn c_lsn_1_what_was_read_to_find_out_is_given_back() {
        let preface = pontoon_proto::connect::PREFACE;
        for (says, wanted) in [(REQUEST, Tongue::Http1), (preface, Tongue::Http2)] {
            let (origin, tongue, rest) = greeted(&[], says).await.unwrap();
            assert_eq!((tongue, &rest[..]), (wanted, says));
            assert_eq!(origin.peer.ip(), IpAddr::from([127, 0, 0, 1]));
            assert!(!origin.tls);
        }
        for says in [&b""[..], b"PRI * HTTP", b"\x16\x03\x01"] {
            assert_eq!(greeted(&[], says).await.unwrap_err(), CloseReason::Mute);
        }
    }

    #[tokio::test]
    async fn c_lsn_5_a_header_from_a_listed_address_says_who_calls() {
        let says = [HEADER, REQUEST].concat();
        let (origin, tongue, rest) = greeted(&["127.0.0.0/8"], &says).await.unwrap();
        assert_eq!(origin.peer, "192.0.2.7:56324".parse().unwrap());
        assert_eq!((tongue, &rest[..]), (Tongue::Http1, REQUEST));
        let says = [&b"PROXY UNKNOWN\r\n"[..], REQUEST].concat();
        let (origin, ..) = greeted(&["127.0.0.1"], &says).await.unwrap();
        assert_eq!(origin.peer.ip(), IpAddr::from([127, 0, 0, 1]));
        let (mut v2, mut tlvs) = (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0c\xdc".to_vec(),
            vec![0; 3280],
        );
        v2.extend([203, 0, 113, 9, 127, 0, 0, 1, 0x12, 0x34, 0, 1]);
        v2.append(&mut tlvs);
        v2.extend(REQUEST);
        let (origin, _, rest) = greeted(&["127.0.0.1"], &v2).await.unwrap();
        assert_eq!(origin.peer, "203.0.113.9:4660".parse().unwrap());
        assert_eq!(rest, REQUEST);
    }

    #[tokio::test]
    async fn c_lsn_5_a_header_is_demanded_from_listed_addresses_and_refused_from_others() {
        let bad = greeted(&["127.0.0.1"], REQUEST).await.unwrap_err();
        assert_eq!(bad, CloseReason::Header);
        let says = [HEADER, REQUEST].concat();
        for proxies in [&[][..], &["127.0.0.2"]] {
            let bad = greeted(proxies, &says).await.unwrap_err();
            assert_eq!(bad, CloseReason::Header);
        }
        // Off by default, and nobody else needs one.
        assert!(greeted(&["127.0.0.2"], REQUEST).await.is_ok());
        let mute = greeted(&["127.0.0.1"], b"PROXY TCP4").await.unwrap_err();
        assert_eq!(mute, CloseReason::Mute);
        let twice = [HEADER, HEADER, REQUEST].concat();
        let bad = greeted(&["127.0.0.1"], &twice).await.unwrap_err();
        assert_eq!(bad, CloseReason::Header);
    }
}
