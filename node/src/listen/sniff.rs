//! Tells HTTP/2 with prior knowledge from HTTP/1.1 by the first bytes of a connection.

use crate::tunnel::Prefixed;
use bytes::BytesMut;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::timeout;

/// How an HTTP/2 connection begins; HTTP/1.1 has no method `PRI` (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What a connection speaks, with the bytes that showed it given back.
pub(super) enum Spoken<IO> {
    Http2(Prefixed<IO>),
    Http1(Prefixed<IO>),
}

/// Reads until it is clear; `None` when the peer leaves or says nothing in time.
pub(super) async fn sniff<IO>(mut io: IO, within: Duration) -> Option<Spoken<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut read = BytesMut::with_capacity(PREFACE.len());
    let clear = async {
        loop {
            let n = read.len().min(PREFACE.len());
            if n > 0 && read[..n] != PREFACE[..n] {
                return Some(false);
            }
            if n == PREFACE.len() {
                return Some(true);
            }
            if io.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        }
    };
    let http2 = timeout(within, clear).await.ok()??;
    let io = Prefixed::new(read.freeze(), io);
    Some(match http2 {
        true => Spoken::Http2(io),
        false => Spoken::Http1(io),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn c_lsn_1_the_first_bytes_tell_and_are_given_back() {
        for (said, http2) in [
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true),
            ("GET / HTTP/1.1\r\n\r\n", false),
            ("PRINT / HTTP/1.1\r\n\r\n", false),
            ("P", false),
        ] {
            for split in [1, said.len()] {
                let (mut client, server) = tokio::io::duplex(64);
                let say = async {
                    client.write_all(&said.as_bytes()[..split]).await.unwrap();
                    client.write_all(&said.as_bytes()[split..]).await.unwrap();
                    if said.len() > 1 {
                        return;
                    }
                    client.write_all(b"OST").await.unwrap();
                };
                let (spoken, ()) = tokio::join!(sniff(server, Duration::from_secs(5)), say);
                drop(client);
                let (is_http2, mut io) = match spoken.unwrap() {
                    Spoken::Http2(io) => (true, io),
                    Spoken::Http1(io) => (false, io),
                };
                assert_eq!(is_http2, http2, "{said}");
                let mut back = String::new();
                io.read_to_string(&mut back).await.unwrap();
                assert!(back.starts_with(said));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn c_lsn_3_a_mute_connection_is_given_up() {
        let (_client, server) = tokio::io::duplex(64);
        assert!(sniff(server, Duration::from_secs(10)).await.is_none());
    }
}
