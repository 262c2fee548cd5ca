//! A call's head: what it says about itself, read once and judged later.
//!
//! [`Head::read`] never fails: what is missing or malformed is kept as the fault that it stands for,
//! because the contract fixes the order in which they are reported (C-KEY-1: the credential, the
//! function id, the rest), and whether a credential is good is not known here. Optional values that
//! are malformed are ignored and named in [`Ignored`], so that they can be counted.
//!
//! It reads `http` types only and doesn't care which protocol carried them.

use crate::cookies::Cookies;
use crate::fault::Fault;
use crate::id::{FunctionId, RequestId, VersionId};
use crate::protocols::Protocols;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use std::time::Duration;

/// The header that names a session, both ways.
pub const REQUEST_ID: &str = "nvcf-reqid";
/// The header that names a function.
pub const FUNCTION_ID: &str = "function-id";
/// The header that names a version.
pub const VERSION_ID: &str = "function-version-id";
/// The header that asks for a session without a call.
pub const ABSORB: &str = "x-nvcf-absorb";
/// The header that asks for a reconnect window.
pub const WINDOW: &str = "x-nvcf-reconnect-window-secs";
/// gRPC's deadline.
pub const TIMEOUT: &str = "grpc-timeout";

/// What a call says, as far as it was said.
#[derive(Debug)]
pub struct Head<'a> {
    /// The credential, or C-ERR-1.
    pub credential: Result<&'a str, Fault>,
    /// The function, or its row of C-ERR-4.
    pub function: Result<FunctionId, Fault>,
    /// The version, if one was named, or its row of C-ERR-4.
    pub version: Result<Option<VersionId>, Fault>,
    /// The session that the call wants, by the most binding source that named one.
    pub session: Wanted,
    /// The ids in our cookies, in order; also set when a header decides, for C-RSP-3.
    pub cookies: Vec<RequestId>,
    /// A session is wanted, and no call (C-ABS).
    pub absorb: bool,
    /// The reconnect window asked for, not yet capped.
    pub window: Option<Duration>,
    /// gRPC's deadline, from when the head arrived.
    pub timeout: Option<Duration>,
    /// How faults are rendered.
    pub dialect: Dialect,
    /// Which values were malformed and therefore ignored.
    pub ignored: Ignored,
}

/// Which session a call wants (C-RID-1, C-RID-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This one: a header or a WebSocket protocol item says so.
    Named(RequestId),
    /// The one of a cookie, if that lives; [`Head::cookies`] has them.
    Cookie,
    /// None was named, or something that isn't an id: the pin's, or a new one.
    Any,
}

/// How a client wants its answers, by the request's content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `application/grpc` and `application/grpc+...`.
    Grpc,
    /// `application/grpc-web`, its text form, and both with a suffix.
    GrpcWeb,
    /// Anything else.
    Plain,
}

/// Malformed optional values: ignored, and counted by the name of the field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// A request id that isn't a UUID.
    pub request_id: bool,
    /// A reconnect window that isn't a number of seconds.
    pub window: bool,
    /// An absorb value that is neither `true` nor `false`.
    pub absorb: bool,
    /// A `grpc-timeout` outside of gRPC's grammar.
    pub timeout: bool,
}

impl<'a> Head<'a> {
    /// Reads the headers of a request.
    pub fn read(headers: &'a HeaderMap) -> Self {
        let protocols = Protocols::read(headers);
        let said = |name: &str| {
            first(headers, name)
                .filter(|value| !value.is_empty())
                .or_else(|| {
                    protocols
                        .get(name)
                        .map(str::as_bytes)
                        .filter(|v| !v.is_empty())
                })
        };
        let mut ignored = Ignored::default();

        let cookies = Cookies::read(headers);
        let session = match said(REQUEST_ID) {
            Some(text) => match parse(text) {
                Some(id) => Wanted::Named(id),
                None => {
                    ignored.request_id = true;
                    Wanted::Any
                }
            },
            None if cookies.named && cookies.ids.is_empty() => {
                ignored.request_id = true;
                Wanted::Any
            }
            None if cookies.named => Wanted::Cookie,
            None => Wanted::Any,
        };
        let absorb = match said(ABSORB) {
            Some(text) if text.eq_ignore_ascii_case(b"true") => true,
            Some(text) if text.eq_ignore_ascii_case(b"false") => false,
            Some(_) => {
                ignored.absorb = true;
                false
            }
            None => false,
        };
        let window = said(WINDOW).and_then(|text| {
            let window = whole_seconds(text);
            ignored.window = window.is_none();
            window
        });
        let timeout = first(headers, TIMEOUT).and_then(|text| {
            let timeout = grpc_timeout(text);
            ignored.timeout = timeout.is_none();
            timeout
        });

        Head {
            credential: credential(headers, &protocols),
            function: match said(FUNCTION_ID) {
                None => Err(Fault::NoFunctionId),
                Some(text) => parse(text).ok_or(Fault::MalformedFunctionId),
            },
            version: match said(VERSION_ID) {
                None => Ok(None),
                Some(text) => parse(text).map(Some).ok_or(Fault::MalformedVersionId),
            },
            session,
            cookies: cookies.ids,
            absorb,
            window,
            timeout,
            dialect: Dialect::of(headers),
            ignored,
        }
    }

