//! The bounds of the client listener (C-LSN-3, C-LSN-4), each with what it costs at worst.

use crate::call::h2_settings::HEADER_LIST_MAX;
use std::time::Duration;

/// What one listener allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of this node, over all of its client listeners; more are accepted and closed at
    /// once. A connection that does nothing costs about 20 KiB, so the default costs 400 MB.
    pub connections_max: usize,
    /// Bytes of a header list, by RFC 9113's measure; longer ones are answered with 431. Every stream
    /// may cost as much.
    pub header_list: u32,
    /// Concurrent streams of a connection.
    pub streams_max: u32,
    /// How long a peer may take for each of these: a PROXY header, a TLS handshake, its first bytes,
    /// HTTP/2's preface, a complete head.
    pub handshake: Duration,
    /// After this long without an open call a connection gets GOAWAY.
    pub idle: Duration,
    /// How often a peer is asked whether it is still there...
    pub ping_every: Duration,
    /// ...and how long it may take to answer. The sum of both is within the contract's 30 s.
    pub ping_answer: Duration,
    /// How long a connection without calls may take to close after GOAWAY before it is cut.
    pub goodbye: Duration,
    /// Calls that a client may have given up, over those that came to an end, within
    /// [`Limits::RESETS_WITHIN`] before its connection ends with ENHANCE_YOUR_CALM.
    pub resets_max: u32,
}

impl Limits {
    /// How long a client's resets are remembered.
    pub const RESETS_WITHIN: Duration = Duration::from_secs(10);
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            header_list: HEADER_LIST_MAX,
            streams_max: 1024,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            ping_every: Duration::from_secs(15),
            ping_answer: Duration::from_secs(10),
            goodbye: Duration::from_secs(10),
            // Every stream of a full connection given up at once, four times over.
            resets_max: 4 * 1024,
        }
    }
}
