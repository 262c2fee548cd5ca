//! A connector for tonic that gives the one connection that is there already.
//!
//! A channel over it is of use for that connection only: when it breaks, so does the channel.

use hyper_util::rt::TokioIo;
use std::future::{Ready, ready};
use std::io;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

/// The connection, until it is taken.
pub(crate) struct Once<T>(Option<TokioIo<T>>);

impl<T: AsyncRead + AsyncWrite> Once<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self(Some(TokioIo::new(stream)))
    }
}

impl<T> Service<Uri> for Once<T> {
    type Response = TokioIo<T>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<T>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(
            self.0
                .take()
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection broke")),
        )
    }
}
