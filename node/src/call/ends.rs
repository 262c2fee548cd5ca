//! The ends of a direction: where its bytes come from and where they go, over HTTP/2, in an HTTP/1.1
//! message, or raw after an upgrade.
//!
//! Both are as an HTTP/2 stream is: a source gives bytes and then trailers, a sink has room, takes
//! bytes, and may be reset. What another protocol can't say is said as closely as it can.

use crate::pipe::{self, Writer};
use crate::tasks::{self, Kind};
use crate::tunnel::Lent;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf};

/// How much of an upgraded connection is read at a time.
const READ: usize = 16 * 1024;

/// Where bytes come from.
pub(crate) enum Source {
    /// An HTTP/2 stream.
    H2(RecvStream),
    /// The body of an HTTP/1.1 message.
    H1(Message),
    /// An upgraded connection.
    Raw(ReadHalf<TokioIo<Upgraded>>),
}

/// The body of an HTTP/1.1 message, and the trailers that came behind it.
pub(crate) struct Message {
    body: Incoming,
    trailers: Option<HeaderMap>,
    /// The tunnel that it comes through, which can't be used again before.
    _lent: Option<Lent>,
}

/// Where bytes go.
pub(crate) enum Sink {
    /// An HTTP/2 stream.
    H2(SendStream<Bytes>),
    /// Whoever reads the pipe: an HTTP/1.1 connection, or the task that writes an upgraded one.
    Pipe(Writer),
}

/// What is known of a stream that did not come to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    /// HTTP/2's word for it, where there is one.
    pub(crate) reason: Option<Reason>,
    /// The peer reset this stream...
    pub(crate) reset: bool,
    /// ...or surely did not act on it: it was never written, or a GOAWAY left it out.
    pub(crate) left_out: bool,
}

impl Failure {
    /// The peer has seen nothing of it.
    pub(crate) fn untouched() -> Self {
        Self {
            left_out: true,
            ..Self::default()
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self {
            reason: error.reason(),
            reset: error.is_reset() && error.is_remote(),
            left_out: error.is_go_away() && error.is_remote(),
        }
    }
}

/// Both halves of an upgraded connection, as a direction needs them.
pub(crate) fn raw(upgraded: Upgraded) -> (Source, Sink) {
    let (read, write) = tokio::io::split(TokioIo::new(upgraded));
    let (writer, reader) = pipe::pipe();
    tasks::spawn(
        Kind::Worker,
        "upgraded connection",
        write_out(write, reader),
    );
    (Source::Raw(read), Sink::Pipe(writer))
}

/// Writes what comes through a pipe to an upgraded connection, and ends it as the pipe ends: a pipe
/// that is cut drops its half without a word.
async fn write_out(mut io: WriteHalf<TokioIo<Upgraded>>, mut from: pipe::Reader) {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut from).poll_frame(cx)).await;
        let written = match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => async { io.write_all(&data).await.and(io.flush().await) }.await,
                Err(_trailers) => Ok(()),
            },
            Some(Err(pipe::Aborted)) => return,
            None => {
                let _or_gone = io.shutdown().await;
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
}

impl Source {
    /// The body of an HTTP/1.1 message.
    pub(crate) fn message(body: Incoming, lent: Option<Lent>) -> Self {
        Source::H1(Message {
            body,
            trailers: None,
            _lent: lent,
        })
    }

    /// Surely nothing more will come.
    pub(super) fn is_end(&self) -> bool {
        match self {
            Source::H2(stream) => stream.is_end_stream(),
            Source::H1(message) => message.body.is_end_stream() && message.trailers.is_none(),
            Source::Raw(_) => false,
        }
    }

    /// Whether the peer stops by itself when we don't take what it sends; where it does not, the
    /// direction has to stop reading.
    pub(super) fn has_window(&self) -> bool {
        matches!(self, Source::H2(_))
    }

