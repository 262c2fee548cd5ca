//! The worker: each request's body comes back, frame by frame, and the end of it is `grpc-status: 0`.

use super::Here;
use crate::net::TcpStream;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Streams of one connection at once: whatever the load asks for.
const STREAMS_MAX: u32 = 4_096;

pub(super) async fn serve(stream: TcpStream) {
    let answer = service_fn(async |request: Request<Incoming>| {
        let mut response = Response::new(Echo(Some(request.into_body())));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        Ok::<_, Infallible>(response)
    });
    // The client may go at any time.
    http2::Builder::new(Here)
        .max_concurrent_streams(STREAMS_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await
        .ok();
}

/// The request's body as the response's, with trailers of its own.
struct Echo(Option<Incoming>);

impl Body for Echo {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(context)).transpose()?;
        if let Some(data) = frame.and_then(|frame| frame.into_data().ok()) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        self.0 = None;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
