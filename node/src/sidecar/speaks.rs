//! What the worker speaks: a server that answers an HTTP/2 preface with SETTINGS speaks HTTP/2.
//!
//! Asked once in a worker's life, on a connection of its own, because an HTTP/1.1 server answers with
//! an error and hangs up.

use super::health::Check;
use crate::net;
use crate::tunnel::Speaks;
use pontoon_proto::connect::PREFACE;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long the worker may take: it has just answered its health check.
const WITHIN: Duration = Duration::from_secs(1);

/// What follows the client's preface: a SETTINGS frame, empty (RFC 9113 3.4).
const EMPTY_SETTINGS: &[u8; HEAD] = &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];

/// A frame's head, and the type of SETTINGS in it (RFC 9113 4.1, 6.5).
const HEAD: usize = 9;
const SETTINGS: u8 = 4;

/// Finds out. A worker whose gRPC health was checked speaks HTTP/2; one that says nothing in time
/// counts as one that does not.
pub(super) async fn ask(address: &str, check: &Check) -> Speaks {
    if *check == Check::Grpc {
        return Speaks::Http2;
    }
    match timeout(WITHIN, answers_preface(address)).await {
        Ok(Ok(true)) => Speaks::Http2,
        _ => Speaks::Http1,
    }
}

async fn answers_preface(address: &str) -> io::Result<bool> {
    let mut stream = net::dial(address, WITHIN).await?;
    let asks = [&PREFACE[..], EMPTY_SETTINGS].concat();
    stream.write_all(&asks).await?;
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).await?;
    // An HTTP/1.1 status line has "P/1" where the type and the stream stand.
    Ok(head[3] == SETTINGS && head[5..] == [0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn k_hlt_1_a_server_that_answers_the_preface_speaks_http2() {
        for (answer, speaks) in [
            (
                &b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0"[..],
                Speaks::Http2,
            ),
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], Speaks::Http1),
            (&b""[..], Speaks::Http1),
        ] {
            let listener = net::listen("test", "127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let answers = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(answer).await.unwrap();
                let mut read = [0; PREFACE.len()];
                let _all = stream.read_exact(&mut read).await;
            };
            let check = Check::Tcp;
            let (found, ()) = tokio::join!(ask(&address, &check), answers);
            assert_eq!(found, speaks);
        }
        assert_eq!(ask("127.0.0.1:1", &Check::Grpc).await, Speaks::Http2);
    }
}