    /// Whether any function id was sent at all; without one, health and info are answered here.
    pub fn names_a_function(&self) -> bool {
        self.function != Err(Fault::NoFunctionId)
    }
}

impl Dialect {
    /// Reads the content type, without its parameters and in any case (RFC 9110 8.3.1).
    pub fn of(headers: &HeaderMap) -> Self {
        let Some(value) = first(headers, CONTENT_TYPE.as_str()) else {
            return Dialect::Plain;
        };
        let essence = value.split(|&b| b == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii();
        let is = |name: &str| {
            essence
                .split_at_checked(name.len())
                .is_some_and(|(start, rest)| {
                    start.eq_ignore_ascii_case(name.as_bytes())
                        && (rest.is_empty() || rest[0] == b'+')
                })
        };
        if is("application/grpc") {
            Dialect::Grpc
        } else if is("application/grpc-web") || is("application/grpc-web-text") {
            Dialect::GrpcWeb
        } else {
            Dialect::Plain
        }
    }
}

/// The bearer token of the header; where that is empty, the bare one of the protocol item.
fn credential<'a>(headers: &'a HeaderMap, protocols: &Protocols<'a>) -> Result<&'a str, Fault> {
    let token = match first(headers, AUTHORIZATION.as_str()) {
        Some(value) if !value.is_empty() => {
            let value = std::str::from_utf8(value).map_err(|_| Fault::NoCredential)?;
            let (scheme, token) = value.split_once(' ').ok_or(Fault::NoCredential)?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(Fault::NoCredential);
            }
            token.trim_start_matches(' ')
        }
        _ => protocols.get(AUTHORIZATION.as_str()).unwrap_or_default(),
    };
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Fault::NoCredential);
    }
    Ok(token)
}

/// The first header of a name, without the white space around it (RFC 9110 5.5).
fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get(name).map(|value| value.as_bytes().trim_ascii())
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A number of seconds; numbers too large for a `u64` count as the largest, since all are capped.
fn whole_seconds(text: &[u8]) -> Option<Duration> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = parse(text).unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds))
}

