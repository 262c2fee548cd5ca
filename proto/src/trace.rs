//! The trace that a call says it belongs to: W3C Trace Context, `traceparent`.
//!
//! Pontoon adds no spans of its own, so the header reaches the worker as it came; what is read here
//! joins our log lines with the spans of others.

use http::HeaderMap;
use std::fmt;

/// The header.
pub const TRACEPARENT: &str = "traceparent";

/// How long version 00 is; later ones may go on behind a hyphen.
const LEN: usize = 55;

/// A trace, and whose part of it called us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    trace: [u8; 16],
    span: [u8; 8],
}

impl Trace {
    /// The trace of a request. None for a header that is not valid, or there more than once: by the
    /// standard both count as absent.
    pub fn read(headers: &HeaderMap) -> Option<Trace> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let only = all.next().filter(|_| all.next().is_none())?;
        Self::parse(only.as_bytes())
    }

    /// Reads `00-<trace>-<span>-<flags>` and what later versions may make of it (Trace Context 3.2.2).
    pub fn parse(text: &[u8]) -> Option<Trace> {
        let (known, rest) = text.split_at_checked(LEN)?;
        let [version] = hex(&known[..2])?;
        let goes_on = version != 0 && rest.first() == Some(&b'-');
        let hyphens = [2, 35, 52].iter().all(|&at| known[at] == b'-');
        if version == 0xff || !hyphens || !(rest.is_empty() || goes_on) {
            return None;
        }
        let [_flags] = hex(&known[53..])?;
        let (trace, span) = (hex(&known[3..35])?, hex(&known[36..52])?);
        let zero = trace == [0; 16] || span == [0; 8];
        (!zero).then_some(Trace { trace, span })
    }

    /// The caller's span, as hex digits.
    pub fn span(self) -> impl fmt::Display {
        Hex(self.span)
    }
}

/// The trace's id, as hex digits.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(self.trace).fmt(f)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}-{}", self.span())
    }
}

struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Exactly so many bytes from lower-case hex digits; others are not allowed (Trace Context 3.2.2.3).
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(values: &[&str]) -> Option<Trace> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        Trace::read(&headers)
    }

    #[test]
    fn o_log_1_a_trace_is_read_as_the_standard_has_it() {
        let trace = read(&[GOOD]).unwrap();
        assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.span().to_string(), "00f067aa0ba902b7");
        let later = GOOD.replacen("00-", "cc-", 1);
        assert_eq!(read(&[&later]), Some(trace));
        assert_eq!(read(&[&format!("{later}-more")]), Some(trace));
    }

    #[test]
    fn o_log_1_what_is_no_valid_trace_counts_as_none() {
        let (id, span) = (&GOOD[3..35], &GOOD[36..52]);
        for wrong in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("{GOOD}0"),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.replacen("00-", "cc-", 1).replace("-01", "-01x"),
            &GOOD.replace(id, &"0".repeat(32)),
            &GOOD.replace(span, &"0".repeat(16)),
            &GOOD.replace('-', "_"),
            &GOOD.replace("4bf9", "4bg9"),
        ] {
            assert_eq!(read(&[wrong]), None, "{wrong}");
        }
        assert_eq!(read(&[GOOD, GOOD]), None, "more than one");
        assert_eq!(read(&[]), None);
    }
}
