//! One tunnel: dials the worker and the entry node, says CONNECT, and moves bytes both ways.
//!
//! The bytes are not parsed. A half-close of either side is passed on to the other, and so is a reset.

use super::Counters;
use super::options::Settings;
use crate::clock;
use crate::net::{self, TcpStream};
use crate::tls::Stream;
use crate::tunnel::Speaks;
use crate::tunnel::close::printable;
use bytes::BytesMut;
use pontoon_proto::id::{RequestId, WorkerId};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::time::timeout_at;

/// How long a tunnel may take to come up. A node waits 2 s for it.
const WITHIN: Duration = Duration::from_secs(5);

/// How long one url may take, so that the next one gets its turn.
const URL_WITHIN: Duration = Duration::from_secs(2);

/// The longest head of an answer to CONNECT, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// The copy buffer per direction: 128 KiB for a tunnel, and at 100 MB/s 1,600 turns a second.
const BUFFER: usize = 64 * 1024;

/// What a node ordered.
pub(super) struct Order {
    pub(super) id: RequestId,
    pub(super) worker: WorkerId,
    pub(super) ticket: String,
    pub(super) urls: Vec<String>,
    /// What the worker speaks.
    pub(super) speaks: Speaks,
}

/// Dials, and splices until both sides are done.
///
/// # Errors
///
/// When the tunnel did not come up; the text says where it failed. How it ends is not an error.
pub(super) async fn tunnel(
    settings: &Settings,
    counters: &Counters,
    order: &Order,
) -> Result<(), String> {
    let (node, worker) = dial(settings, order).await?;
    counters.tunnels_opened.add();
    let _open = counters.tunnels_open.enter();
    splice(node, worker, order.id).await;
    Ok(())
}

/// Dials as for a tunnel, and closes at once.
pub(super) async fn probe(settings: &Settings, order: &Order) -> Result<(), String> {
    dial(settings, order).await.map(drop)
}

/// The worker first, so that a CONNECT is only sent when there is something to connect.
async fn dial(settings: &Settings, order: &Order) -> Result<(Stream, TcpStream), String> {
    let to_worker = |error: io::Error| printable(&format!("the worker: {error}"));
    let both = async {
        let mut worker = net::dial(&settings.worker, WITHIN)
            .await
            .map_err(to_worker)?;
        let (node, ahead) = dial_node(settings, order).await?;
        if !ahead.is_empty() {
            worker.write_all(&ahead).await.map_err(to_worker)?;
        }
        Ok((node, worker))
    };
    timeout_at(clock::now() + WITHIN, both)
        .await
        .map_err(|_| "no tunnel within 5 s".to_owned())?
}

/// Tries the urls in order; gives the stream, and what the node has sent behind its answer.
async fn dial_node(settings: &Settings, order: &Order) -> Result<(Stream, BytesMut), String> {
    let mut causes = Vec::new();
    for url in &order.urls {
        let tried = tokio::time::timeout(URL_WITHIN, connect(settings, url, order)).await;
        match tried {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => causes.push(format!("{url}: {error}")),
            Err(_) => causes.push(format!("{url}: no answer in time")),
        }
    }
    if causes.is_empty() {
        causes.push("no url was given".to_owned());
    }
    Err(printable(&causes.join("; ")))
}

async fn connect(settings: &Settings, url: &str, order: &Order) -> io::Result<(Stream, BytesMut)> {
    let stream = net::dial(url, URL_WITHIN).await?;
    net::keep_alive(&stream)?;
    let mut stream = match &settings.trust {
        None => Stream::clear(stream),
        Some(trust) => trust.http1(stream, url).await.map_err(io::Error::other)?,
    };
    let head = format!(
        "CONNECT /v1/proxy HTTP/1.1\r\nHost: {url}\r\nAuthorization: Bearer {}\r\n\
         X-Request-ID: {}\r\nX-Worker-ID: {}\r\nX-Worker-Protocol: {}\r\n\r\n",
        order.ticket,
        order.id,
        order.worker,
        order.speaks.label()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut read = BytesMut::with_capacity(1024);
    let length = loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut headers);
        match answer.parse(&read).map_err(io::Error::other)? {
            httparse::Status::Complete(length) => match answer.code {
                Some(200) => break length,
                code => {
                    let code = code.unwrap_or(0);
                    return Err(io::Error::other(format!("CONNECT was answered {code}")));
                }
            },
            httparse::Status::Partial if read.len() < HEAD_MAX => {}
            httparse::Status::Partial => return Err(io::Error::other("the answer is too long")),
        }
    };
    Ok((stream, read.split_off(length)))
}

/// Moves bytes until both sides have finished, or one breaks; then the other one is reset too, so
/// that a cut stream never looks like a complete one.
async fn splice(mut node: Stream, mut worker: TcpStream, id: RequestId) {
    let started = clock::now();
    let spliced = copy_bidirectional_with_sizes(&mut node, &mut worker, BUFFER, BUFFER).await;
    let seconds = started.elapsed().as_secs_f64();
    match spliced {
        Ok((down, up)) => {
            tracing::info!(session = %id, down, up, seconds, "a tunnel has closed");
        }
        Err(error) => {
            let _or_gone = node.socket().set_zero_linger();
            let _or_gone = worker.set_zero_linger();
            tracing::info!(session = %id, %error, seconds, "a tunnel broke");
        }
    }
}
