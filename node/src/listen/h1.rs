//! HTTP/1.1 client connections: closed for now.

use super::Origin;
use super::h2::CloseReason;
use super::upgrade;
use crate::call::{Context, Joins};
use crate::drain::Draining;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves a connection until it ends; returns how.
pub(super) async fn serve<J: Joins, IO>(
    cx: Arc<Context<J>>,
    _number: u64,
    _origin: Origin,
    io: IO,
    _draining: Draining,
) -> CloseReason
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _upgraded = upgrade::injected::<IO>;
    drop(io);
    cx.counters.connections_mute.up();
    CloseReason::Mute
}
