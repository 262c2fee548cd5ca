//! What is answered here, without a worker: preflights (C-COR-1), and health and info, when no
//! function id is sent (C-HLT).
//!
//! Pure. Health says whether this node takes traffic; it is never red because another system is
//! down, or every load balancer would turn away from every node at once.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN};
use http::{HeaderMap, Method, Response, StatusCode, request};
use pontoon_proto::fault::{Code, Fault};
use pontoon_proto::head::FUNCTION_ID;
use pontoon_proto::protocols::Protocols;

use super::cors;
use super::fault::grpc_status;

/// The path of every method of `grpc.health.v1.Health` begins so.
const HEALTH_SERVICE: &str = "/grpc.health.v1.Health/";

/// `HealthCheckResponse { status: SERVING }` and `NOT_SERVING`, as one uncompressed gRPC message.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];
const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 2];

/// An answer, and the trailers behind it.
pub(super) type Answer = (Response<Bytes>, Option<HeaderMap>);

/// Answers a request that is not for a worker; `None` when it is for one, or for nobody.
pub(super) fn answer(request: &request::Parts, serving: bool) -> Option<Answer> {
    if let Some(preflight) = cors::preflight(request) {
        return Some(preflight);
    }
    let path = request.uri.path();
    let method = path.strip_prefix(HEALTH_SERVICE);
    if method.is_none() && path != "/info" && path != "/health" || names_a_function(request) {
        return None;
    }
    let mut answer = match method {
        Some("Check") => check(serving),
        Some(_) => unknown_method(),
        None if request.method != Method::GET && request.method != Method::HEAD => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            (response, None)
        }
        None if path == "/info" => (info(), None),
        None => (health(serving), None),
    };
    if request.method == Method::HEAD {
        *answer.0.body_mut() = Bytes::new();
    }
    answer
        .0
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    cors::allow(answer.0.headers_mut(), request.headers.get(ORIGIN));
    Some(answer)
}

fn names_a_function(request: &request::Parts) -> bool {
    request
        .headers
        .get(FUNCTION_ID)
        .is_some_and(|value| !value.as_bytes().trim_ascii().is_empty())
        || Protocols::read(&request.headers)
            .get(FUNCTION_ID)
            .is_some_and(|value| !value.is_empty())
}

/// The overall health, whatever service was asked for: a node has no parts that fail by themselves.
fn check(serving: bool) -> Answer {
    let mut response = Response::new(Bytes::from_static(if serving {
        SERVING
    } else {
        NOT_SERVING
    }));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    (response, Some(trailers))
}

/// `Watch` and `List`: clients take UNIMPLEMENTED as "there is nothing to watch", and poll.
fn unknown_method() -> Answer {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    grpc_status(
        headers,
        Code::Unimplemented as u8,
        Fault::NotSupported.row().text,
    );
    (response, None)
}

fn info() -> Response<Bytes> {
    let text = serde_json::json!({
        "service": "pontoon",
        "version": env!("CARGO_PKG_VERSION"),
        "commit": option_env!("PONTOON_COMMIT").unwrap_or("unknown"),
    });
    let mut response = Response::new(Bytes::from(text.to_string()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn health(serving: bool) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(if serving {
        b"serving"
    } else {
        b"draining"
    }));
    if !serving {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder()
            .method(method)
            .uri(format!("http://node{path}"));
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn c_hlt_info_is_json_and_takes_get_only() {
        let (response, trailers) = answer(&request("GET", "/info", &[]), true).unwrap();
        assert_eq!(response.status(), 200);
        assert!(trailers.is_none());
        let info: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        for key in ["service", "version", "commit"] {
            assert!(info[key].is_string(), "{key}");
        }
        let (response, _) = answer(&request("POST", "/info", &[]), true).unwrap();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }

    #[test]
    fn c_hlt_health_is_serving_unless_the_node_leaves() {
        let (response, _) = answer(&request("GET", "/health", &[]), true).unwrap();
        assert_eq!(response.status(), 200);
        let (response, _) = answer(&request("GET", "/health", &[]), false).unwrap();
        assert_eq!(response.status(), 503);
        let check = request("POST", "/grpc.health.v1.Health/Check", &[]);
        let (response, trailers) = answer(&check, true).unwrap();
        assert_eq!(response.body()[..], *SERVING);
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
        let (response, _) = answer(&check, false).unwrap();
        assert_eq!(response.body()[..], *NOT_SERVING);
        let watch = request("POST", "/grpc.health.v1.Health/Watch", &[]);
        let (response, _) = answer(&watch, true).unwrap();
        assert_eq!(response.headers()["grpc-status"], "12");
    }

    #[test]
    fn c_hlt_with_a_function_id_all_of_it_goes_to_the_worker() {
        for path in ["/info", "/health", "/grpc.health.v1.Health/Check"] {
            assert!(answer(&request("GET", path, &[("function-id", "x")]), true).is_none());
            let item = [("sec-websocket-protocol", "function-id.x")];
            assert!(answer(&request("GET", path, &item), true).is_none());
            assert!(answer(&request("GET", path, &[("function-id", "")]), true).is_some());
        }
        assert!(answer(&request("GET", "/other", &[]), true).is_none());
    }
}
