//! Watches the frames of an HTTP/2 connection from below, and says when it must end.
//!
//! h2 bounds much by itself: the fragments and the bytes of a header block, resets of calls that
//! nobody has seen, empty DATA and small ones that nobody takes, refused streams. It answers a
//! PING or SETTINGS before it reads the next frame, and reads none while its 16 KiB of output are
//! full, so a client that asks and doesn't read stops itself. What h2 doesn't count are frames that
//! cost a little and lead nowhere; and it has no clock for a header block that never ends. This
//! wrapper adds both. It looks at bytes as they pass and copies none but frame headers.

use super::frames::{Balance, Frame, Frames};
use crate::clock;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// How long, and how much, a client whose connection we end may still send: what lies unread when a
/// socket is closed turns the close into a reset, which can overtake our GOAWAY.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX: usize = 1 << 20;

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// More frames that lead nowhere than a client may send.
    Flood,
    /// A header block that was not complete in time.
    SlowHead,
}

/// Tells the owner of a guarded connection that it must end.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarm(Arc<Raised>);

#[derive(Debug, Default)]
struct Raised {
    what: AtomicU8,
    notify: Notify,
}

impl Alarm {
    /// Returns when the connection must end.
    pub(super) async fn raised(&self) -> Trouble {
        self.0.notify.notified().await;
        match self.0.what.load(Ordering::Acquire) {
            0 => Trouble::Flood,
            _ => Trouble::SlowHead,
        }
    }

    fn raise(&self, trouble: Trouble) {
        let what = match trouble {
            Trouble::Flood => 0,
            Trouble::SlowHead => 1,
        };
        self.0.what.store(what, Ordering::Release);
        self.0.notify.notify_one();
    }
}

/// The wrapper. Once it has raised the alarm it gives nothing more to read.
pub(super) struct Guard<IO> {
    io: IO,
    alarm: Alarm,
    raised: bool,
    inbound: Frames,
    outbound: Frames,
    balance: Balance,
    began: Instant,
    /// How long a header block may take.
    head_within: Duration,
    head_due: Option<Pin<Box<Sleep>>>,
    linger: Linger,
}

/// The end of a connection, seen from our side.
enum Linger {
    /// We may still write.
    NotYet,
    /// We said our last word; the rest of the other side's is thrown away.
    Until(Pin<Box<Sleep>>, usize),
}

impl<IO> Guard<IO> {
    pub(super) fn new(io: IO, head_within: Duration) -> (Self, Alarm) {
        let alarm = Alarm::default();
        let guard = Self {
            io,
            alarm: alarm.clone(),
            raised: false,
            inbound: Frames::of_client(),
            outbound: Frames::of_server(),
            balance: Balance::new(),
            began: clock::now(),
            head_within,
            head_due: None,
            linger: Linger::NotYet,
        };
        (guard, alarm)
    }

    fn raise(&mut self, trouble: Trouble) {
        self.raised = true;
        self.alarm.raise(trouble);
    }

    fn received(&mut self, bytes: &[u8]) {
        let now = clock::now();
        self.balance
            .at(now.saturating_duration_since(self.began).as_secs());
        let balance = &mut self.balance;
        self.inbound
            .pass(bytes, |frame: Frame| balance.received(frame));
        if self.balance.is_overdrawn() {
            self.raise(Trouble::Flood);
        }
        match self.inbound.in_header_block() {
            false => self.head_due = None,
            true if self.head_due.is_none() => {
                let due = tokio::time::sleep_until(now + self.head_within);
                self.head_due = Some(Box::pin(due));
            }
            true => {}
        }
    }

