//! The client listener: accepts, bounds, and hands each connection to [`h2`].
//!
//! HTTP/2 with prior knowledge. Left out so far: HTTP/1.1, h2c by upgrade, TLS, PROXY headers.

mod h1;
pub mod h2;
pub mod limits;
mod sniff;

use crate::call::{Context, Joins};
use crate::drain::{Draining, Stage};
use crate::net::TcpListener;
use crate::tasks::{self, Kind};
use sniff::{Spoken, sniff};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long accepting pauses after an error: out of descriptors, most likely, and trying again at
/// once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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

/// Accepts and serves until the node drains; returns when every connection has ended.
pub async fn serve<J: Joins>(listener: TcpListener, cx: Arc<Context<J>>, draining: Draining) {
    let max = cx.limits.connections_max;
    let places = Arc::new(Semaphore::new(max));
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
            cx.counters.connections_refused.up();
            continue;
        };
        // Without it small answers wait for the peer's delayed ACK; nothing breaks if it fails.
        let _slower = stream.set_nodelay(true);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (cx, draining) = (cx.clone(), draining.clone());
        tasks::spawn(Kind::Worker, "client connection", async move {
            cx.counters.connections_total.up();
            let _gauge = cx.counters.connections.while_held();
            let origin = Origin { peer, tls: false };
            let reason = match sniff(stream, cx.limits.handshake).await {
                Some(Spoken::Http2(io)) => {
                    h2::serve(cx.clone(), number, origin, io, draining).await
                }
                Some(Spoken::Http1(io)) => {
                    h1::serve(cx.clone(), number, origin, io, draining).await
                }
                None => {
                    cx.counters.connections_mute.up();
                    h2::CloseReason::Mute
                }
            };
            tracing::debug!(connection = number, %peer, ?reason, "a client connection ended");
            drop(place);
        });
    }
    drop(listener);
    // All places back means that no connection is left.
    let all = u32::try_from(max).unwrap_or(u32::MAX);
    let _all_back = places.acquire_many(all).await;
}
