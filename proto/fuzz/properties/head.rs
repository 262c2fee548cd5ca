//! A call's head (C-KEY-1, C-RID-1..2): what is malformed counts as it says there, the first of a
//! repeated header wins, and what was understood reads back as the same.
//!
//! An input is a list of headers, one a line, `name: value`.

use super::{decisions, lines};
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use pontoon_proto::cookies::COOKIE_NAME;
use pontoon_proto::fault::Fault;
use pontoon_proto::head::{
    ABSORB, FUNCTION_ID, Head, REQUEST_ID, TIMEOUT, VERSION_ID, WINDOW, Wanted, grpc_timeout,
};
use pontoon_proto::protocols::Protocols;
use std::time::Duration;

const OTHER: &str = "11111111-2222-8333-8444-555555555555";

pub(super) fn check(bytes: &[u8]) -> u64 {
    let map = lines::headers(bytes);
    let head = Head::read(&map);
    credential(&map, &head);
    request_id(&map, &head);
    rows_stay_apart(&head);
    timeout(&map, &head);
    printed(&head);
    first_wins(&map, &head);
    let ignored = head.ignored;
    decisions(&[
        usize::from(head.credential.is_ok()) | usize::from(head.absorb) << 1,
        match head.function {
            Ok(_) => 0,
            Err(Fault::NoFunctionId) => 1,
            Err(_) => 2,
        } | match head.version {
            Ok(None) => 0,
            Ok(Some(_)) => 4,
            Err(_) => 8,
        },
        match head.session {
            Wanted::Named(_) => 0,
            Wanted::Cookie => 1,
            Wanted::Any => 2,
        } | head.cookies.len() << 2,
        head.dialect as usize,
        usize::from(ignored.request_id)
            | usize::from(ignored.window) << 1
            | usize::from(ignored.absorb) << 2
            | usize::from(ignored.timeout) << 3,
        usize::from(head.window.is_some()) | usize::from(head.timeout.is_some()) << 1,
        usize::from(map.contains_key(SEC_WEBSOCKET_PROTOCOL)),
    ])
}

/// A credential comes from its header verbatim, or from the protocol item where the header is empty.
fn credential(map: &HeaderMap, head: &Head<'_>) {
    let Ok(token) = head.credential else { return };
    assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()));
    let header = map.get(AUTHORIZATION).map(|v| v.as_bytes().trim_ascii());
    match header.filter(|value| !value.is_empty()) {
        Some(value) => {
            assert!(value[..6].eq_ignore_ascii_case(b"bearer"));
            let rest = &value[6..];
            assert_eq!(rest.trim_ascii_start(), token.as_bytes());
            assert_ne!(rest, token.as_bytes(), "no space behind the scheme");
        }
        None => assert_eq!(Protocols::read(map).get("authorization"), Some(token)),
    }
}

/// The header and the item bind, a cookie may be outvoted, and something that is no id is none.
fn request_id(map: &HeaderMap, head: &Head<'_>) {
    let mut silent = map.clone();
    silent.remove(REQUEST_ID);
    silent.remove(COOKIE);
    silent.remove(SEC_WEBSOCKET_PROTOCOL);
    let without = Head::read(&silent);
    assert_eq!(without.session, Wanted::Any);
    assert!(!without.ignored.request_id && without.cookies.is_empty());
    if head.ignored.request_id {
        assert_eq!(head.session, Wanted::Any, "a malformed id fell through");
    }
    let header = map.get(REQUEST_ID).map(|v| v.as_bytes().trim_ascii());
    match header.filter(|value| !value.is_empty()) {
        Some(value) => {
            let id = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
            assert_eq!(head.session, id.map_or(Wanted::Any, Wanted::Named));
            assert_eq!(head.ignored.request_id, id.is_none());
        }
        None if Protocols::read(map)
            .get(REQUEST_ID)
            .unwrap_or_default()
            .is_empty() =>
        {
            assert_eq!(head.session == Wanted::Cookie, !head.cookies.is_empty());
        }
        None => assert_ne!(head.session, Wanted::Cookie),
    }
}

