//! The bytes of one relayed tunnel, as each of the two nodes sees them: a byte stream over frames.
//!
//! Either side may have [`WINDOW`] frames of data under way that the other one has not taken, and a
//! task of its own takes frames from the connection between the nodes as they come. So a relay whose
//! reader is slow holds a bounded number of bytes, and stands in nobody else's way on that connection.
//! A half-close is a frame; an end without one is a reset.

use crate::tasks;
use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use pontoon_proto::peer::relay_frame::Frame;
use pontoon_proto::peer::{RelayFinished, RelayFrame};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::PollSemaphore;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

/// The most bytes of one frame: one record of TLS.
pub(super) const DATA_MAX: usize = 16 << 10;

/// How many frames of data may be under way in one direction: 1 MiB, which is 10 MB/s over a round
/// trip of 100 ms, and the most that one relay holds per direction and node.
pub(super) const WINDOW: usize = 64;

/// After how many frames the other side hears that they were taken.
const TELL_EVERY: u32 = WINDOW as u32 / 2;

/// How many frames may wait for the connection: the data, two words of what was taken, the end and an
/// answer. So there is always room.
const OUTGOING: usize = WINDOW + 4;

/// Frames from the other node.
pub type Frames = BoxStream<'static, Result<RelayFrame, Status>>;

/// Frames for the other node.
pub type Outgoing = mpsc::Sender<RelayFrame>;

/// The two ends of the queue of frames for the other node.
pub(super) fn outgoing() -> (Outgoing, mpsc::Receiver<RelayFrame>) {
    mpsc::channel(OUTGOING)
}

/// Wraps one kind of frame.
pub(super) fn frame(frame: Frame) -> RelayFrame {
    RelayFrame { frame: Some(frame) }
}

/// One relayed tunnel. Dropped, it says that no more data comes, as a socket does; [`Relayed::reset`]
/// makes the other side see a reset.
pub(crate) struct Relayed {
    heard: mpsc::Receiver<Heard>,
    /// Why nothing more is heard.
    broken: Arc<OnceLock<String>>,
    /// What was heard and not read yet.
    rest: Bytes,
    at_end: bool,
    /// Frames that were read since the other side was told.
    taken: u32,
    outgoing: Outgoing,
    /// Our direction has ended, or shall end without a word.
    finished: bool,
    room: PollSemaphore,
    _listen: AbortOnDropHandle<()>,
}

enum Heard {
    Data(Bytes),
    Finished,
}

impl Relayed {
    /// What comes in by `frames` and goes out by `outgoing`; both sides have said their first frame.
    pub(super) fn new(frames: Frames, outgoing: Outgoing) -> Self {
        let (sender, heard) = mpsc::channel(WINDOW + 1);
        let room = Arc::new(Semaphore::new(WINDOW));
        let broken = Arc::default();
        let listen = Listen {
            heard: sender,
            room: Arc::clone(&room),
            broken: Arc::clone(&broken),
        };
        let listen = tasks::spawn(tasks::Kind::Worker, "relay-listen", listen.run(frames));
        Self {
            heard,
            broken,
            rest: Bytes::new(),
            at_end: false,
            taken: 0,
            outgoing,
            finished: false,
            room: PollSemaphore::new(room),
            _listen: AbortOnDropHandle::new(listen),
        }
    }

    /// Ends it so that the other side sees a reset.
    pub(crate) fn reset(mut self) {
        self.finished = true;
    }

    /// Ends our direction; what was sent before is still on its way.
    fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            self.send(Frame::Finished(RelayFinished {}));
        }
    }

    /// There is always room, see [`OUTGOING`]; false when the connection is gone.
    fn send(&self, what: Frame) -> bool {
        self.outgoing.try_send(frame(what)).is_ok()
    }

    fn broke(&self) -> io::Error {
        let text = self.broken.get().map_or("the relay broke", String::as_str);
        io::Error::new(io::ErrorKind::ConnectionReset, text)
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Takes frames from the connection as they come.
struct Listen {
    heard: mpsc::Sender<Heard>,
    room: Arc<Semaphore>,
    broken: Arc<OnceLock<String>>,
}

impl Listen {
    async fn run(self, mut frames: Frames) {
        let why = loop {
            match frames.next().await {
                Some(Ok(RelayFrame { frame })) => {
                    if let Err(why) = self.take(frame) {
                        break why.to_owned();
                    }
                }
                Some(Err(status)) => break format!("the relay broke: {}", status.message()),
                None => break "the relay ended".to_owned(),
            }
        };
        let _first = self.broken.set(why);
        self.room.close();
    }

    fn take(&self, frame: Option<Frame>) -> Result<(), &'static str> {
        let heard = match frame {
            Some(Frame::Data(data)) => Heard::Data(data),
            Some(Frame::Finished(_)) => Heard::Finished,
            Some(Frame::Taken(frames)) => {
                let frames = frames as usize;
                if frames > WINDOW.saturating_sub(self.room.available_permits()) {
                    return Err("the other node took more than was sent");
                }
                self.room.add_permits(frames);
                return Ok(());
            }
            Some(Frame::Open(_) | Frame::Answer(_)) | None => {
                return Err("the other node sent a frame that has no place here");
            }
        };
        match self.heard.try_send(heard) {
            // Nobody reads any more, but may still write.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err("the other node sent more than it may"),
        }
    }
}

impl AsyncRead for Relayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            if self.at_end {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.heard.poll_recv(cx)) {
                Some(Heard::Data(data)) => {
                    self.rest = data;
                    self.taken += 1;
                    if self.taken >= TELL_EVERY {
                        self.send(Frame::Taken(self.taken));
                        self.taken = 0;
                    }
                }
                Some(Heard::Finished) => self.at_end = true,
                None => return Poll::Ready(Err(self.broke())),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Relayed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Some(room) = ready!(self.room.poll_acquire(cx)) else {
            return Poll::Ready(Err(self.broke()));
        };
        room.forget();
        let n = bytes.len().min(DATA_MAX);
        match self.send(Frame::Data(Bytes::copy_from_slice(&bytes[..n]))) {
            true => Poll::Ready(Ok(n)),
            false => Poll::Ready(Err(self.broke())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}
