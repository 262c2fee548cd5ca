//! What a sidecar tells every node about its worker, as levels: a control stream sends what differs
//! from what it sent before, so that a new stream and an old one end up saying the same.

/// The present levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Levels {
    /// The worker answers its health check.
    pub(super) serving: bool,
    /// The sidecar leaves.
    pub(super) draining: bool,
    /// The worker is gone, and why.
    pub(super) dead: Option<String>,
}