    fn sent(&mut self, bytes: &[u8]) {
        let balance = &mut self.balance;
        self.outbound
            .pass(bytes, |frame: Frame| balance.sent(frame));
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever waits for the alarm is woken by it.
        if this.raised {
            return Poll::Pending;
        }
        if let Some(due) = &mut this.head_due
            && due.as_mut().poll(cx).is_ready()
        {
            this.raise(Trouble::SlowHead);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.received(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.sent(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = left.min(buf.len());
            this.sent(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.linger, Linger::NotYet) {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.linger = Linger::Until(Box::pin(tokio::time::sleep(LINGER)), 0);
        }
        let Linger::Until(over, taken) = &mut this.linger else {
            return Poll::Ready(Ok(()));
        };
        if over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 4096];
        while *taken < LINGER_MAX {
            let mut nowhere = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut nowhere)) {
                Ok(()) if !nowhere.filled().is_empty() => *taken += nowhere.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::tests::frame;
    use super::*;
    use crate::call::h2_settings;
    use crate::tasks::{self, Kind};
    use bytes::Bytes;
    use h2::Reason;
    use pontoon_proto::connect::PREFACE;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    const SECOND: Duration = Duration::from_secs(1);

    /// A server that answers nothing, and how it ended: the alarm, or h2's own reason.
    async fn server(io: DuplexStream) -> Result<Trouble, Option<Reason>> {
        let (io, alarm) = Guard::new(io, SECOND);
        let settings = h2_settings::towards_client(16, 64 * 1024);
        let mut h2 = settings.handshake::<_, Bytes>(io).await.unwrap();
        let mut held = Vec::new();
        loop {
            tokio::select! {
                trouble = alarm.raised() => {
                    h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    poll_fn(|cx| h2.poll_closed(cx)).await.ok();
                    return Ok(trouble);
                }
                accepted = h2.accept() => match accepted {
                    Some(Ok(call)) => held.push(call),
                    Some(Err(error)) => return Err(error.reason()),
                    None => return Err(None),
                },
            }
        }
    }

    /// Sends these behind a preface and returns how the server ended, and what it said.
    async fn ends_with(frames: Vec<u8>) -> (Result<Trouble, Option<Reason>>, Vec<u8>) {
        let (client, io) = tokio::io::duplex(64 * 1024);
        let server = tasks::spawn(Kind::Worker, "server", server(io));
        let (mut read, mut write) = tokio::io::split(client);
        let saying = async {
            let settings = frame(4, 0, 0, &[]);
            for part in [&PREFACE[..], &settings, &frames] {
                if write.write_all(part).await.is_err() {
                    break;
                }
            }
            // The client stays, so that only the server can end it.
            std::future::pending::<()>().await;
        };
        let mut said = Vec::new();
        tokio::select! {
            () = saying => {}
            _ = read.read_to_end(&mut said) => {}
        }
        (server.await.unwrap(), said)
    }

    /// Whether the last frame is GOAWAY with this reason.
    fn says_goodbye(said: &[u8], reason: Reason) -> bool {
        let reason = u32::from(reason).to_be_bytes();
        said.windows(4).any(|four| four == reason) && said.len() > 17
    }

    #[tokio::test]
    async fn c_lsn_3_floods_of_frames_that_lead_nowhere_end_the_connection_calmly() {
        let head = {
            // ":method: GET, :scheme: http, :path: /", by their numbers in HPACK's table.
            frame(1, 0x4, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'x'])
        };
        for flood in [
            frame(6, 0, 0, &[0; 8]),
            frame(4, 0, 0, &[]),
            frame(2, 0, 1, &[0, 0, 0, 0, 1]),
            frame(77, 0, 0, b"unknown"),
        ] {
            let mut frames = head.clone();
            for _ in 0..11_000 {
                frames.extend(&flood);
            }
            let (ended, said) = ends_with(frames).await;
            assert_eq!(ended, Ok(Trouble::Flood), "{:?}", &flood[..5]);
            assert!(says_goodbye(&said, Reason::ENHANCE_YOUR_CALM));
        }
    }

    #[tokio::test]
    async fn c_lsn_3_h2_itself_ends_floods_of_continuations_of_resets_and_of_empty_data() {
        let mut fragments = frame(1, 0, 1, &[0x82]);
        for _ in 0..1000 {
            fragments.extend(frame(9, 0, 1, &[]));
        }
        let mut resets = Vec::new();
        for stream in 0..1000 {
            resets.extend(frame(
                1,
                0x5,
                2 * stream + 1,
                &[0x82, 0x86, 0x84, 0x41, 1, b'x'],
            ));
            resets.extend(frame(3, 0, 2 * stream + 1, &[0, 0, 0, 8]));
        }
        let mut empty = frame(1, 0x4, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'x']);
        for _ in 0..1000 {
            empty.extend(frame(0, 0, 1, &[]));
        }
        for frames in [fragments, resets, empty] {
            let (ended, said) = ends_with(frames).await;
            assert_eq!(ended, Err(Some(Reason::ENHANCE_YOUR_CALM)));
            assert!(says_goodbye(&said, Reason::ENHANCE_YOUR_CALM));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn c_lsn_3_a_header_block_that_does_not_come_to_its_end_has_a_bound() {
        let whole = frame(1, 0x4, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'x']);
        for frames in [
            frame(1, 0, 1, &[0x82]),
            whole[..9].to_vec(),
            whole[..12].to_vec(),
        ] {
            let began = clock::now();
            let (ended, _) = ends_with(frames).await;
            assert_eq!(ended, Ok(Trouble::SlowHead));
            assert!(clock::now() - began >= SECOND);
        }
    }
}
