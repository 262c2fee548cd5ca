//! The floor of a sidecar: bytes from one socket to the other, both ways.

use crate::net::{self, TcpStream};
use std::net::SocketAddr;

/// As much as one read takes.
const BUFFER: usize = 64 << 10;

pub(super) async fn serve(mut near: TcpStream, to: SocketAddr) {
    let Ok(mut far) = net::dial_to(to).await else {
        return;
    };
    // Either side may go at any time.
    tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER)
        .await
        .ok();
}
