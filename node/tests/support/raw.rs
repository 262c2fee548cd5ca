//! A bare HTTP/2 client, for what a gRPC library does not let one say or see.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use pontoon::net;
use std::time::Duration;

/// The longest that an exchange may take.
const WITHIN: Duration = Duration::from_secs(20);

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
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("a well-formed request");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(WITHIN, run(address, request))
            .await
            .expect("an answer in time")
    })
}

async fn run(address: &str, request: Request<()>) -> Answer {
    let stream = net::dial(address, WITHIN).await.expect("a connection");
    let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
    let connection = async {
        connection.await.ok();
        std::future::pending::<Answer>().await
    };
    let exchange = async {
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
    };
    tokio::select! {
        answer = exchange => answer,
        answer = connection => answer,
    }
}
