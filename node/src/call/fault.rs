//! Faults as their victims see them: one place turns a row of the fault table into an answer.
//!
//! Pure. Three dialects (contract, C-ERR): gRPC's trailers-only answer, gRPC-Web's, and plain HTTP.

use super::{cors, dress};
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Response, StatusCode, request};
use pontoon_proto::fault::Fault;
use pontoon_proto::head::Dialect;
use pontoon_proto::id::RequestId;
use std::fmt::Write as _;

/// What an answer of ours depends on, kept from the request before that moves on.
#[derive(Clone, Debug)]
pub struct Asked {
    dialect: Dialect,
    content_type: Option<HeaderValue>,
    head_only: bool,
    /// The page's origin, for CORS.
    origin: Option<HeaderValue>,
}

/// What a fault carries beside its row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras {
    /// The session, if the call was bound to one (C-RSP-1).
    pub session: Option<RequestId>,
    /// The session's cookie has not been given on this connection yet (C-RSP-2).
    pub cookie: bool,
    /// The attributes of our cookies on this connection.
    pub attributes: &'static str,
    /// The client's cookie is to go (C-RSP-3).
    pub clear_cookie: bool,
    /// The opaque id of an internal error, which is in the log.
    pub log_id: Option<u64>,
}

impl Asked {
    /// Keeps what matters of a request.
    pub fn of(request: &request::Parts) -> Self {
        Self {
            dialect: Dialect::of(&request.headers),
            content_type: request.headers.get(CONTENT_TYPE).cloned(),
            head_only: request.method == Method::HEAD,
            origin: request.headers.get(ORIGIN).cloned(),
        }
    }

    /// The page's origin, if a page of another one asks.
    pub fn origin(&self) -> Option<&HeaderValue> {
        self.origin.as_ref()
    }
}

