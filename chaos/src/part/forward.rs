//! The floor of a node: HTTP/2 in, HTTP/2 out, one connection to the worker for each client's.

use super::Here;
use crate::net::{self, TcpStream};
use http::Request;
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;

/// Streams of one connection at once: whatever the load asks for.
const STREAMS_MAX: u32 = 4_096;

pub(super) async fn serve(stream: TcpStream, to: SocketAddr) {
    let Ok(far) = net::dial_to(to).await else {
        return;
    };
    let Ok((worker, connection)) = client::handshake(Here, TokioIo::new(far)).await else {
        return;
    };
    tokio::task::spawn_local(connection);
    let forward = service_fn(move |request: Request<Incoming>| {
        let mut worker = worker.clone();
        async move {
            worker.ready().await?;
            worker.send_request(request).await
        }
    });
    // The client may go at any time.
    server::Builder::new(Here)
        .max_concurrent_streams(STREAMS_MAX)
        .serve_connection(TokioIo::new(stream), forward)
        .await
        .ok();
}
