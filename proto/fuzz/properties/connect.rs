//! The head of a CONNECT (K-CON-1, K-CON-2): reading on never changes what was decided, a part of a
//! good head is only ever incomplete, and no head is longer than its bound.

use super::decisions;
use pontoon_proto::connect::{HEAD_MAX, Parsed, Protocol, Refusal, Request, parse, protocol};

/// How many places to cut an input at; all of them would make long inputs slow.
const CUTS: usize = 48;

pub(super) fn check(bytes: &[u8]) -> u64 {
    let first = protocol(bytes);
    for end in 0..bytes.len().min(8) {
        let early = protocol(&bytes[..end]);
        assert!(early == Protocol::Unclear || early == first);
    }
    let parsed = parse(bytes);
    if first != Protocol::Http1 {
        assert!(!matches!(parsed, Parsed::Complete(..)), "a second meaning");
    }
    match &parsed {
        Parsed::Incomplete => assert!(bytes.len() < HEAD_MAX, "reading would never end"),
        Parsed::Complete(request, length) => complete(bytes, request, *length),
        Parsed::Refused(refusal) => refused(bytes, *refusal),
    }
    decisions(&[
        first as usize,
        match &parsed {
            Parsed::Incomplete => 1,
            Parsed::Complete(Request::Health, _) => 2,
            Parsed::Complete(Request::Connect { worker, .. }, _) => {
                3 + usize::from(worker.is_some())
            }
            Parsed::Refused(refusal) => 8 + *refusal as usize,
        },
        bytes.iter().filter(|&&b| b == b'\n').count(),
    ])
}

fn complete(bytes: &[u8], request: &Request, length: usize) {
    assert!(length <= HEAD_MAX && length <= bytes.len());
    let head = &bytes[..length];
    assert!(head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n"));
    let whole = Parsed::Complete(request.clone(), length);
    assert!(parse(head) == whole, "bytes behind the head changed it");
    for end in cuts(length) {
        assert!(
            parse(&head[..end]) == Parsed::Incomplete,
            "a part of a good head was judged, at {end}"
        );
    }
    if let Request::Connect {
        ticket,
        id,
        worker,
        speaks,
    } = request
    {
        assert!(!ticket.is_empty());
        let speaks = speaks
            .as_ref()
            .map(|text| format!("X-Worker-Protocol: {text}\r\n"));
        let text = render(ticket, &id.to_string(), worker.as_ref());
        let end = text.len() - 2;
        printed(
            request,
            &format!("{}{}\r\n", &text[..end], speaks.unwrap_or_default()),
        );
    }
    first_wins(head, request);
}

/// What was understood, written down, is understood as the same.
fn printed(request: &Request, text: &str) {
    let expected = Parsed::Complete(request.clone(), text.len());
    assert!(text.len() > HEAD_MAX || parse(text.as_bytes()) == expected);
}

fn render(ticket: &str, id: &str, worker: Option<&impl ToString>) -> String {
    let worker = worker.map_or(String::new(), |worker| {
        format!("X-Worker-ID: {}\r\n", worker.to_string())
    });
    format!(
        "CONNECT /v1/proxy HTTP/1.1\r\nAuthorization: Bearer {ticket}\r\nX-Request-ID: {id}\r\n{worker}\r\n"
    )
}

/// More lines of the same names, behind those that were sent, change nothing.
fn first_wins(head: &[u8], request: &Request) {
    let end = if head.ends_with(b"\r\n") { 2 } else { 1 };
    let mut more = head[..head.len() - end].to_vec();
    more.extend_from_slice(
        b"authorization: Bearer another\r\nx-request-id: 11111111-2222-8333-8444-555555555555\r\n\r\n",
    );
    match parse(&more) {
        Parsed::Complete(with, length) => {
            assert!(with == *request, "a later line won");
            assert_eq!(length, more.len());
        }
        Parsed::Refused(refusal) => assert_eq!(refusal, Refusal::TooLarge),
        Parsed::Incomplete => panic!("a complete head with two more lines is complete"),
    }
}

fn refused(bytes: &[u8], refusal: Refusal) {
    assert_ne!(
        refusal,
        Refusal::InvalidAuth,
        "only the desk judges tickets"
    );
    let mut more = bytes.to_vec();
    more.extend_from_slice(b"x: y\r\n\r\n");
    assert!(
        matches!(parse(&more), Parsed::Refused(_)),
        "more bytes made a refused head good"
    );
    let mut judged = false;
    for end in cuts(bytes.len()) {
        match parse(&bytes[..end]) {
            Parsed::Incomplete => assert!(!judged, "a refusal was forgotten at {end}"),
            Parsed::Complete(..) => panic!("a part of a refused head was good, at {end}"),
            Parsed::Refused(_) => judged = true,
        }
    }
}

/// Places to cut: spread over the whole, and close to its end.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let step = length / CUTS + 1;
    let spread = (0..length).step_by(step);
    let last = length.saturating_sub(4).max(length / step * step)..length;
    spread.chain(last)
}
