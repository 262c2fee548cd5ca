//! The cookie that names a session, among the others of a request (C-RID-1, C-RID-4).

use crate::id::RequestId;
use http::header::{COOKIE, HeaderMap, HeaderValue};

/// The cookie that names a session.
pub const COOKIE_NAME: &str = "nvcf-request-id";

/// How many cookies of our name count; browsers send one per path and domain that set it.
///
/// Each one that this node doesn't know may cost a read at its home group, so a client must not be
/// able to ask for the 1,300 that fit into a header list of 64 KiB.
pub const COOKIES_MAX: usize = 4;

/// The values of our cookies in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookies {
    /// Whether a non-empty one was sent.
    pub named: bool,
    /// Those that are UUIDs, in order, at most [`COOKIES_MAX`].
    pub ids: Vec<RequestId>,
}

impl Cookies {
    /// Reads all `cookie` headers; HTTP/2 clients may send one for each pair (RFC 9113 8.2.3).
    pub fn read(headers: &HeaderMap) -> Self {
        let mut found = Self {
            named: false,
            ids: Vec::new(),
        };
        let values = headers.get_all(COOKIE).into_iter().flat_map(pairs);
        for value in values.filter_map(our_cookie).filter(|v| !v.is_empty()) {
            found.named = true;
            let id = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
            if let Some(id) = id
                && found.ids.len() < COOKIES_MAX
            {
                found.ids.push(id);
            }
        }
        found
    }
}

/// The value of one `name=value` pair if the name is ours; RFC 6265 allows quotes around it.
pub fn our_cookie(pair: &[u8]) -> Option<&[u8]> {
    let pair = pair.trim_ascii();
    let value = pair.strip_prefix(COOKIE_NAME.as_bytes())?;
    let value = value.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    Some(
        value
            .strip_prefix(b"\"")
            .and_then(|inner| inner.strip_suffix(b"\""))
            .unwrap_or(value),
    )
}

/// Takes our cookie out of the `cookie` headers; the others stay as they are, in their order (C-FWD-2).
pub fn drop_ours(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| pairs(value).any(|pair| our_cookie(pair).is_some());
    if !headers.get_all(COOKIE).iter().any(ours) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| {
            let pairs: Vec<&[u8]> = pairs(value)
                .map(<[u8]>::trim_ascii)
                .filter(|pair| !pair.is_empty() && our_cookie(pair).is_none())
                .collect();
            if pairs.is_empty() {
                return None;
            }
            HeaderValue::from_bytes(&pairs.join(&b"; "[..])).ok()
        })
        .collect();
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

fn pairs(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&b| b == b';')
}
