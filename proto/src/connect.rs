//! The head of an HTTP/1.1 request on the worker port: what it asks for, and the byte-exact
//! refusals (contract K-CON-1, K-CON-2).
//!
//! Bytes in, a decision out. Who reads and writes the socket keeps what came behind the head.

use crate::id::{RequestId, WorkerId};

/// The longest head that is read, in bytes.
pub const HEAD_MAX: usize = 16 * 1024;

/// The most header lines of a head.
const HEADERS_MAX: usize = 64;

/// How an HTTP/2 client begins (RFC 9113 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// As much of it as tells: HTTP/1.1 has no method `PRI`.
const PREFACE_START: &[u8] = PREFACE.split_at(4).0;

/// What a connection's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Too early to tell.
    Unclear,
    /// A control stream's connection.
    Http2,
    /// A CONNECT, or a health check.
    Http1,
}

/// Tells HTTP/2 from HTTP/1.1 by the first bytes.
pub fn protocol(bytes: &[u8]) -> Protocol {
    let n = bytes.len().min(PREFACE_START.len());
    if bytes[..n] != PREFACE_START[..n] {
        Protocol::Http1
    } else if n < PREFACE_START.len() {
        Protocol::Unclear
    } else {
        Protocol::Http2
    }
}

/// What a complete and acceptable head asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// A tunnel.
    Connect {
        /// The bearer token, still to be judged.
        ticket: String,
        /// The session that it names.
        id: RequestId,
        /// The worker, where the sidecar names it (`X-Worker-ID`).
        worker: Option<WorkerId>,
        /// What the worker speaks, where the sidecar says (`X-Worker-Protocol`).
        speaks: Option<String>,
    },
    /// `GET /health`.
    Health,
}

/// What could be made of the bytes so far.
#[derive(Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The head is not complete.
    Incomplete,
    /// A request, and how many bytes its head took.
    Complete(Request, usize),
    /// To be refused, without reading on.
    Refused(Refusal),
}

/// An answer other than 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No bearer token.
    MissingAuth,
    /// No `X-Request-ID`.
    MissingId,
    /// An `X-Request-ID` that is not a UUID.
    InvalidId,
    /// The token is not a good ticket for this id; one text for every cause.
    InvalidAuth,
    /// The node that issued the ticket can't be reached from the one that the CONNECT landed on: it has
    /// surely not seen the CONNECT.
    EntryUnreachable,
    /// It gives no answer: it may have seen the CONNECT.
    EntrySilent,
    /// This node relays no more CONNECTs for now.
    RelaysLimited,
    /// Not HTTP/1.1.
    Malformed,
    /// Longer than [`HEAD_MAX`] or with more lines than we read.
    TooLarge,
    /// A path or method that is not served here.
    NotServed,
}

impl Refusal {
    /// Status line and text.
    pub fn parts(self) -> (&'static str, &'static str) {
        match self {
            Refusal::MissingAuth => ("401 Unauthorized", "HTTP CONNECT request is missing auth"),
            Refusal::MissingId => (
                "400 Bad Request",
                "HTTP CONNECT request is missing request id",
            ),
            Refusal::InvalidId => (
                "400 Bad Request",
                "HTTP CONNECT request has an invalid request id",
            ),
            Refusal::InvalidAuth => (
                "403 Forbidden",
                "HTTP CONNECT request is missing valid auth",
            ),
            Refusal::EntryUnreachable => (
                "502 Bad Gateway",
                "the node that issued this ticket can't be reached from here",
            ),
            Refusal::EntrySilent => (
                "504 Gateway Timeout",
                "the node that issued this ticket gives no answer",
            ),
            Refusal::RelaysLimited => (
                "503 Service Unavailable",
                "this node relays no more tunnels for now",
            ),
            Refusal::Malformed => ("400 Bad Request", "not an HTTP/1.1 request"),
            Refusal::TooLarge => ("431 Request Header Fields Too Large", "head too large"),
            Refusal::NotServed => ("404 Not Found", "not served on the worker port"),
        }
    }

    /// The metric label of those refusals of a CONNECT that are decided here; the ticket's have
    /// their own.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::MissingAuth => "missing_auth",
            Refusal::MissingId => "missing_id",
            Refusal::InvalidId => "invalid_id",
            _ => "",
        }
    }

    /// The whole answer; the connection closes after it.
    pub fn answer(self) -> String {
        let (status, text) = self.parts();
        answer(status, text)
    }
}

/// The answer to `GET /health`.
pub fn healthy() -> String {
    answer("200 OK", "ok")
}

/// The answer to a good CONNECT; raw bytes follow.
pub const CONNECTED: &str = "HTTP/1.1 200 OK\r\n\r\n";

