//! A bounded pipe for the bytes of one HTTP/1.1 message or of an upgraded connection: the carrying
//! task writes, and hyper or a copying task reads.
//!
//! One reader, one writer, one short lock between the two and nobody else. The bound is the window
//! that an HTTP/2 stream has, so memory per stream is the same whatever the protocol (C-LSN-2).

use crate::call::h2_settings::STREAM_WINDOW;
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// How many bytes may wait for the reader.
const ROOM: usize = STREAM_WINDOW as usize;

/// The end that is written to. Dropping it without an end aborts the message.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

/// The end that is read from. Dropping it tells the writer that nobody listens.
#[derive(Debug)]
pub struct Reader(Arc<Shared>);

/// The writer gave up before the end: the message must not look complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message was cut short")]
pub struct Aborted;

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    /// Bytes in `chunks`.
    len: usize,
    trailers: Option<HeaderMap>,
    end: End,
    /// The reader has had a turn since it read all that came before the cut.
    turned: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Whole,
    Aborted,
}

/// A new pipe.
pub fn pipe() -> (Writer, Reader) {
    let shared = Arc::new(Shared::default());
    (Writer(Arc::clone(&shared)), Reader(shared))
}

/// A pipe that is at its end from the start, or after these bytes.
pub fn whole(bytes: Bytes) -> Reader {
    let (mut writer, reader) = pipe();
    writer.send(bytes);
    writer.finish(None);
    reader
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_reader(&mut self) -> Option<Waker> {
        self.reader.take()
    }
}

/// Wakes outside of the lock.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

impl Writer {
    /// How many bytes can be sent now.
    pub fn room(&self) -> usize {
        ROOM.saturating_sub(self.0.lock().len)
    }

    /// Ready when there is room, or when the reader is gone.
    pub fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.reader_gone || state.len < ROOM {
            return Poll::Ready(());
        }
        register(&mut state.writer, cx);
        Poll::Pending
    }

    /// Ready when the reader is gone before it has read the end.
    pub fn poll_gone(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.reader_gone {
            return Poll::Ready(());
        }
        register(&mut state.writer, cx);
        Poll::Pending
    }

    /// Adds bytes, of which there should be no more than [`Writer::room`]. False when nobody reads.
    pub fn send(&mut self, bytes: Bytes) -> bool {
        let mut state = self.0.lock();
        if state.reader_gone {
            return false;
        }
        if !bytes.is_empty() {
            state.len += bytes.len();
            state.chunks.push_back(bytes);
        }
        let reader = state.wake_reader();
        drop(state);
        wake(reader);
        true
    }

    /// Ends the message. False when nobody reads.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> bool {
        let mut state = self.0.lock();
        if state.end == End::Open {
            state.end = End::Whole;
            state.trailers = trailers;
        }
        let reader = state.wake_reader();
        let read = !state.reader_gone;
        drop(state);
        wake(reader);
        read
    }

    /// Cuts the message short: the reader has what was sent before, and then [`Aborted`].
    pub fn abort(&mut self) {
        let mut state = self.0.lock();
        if state.end != End::Open {
            return;
        }
        state.end = End::Aborted;
        let reader = state.wake_reader();
        drop(state);
        wake(reader);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.reader_gone = true;
        state.chunks.clear();
        state.len = 0;
        let writer = state.writer.take();
        drop(state);
        wake(writer);
    }
}

impl Body for Reader {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let mut state = self.0.lock();
        if let Some(chunk) = state.chunks.pop_front() {
            state.len -= chunk.len();
            let writer = state.writer.take();
            drop(state);
            wake(writer);
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match state.end {
            End::Whole => Poll::Ready(state.trailers.take().map(|all| Ok(Frame::trailers(all)))),
            End::Aborted if state.turned => Poll::Ready(Some(Err(Aborted))),
            // A codec drops what it has not written when it meets an error, and writes when it has to
            // wait: the head and what came behind it are the client's.
            End::Aborted => {
                state.turned = true;
                drop(state);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            End::Open => {
                register(&mut state.reader, cx);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.lock();
        state.end == End::Whole && state.chunks.is_empty() && state.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.0.lock();
        // Trailers need chunks, which a body of a known length goes without.
        if state.end == End::Whole && state.trailers.is_none() {
            return SizeHint::with_exact(state.len as u64);
        }
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::future::poll_fn;

    #[tokio::test]
    async fn c_fwd_7_a_reader_that_stops_stops_its_writer() {
        let (mut writer, mut reader) = pipe();
        assert!(writer.send(Bytes::from(vec![1; ROOM])));
        assert_eq!(writer.room(), 0);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(writer.poll_room(&cx).is_pending());
        let frame = poll_fn(|cx| Pin::new(&mut reader).poll_frame(cx)).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap().len(), ROOM);
        assert!(writer.poll_room(&cx).is_ready());
        assert!(Pin::new(&mut reader).poll_frame(&mut cx).is_pending());
    }

    #[tokio::test]
    async fn c_err_10_a_writer_that_vanishes_is_never_a_clean_end() {
        let (mut writer, reader) = pipe();
        writer.send(Bytes::from_static(b"half"));
        drop(writer);
        let mut reader = reader;
        let first = reader.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "half");
        assert_eq!(reader.frame().await.unwrap().err(), Some(Aborted));
    }

    #[tokio::test]
    async fn a_reader_that_leaves_is_noticed() {
        let (mut writer, reader) = pipe();
        let cx = Context::from_waker(Waker::noop());
        assert!(writer.poll_gone(&cx).is_pending());
        drop(reader);
        assert!(writer.poll_gone(&cx).is_ready());
        assert!(!writer.send(Bytes::from_static(b"unheard")));
    }

    #[tokio::test]
    async fn bytes_and_trailers_arrive_in_order_and_a_whole_message_knows_its_length() {
        let (mut writer, reader) = pipe();
        writer.send(Bytes::from_static(b"one"));
        writer.send(Bytes::from_static(b"two"));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-after", "all".parse().unwrap());
        writer.finish(Some(trailers));
        assert_eq!(reader.size_hint().exact(), None);
        let read = reader.collect().await.unwrap();
        assert_eq!(read.trailers().unwrap()["x-after"], "all");
        assert_eq!(read.to_bytes(), "onetwo");
        assert!(whole(Bytes::new()).is_end_stream());
        let three = whole(Bytes::from_static(b"one"));
        assert_eq!(three.size_hint().exact(), Some(3));
    }
}
