//! One HTTP/1.1 exchange on a connection of its own: for health checks and for `--on-end`.

use crate::{net, tasks};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;

/// Sends a request without a body.
pub(super) async fn get(address: &str, path: &str, within: Duration) -> io::Result<StatusCode> {
    let request = Request::get(path)
        .header(header::HOST, address)
        .body(Full::default())
        .map_err(io::Error::other)?;
    exchange(address, request, within).await
}

/// Sends JSON to an `http` URL.
pub(super) async fn post(to: &http::Uri, json: String, within: Duration) -> io::Result<StatusCode> {
    let host = to.host().unwrap_or_default();
    let address = format!("{host}:{}", to.port_u16().unwrap_or(80));
    let path = to.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(header::HOST, &address)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(json))
        .map_err(io::Error::other)?;
    exchange(&address, request, within).await
}

async fn exchange(
    address: &str,
    request: Request<Full<Bytes>>,
    within: Duration,
) -> io::Result<StatusCode> {
    let run = async {
        let stream = net::dial(address, within).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let driver = tasks::spawn(tasks::Kind::Worker, "http-exchange", connection);
        let answer = sender.send_request(request).await;
        driver.abort();
        answer.map(|a| a.status()).map_err(io::Error::other)
    };
    tokio::time::timeout(within, run)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))?
}
