//! The suite's client over HTTP/1.1.

use super::{Ask, Reply, WITHIN};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pontoon::net;
use pontoon::tasks::{self, Kind};
use std::sync::{Arc, Mutex};

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

/// One connection.
pub struct Conn {
    sender: SendRequest<Body>,
}

impl Conn {
    /// Opens one.
    pub async fn open(address: &str) -> Result<Conn, String> {
        let stream = net::dial(address, WITHIN).await;
        let stream = stream.map_err(|error| format!("{address}: {error}"))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| error.to_string())?;
        tasks::spawn(Kind::Worker, "client connection", connection);
        Ok(Conn { sender })
    }

    /// One exchange.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Reply, String> {
        let said = |error: hyper::Error| format!("HTTP/1.1: {error:?}");
        let mut request = request(ask)?;
        let early = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&early);
        hyper::ext::on_informational(&mut request, move |found| {
            let one = (found.status().as_u16(), found.headers().clone());
            seen.lock().expect("no panic").push(one);
        });
        self.sender.ready().await.map_err(said)?;
        let response = self.sender.send_request(request).await.map_err(said)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(said)?;
        let trailers = body.trailers().cloned();
        let body = body.to_bytes();
        // Over HTTP/1.1 trailers only means: no body, and no trailers behind it.
        let ended_with_headers = body.is_empty() && trailers.is_none();
        let early = std::mem::take(&mut *early.lock().expect("no panic"));
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_vec(),
            trailers,
            ended_with_headers,
            early,
        })
    }
}

fn request(ask: &Ask) -> Result<Request<Body>, String> {
    let map = |pairs: &[(String, String)]| -> Result<HeaderMap, String> {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = name
                .parse::<HeaderName>()
                .map_err(|error| error.to_string())?;
            let value = HeaderValue::from_bytes(value.as_bytes());
            map.append(name, value.map_err(|error| error.to_string())?);
        }
        Ok(map)
    };
    let body = Full::new(Bytes::from(ask.body.clone()));
    let mut headers = map(&ask.headers)?;
    let body = if ask.trailers.is_empty() {
        body.boxed()
    } else {
        let trailers = map(&ask.trailers)?;
        for name in trailers.keys() {
            headers.append(
                "trailer",
                HeaderValue::from_str(name.as_str()).expect("a name"),
            );
        }
        headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        body.with_trailers(async move { Some(Ok(trailers)) })
            .boxed()
    };
    let request = Request::builder()
        .method(ask.method.as_str())
        .uri(&ask.path);
    let request = request.header("host", &ask.authority).body(body);
    let mut request = request.map_err(|error| error.to_string())?;
    request.headers_mut().extend(headers);
    Ok(request)
}
