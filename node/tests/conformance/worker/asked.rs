//! A request as the worker got it: what it asks for, and the report about it.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a request's headers tell the worker to do.
pub struct Asked {
    pub method: String,
    pub path: String,
    pub authority: String,
    pub scheme: String,
    pub protocol: &'static str,
    pub headers: HeaderMap,
}

/// A body's length and digest, taken as it comes.
#[derive(Default)]
pub struct Body {
    pub length: u64,
    pub start: Vec<u8>,
    hash: Sha256,
}

/// How much of a body a report repeats.
const START_MAX: usize = 4096;

impl Body {
    /// Takes a piece.
    pub fn take(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.hash.update(bytes);
        let room = START_MAX.saturating_sub(self.start.len()).min(bytes.len());
        self.start.extend_from_slice(&bytes[..room]);
    }

    /// The SHA-256 of all of it, in hex.
    pub fn digest(&self) -> String {
        hex(&self.hash.clone().finalize())
    }
}

/// Bytes in lower case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One gRPC message, uncompressed, in its frame.
pub fn message(payload: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    framed.extend_from_slice(payload);
    framed
}

impl Asked {
    /// From a request of HTTP/2.
    pub fn from_h2(parts: &request::Parts) -> Asked {
        let authority = parts.uri.authority().map(ToString::to_string);
        Asked {
            method: parts.method.to_string(),
            path: parts
                .uri
                .path_and_query()
                .map_or_else(String::new, ToString::to_string),
            authority: authority.unwrap_or_default(),
            scheme: parts.uri.scheme_str().unwrap_or_default().to_owned(),
            protocol: "HTTP/2",
            headers: parts.headers.clone(),
        }
    }

    /// One `x-echo-` header; empty when it is not there.
    pub fn told(&self, name: &str) -> &str {
        let value = self.headers.get(format!("x-echo-{name}"));
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// One `x-echo-` header as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.told(name).parse().ok()
    }

    /// The name of its notes.
    pub fn tag(&self) -> &str {
        self.told("tag")
    }

    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Whether it has a gRPC content type, gRPC-Web included.
    pub fn is_grpc(&self) -> bool {
        self.content_type().starts_with("application/grpc")
    }

    /// Whether it has a gRPC-Web content type.
    pub fn is_grpc_web(&self) -> bool {
        self.content_type().starts_with("application/grpc-web")
    }

    fn content_type(&self) -> &str {
        let value = self.headers.get("content-type");
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    fn pairs(&self, name: &str) -> HeaderMap {
        let mut found = HeaderMap::new();
        for value in self.headers.get_all(format!("x-echo-{name}")) {
            let Some((name, value)) = value.to_str().ok().and_then(|text| text.split_once(": "))
            else {
                continue;
            };
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), HeaderValue::from_str(value))
            {
                found.append(name, value);
            }
        }
        found
    }

    /// The trailers that it wants; those of gRPC come by themselves unless it names them.
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = self.pairs("trailer");
        if self.is_grpc() && !trailers.contains_key("grpc-status") {
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        trailers
    }

    /// The head of the answer that it wants.
    pub fn head(&self) -> Response<()> {
        let mut response = Response::new(());
        let status = self
            .number("status")
            .and_then(|code| u16::try_from(code).ok());
        let status = status.and_then(|code| StatusCode::from_u16(code).ok());
        *response.status_mut() = status.unwrap_or(StatusCode::OK);
        let kind = if self.is_grpc() {
            self.content_type()
        } else {
            "application/json"
        };
        let kind = HeaderValue::from_str(kind).expect("it came as a header");
        response.headers_mut().insert("content-type", kind);
        for (name, value) in &self.pairs("header") {
            response.headers_mut().append(name, value.clone());
        }
        response
    }

    /// Everything that was received.
    pub fn report(&self, body: &Body, trailers: Option<&HeaderMap>) -> Value {
        let list = |headers: &HeaderMap| -> Vec<Value> {
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers
                .iter()
                .map(|(name, value)| json!([name.as_str(), text(value)]))
                .collect()
        };
        json!({
            "method": self.method, "path": self.path, "authority": self.authority,
            "scheme": self.scheme, "protocol": self.protocol, "headers": list(&self.headers),
            "trailers": trailers.map(list), "length": body.length, "sha256": body.digest(),
            "start": String::from_utf8_lossy(&body.start),
        })
    }

    /// What the body of an answer is: the report as JSON, or as one gRPC message.
    pub fn answer(&self, body: &Body, trailers: Option<&HeaderMap>) -> Vec<u8> {
        let text = if self.told("digest").is_empty() {
            self.report(body, trailers).to_string()
        } else {
            json!({"length": body.length, "sha256": body.digest()}).to_string()
        };
        if self.is_grpc() {
            message(text.as_bytes())
        } else {
            text.into_bytes()
        }
    }

    /// Trailers as gRPC-Web has them: a last frame of the body.
    pub fn web_trailers(&self) -> Vec<u8> {
        let mut lines = String::new();
        for (name, value) in &self.trailers() {
            lines.push_str(&format!(
                "{name}:{}\r\n",
                value.to_str().unwrap_or_default()
            ));
        }
        let mut framed = message(lines.as_bytes());
        framed[0] = 0x80;
        framed
    }
}
