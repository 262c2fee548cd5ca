//! Counts what goes through a tunnel's byte stream, and cuts it when the tunnel is to close.

use crate::prefixed::ByteStream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// What went through a byte stream.
#[derive(Debug, Default)]
pub(super) struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
    finished: AtomicBool,
}

impl Meter {
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether the other end said that it is done.
    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }
}

/// A byte stream that is counted.
pub(super) struct Metered {
    inner: Box<dyn ByteStream>,
    meter: Arc<Meter>,
    /// Breaks the stream from outside, whoever holds it by then.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    gone: CancellationToken,
    _gone: DropGuard,
}

impl Metered {
    pub(super) fn new(inner: Box<dyn ByteStream>, meter: Arc<Meter>) -> Self {
        let gone = CancellationToken::new();
        Self {
            inner,
            meter,
            cut: None,
            _gone: gone.clone().drop_guard(),
            gone,
        }
    }

    /// The stream breaks when this is cancelled.
    pub(super) fn cut_by(self, cut: CancellationToken) -> Self {
        Self {
            cut: Some(Box::pin(cut.cancelled_owned())),
            ..self
        }
    }

    /// Cancelled when the stream is dropped.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        let cut = self.cut.as_mut();
        cut.is_some_and(|cut| cut.as_mut().poll(cx).is_ready())
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) {
            let n = buf.filled().len() - before;
            self.meter.received.fetch_add(n as u64, Ordering::Relaxed);
            if n == 0 && room {
                self.meter.finished.store(true, Ordering::Relaxed);
            }
        }
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.count(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl Metered {
    fn count(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &result {
            self.meter.sent.fetch_add(*n as u64, Ordering::Relaxed);
        }
        result
    }
}
