//! One kept connection to another node.
//!
//! ```text
//!            first use                connected
//!              │  ┌──────────────────────────────────────┐
//!              ▼  │                                      ▼
//!            Dialing ──── refused, no answer ───▶ Down ─▶ Up
//!                 ▲                                ▲ └─┐  │
//!                 │                                └───┘  │
//!                 └─────────── it broke ──────────────────┘
//! ```
//!
//! A task of its own keeps the connection up for as long as the link exists, so that callers with
//! short deadlines never cancel a dial, and a dead connection is replaced before anybody trips over
//! it. While `Dialing`, callers wait; while `Down`, they fail at once and know that nothing was
//! sent. A channel is used for one connection only: when that breaks, so does the channel, and what
//! is still in its queue fails as unsent.

use super::{CONNECTION_WINDOW, HEADERS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW};
use crate::{clock, net, random, tasks};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::codegen::{Service, http::Uri};
use tonic::transport::{Channel, Endpoint};

/// How long a dial may take: three round trips of 150 ms and one lost SYN's worth of patience.
const DIAL_MAX: Duration = Duration::from_secs(1);

/// The pause before the first dial after a failure, ...
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// ... doubled each time up to this one: a node that comes back is found within about 200 ms, and
/// one that stays away costs five dials a second.
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// A connection that lived shorter than this does not reset the pause.
const SETTLED: Duration = Duration::from_secs(1);

#[derive(Clone)]
enum State {
    Dialing,
    Up(Channel),
    Down(Arc<str>),
}

/// One kept connection; it is closed when the link is dropped and its running exchanges are done.
pub(super) struct Link {
    address: Arc<str>,
    state: watch::Receiver<State>,
    keeper: AbortHandle,
}

impl Link {
    /// Starts dialing.
    pub(super) fn open(address: Arc<str>) -> Arc<Self> {
        let (publish, state) = watch::channel(State::Dialing);
        let task = tasks::spawn(
            tasks::Kind::Worker,
            "peer link",
            keep(address.clone(), publish),
        );
        Arc::new(Self {
            address,
            state,
            keeper: task.abort_handle(),
        })
    }

    /// Where it leads.
    pub(super) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The live connection. Fails at once when the last dial failed, and at the deadline while the
    /// first one is still under way; the text says why. Nothing was sent then.
    pub(super) async fn channel(&self, deadline: Instant) -> Result<Channel, String> {
        let mut state = self.state.clone();
        let wait = async {
            loop {
                match &*state.borrow_and_update() {
                    State::Up(channel) => return Ok(channel.clone()),
                    State::Down(cause) => return Err(cause.to_string()),
                    State::Dialing => {}
                }
                if state.changed().await.is_err() {
                    return Err("its address changed".into());
                }
            }
        };
        timeout_at(deadline, wait)
            .await
            .unwrap_or_else(|_| Err(format!("no connection to {} in time", self.address)))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(address: Arc<str>, publish: watch::Sender<State>) {
    let mut pause = PAUSE_MIN;
    loop {
        match connect(&address).await {
            Ok((channel, broken)) => {
                let since = clock::now();
                publish.send_replace(State::Up(channel));
                // The sender is dropped with the socket; nothing is ever sent.
                let _ = broken.await;
                publish.send_replace(State::Dialing);
                if since.elapsed() >= SETTLED {
                    pause = PAUSE_MIN;
                }
            }
            Err(cause) => {
                publish.send_replace(State::Down(cause.into()));
            }
        }
        sleep(pause.mul_f64(0.75 + random::fraction() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Dials, and gives a channel over that one connection together with the news of its end.
async fn connect(address: &str) -> Result<(Channel, oneshot::Receiver<()>), String> {
    let socket = net::dial(address, DIAL_MAX)
        .await
        .map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let (held, broken) = oneshot::channel();
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address} is not host:port: {error}"))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADERS_MAX)
        // Calls that ran into their deadline are resets; they must never add up to a GOAWAY.
        .http2_max_local_error_reset_streams(None)
        .connect_with_connector(Once(Some(Socket {
            io: TokioIo::new(socket),
            _held: held,
        })))
        .await
        .map_err(|error| format!("cannot speak HTTP/2 to {address}: {error}"))?;
    Ok((channel, broken))
}

/// A connector that gives its one socket, and no second one.
struct Once(Option<Socket>);

impl Service<Uri> for Once {
    type Response = Socket;
    type Error = io::Error;
    type Future = Ready<io::Result<Socket>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(
            self.0
                .take()
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection broke")),
        )
    }
}

/// A socket whose end is noticed: `_held` is dropped with it.
struct Socket {
    io: TokioIo<net::TcpStream>,
    _held: oneshot::Sender<()>,
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
