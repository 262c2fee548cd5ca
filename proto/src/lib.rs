//! What crosses a wire, and nothing else.
//!
//! Read [`id`] for the names of things, [`head`] for what a call says, [`protocols`] and [`cookies`]
//! for two places where it may say so, [`fault`] for what goes wrong and how callers see it, [`key`]
//! for the secrets that callers hold, [`ticket`] for the one with which a sidecar dials back, and
//! [`connect`] for how it says so, [`proxy_header`] for what a load balancer says of its clients,
//! [`trace`] for the trace that a call is a part of. The generated gRPC types are in [`admin`], [`peer`]
//! and [`worker`].
//!
//! All modules here are pure: they take bytes, time and randomness as arguments.

pub mod connect;
pub mod cookies;
pub mod fault;
pub mod head;
pub mod id;
pub mod key;
pub mod protocols;
pub mod proxy_header;
pub mod ticket;
pub mod trace;

/// The admin API, `pontoon.admin.v1`.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; the proto file has the docs"
)]
pub mod admin {
    tonic::include_proto!("pontoon.admin.v1");
}

/// What nodes say to each other, `pontoon.peer.v1`.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; the proto file has the docs"
)]
pub mod peer {
    tonic::include_proto!("pontoon.peer.v1");
}

/// The control stream between sidecar and node, `pontoon.worker.v1`.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; the proto file has the docs"
)]
pub mod worker {
    tonic::include_proto!("pontoon.worker.v1");
}

/// The encoded descriptors of all of our services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
