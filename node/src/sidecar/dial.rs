//! One tunnel: dials the worker and the entry node, says CONNECT, and moves bytes both ways.
//!
//! The bytes are not parsed. A half-close of either side is passed on to the other, and so is a reset.

use super::life::Life;
use super::options::Settings;
use super::ways::Way;
use crate::clock;
use crate::discovery::address::Address;
use crate::net::{self, TcpStream};
use crate::tls::Stream;
use crate::tunnel::Speaks;
use crate::tunnel::close::printable;
use bytes::BytesMut;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pontoon_proto::id::{RequestId, WorkerId};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::time::{sleep, timeout_at};

/// How long a tunnel may take to come up. A node waits 2 s for it.
pub(super) const WITHIN: Duration = Duration::from_secs(5);

/// How long one url may take, so that the next one gets its turn.
const URL_WITHIN: Duration = Duration::from_secs(2);

/// The longest head of an answer to CONNECT, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// The copy buffer per direction: 128 KiB for a tunnel, and at 100 MB/s 1,600 turns a second.
const BUFFER: usize = 64 * 1024;

/// The answers to a CONNECT that surely made no tunnel. What else goes wrong behind a CONNECT may have
/// made one whose 200 was lost. (Relaying nodes of builds before 504 was told apart say 502 for both; that
/// matters to a session only if its entry node dies in the same moment.)
const REFUSED: [u16; 5] = [400, 401, 403, 502, 503];

/// What a node ordered.
pub(super) struct Order {
    pub(super) id: RequestId,
    pub(super) worker: WorkerId,
    pub(super) ticket: String,
    pub(super) urls: Vec<String>,
    /// What the worker speaks.
    pub(super) speaks: Speaks,
    /// The slot of the session whose tunnel it makes; none where it is for no session.
    pub(super) slot: Option<u32>,
}

/// Splices a tunnel that is up until both sides are done.
pub(super) async fn run(life: &Life, node: Stream, worker: TcpStream, id: RequestId) {
    let counters = &life.counters;
    counters.tunnels_opened.add();
    let _open = counters.tunnels_open.enter();
    splice(node, worker, id).await;
}

/// Dials as for a tunnel, and closes at once.
pub(super) async fn probe(life: &Life, order: &Order) -> Result<(), String> {
    dial(life, order).await.map(drop)
}

/// Dials both sides: the worker first, so that a CONNECT is only sent when there is something to connect.
///
/// # Errors
///
/// When the tunnel did not come up; the text says where it failed.
pub(super) async fn dial(life: &Life, order: &Order) -> Result<(Stream, TcpStream), String> {
    let both = async {
        let mut worker = dial_worker(life).await?;
        let (node, ahead) = dial_node(life, order).await?;
        if !ahead.is_empty() {
            worker.write_all(&ahead).await.map_err(of_worker)?;
        }
        Ok((node, worker))
    };
    timeout_at(clock::now() + WITHIN, both)
        .await
        .map_err(|_| "no tunnel within 5 s".to_owned())?
}

/// Dials the worker.
pub(super) async fn dial_worker(life: &Life) -> Result<TcpStream, String> {
    let worker = net::dial(&life.settings.worker, WITHIN);
    worker.await.map_err(of_worker)
}

fn of_worker(error: io::Error) -> String {
    printable(&format!("the worker: {error}"))
}

/// Tries the ways in order, each a head start after the one before or when that one has failed; gives
/// the stream, and what the node has sent behind its answer. Only one CONNECT is under way at a time,
/// because a ticket works once.
pub(super) async fn dial_node(life: &Life, order: &Order) -> Result<(Stream, BytesMut), String> {
    let started = clock::now();
    let ways = life.ways().order(life.age(), &order.urls);
    let mut waiting = ways.iter();
    let mut head_start = Duration::ZERO;
    let mut dialed: Vec<&String> = Vec::new();
    let mut dials = FuturesUnordered::new();
    let mut causes = Vec::new();
    loop {
        let next = waiting.next();
        if let Some(Way {
            address,
            head_start: waits,
        }) = next
        {
            head_start = *waits;
            dialed.push(address);
            dials.push(async move {
                let began = clock::now();
                (address, began, reach(&life.settings, address).await)
            });
        } else if dials.is_empty() {
            break;
        }
        let (url, began, reached) = tokio::select! {
            Some(reached) = dials.next() => reached,
            () = sleep(head_start), if next.is_some() => continue,
        };
        let ahead = dialed.iter().take_while(|other| **other != url).count();
        dialed.retain(|other| *other != url);
        let connected = match reached {
            Ok(stream) => {
                life.ways().reached(url);
                let within = clock::now() + URL_WITHIN;
                timeout_at(within, connect(life, stream, url, order))
                    .await
                    .unwrap_or_else(|_| Err(io::Error::other("no answer to CONNECT in time")))
            }
            Err(error) => {
                life.ways().failed(life.age(), url);
                Err(error)
            }
        };
        match connected {
            Ok(tunnel) => {
                // Those that had a head start and gave no sign; later ones had no time to.
                for slow in dialed.into_iter().take(ahead) {
                    life.ways().failed(life.age(), slow);
                }
                if let Some(node) = order.urls.first() {
                    life.ways().measured(life.age(), node, url, began.elapsed());
                }
                let took = started.elapsed();
                tracing::debug!(session = %order.id, url, ?took, "a tunnel is up");
                return Ok(tunnel);
            }
            Err(error) => causes.push(format!("{url}: {error}")),
        }
    }
    if causes.is_empty() {
        causes.push("no url was given".to_owned());
    }
    Err(printable(&causes.join("; ")))
}

/// Connects to a worker port.
async fn reach(settings: &Settings, url: &str) -> io::Result<Stream> {
    let connect = async {
        let stream = net::dial(url, URL_WITHIN).await?;
        net::keep_alive(&stream)?;
        match &settings.trust {
            None => Ok(Stream::clear(stream)),
            Some(trust) => trust.http1(stream, url).await.map_err(io::Error::other),
        }
    };
    timeout_at(clock::now() + URL_WITHIN, connect)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect(
    life: &Life,
    mut stream: Stream,
    url: &str,
    order: &Order,
) -> io::Result<(Stream, BytesMut)> {
    if order.slot.is_some_and(|slot| !life.offer(order.id, slot)) {
        return Err(io::Error::other("the session has ended"));
    }
    let authority = url
        .parse::<Address>()
        .map_err(io::Error::other)?
        .authority();
    let head = format!(
        "CONNECT /v1/proxy HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {}\r\n\
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
                    if let Some(slot) = order.slot.filter(|_| REFUSED.contains(&code)) {
                        life.retract(order.id, slot);
                    }
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
