//! The demo function: a worker that real clients exist for, and a client of our own.
//!
//! The worker speaks the open inference protocol ([`inference`]) and knows nothing of Pontoon but
//! the metadata `nvcf-reqid` that each call brings. Read [`tensor`] for what goes in and out,
//! [`model`] for the two models, [`worker`] for the server, [`call`] for `pontoon call`.

pub mod call;
pub mod model;
pub mod tensor;
pub mod worker;

/// The open inference protocol, package `inference`.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; the proto file has the docs"
)]
pub mod inference {
    tonic::include_proto!("inference");

    /// The encoded descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.bin"));
}
