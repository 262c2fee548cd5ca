//! Time, from one place: the only file that asks the machine what time it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The monotonic clock; under a paused or simulated runtime it is the runtime's.
#[expect(clippy::disallowed_methods, reason = "this file is the seam")]
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970 by the wall clock. Only the expiry of keys and certificates needs it.
#[expect(clippy::disallowed_methods, reason = "this file is the seam")]
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}
