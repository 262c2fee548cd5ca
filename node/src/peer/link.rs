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
//!
//! With TLS a link is `Up` only after the other node has taken our certificate. A problem with
//! certificates, or with only one side having TLS, is one line in the log when it begins and one when
//! it is over.

use super::{CONNECTION_WINDOW, HEADERS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW};
use crate::discovery::address::Address;
use crate::tls::once::Once;
use crate::tls::said::Said;
use crate::tls::{self, Tls};
use crate::{clock, net, random, tasks};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};

/// How long a dial may take: three round trips of 150 ms and one lost SYN's worth of patience.
const DIAL_MAX: Duration = Duration::from_secs(1);

/// How long the handshake of TLS may take on top: two round trips, and four signatures on a machine
/// that is busy.
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);

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

/// Where a node is, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's name, which its certificate must carry.
    pub name: String,
    /// Its peer listener: host:port, or an SRV name.
    pub address: String,
}

/// What a link dials with.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) tls: Option<Tls>,
    pub(super) said: Arc<Said>,
}

/// One kept connection; it is closed when the link is dropped and its running exchanges are done.
pub(super) struct Link {
    place: Arc<Place>,
    state: watch::Receiver<State>,
    keeper: AbortHandle,
}

impl Link {
    /// Starts dialing.
    pub(super) fn open(place: Arc<Place>, dialer: Dialer) -> Arc<Self> {
        let (publish, state) = watch::channel(State::Dialing);
        let task = tasks::spawn(
            tasks::Kind::Worker,
            "peer link",
            keep(place.clone(), dialer, publish),
        );
        Arc::new(Self {
            place,
            state,
            keeper: task.abort_handle(),
        })
    }

    /// Where it leads.
    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
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
            .unwrap_or_else(|_| Err(format!("no connection to {} in time", self.place.address)))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(place: Arc<Place>, dialer: Dialer, publish: watch::Sender<State>) {
    let mut pause = PAUSE_MIN;
    loop {
        match dialer.connect(&place).await {
            Ok((channel, broken)) => {
                let since = clock::now();
                publish.send_replace(State::Up(channel));
                // Without news, the sender was dropped with the socket.
                publish.send_replace(match broken.await {
                    Ok(cause) => State::Down(dialer.says(&place, cause.to_owned()).into()),
                    Err(_) => State::Dialing,
                });
                if since.elapsed() >= SETTLED {
                    pause = PAUSE_MIN;
                    dialer.is_well(&place);
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

type Broken = oneshot::Receiver<&'static str>;

impl Dialer {
    /// Dials, and gives a channel over that one connection together with the news of its end.
    async fn connect(&self, place: &Place) -> Result<(Channel, Broken), String> {
        let address = &place.address;
        let socket = net::dial(address, DIAL_MAX)
            .await
            .map_err(|error| format!("cannot connect to {address}: {error}"))?;
        let stream = match &self.tls {
            None => tls::Stream::clear(socket),
            Some(tls) => {
                let handshake = tls.connect(socket, Some(&place.name));
                let stream = tokio::time::timeout(HANDSHAKE_MAX, handshake)
                    .await
                    .unwrap_or_else(|_| Err("no answer to the TLS handshake in time".into()))
                    .map_err(|cause| self.says(place, cause))?;
                self.is_well(place);
                stream
            }
        };
        let (held, broken) = oneshot::channel();
        let authority = address.parse::<Address>()?.authority();
        let channel = Endpoint::from_shared(format!("http://{authority}"))
            .map_err(|error| format!("{address} can't be dialed: {error}"))?
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .http2_max_header_list_size(HEADERS_MAX)
            // Calls that ran into their deadline are resets; they must never add up to a GOAWAY.
            .http2_max_local_error_reset_streams(None)
            .connect_with_connector(Once::new(Socket {
                stream,
                unread: true,
                held: Some(held),
            }))
            .await
            .map_err(|error| format!("cannot speak HTTP/2 to {address}: {error}"))?;
        Ok((channel, broken))
    }

    /// A problem with TLS: in the log when it is news, and as a text for the callers.
    fn says(&self, place: &Place, cause: String) -> String {
        let Place { name, address } = place;
        if self.said.is_news(address, &cause) {
            tracing::warn!(node = %name, address, "no connection to another node: {cause}");
        }
        format!("{name} at {address}: {cause}")
    }

    fn is_well(&self, place: &Place) {
        let Place { name, address } = place;
        if self.said.is_well_again(address) {
            tracing::info!(node = %name, address, "the connection to another node is possible again");
        }
    }
}

/// What a node says that has no TLS when it is answered by one that has.
const MEETS_TLS: &str = "it speaks TLS, and this node speaks clear text: set [tls] on this node as \
                         well, or on neither";

/// The first byte of a TLS alert (RFC 8446 5.1). An HTTP/2 server's first byte is a part of the
/// length of its SETTINGS, and 0.
const ALERT: u8 = 21;

/// A stream whose end is noticed, because `held` is dropped with it, and whose first byte is looked
/// at.
struct Socket {
    stream: tls::Stream,
    unread: bool,
    held: Option<oneshot::Sender<&'static str>>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.unread
            && let Some(first) = buf.filled().get(before)
        {
            self.unread = false;
            if *first == ALERT
                && let Some(held) = self.held.take()
            {
                // The keeper may be gone.
                let _ = held.send(MEETS_TLS);
            }
        }
        poll
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
