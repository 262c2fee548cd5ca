//! How tunnels end (contract K-CLS-1): a closed list, on a metric, in the log and in the admin API.
//!
//! Pure. The first reason that is recorded wins: whatever follows is an echo of it.

use pontoon_raft::directory::command::EndReason;
use std::sync::OnceLock;

/// Why a tunnel closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CloseReason {
    /// The directory ended its session.
    SessionEnded,
    /// Its client connection let go of it, and it was not kept for the next one.
    Released,
    /// This node stops.
    NodeStopping,
    /// The other end closed it in good order: FIN, or GOAWAY with NO_ERROR.
    WorkerClosed,
    /// The worker sent GOAWAY with an error code.
    WorkerGoAway,
    /// The worker broke the HTTP/2 protocol.
    Protocol,
    /// The byte stream broke: a reset, a timeout of TCP.
    Broken,
    /// A probe got no answer in time.
    Silent,
    /// The node that relayed it is about to leave: it took no new call, and ended with its last.
    RelayLeaving,
}

impl CloseReason {
    /// All of them, for metrics that exist from the start.
    pub const ALL: [CloseReason; 9] = [
        CloseReason::SessionEnded,
        CloseReason::Released,
        CloseReason::NodeStopping,
        CloseReason::WorkerClosed,
        CloseReason::WorkerGoAway,
        CloseReason::Protocol,
        CloseReason::Broken,
        CloseReason::Silent,
        CloseReason::RelayLeaving,
    ];

    /// The label on metrics, in logs and in the admin API.
    pub fn label(self) -> &'static str {
        match self {
            CloseReason::SessionEnded => "session_ended",
            CloseReason::Released => "released",
            CloseReason::NodeStopping => "node_stopping",
            CloseReason::WorkerClosed => "worker_closed",
            CloseReason::WorkerGoAway => "worker_goaway",
            CloseReason::Protocol => "protocol",
            CloseReason::Broken => "broken",
            CloseReason::Silent => "silent",
            CloseReason::RelayLeaving => "relay_leaving",
        }
    }
}

/// The labels of all reasons, for metrics.
pub fn labels() -> [&'static str; 9] {
    CloseReason::ALL.map(CloseReason::label)
}

/// Why the control stream of a sidecar closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// This node stops.
    NodeStopping,
    /// The sidecar closed it in good order.
    SidecarClosed,
    /// A ping got no answer in time.
    Silent,
    /// The byte stream broke.
    Broken,
    /// The sidecar broke the protocol.
    SecondHello,
    /// The sidecar said that its worker is dead.
    WorkerDead,
    /// This node refused to go on, and said why.
    Refused,
}

impl StreamEnd {
    /// The label in logs and in the admin API.
    pub fn label(self) -> &'static str {
        match self {
            StreamEnd::NodeStopping => "node_stopping",
            StreamEnd::SidecarClosed => "sidecar_closed",
            StreamEnd::Silent => "silent",
            StreamEnd::Broken => "broken",
            StreamEnd::SecondHello => "second_hello",
            StreamEnd::WorkerDead => "worker_dead",
            StreamEnd::Refused => "refused",
        }
    }
}

/// The labels of HTTP/2 error codes: RFC 9113's, 0x0 to 0xd, and [`NO_CODE`] for all else.
pub const CODES: [&str; 15] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", NO_CODE,
];

/// The label of a close without a known HTTP/2 error code.
pub const NO_CODE: &str = "none";

/// A close with what the other side said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Why.
    pub reason: CloseReason,
    /// The HTTP/2 error code of a GOAWAY, if there was one.
    pub code: Option<u32>,
    /// The other side's text, or the error's; printable and at most [`TEXT_MAX`] bytes.
    pub text: String,
}

impl Close {
    /// The label of its code.
    pub fn code_label(&self) -> &'static str {
        let code = self.code.and_then(|code| CODES.get(code as usize));
        code.copied().unwrap_or(NO_CODE)
    }
}

/// The most of a peer's text that is kept, in bytes.
pub const TEXT_MAX: usize = 256;

/// Keeps the first reason that it is given.
#[derive(Debug, Default)]
pub struct Closing(OnceLock<Close>);

impl Closing {
    /// Records a reason unless there is one.
    pub fn record(&self, reason: CloseReason, code: Option<u32>, text: &str) {
        let _ = self.0.set(Close {
            reason,
            code,
            text: printable(text),
        });
    }

    /// The reason, once there is one.
    pub fn get(&self) -> Option<&Close> {
        self.0.get()
    }
}

/// The text with every unprintable or non-ASCII character as `?`, cut to [`TEXT_MAX`] bytes.
pub fn printable(text: &str) -> String {
    text.chars()
        .take(TEXT_MAX)
        .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
        .collect()
}

/// The label under which a session's end is told to sidecars and shown to people.
pub fn end_label(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Released => "released",
        EndReason::Expired => "expired",
        EndReason::WorkerLost => "worker_lost",
        EndReason::Cancelled => "cancelled",
        EndReason::NoLink => "no_link",
        EndReason::Preempted => "preempted",
        EndReason::TimedOut => "timed_out",
        EndReason::NodeLost => "node_lost",
        EndReason::Operator => "operator",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_cls_1_the_first_reason_wins() {
        let closing = Closing::default();
        closing.record(CloseReason::Silent, None, "no answer");
        closing.record(CloseReason::Broken, Some(2), "reset");
        assert_eq!(closing.get().map(|c| c.reason), Some(CloseReason::Silent));
    }

    #[test]
    fn k_cls_1_peer_text_is_cut_to_256_printable_bytes() {
        let text = printable(&"a\n\u{1b}é".repeat(200));
        assert_eq!(text.len(), TEXT_MAX);
        assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)));
        assert_eq!(&text[..4], "a???");
    }

    #[test]
    fn k_cls_1_labels_are_distinct() {
        let labels: std::collections::BTreeSet<_> =
            CloseReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), CloseReason::ALL.len());
    }
}
