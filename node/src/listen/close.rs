//! How client connections end: a closed list, for the log and the metrics.

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The node had as many as it may have, so it was closed as soon as it was accepted.
    TooMany,
    /// It never spoke HTTP, or not in time.
    Mute,
    /// Its PROXY header was missing, malformed, or not its to send.
    Header,
    /// The client closed it while no call was open.
    Clean,
    /// We closed it because it was idle.
    Idle,
    /// It broke, or was closed with open calls.
    Broken,
    /// It did not answer a PING in time.
    Silent,
    /// Its client gave up too many calls too fast, or sent too many frames that lead nowhere.
    Flood,
    /// A head was begun and not completed in time.
    SlowHead,
    /// The node left.
    Drained,
}

impl CloseReason {
    /// All of them, in their order.
    pub const ALL: [CloseReason; 10] = [
        CloseReason::TooMany,
        CloseReason::Mute,
        CloseReason::Header,
        CloseReason::Clean,
        CloseReason::Idle,
        CloseReason::Broken,
        CloseReason::Silent,
        CloseReason::Flood,
        CloseReason::SlowHead,
        CloseReason::Drained,
    ];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            CloseReason::TooMany => "too_many",
            CloseReason::Mute => "mute",
            CloseReason::Header => "proxy_header",
            CloseReason::Clean => "clean",
            CloseReason::Idle => "idle",
            CloseReason::Broken => "broken",
            CloseReason::Silent => "silent",
            CloseReason::Flood => "flood",
            CloseReason::SlowHead => "slow_head",
            CloseReason::Drained => "drained",
        }
    }
}
