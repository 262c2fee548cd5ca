//! The monotonic clock of this package: the only file here that asks what time it is.

pub use tokio::time::Instant;

/// Now, as state clocks are stamped: in a simulated process whose clock jumps, another now than that of
/// timers.
pub(crate) fn stamping() -> Instant {
    now() + crate::host::ahead()
}

/// Now; under a paused or simulated runtime it is the runtime's.
#[expect(clippy::disallowed_methods, reason = "this file is the seam")]
pub fn now() -> Instant {
    Instant::now()
}
