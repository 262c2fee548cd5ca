//! The HTTP/2 settings towards clients; those towards workers are the tunnel driver's.
//!
//! Both have the same windows, because a proxy's memory per stream is what it lets either side send
//! ahead of the other.

use h2::server;
use std::time::Duration;

/// How many bytes of one stream may be on their way or held here, per direction: 256 KiB.
///
/// It bounds a stream's throughput to a window per round trip: 3.4 MB/s over 75 ms.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all streams of a connection: 64 stream windows, so that 64 stalled streams leave
/// the others their share (C-FWD-7). It is also the most that a client can make one connection hold.
pub const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

/// What small DATA frames may cost in bookkeeping beyond their payload, at 256 B each, before h2
/// ends the connection: 16 MiB, which is 65,536 frames that nobody has taken yet.
///
/// It only has to hold what arrives before a call is carried: from then on each frame is taken out
/// of h2 as it comes, and small ones are merged (see `carry`).
const DATA_FRAME_BUDGET: usize = CONNECTION_WINDOW as usize;

/// What h2 may queue of one stream for a peer whose socket is full, beyond which it gives no
/// capacity: one stream window.
const SEND_BUFFER: usize = STREAM_WINDOW as usize;

/// The longest header list that is taken from a worker, and from a client unless the configuration
/// says otherwise (C-LSN-3), by RFC 9113's measure.
pub const HEADER_LIST_MAX: u32 = 64 * 1024;

/// How long, and of how many streams, h2 remembers that we reset them, so that frames which were on
/// their way are ignored: 1 s is a slow round trip.
const RESET_MEMORY: Duration = Duration::from_secs(1);

/// How many streams a client may reset before we have even seen them; more is a flood, and ends the
/// connection with ENHANCE_YOUR_CALM (CVE-2023-44487).
const UNSEEN_RESETS_MAX: usize = 128;

/// Settings of a client listener.
pub fn towards_client(streams_max: u32, header_list: u32) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(header_list)
        .max_concurrent_streams(streams_max)
        .max_concurrent_reset_streams(streams_max as usize)
        .reset_stream_duration(RESET_MEMORY)
        .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        // WebSockets by extended CONNECT (RFC 8441).
        .enable_connect_protocol();
    builder
}