fn answer(status: &str, text: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncache-control: no-store\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// Reads a head, as far as it has come.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Parsed::Incomplete,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(Refusal::TooLarge),
        Err(_) => return Parsed::Refused(Refusal::Malformed),
    };
    let path = request.path.unwrap_or_default();
    match request.method.unwrap_or_default() {
        "CONNECT" if path == "/v1/proxy" || !path.starts_with('/') => {
            match connect(request.headers) {
                Ok(request) => Parsed::Complete(request, length),
                Err(refusal) => Parsed::Refused(refusal),
            }
        }
        "GET" if path == "/health" => Parsed::Complete(Request::Health, length),
        _ => Parsed::Refused(Refusal::NotServed),
    }
}

fn connect(headers: &[httparse::Header<'_>]) -> Result<Request, Refusal> {
    let ticket = value(headers, "authorization")
        .and_then(bearer)
        .ok_or(Refusal::MissingAuth)?;
    let id = value(headers, "x-request-id")
        .filter(|id| !id.is_empty())
        .ok_or(Refusal::MissingId)?;
    let id = id.parse().map_err(|_| Refusal::InvalidId)?;
    Ok(Request::Connect {
        ticket: ticket.to_owned(),
        id,
        worker: value(headers, "x-worker-id").and_then(|worker| worker.parse().ok()),
        speaks: value(headers, "x-worker-protocol").map(str::to_owned),
    })
}

fn value<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let header = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok().map(str::trim)
}

/// The token behind `Bearer`, the scheme in any case; `None` when there is none.
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "X-Request-ID: 5d4de2ee-3f4c-8001-9d3b-3a4b5c6d7e8f\r\n";

    fn refused(head: &str) -> Refusal {
        match parse(head.as_bytes()) {
            Parsed::Refused(refusal) => refusal,
            Parsed::Incomplete => panic!("incomplete: {head}"),
            Parsed::Complete(..) => panic!("accepted: {head}"),
        }
    }

    #[test]
    fn k_con_2_refusals_come_in_their_order_and_byte_for_byte() {
        let cases = [
            ("", 401, "HTTP CONNECT request is missing auth"),
            (
                "X-Request-ID: no\r\n",
                401,
                "HTTP CONNECT request is missing auth",
            ),
            (
                "Authorization: Basic eDp5\r\n",
                401,
                "HTTP CONNECT request is missing auth",
            ),
            (
                "Authorization: Bearer \r\n",
                401,
                "HTTP CONNECT request is missing auth",
            ),
            (
                "Authorization: Bearer t\r\n",
                400,
                "HTTP CONNECT request is missing request id",
            ),
            (
                "Authorization: Bearer t\r\nX-Request-ID: \r\n",
                400,
                "HTTP CONNECT request is missing request id",
            ),
            (
                "Authorization: Bearer t\r\nX-Request-ID: no\r\n",
                400,
                "HTTP CONNECT request has an invalid request id",
            ),
        ];
        for (headers, status, text) in cases {
            let refusal = refused(&format!("CONNECT /v1/proxy HTTP/1.1\r\n{headers}\r\n"));
            let answer = refusal.answer();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(body, text);
            assert!(head.contains(&format!("content-length: {}", text.len())));
        }
        let (status, text) = Refusal::InvalidAuth.parts();
        assert_eq!(status, "403 Forbidden");
        assert_eq!(text, "HTTP CONNECT request is missing valid auth");
    }

    #[test]
    fn k_con_1_origin_and_authority_form_are_accepted_and_the_head_ends_where_it_ends() {
        for target in ["/v1/proxy", "proxy.example:10086"] {
            let head = format!("CONNECT {target} HTTP/1.1\r\nauthorization: bearer t\r\n{ID}\r\n");
            let bytes = format!("{head}PRI * HTTP/2.0");
            let Parsed::Complete(Request::Connect { ticket, worker, .. }, length) =
                parse(bytes.as_bytes())
            else {
                panic!("{target} was not accepted");
            };
            assert_eq!((ticket.as_str(), worker, length), ("t", None, head.len()));
        }
    }

    #[test]
    fn every_prefix_of_a_head_is_incomplete() {
        let head = format!("CONNECT /v1/proxy HTTP/1.1\r\nAuthorization: Bearer t\r\n{ID}\r\n");
        for n in 0..head.len() {
            assert!(parse(&head.as_bytes()[..n]) == Parsed::Incomplete, "{n}");
        }
    }

    #[test]
    fn bad_heads_are_refused() {
        assert_eq!(refused("\u{1}\r\n\r\n"), Refusal::Malformed);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Refusal::NotServed);
        assert_eq!(refused("CONNECT /v2 HTTP/1.1\r\n\r\n"), Refusal::NotServed);
        let long = format!("GET /health HTTP/1.1\r\na: {}", "b".repeat(HEAD_MAX));
        assert_eq!(refused(&long), Refusal::TooLarge);
        let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert_eq!(refused(&many), Refusal::TooLarge);
    }

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        assert_eq!(protocol(b""), Protocol::Unclear);
        assert_eq!(protocol(b"PRI"), Protocol::Unclear);
        assert_eq!(protocol(b"PRI * HTTP/2.0\r\n"), Protocol::Http2);
        assert_eq!(protocol(b"CONNECT"), Protocol::Http1);
        assert_eq!(protocol(b"PO"), Protocol::Http1);
    }
}
