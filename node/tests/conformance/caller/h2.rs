//! The suite's client over HTTP/2.

use super::{Ask, Reply, WITHIN};
pub use crate::worker::send_all as send;
use ::h2::client::{ResponseFuture, SendRequest};
use ::h2::{RecvStream, SendStream};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use pontoon::net;
use pontoon::tasks::{self, Kind};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use tokio::sync::watch;

/// One connection. It ends when this and its streams are gone.
pub struct Conn {
    sender: SendRequest<Bytes>,
    end: watch::Receiver<Option<String>>,
}

/// A stream that is open in both directions.
pub struct Open {
    pub out: SendStream<Bytes>,
    pub answer: ResponseFuture,
}

/// An error as text, with the code of HTTP/2 in it.
pub fn said(error: ::h2::Error) -> String {
    match error.reason() {
        Some(reason) => format!("{error} [{reason:?}]"),
        None => error.to_string(),
    }
}

impl Conn {
    /// Opens one.
    pub async fn open(address: &str) -> Result<Conn, String> {
        let mut builder = ::h2::client::Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .max_header_list_size(256 << 10);
        Self::open_with(address, &builder).await
    }

    /// Opens one with settings of the caller's.
    pub async fn open_with(address: &str, builder: &::h2::client::Builder) -> Result<Conn, String> {
        let stream = net::dial(address, WITHIN).await;
        let stream = stream.map_err(|error| format!("{address}: {error}"))?;
        let (sender, connection) = builder.handshake(stream).await.map_err(said)?;
        let (ended, end) = watch::channel(None);
        tasks::spawn(Kind::Worker, "client connection", async move {
            let result = connection.await;
            ended.send_replace(Some(result.map_or_else(said, |()| "closed".to_owned())));
        });
        Ok(Conn { sender, end })
    }

    /// How the connection ended, when it does.
    pub async fn end(&self) -> String {
        let mut end = self.end.clone();
        let found = end.wait_for(Option::is_some).await;
        found.map_or_else(
            |_| "dropped".to_owned(),
            |end| end.clone().unwrap_or_default(),
        )
    }

    /// Sends a head.
    pub async fn begin(&self, ask: &Ask, ends: bool) -> Result<Open, String> {
        let mut sender = self.sender.clone().ready().await.map_err(said)?;
        let request = request(ask)?;
        let (answer, out) = sender.send_request(request, ends).map_err(said)?;
        Ok(Open { out, answer })
    }

    /// One exchange.
    pub async fn ask(&self, ask: &Ask) -> Result<Reply, String> {
        let ends = ask.body.is_empty() && ask.trailers.is_empty();
        let Open { mut out, answer } = self.begin(ask, ends).await?;
        let sending = async {
            if ends {
                return;
            }
            // A server may answer without reading all of it; the answer tells what went wrong.
            let sent = send(&mut out, ask.body.clone()).await;
            if sent.is_ok() && ask.trailers.is_empty() {
                out.send_data(Bytes::new(), true).ok();
            } else if sent.is_ok() {
                out.send_trailers(map(&ask.trailers).unwrap_or_default())
                    .ok();
            }
        };
        let (reply, ()) = tokio::join!(receive(answer), sending);
        reply
    }
}

fn map(pairs: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let name = name
            .parse::<HeaderName>()
            .map_err(|error| error.to_string())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| error.to_string())?;
        map.append(name, value);
    }
    Ok(map)
}

fn request(ask: &Ask) -> Result<Request<()>, String> {
    let uri = match ask.method.as_str() {
        "CONNECT" => ask.authority.clone(),
        _ => format!("http://{}{}", ask.authority, ask.path),
    };
    let request = Request::builder()
        .method(ask.method.as_str())
        .uri(uri)
        .body(());
    let mut request = request.map_err(|error| error.to_string())?;
    *request.headers_mut() = map(&ask.headers)?;
    Ok(request)
}

/// The head of an answer, and the 1xx before it.
pub type Head = (http::Response<RecvStream>, Vec<(u16, HeaderMap)>);

/// As [`try_head`], with the error as text.
pub async fn head(answer: ResponseFuture) -> Result<Head, String> {
    try_head(answer).await.map_err(said)
}

/// Waits for the head of an answer, and for the 1xx before it.
pub async fn try_head(mut answer: ResponseFuture) -> Result<Head, ::h2::Error> {
    let mut early = Vec::new();
    let mut more = true;
    let response = poll_fn(|cx| {
        while more {
            match answer.poll_informational(cx) {
                Poll::Ready(Some(Ok(found))) => {
                    early.push((found.status().as_u16(), found.headers().clone()));
                }
                Poll::Ready(_) => more = false,
                Poll::Pending => break,
            }
        }
        Pin::new(&mut answer).poll(cx)
    });
    let response = response.await?;
    Ok((response, early))
}

/// All of an answer.
pub async fn receive(answer: ResponseFuture) -> Result<Reply, String> {
    let (response, early) = head(answer).await?;
    let (head, mut body) = response.into_parts();
    let ended_with_headers = body.is_end_stream();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| format!("behind {head:?}: {}", said(error)))?;
        body.flow_control()
            .release_capacity(data.len())
            .map_err(said)?;
        bytes.extend_from_slice(&data);
    }
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: bytes,
        trailers: body.trailers().await.map_err(said)?,
        ended_with_headers,
        early,
    })
}

impl Conn {
    /// Waits for a server that allows extended CONNECT (RFC 8441, section 3).
    pub async fn allows_extended_connect(&self) -> Result<(), String> {
        // The server's SETTINGS have arrived when a stream may be opened and an answer came.
        let probe = Ask::new("GET", "/info");
        self.ask(&probe).await?;
        if self.sender.is_extended_connect_protocol_enabled() {
            return Ok(());
        }
        Err("SETTINGS_ENABLE_CONNECT_PROTOCOL was not sent".to_owned())
    }

    /// An extended CONNECT with this protocol list.
    pub async fn connect(
        &self,
        path: &str,
        protocol: ::h2::ext::Protocol,
        items: &str,
    ) -> Result<Open, String> {
        let mut sender = self.sender.clone().ready().await.map_err(said)?;
        let request = Request::builder()
            .method("CONNECT")
            .uri(format!("http://conformance.test{path}"))
            .extension(protocol)
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", items)
            .body(())
            .map_err(|error| error.to_string())?;
        let (answer, out) = sender.send_request(request, false).map_err(said)?;
        Ok(Open { out, answer })
    }
}
