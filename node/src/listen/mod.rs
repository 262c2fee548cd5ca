//! The client listeners: accept, bound, find out what each connection speaks, and serve it.
//!
//! [`greet`] finds out: a PROXY header in front where one may be, TLS where the door has it, then
//! HTTP/2 or HTTP/1.1 by ALPN or by the first bytes. [`h2`] and [`h1`] serve; an HTTP/1.1 request that
//! asks for `h2c` goes on in HTTP/2 by [`upgrade`]. [`guard`] watches HTTP/2 from below.

pub mod close;
pub mod h2;
pub mod limits;
pub mod proxies;

mod frames;
mod greet;
mod guard;
mod h1;
mod tongue;
mod upgrade;

use crate::call::{Context, Joins};
use crate::clock;
use crate::drain::{Draining, Stage};
use crate::net::{TcpListener, TcpStream};
use crate::prefixed::ByteStream;
use crate::tasks::{self, Kind};
use crate::tls::front::Front;
use close::CloseReason;
use greet::{Greeted, Greeter};
use proxies::Proxies;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tongue::Tongue;

/// How long accepting pauses after an error: out of descriptors, most likely, and trying again at
/// once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection that has not said anything yet keeps a node that leaves.
const GREET_DRAINING: Duration = Duration::from_secs(1);

/// Numbers the connections of this process, for the log.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// Where a client connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address: the socket's, or what a trusted PROXY header says.
    pub peer: SocketAddr,
    /// Whether the client speaks TLS to us.
    pub tls: bool,
}

/// A listener, and what is known of those who come to it.
pub struct Door {
    /// The listener.
    pub listener: TcpListener,
    /// What clients are shown; `None` for clear text.
    pub tls: Option<Front>,
    /// Who may, and must, say on whose behalf it comes.
    pub proxies: Proxies,
}

/// Accepts and serves clear text until the node drains; returns when every connection has ended.
pub async fn serve<J: Joins>(listener: TcpListener, cx: Arc<Context<J>>, draining: Draining) {
    let door = Door {
        listener,
        tls: None,
        proxies: Proxies::default(),
    };
    serve_all(vec![door], cx, draining).await;
}

/// Accepts and serves at several doors, which share one limit on connections.
pub async fn serve_all<J: Joins>(doors: Vec<Door>, cx: Arc<Context<J>>, draining: Draining) {
    let max = cx.limits.connections_max;
    let places = Arc::new(Semaphore::new(max));
    let accepting = doors
        .into_iter()
        .map(|door| accept(door, cx.clone(), draining.clone(), places.clone()));
    futures::future::join_all(accepting).await;
    // All places back means that no connection is left.
    let all = u32::try_from(max).unwrap_or(u32::MAX);
    let _all_back = places.acquire_many(all).await;
}

async fn accept<J: Joins>(
    door: Door,
    cx: Arc<Context<J>>,
    draining: Draining,
    places: Arc<Semaphore>,
) {
    let Door {
        listener,
        tls,
        proxies,
    } = door;
    let greeter = Arc::new(Greeter::new(tls, proxies, cx.limits.handshake));
    let mut leaving = draining.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = leaving.reached(Stage::Draining) => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a client connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            cx.counters.closed(CloseReason::TooMany);
            continue;
        };
        // Without it small answers wait for the peer's delayed ACK; nothing breaks if it fails.
        let _slower = stream.set_nodelay(true);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (cx, draining, greeter) = (cx.clone(), draining.clone(), greeter.clone());
        tasks::spawn(Kind::Worker, "client connection", async move {
            cx.counters.connections_total.up();
            let _gauge = cx.counters.connections.while_held();
            let began = clock::now();
            let reason = connection(&greeter, cx.clone(), number, stream, peer, draining).await;
            tracing::debug!(connection = number, %peer, ?reason, "a client connection ended");
            cx.counters.closed(reason);
            cx.counters.connection_lives.observe(began.elapsed());
            drop(place);
        });
    }
}

/// One connection from its first byte to its end.
async fn connection<J: Joins>(
    greeter: &Greeter,
    cx: Arc<Context<J>>,
    number: u64,
    stream: TcpStream,
    peer: SocketAddr,
    draining: Draining,
) -> CloseReason {
    // Each stage is an allocation of its own, so that a connection keeps the memory of the one it is in.
    match Box::pin(greeted(greeter, stream, peer, draining.clone())).await {
        Ok(Greeted::Clear(io, origin, tongue)) => {
            speak(cx, number, origin, io, tongue, draining).await
        }
        Ok(Greeted::Tls(io, origin, tongue)) => {
            speak(cx, number, origin, *io, tongue, draining).await
        }
        Err(reason) => reason,
    }
}

/// Finds out what a connection speaks; one that has said nothing is not waited for by a node that leaves.
async fn greeted(
    greeter: &Greeter,
    stream: TcpStream,
    peer: SocketAddr,
    mut draining: Draining,
) -> Result<Greeted, CloseReason> {
    let in_vain = async {
        draining.reached(Stage::Draining).await;
        tokio::time::sleep(GREET_DRAINING).await;
    };
    tokio::select! {
        greeted = greeter.greet(stream, peer) => greeted,
        () = in_vain => Err(CloseReason::Drained),
    }
}

async fn speak<J: Joins>(
    cx: Arc<Context<J>>,
    number: u64,
    origin: Origin,
    io: impl ByteStream,
    tongue: Tongue,
    draining: Draining,
) -> CloseReason {
    match tongue {
        Tongue::Http2 => Box::pin(h2::serve(cx, number, origin, io, draining)).await,
        _ => Box::pin(h1::serve(cx, number, origin, io, draining)).await,
    }
}