    /// The next bytes; `None` at the end of the body.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        match self {
            Source::H2(stream) => stream.poll_data(cx).map_err(Failure::from),
            Source::H1(message) => loop {
                let Some(frame) = ready!(Pin::new(&mut message.body).poll_frame(cx)) else {
                    return Poll::Ready(None);
                };
                let Ok(frame) = frame else {
                    return Poll::Ready(Some(Err(Failure::default())));
                };
                match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(data))),
                    Err(frame) => message.trailers = frame.into_trailers().ok(),
                }
            },
            Source::Raw(io) => {
                let mut space = [MaybeUninit::uninit(); READ];
                let mut read = ReadBuf::uninit(&mut space);
                Poll::Ready(match ready!(Pin::new(io).poll_read(cx, &mut read)) {
                    Ok(()) if read.filled().is_empty() => None,
                    Ok(()) => Some(Ok(Bytes::copy_from_slice(read.filled()))),
                    Err(_broken) => Some(Err(Failure::default())),
                })
            }
        }
    }

    /// The trailers behind the body.
    pub(super) fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, Failure>> {
        match self {
            Source::H2(stream) => stream.poll_trailers(cx).map_err(Failure::from),
            Source::H1(message) => Poll::Ready(Ok(message.trailers.take())),
            Source::Raw(_) => Poll::Ready(Ok(None)),
        }
    }

    /// So many bytes have gone on.
    pub(super) fn release(&mut self, len: usize) {
        if let Source::H2(stream) = self {
            // It fails only for more than was received, which the caller's arithmetic excludes.
            let _never = stream.flow_control().release_capacity(len);
        }
    }
}

impl Sink {
    /// Ready when nobody takes the bytes any more.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reason>> {
        match self {
            Sink::H2(stream) => stream.poll_reset(cx).map(Result::ok),
            Sink::Pipe(writer) => writer.poll_gone(cx).map(|()| None),
        }
    }

    /// How many of so many bytes can be sent now; `Err` when it takes no more.
    pub(super) fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Result<usize, Option<Reason>>> {
        match self {
            Sink::H2(stream) => {
                stream.reserve_capacity(wanted);
                loop {
                    let room = stream.capacity();
                    if room > 0 {
                        return Poll::Ready(Ok(room));
                    }
                    match ready!(stream.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Poll::Ready(Err(error.reason())),
                        None => return Poll::Ready(Err(reset_of(stream, cx))),
                    }
                }
            }
            Sink::Pipe(writer) => {
                ready!(writer.poll_room(cx));
                match writer.room() {
                    0 => Poll::Ready(Err(None)),
                    room => Poll::Ready(Ok(room)),
                }
            }
        }
    }

    /// Sends bytes for which there is room. `last` ends it.
    pub(super) fn send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: Bytes,
        last: bool,
    ) -> Result<(), Option<Reason>> {
        match self {
            Sink::H2(stream) => stream
                .send_data(bytes, last)
                .map_err(|_| reset_of(stream, cx)),
            Sink::Pipe(writer) => {
                let taken = writer.send(bytes) && (!last || writer.finish(None));
                taken.then_some(()).ok_or(None)
            }
        }
    }

    /// Ends it, with trailers or without.
    pub(super) fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Option<Reason>> {
        match self {
            Sink::H2(stream) => match trailers {
                Some(trailers) => stream.send_trailers(trailers),
                None => stream.send_data(Bytes::new(), true),
            }
            .map_err(|error| error.reason()),
            Sink::Pipe(writer) => writer.finish(trailers).then_some(()).ok_or(None),
        }
    }

    /// Resets it: what was sent must not look complete.
    pub(super) fn reset(&mut self, reason: Reason) {
        match self {
            Sink::H2(stream) => stream.send_reset(reason),
            Sink::Pipe(writer) => writer.abort(),
        }
    }
}

fn reset_of(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Option<Reason> {
    match stream.poll_reset(cx) {
        Poll::Ready(Ok(reason)) => Some(reason),
        _ => None,
    }
}
