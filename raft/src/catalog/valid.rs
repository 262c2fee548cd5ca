//! What values may be. Each answer names the value and its range.

use super::Outcome;
use super::command::{Reply, VersionPolicy};

/// The longest name of anything, in bytes.
const NAME_MAX: usize = 128;

/// The longest subject of a key, and the longest address, in bytes.
const TEXT_MAX: usize = 256;

/// The longest wait, window or idle time, milliseconds: a week. What is meant to last longer is a
/// mistake in units.
const SPAN_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// The most functions that one key may be limited to.
const KEY_FUNCTIONS_MAX: usize = 1_000;

pub(super) fn ensure(holds: bool, text: impl FnOnce() -> String) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(Reply::Invalid(text()))
    }
}

fn printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// A name for people: 1 to 128 bytes without control characters.
pub(super) fn name(what: &str, text: &str) -> Outcome {
    ensure(
        (1..=NAME_MAX).contains(&text.len()) && printable(text),
        || format!("{what} must be 1 to {NAME_MAX} printable bytes"),
    )
}

/// A text that may be empty: at most 256 bytes without control characters.
pub(super) fn text(what: &str, text: &str) -> Outcome {
    ensure(text.len() <= TEXT_MAX && printable(text), || {
        format!("{what} must be at most {TEXT_MAX} printable bytes")
    })
}

/// A DNS label (RFC 1035 2.3.1, and digits first as in RFC 1123 2.1), in lower case: it becomes part
/// of host names.
pub(super) fn label(what: &str, text: &str) -> Outcome {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edges = !text.starts_with('-') && !text.ends_with('-');
    ensure(
        (1..=63).contains(&text.len()) && text.bytes().all(inner) && edges,
        || format!("{what} must be a DNS label: 1 to 63 of a-z, 0-9 and inner hyphens"),
    )
}

pub(super) fn key_functions(count: usize) -> Outcome {
    ensure(count <= KEY_FUNCTIONS_MAX, || {
        format!("a key may be limited to at most {KEY_FUNCTIONS_MAX} functions, not {count}")
    })
}

pub(super) fn policy(policy: &VersionPolicy) -> Outcome {
    let VersionPolicy {
        slots,
        window_ms,
        window_max_ms,
        idle_ms,
        wait_ms,
        ..
    } = *policy;
    ensure(
        (1..=crate::directory::worker::SLOTS_MAX).contains(&slots),
        || {
            format!(
                "slots must be 1 to {}, not {slots}",
                crate::directory::worker::SLOTS_MAX
            )
        },
    )?;
    ensure(window_ms <= window_max_ms, || {
        format!("window_ms {window_ms} must not be above window_max_ms {window_max_ms}")
    })?;
    for (what, span) in [
        ("window_max_ms", window_max_ms),
        ("idle_ms", idle_ms),
        ("wait_ms", wait_ms),
    ] {
        ensure(span <= SPAN_MS_MAX, || {
            format!("{what} must be at most {SPAN_MS_MAX}, not {span}")
        })?;
    }
    ensure(idle_ms > 0, || "idle_ms must be at least 1".to_owned())
}