/// A field never holds another field's fault: C-KEY-1 fixes the order in which they are reported.
fn rows_stay_apart(head: &Head<'_>) {
    assert!(matches!(head.credential, Ok(_) | Err(Fault::NoCredential)));
    let function = head.function;
    assert!(
        function.is_ok()
            || matches!(
                function,
                Err(Fault::NoFunctionId | Fault::MalformedFunctionId)
            )
    );
    assert!(matches!(
        head.version,
        Ok(_) | Err(Fault::MalformedVersionId)
    ));
    assert_eq!(
        head.names_a_function(),
        head.function != Err(Fault::NoFunctionId)
    );
}

/// gRPC's grammar, and no deadline beyond its largest.
fn timeout(map: &HeaderMap, head: &Head<'_>) {
    let sent = map.get(TIMEOUT).map(|v| v.as_bytes().trim_ascii());
    let good = sent.is_some_and(|text| {
        (2..=9).contains(&text.len())
            && text[..text.len() - 1].iter().all(u8::is_ascii_digit)
            && b"HMSmun".contains(&text[text.len() - 1])
    });
    assert_eq!(head.timeout.is_some(), good);
    assert_eq!(head.ignored.timeout, sent.is_some() && !good);
    if let Some(span) = head.timeout {
        assert!(span <= Duration::from_secs(99_999_999 * 3600));
    }
}

/// Writes down what was understood, in the headers alone, and reads it again.
fn printed(head: &Head<'_>) {
    let mut map = HeaderMap::new();
    let mut put = |name: &'static str, value: String| {
        let value = HeaderValue::try_from(value).expect("printable");
        map.append(name, value);
    };
    if let Ok(token) = head.credential {
        put("authorization", format!("Bearer {token}"));
    }
    match head.function {
        Ok(id) => put(FUNCTION_ID, id.to_string()),
        Err(Fault::NoFunctionId) => {}
        Err(_) => put(FUNCTION_ID, "no id".to_owned()),
    }
    match head.version {
        Ok(Some(id)) => put(VERSION_ID, id.to_string()),
        Ok(None) => {}
        Err(_) => put(VERSION_ID, "no id".to_owned()),
    }
    if let Wanted::Named(id) = head.session {
        put(REQUEST_ID, id.to_string());
    } else if head.ignored.request_id {
        put(REQUEST_ID, "no id".to_owned());
    }
    for id in &head.cookies {
        put("cookie", format!("{COOKIE_NAME}={id}"));
    }
    put(ABSORB, head.absorb.to_string());
    if let Some(window) = head.window {
        put(WINDOW, window.as_secs().to_string());
    }
    let again = Head::read(&map);
    assert_eq!(again.credential, head.credential);
    assert_eq!(again.function, head.function);
    assert_eq!(again.version, head.version);
    assert!(again.cookies == head.cookies);
    if head.session != Wanted::Any || head.ignored.request_id || head.cookies.is_empty() {
        assert_eq!(again.session, head.session);
    }
    assert_eq!(again.absorb, head.absorb);
    assert_eq!(again.window, head.window);
}

/// Another header of each name, behind the first, changes nothing; so does one that nobody reads.
fn first_wins(map: &HeaderMap, head: &Head<'_>) {
    let mut more = map.clone();
    more.append("x-unrelated", HeaderValue::from_static("nvcf-reqid"));
    for (name, value) in [
        ("authorization", "Bearer another"),
        (FUNCTION_ID, OTHER),
        (VERSION_ID, OTHER),
        (REQUEST_ID, OTHER),
        (ABSORB, "true"),
        (WINDOW, "7"),
        (TIMEOUT, "7S"),
        ("content-type", "application/grpc"),
    ] {
        if map.contains_key(name) && !map[name].as_bytes().trim_ascii().is_empty() {
            more.append(name, HeaderValue::from_static(value));
        }
    }
    assert_eq!(format!("{:?}", Head::read(&more)), format!("{head:?}"));
    assert_eq!(grpc_timeout(b"7S"), Some(Duration::from_secs(7)));
}