/// gRPC's timeout: 1 to 8 digits and a unit (gRPC over HTTP/2, "Requests").
pub fn grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = parse(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookies::{COOKIE_NAME, COOKIES_MAX};
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    const ID: &str = "67e55044-10b1-826f-9247-bb680e5fe0c8";
    const OTHER: &str = "11111111-2222-8333-8444-555555555555";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    value.parse::<HeaderValue>().unwrap(),
                )
            })
            .collect()
    }

    fn id(text: &str) -> RequestId {
        text.parse().unwrap()
    }

    #[test]
    fn c_key_1_nothing_said_is_no_credential_and_no_function() {
        let none = HeaderMap::new();
        let head = Head::read(&none);
        assert_eq!(head.credential, Err(Fault::NoCredential));
        assert_eq!(head.function, Err(Fault::NoFunctionId));
        assert_eq!(head.version, Ok(None));
        assert_eq!(head.session, Wanted::Any);
        assert!(!head.absorb && head.window.is_none() && head.timeout.is_none());
        assert_eq!(head.ignored, Ignored::default());
        assert!(!head.names_a_function());
    }

    #[test]
    fn c_key_1_the_scheme_may_have_any_case_and_the_token_stays_verbatim() {
        for value in ["Bearer pnt_c_x", "bearer pnt_c_x", "BEARER   pnt_c_x"] {
            let map = headers(&[("authorization", value)]);
            assert_eq!(Head::read(&map).credential, Ok("pnt_c_x"), "{value}");
        }
    }

    #[test]
    fn c_err_1_a_malformed_credential_is_no_credential_and_no_fall_through() {
        for value in [
            "pnt_c_x",
            "Basic pnt_c_x",
            "Bearer",
            "Bearer  ",
            "Bearer a b",
        ] {
            let map = headers(&[
                ("authorization", value),
                ("sec-websocket-protocol", "authorization.good"),
            ]);
            assert_eq!(
                Head::read(&map).credential,
                Err(Fault::NoCredential),
                "{value}"
            );
        }
    }

    #[test]
    fn c_key_1_an_empty_header_gives_way_to_the_protocol_item() {
        let protocols = format!(
            "authorization.tok, function-id.{ID}, function-version-id.{OTHER}, nvcf-reqid.{ID}"
        );
        for empty in [None, Some("")] {
            let mut map = headers(&[("sec-websocket-protocol", &protocols)]);
            if let Some(empty) = empty {
                for name in ["authorization", FUNCTION_ID, VERSION_ID, REQUEST_ID] {
                    map.insert(name, HeaderValue::from_static(empty));
                }
            }
            let head = Head::read(&map);
            assert_eq!(head.credential, Ok("tok"));
            assert_eq!(head.function, Ok(ID.parse().unwrap()));
            assert_eq!(head.version, Ok(Some(OTHER.parse().unwrap())));
            assert_eq!(head.session, Wanted::Named(id(ID)));
        }
    }

    #[test]
    fn c_err_4_ids_that_are_no_uuids_are_told_from_missing_ones() {
        let map = headers(&[(FUNCTION_ID, "nope"), (VERSION_ID, "nope")]);
        let head = Head::read(&map);
        assert_eq!(head.function, Err(Fault::MalformedFunctionId));
        assert_eq!(head.version, Err(Fault::MalformedVersionId));
        assert!(head.names_a_function());

        let map = headers(&[(FUNCTION_ID, ""), (VERSION_ID, "")]);
        let head = Head::read(&map);
        assert_eq!(head.function, Err(Fault::NoFunctionId));
        assert_eq!(head.version, Ok(None));
    }

    #[test]
    fn c_rid_1_header_then_protocol_item_then_cookie() {
        let cookie = format!("a=b; {COOKIE_NAME}={OTHER}");
        let item = format!("{REQUEST_ID}.{ID}");
        let map = headers(&[("cookie", &cookie)]);
        assert_eq!(Head::read(&map).session, Wanted::Cookie);
        assert_eq!(Head::read(&map).cookies, [id(OTHER)]);

        let map = headers(&[("cookie", &cookie), ("sec-websocket-protocol", &item)]);
        assert_eq!(Head::read(&map).session, Wanted::Named(id(ID)));
        assert_eq!(Head::read(&map).cookies, [id(OTHER)]);

        let map = headers(&[
            (REQUEST_ID, OTHER),
            ("sec-websocket-protocol", &item),
            ("cookie", &cookie),
        ]);
        assert_eq!(Head::read(&map).session, Wanted::Named(id(OTHER)));
    }

    #[test]
    fn c_rid_2_a_malformed_id_is_no_id_and_no_fall_through() {
        let cookie = format!("{COOKIE_NAME}={ID}");
        let map = headers(&[(REQUEST_ID, "made-up"), ("cookie", &cookie)]);
        let head = Head::read(&map);
        assert_eq!(head.session, Wanted::Any);
        assert!(head.ignored.request_id);

        let map = headers(&[(REQUEST_ID, ""), ("cookie", &cookie)]);
        let head = Head::read(&map);
        assert_eq!(head.session, Wanted::Cookie);
        assert!(!head.ignored.request_id);

        let map = headers(&[("cookie", "nvcf-request-id=made-up")]);
        let head = Head::read(&map);
        assert_eq!(head.session, Wanted::Any);
        assert!(head.ignored.request_id);
    }

    #[test]
    fn c_rid_2_every_spelling_is_accepted() {
        let plain = ID.replace('-', "");
        for text in [
            ID.to_owned(),
            ID.to_uppercase(),
            plain,
            format!("urn:uuid:{ID}"),
            format!("{{{ID}}}"),
            format!(" {ID} "),
        ] {
            let map = headers(&[(REQUEST_ID, &text)]);
            assert_eq!(Head::read(&map).session, Wanted::Named(id(ID)), "{text}");
        }
    }

    #[test]
    fn c_rid_4_all_cookies_of_the_name_are_seen_in_order_and_bounded() {
        let many = format!(
            "x=1; {COOKIE_NAME}=; {COOKIE_NAME}=junk;{COOKIE_NAME}=\"{OTHER}\"; nvcf-request-id2={ID}"
        );
        let mut map = headers(&[("cookie", &many)]);
        map.append("cookie", format!("{COOKIE_NAME}={ID}").parse().unwrap());
        assert_eq!(Head::read(&map).cookies, [id(OTHER), id(ID)]);

        let flood = format!("{COOKIE_NAME}={ID};").repeat(100);
        let map = headers(&[("cookie", &flood)]);
        assert_eq!(Head::read(&map).cookies.len(), COOKIES_MAX);
    }

    #[test]
    fn c_wsp_1_items_split_at_commas_and_drop_one_space() {
        let mut map = headers(&[(
            "sec-websocket-protocol",
            "Function-ID.first, function-id.second,  nvcf-reqid.spaced,graphql,x.a.b=/+",
        )]);
        map.append(
            "sec-websocket-protocol",
            HeaderValue::from_static("other.third"),
        );
        let protocols = Protocols::read(&map);
        assert_eq!(protocols.get("function-id"), Some("first"));
        assert_eq!(protocols.get("FUNCTION-ID"), Some("first"));
        assert_eq!(protocols.get("nvcf-reqid"), None, "two spaces: one stays");
        assert_eq!(protocols.get(" nvcf-reqid"), Some("spaced"));
        assert_eq!(protocols.get("graphql"), None);
        assert_eq!(protocols.get("x"), Some("a.b=/+"));
        assert_eq!(protocols.get("other"), Some("third"));
        assert_eq!(protocols.items().len(), 6);
    }

    #[test]
    fn grpc_timeouts_follow_the_grammar() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0S", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("1", None),
            ("", None),
            ("-1S", None),
            ("1.5S", None),
            ("1s", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), expected, "{text}");
        }
        let map = headers(&[(TIMEOUT, "soon")]);
        let head = Head::read(&map);
        assert!(head.timeout.is_none() && head.ignored.timeout);
    }

    #[test]
    fn windows_are_whole_seconds_and_too_large_ones_are_left_to_the_cap() {
        for (text, expected, ignored) in [
            ("0", Some(Duration::ZERO), false),
            ("60", Some(Duration::from_secs(60)), false),
            (
                "99999999999999999999999",
                Some(Duration::from_secs(u64::MAX)),
                false,
            ),
            ("-1", None, true),
            ("1.5", None, true),
            ("soon", None, true),
            ("", None, false),
        ] {
            let map = headers(&[(WINDOW, text)]);
            let head = Head::read(&map);
            assert_eq!(head.window, expected, "{text}");
            assert_eq!(head.ignored.window, ignored, "{text}");
        }
    }

    #[test]
    fn absorb_is_true_or_false_and_nothing_else() {
        for (text, absorb, ignored) in [
            ("true", true, false),
            ("True", true, false),
            ("false", false, false),
            ("", false, false),
            ("1", false, true),
        ] {
            let map = headers(&[(ABSORB, text)]);
            let head = Head::read(&map);
            assert_eq!((head.absorb, head.ignored.absorb), (absorb, ignored));
        }
    }

    #[test]
    fn the_content_type_decides_the_dialect() {
        for (text, dialect) in [
            ("application/grpc", Dialect::Grpc),
            ("application/grpc+proto", Dialect::Grpc),
            ("Application/GRPC; charset=utf-8", Dialect::Grpc),
            ("application/grpc-web", Dialect::GrpcWeb),
            ("application/grpc-web+proto", Dialect::GrpcWeb),
            ("application/grpc-web-text+proto", Dialect::GrpcWeb),
            ("application/grpcx", Dialect::Plain),
            ("application/json", Dialect::Plain),
            ("", Dialect::Plain),
        ] {
            let map = headers(&[("content-type", text)]);
            assert_eq!(Dialect::of(&map), dialect, "{text}");
        }
        assert_eq!(Dialect::of(&HeaderMap::new()), Dialect::Plain);
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read_without_a_panic(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 9)
        ) {
            let names = [
                "authorization", FUNCTION_ID, VERSION_ID, REQUEST_ID, ABSORB, WINDOW, TIMEOUT,
                "cookie", "sec-websocket-protocol",
            ];
            let mut map = HeaderMap::new();
            for (name, value) in names.iter().zip(values) {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    map.insert(*name, value);
                }
            }
            let head = Head::read(&map);
            prop_assert!(head.cookies.len() <= COOKIES_MAX);
        }
    }
}
