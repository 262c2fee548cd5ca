//! A bare HTTP/2 client, and bare frames, for what a gRPC library does not let one say or see.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use pontoon::net;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The longest that an exchange may take.
const WITHIN: Duration = Duration::from_secs(20);

/// One frame of HTTP/2 (RFC 9113, section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An answer, with the headers and the trailers apart.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Whether the stream ended with the headers.
    pub ended_with_headers: bool,
}

impl Answer {
    /// A header as text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("printable"))
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values
            .map(|value| value.to_str().expect("printable"))
            .collect()
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}

/// One exchange on a connection of its own. `headers` come behind the method and path.
#[track_caller]
pub fn exchange(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    Connection::open(address).exchange(method, path, headers)
}

/// A connection for many exchanges, as a page or a portal has one. It closes when it is dropped.
pub struct Connection {
    runtime: Runtime,
    address: String,
    sender: SendRequest<Bytes>,
}

impl Connection {
    /// Connects.
    #[track_caller]
    pub fn open(address: &str) -> Connection {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let sender = runtime.block_on(async {
            let stream = net::dial(address, WITHIN).await.expect("a connection");
            let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
            drop(runtime.spawn(connection));
            sender
        });
        Connection {
            runtime,
            address: address.to_owned(),
            sender,
        }
    }

    /// One exchange.
    #[track_caller]
    pub fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut answers = self.side_by_side(1, method, path, headers);
        answers.remove(0)
    }

    /// So many equal exchanges at once.
    #[track_caller]
    pub fn side_by_side(
        &self,
        count: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Vec<Answer> {
        let exchanges = (0..count).map(|_| {
            let mut request = Request::builder()
                .method(method)
                .uri(format!("http://{}{path}", self.address));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(()).expect("a well-formed request");
            run(self.sender.clone(), request)
        });
        let all = futures::future::join_all(exchanges);
        self.runtime
            .block_on(async { tokio::time::timeout(WITHIN, all).await })
            .expect("answers in time")
    }
}

async fn run(sender: SendRequest<Bytes>, request: Request<()>) -> Answer {
    let mut sender = sender.ready().await.expect("room for a stream");
    let (response, _) = sender.send_request(request, true).expect("sent");
    let response = response.await.expect("an answer");
    let (head, mut body) = response.into_parts();
    let ended_with_headers = body.is_end_stream();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data: Bytes = data.expect("a body");
        body.flow_control()
            .release_capacity(data.len())
            .expect("released");
        bytes.extend_from_slice(&data);
    }
    Answer {
        status: head.status,
        headers: head.headers,
        body: bytes,
        trailers: body.trailers().await.expect("an end"),
        ended_with_headers,
    }
}
