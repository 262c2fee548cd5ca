//! Which protocol a client speaks, by its first bytes.

use pontoon_proto::connect::PREFACE;
use pontoon_proto::proxy_header;

/// How many bytes decide at most: those of HTTP/2's preface. It is the longest that is told apart.
pub(super) const DECIDED_WITHIN: usize = PREFACE.len();

/// The first byte of a TLS handshake (RFC 8446 5.1), which is none of HTTP's.
const TLS_HANDSHAKE: u8 = 22;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tongue {
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/1.1, or something else: whoever serves it finds out.
    Http1,
    /// A PROXY header where none may be.
    Proxy,
    /// TLS where clear text was expected.
    Tls,
}

/// What these first bytes are; `None` while they could still be several things.
pub(super) fn tongue(bytes: &[u8]) -> Option<Tongue> {
    let first = bytes.first()?;
    if *first == TLS_HANDSHAKE {
        return Some(Tongue::Tls);
    }
    if proxy_header::is_announced(bytes) {
        return Some(Tongue::Proxy);
    }
    if bytes.starts_with(PREFACE) {
        return Some(Tongue::Http2);
    }
    let undecided =
        PREFACE.starts_with(bytes) || proxy_header::parse(bytes) == proxy_header::Parsed::NeedsMore;
    (!undecided).then_some(Tongue::Http1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_lsn_1_the_preface_tells_http_2_from_http_1() {
        assert_eq!(tongue(PREFACE), Some(Tongue::Http2));
        for end in 0..PREFACE.len() {
            assert_eq!(tongue(&PREFACE[..end]), None, "{end}");
        }
        for (bytes, wanted) in [
            (&b"G"[..], Tongue::Http1),
            (b"POST", Tongue::Http1),
            (b"PRI * HTTP/1.1\r\n", Tongue::Http1),
            (b"PRX", Tongue::Http1),
            (b"\r\nGET", Tongue::Http1),
            (b"\x16\x03\x01", Tongue::Tls),
            (b"PROXY ", Tongue::Proxy),
            (b"\r\n\r\n\0\r\nQUIT\n", Tongue::Proxy),
        ] {
            assert_eq!(tongue(bytes), Some(wanted), "{bytes:?}");
        }
        for bytes in [&b"P"[..], b"PR", b"PROXY", b"\r\n", b"\r\n\r\n\0"] {
            assert_eq!(tongue(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn c_lsn_1_as_many_bytes_as_the_preface_has_always_decide() {
        for first in 0..=255 {
            assert!(tongue(&[first; DECIDED_WITHIN]).is_some());
        }
    }
}