/// Renders a fault. An empty body means that the head ends the answer.
pub fn render(fault: Fault, asked: &Asked, extras: Extras) -> Response<Bytes> {
    let row = fault.row();
    let mut text = row.text.to_owned();
    if let Some(id) = extras.log_id {
        let _infallible = write!(text, " {id:016x}");
    }
    let mut response = match asked.dialect {
        Dialect::Grpc => {
            let mut response = Response::new(Bytes::new());
            grpc_status(response.headers_mut(), row.code as u8, &text);
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
        Dialect::GrpcWeb => {
            let mut response = Response::new(Bytes::new());
            grpc_status(response.headers_mut(), row.code as u8, &text);
            if let Some(asked_for) = asked.content_type.clone() {
                response.headers_mut().insert(CONTENT_TYPE, asked_for);
            }
            response
        }
        Dialect::Plain => {
            let body = if asked.head_only {
                Bytes::new()
            } else {
                Bytes::from(text)
            };
            let mut response = Response::new(body);
            *response.status_mut() =
                StatusCode::from_u16(row.http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if row.http_status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = row.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(id) = extras.session {
        dress::for_client(headers, id, extras.cookie.then_some(extras.attributes));
    }
    if extras.clear_cookie {
        dress::clear_cookie(headers, extras.attributes);
    }
    cors::allow(headers, asked.origin());
    response
}

/// gRPC's status and message, the latter percent-encoded: bytes outside of `0x20..=0x7e` and `%`
/// itself (gRPC over HTTP/2, "Responses").
pub fn grpc_status(headers: &mut HeaderMap, code: u8, message: &str) {
    headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
    if let Ok(message) = HeaderValue::from_str(&encoded) {
        headers.insert("grpc-message", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn asked(method: &str, content_type: &str) -> Asked {
        let (parts, ()) = Request::builder()
            .method(method)
            .header("content-type", content_type)
            .body(())
            .unwrap()
            .into_parts();
        Asked::of(&parts)
    }

    fn header<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
        response
            .headers()
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing"))
            .to_str()
            .unwrap()
    }

    /// The contract's table, once more: text, gRPC code, HTTP status.
    const TABLE: [(Fault, &str, u8, u16); 15] = [
        (
            Fault::NoCredential,
            "no authorization was passed in the metadata",
            16,
            401,
        ),
        (Fault::InvalidCredential, "invalid credential", 16, 401),
        (
            Fault::NotAuthorized,
            "not authorized to invoke function",
            7,
            403,
        ),
        (
            Fault::NoFunctionId,
            "no function-id was passed in the metadata",
            3,
            400,
        ),
        (Fault::MalformedFunctionId, "malformed function-id", 3, 400),
        (
            Fault::MalformedVersionId,
            "malformed function-version-id",
            3,
            400,
        ),
        (Fault::FunctionNotFound, "function not found", 5, 404),
        (Fault::SessionNotFound, "no existing session found", 5, 404),
        (
            Fault::NoWorkerInTime,
            "failed to establish link to worker",
            4,
            504,
        ),
        (Fault::RateExceeded, "exceeded rate limit", 8, 429),
        (Fault::WorkerLost, "worker connection lost", 14, 502),
        (
            Fault::DirectoryUnavailable,
            "session directory unavailable",
            14,
            503,
        ),
        (Fault::Draining, "node is draining", 14, 503),
        (Fault::Internal, "internal error", 13, 500),
        (Fault::NotSupported, "not supported", 12, 501),
    ];

    #[test]
    fn c_err_every_row_in_every_dialect() {
        for (fault, text, code, status) in TABLE {
            let grpc = render(
                fault,
                &asked("POST", "application/grpc+proto"),
                Extras::default(),
            );
            assert_eq!(grpc.status(), 200);
            assert_eq!(header(&grpc, "content-type"), "application/grpc");
            assert_eq!(header(&grpc, "grpc-status"), code.to_string());
            assert_eq!(header(&grpc, "grpc-message"), text);
            assert!(grpc.body().is_empty());

            let web = render(
                fault,
                &asked("POST", "application/grpc-web-text+proto"),
                Extras::default(),
            );
            assert_eq!(web.status(), 200);
            assert_eq!(
                header(&web, "content-type"),
                "application/grpc-web-text+proto"
            );
            assert_eq!(header(&web, "grpc-status"), code.to_string());
            assert_eq!(header(&web, "grpc-message"), text);
            assert!(web.body().is_empty());

            let plain = render(fault, &asked("GET", "text/html"), Extras::default());
            assert_eq!(plain.status(), status);
            assert_eq!(header(&plain, "content-type"), "text/plain");
            assert_eq!(plain.body(), text);
            assert!(!plain.headers().contains_key("grpc-status"));

            for answer in [grpc, web, plain] {
                assert_eq!(header(&answer, "cache-control"), "no-store");
                assert_eq!(
                    answer.headers().contains_key("www-authenticate"),
                    status == 401
                );
                assert_eq!(
                    answer.headers().contains_key("retry-after"),
                    matches!(fault, Fault::RateExceeded | Fault::DirectoryUnavailable)
                );
                assert!(!answer.headers().contains_key("set-cookie"));
                assert!(!answer.headers().contains_key("nvcf-reqid"));
            }
        }
    }

    #[test]
    fn c_err_1_the_challenge_is_bearer() {
        let answer = render(
            Fault::NoCredential,
            &asked("GET", "application/grpc"),
            Extras::default(),
        );
        assert_eq!(header(&answer, "www-authenticate"), "Bearer");
    }

    #[test]
    fn c_rsp_1_a_fault_after_binding_names_its_session() {
        let id = "67e55044-10b1-826f-9247-bb680e5fe0c8".parse().unwrap();
        let extras = Extras {
            session: Some(id),
            cookie: true,
            attributes: "Path=/; SameSite=Lax",
            ..Extras::default()
        };
        for content_type in ["application/grpc", "text/plain"] {
            let answer = render(Fault::WorkerLost, &asked("GET", content_type), extras);
            assert_eq!(header(&answer, "nvcf-reqid"), id.to_string());
            assert_eq!(
                header(&answer, "set-cookie"),
                "nvcf-request-id=67e55044-10b1-826f-9247-bb680e5fe0c8; Path=/; SameSite=Lax"
            );
        }
    }

    #[test]
    fn c_rsp_3_a_dead_session_clears_both_forms_of_the_cookie() {
        let extras = Extras {
            clear_cookie: true,
            attributes: "Path=/; SameSite=Lax",
            ..Extras::default()
        };
        let answer = render(
            Fault::SessionNotFound,
            &asked("GET", "application/grpc"),
            extras,
        );
        let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
        assert_eq!(
            cookies,
            [
                "nvcf-request-id=; Max-Age=0",
                "nvcf-request-id=; Max-Age=0; Path=/; SameSite=Lax"
            ]
        );
    }

    #[test]
    fn c_err_13_an_internal_error_has_an_id() {
        let extras = Extras {
            log_id: Some(0xbeef),
            ..Extras::default()
        };
        let answer = render(Fault::Internal, &asked("GET", ""), extras);
        assert_eq!(answer.body(), "internal error 000000000000beef");
    }

    #[test]
    fn a_head_request_gets_no_body() {
        let answer = render(Fault::NoCredential, &asked("HEAD", ""), Extras::default());
        assert_eq!(answer.status(), 401);
        assert!(answer.body().is_empty());
    }

    #[test]
    fn messages_are_percent_encoded() {
        let mut headers = HeaderMap::new();
        grpc_status(&mut headers, 13, "100% ü\n~");
        assert_eq!(headers["grpc-message"], "100%25 %C3%BC%0A~");
        assert_eq!(headers["grpc-status"], "13");
    }
}
