//! Cross-origin requests of browsers (C-COR; the Fetch standard, "CORS protocol").
//!
//! Pure. A worker's answers are its own: only the session's id is made readable where the worker
//! lets the page read anything at all.

use super::local::Answer;
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, request};
use pontoon_proto::head::REQUEST_ID;

/// The methods that a page of another origin may use.
const METHODS: [&str; 6] = ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"];

/// What a page may read of our own answers.
const OURS: &str = "nvcf-reqid, grpc-status, grpc-message";

/// Answers a preflight request, for which browsers send no credential (C-COR-1).
pub(super) fn preflight(request: &request::Parts) -> Option<Answer> {
    let asked = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if request.method != Method::OPTIONS {
        return None;
    }
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        VARY,
        HeaderValue::from_static(
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        ),
    );
    let known = METHODS.iter().any(|method| asked == method);
    if let Some(origin) = request.headers.get(ORIGIN)
        && known
    {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, asked.clone());
        if let Some(names) = request.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    }
    Some((response, None))
}

/// Lets the page of this origin read an answer of ours (C-COR-2).
pub(super) fn allow(headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    let Some(origin) = origin else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(OURS),
    );
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

/// Adds the session's id to what a page may read of a worker's answer (C-COR-2).
pub(super) fn expose(headers: &mut HeaderMap) {
    if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    let named = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|&b| b == b',');
        names.any(|name| {
            name.trim_ascii()
                .eq_ignore_ascii_case(REQUEST_ID.as_bytes())
        })
    };
    let all = headers.get_all(ACCESS_CONTROL_EXPOSE_HEADERS);
    if all.iter().any(named) {
        return;
    }
    let mut names: Vec<u8> = Vec::new();
    for value in all {
        names.extend_from_slice(value.as_bytes());
        names.extend_from_slice(b", ");
    }
    names.extend_from_slice(REQUEST_ID.as_bytes());
    if let Ok(names) = HeaderValue::from_bytes(&names) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn request(method: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder().method(method).uri("http://node/x");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn c_cor_1_a_preflight_is_answered_with_what_it_asked() {
        let headers = [
            ("origin", "https://page.test"),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,function-id",
            ),
        ];
        let (answer, _) = preflight(&request("OPTIONS", &headers)).unwrap();
        assert_eq!(answer.status(), 200);
        for (name, value) in [
            ("access-control-allow-origin", "https://page.test"),
            ("access-control-allow-methods", "POST"),
            ("access-control-allow-headers", "authorization,function-id"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "3600"),
            (
                "vary",
                "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
            ),
        ] {
            assert_eq!(answer.headers()[name], value, "{name}");
        }
    }

    #[test]
    fn c_cor_1_without_an_origin_or_for_another_method_only_vary_is_said() {
        for headers in [
            vec![("access-control-request-method", "POST")],
            vec![
                ("origin", "https://page.test"),
                ("access-control-request-method", "TRACE"),
            ],
        ] {
            let (answer, _) = preflight(&request("OPTIONS", &headers)).unwrap();
            assert_eq!(answer.status(), 200);
            assert!(answer.headers().contains_key("vary"));
            let cors = |name: &http::HeaderName| name.as_str().starts_with("access-control");
            assert!(!answer.headers().keys().any(cors));
        }
        assert!(preflight(&request("OPTIONS", &[("origin", "https://page.test")])).is_none());
        assert!(preflight(&request("GET", &[("access-control-request-method", "GET")])).is_none());
    }

    #[test]
    fn c_cor_2_a_workers_answer_only_exposes_the_id_where_it_is_readable() {
        let mut headers = HeaderMap::new();
        expose(&mut headers);
        assert!(headers.is_empty());
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        expose(&mut headers);
        assert_eq!(headers[ACCESS_CONTROL_EXPOSE_HEADERS], "nvcf-reqid");
        expose(&mut headers);
        assert_eq!(headers[ACCESS_CONTROL_EXPOSE_HEADERS], "nvcf-reqid");
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("x-theirs"),
        );
        expose(&mut headers);
        assert_eq!(
            headers[ACCESS_CONTROL_EXPOSE_HEADERS],
            "x-theirs, nvcf-reqid"
        );
    }
}
