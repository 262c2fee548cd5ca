//! Tunnels: authenticated byte streams, dialed by sidecars, on which we are the HTTP client.
//!
//! [`Tunnels::obtain`] gives a connection the parked tunnel of its session, or asks the sidecar for a
//! new one: a ticket is minted, `OpenTunnel` is passed to a node where the sidecar is attached, the
//! sidecar's CONNECT arrives at [`accept`], and the stream is handed to whoever waits for it.

use crate::session::Target;
use bytes::Bytes;
use std::time::Duration;

/// A live tunnel to a session's worker, in use by one client connection at a time.
#[derive(Clone)]
pub struct Tunnel {
    sender: h2::client::SendRequest<Bytes>,
}

impl Tunnel {
    /// The HTTP/2 side: wait until it is ready, then send a request.
    pub fn h2(&self) -> h2::client::SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Whether the tunnel can still carry a call.
    pub fn is_live(&self) -> bool {
        false
    }
}

/// No tunnel came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No node could be reached where the sidecar is attached.
    #[error("the worker's sidecar is attached nowhere that this node reaches")]
    NotAttached,
    /// The sidecar said that it could not dial us, or did not dial in time.
    #[error("the sidecar did not dial back in time")]
    NoDial,
}

/// The tunnels of this node.
#[derive(Clone)]
pub struct Tunnels {}

impl Tunnels {
    /// The session's parked tunnel if it lives, else a new one, within a bound.
    pub async fn obtain(&self, _target: &Target, _within: Duration) -> Result<Tunnel, LinkError> {
        Err(LinkError::NotAttached)
    }

    /// Gives a tunnel back when its client connection closed; it waits with its session.
    pub fn park(&self, _target: &Target, _tunnel: Tunnel) {}

    /// Closes what this node holds for a session.
    pub fn end(&self, _id: pontoon_proto::id::RequestId) {}
}
