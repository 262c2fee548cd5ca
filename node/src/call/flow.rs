//! One direction of an exchange: bytes and trailers from one stream to another one.
//!
//! Credit is given back to the source only when the sink has taken the bytes, so a reader that stops
//! stops its writer (C-FWD-7). What has arrived and can't go on yet is taken out of h2 all the same
//! and held here: it is bounded by the source's window, because its credit has not been given back,
//! and small frames are merged into one buffer, so that a stalled stream of tiny messages costs its
//! bytes and not h2's bookkeeping per frame. A source without a window is read no further than that.
//!
//! Both directions of an exchange are polled by one task; nothing here locks or allocates per frame
//! while the sink keeps up.

use super::ends::{Failure, Sink, Source};
use super::h2_settings::STREAM_WINDOW;
use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::HeaderMap;
use pontoon_proto::head::REQUEST_ID;
use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

/// Frames smaller than this are merged while they wait: it is what h2 counts as the cost of a frame.
const SMALL: usize = 256;

/// How much one poll takes before it lets other tasks run: a window, so that a burst of tiny frames
/// doesn't wait in h2, where each costs 256 B of a budget that the whole connection shares.
const BYTES_PER_POLL: usize = STREAM_WINDOW as usize;

/// How much of a request is kept until its answer begins, so that it can be sent once more over a
/// fresh tunnel when the worker refused it: one maximal window of an unary call is not needed, the
/// usual unary message is.
const REPLAY_MAX: usize = 64 * 1024;

/// In how many frames that may have come.
const REPLAY_FRAMES_MAX: usize = 32;

/// One direction of an exchange.
pub(super) struct Flow {
    source: Source,
    sink: Sink,
    held: Held,
    arrived: Arrived,
    replay: Option<Replay>,
    /// Bytes at the front of `held` whose credit was given back when they were sent the first time.
    paid: usize,
    /// Body bytes that the sink took.
    sent: usize,
    done: bool,
}

/// How far the source has come.
enum Arrived {
    Data,
    AllData,
    End(Option<HeaderMap>),
}

/// Why a direction stopped before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The source was reset, or its connection broke.
    Source(Failure),
    /// The sink was reset, or its connection broke.
    Sink(Option<Reason>),
}

/// What was received so far, until the answer begins.
#[derive(Default)]
struct Replay {
    frames: Vec<Bytes>,
    len: usize,
}

/// Bytes that wait for the sink, in order.
#[derive(Default)]
struct Held {
    queue: VecDeque<Bytes>,
    /// Merged small frames, behind everything in `queue`.
    tail: BytesMut,
    len: usize,
}

impl Held {
    fn push(&mut self, frame: Bytes) {
        self.len += frame.len();
        if frame.len() < SMALL && self.len > frame.len() {
            self.tail.extend_from_slice(&frame);
            return;
        }
        if !self.tail.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
        self.queue.push_back(frame);
    }

    /// The next bytes, at most `max`.
    fn pop(&mut self, max: usize) -> Bytes {
        if self.queue.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
        let Some(front) = self.queue.front_mut() else {
            return Bytes::new();
        };
        let chunk = if front.len() <= max {
            self.queue.pop_front().unwrap_or_default()
        } else {
            front.split_to(max)
        };
        self.len -= chunk.len();
        chunk
    }
}

impl Flow {
    /// A direction that has just begun. `ended` is whether the head already ended both streams.
    pub(super) fn new(source: Source, sink: Sink, ended: bool) -> Self {
        Self {
            source,
            sink,
            held: Held::default(),
            arrived: if ended {
                Arrived::End(None)
            } else {
                Arrived::Data
            },
            replay: None,
            paid: 0,
            sent: 0,
            done: ended,
        }
    }

    /// Keeps what arrives, within bounds, so that [`Flow::again`] can begin once more.
    pub(super) fn keep(mut self) -> Self {
        self.replay = Some(Replay::default());
        self
    }

    /// The answer has begun: what was kept is no longer needed.
    pub(super) fn keep_no_longer(&mut self) {
        self.replay = None;
    }

    /// Begins once more with another sink; false when too much has gone to keep it.
    pub(super) fn again(&mut self, sink: Sink, ended: bool) -> bool {
        let Some(replay) = &self.replay else {
            return false;
        };
        let mut held = Held::default();
        for frame in &replay.frames {
            held.push(frame.clone());
        }
        self.paid = self.sent;
        self.sent = 0;
        self.held = held;
        self.sink = sink;
        self.done = ended;
        true
    }

    /// Whether [`Flow::again`] can begin once more.
    pub(super) fn can_begin_again(&self) -> bool {
        self.replay.is_some()
    }

    /// Nothing came, and nothing will: the head may end the stream at once.
    pub(super) fn was_empty(&self) -> bool {
        matches!(self.arrived, Arrived::End(None))
            && self.replay.as_ref().is_some_and(|replay| replay.len == 0)
    }

    /// Everything that the source sent has gone into the sink.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Body bytes that the sink took.
    pub(super) fn sent(&self) -> u64 {
        self.sent as u64
    }

    /// Resets the sink.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.sink.reset(reason);
    }

    /// Moves what can be moved. Ready when the direction is done, or has stopped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(reset) = self.sink.poll_reset(cx) {
            return Poll::Ready(Err(Stop::Sink(reset)));
        }
        // All that has come first, so that small frames go on as one.
        let mut taken = 0;
        let more = loop {
            if matches!(self.arrived, Arrived::End(_)) {
                break false;
            }
            let before = self.held.len;
            if before >= STREAM_WINDOW as usize && !self.source.has_window() {
                break true;
            }
            if self.take(cx)?.is_pending() {
                break false;
            }
            taken += self.held.len - before;
            if taken >= BYTES_PER_POLL {
                break true;
            }
        };
        let given = self.give(cx)?;
        if self.done {
            return Poll::Ready(Ok(()));
        }
        if given.is_ready() && matches!(self.arrived, Arrived::End(_)) {
            return Poll::Ready(self.finish());
        }
        // Where nothing more may be taken, the sink wakes this task when it has room again.
        if more && (given.is_ready() || self.source.has_window()) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Gives the sink what it takes; pending while bytes wait for it.
    fn give(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        while self.held.len > 0 {
            let wanted = self.held.len.min(STREAM_WINDOW as usize);
            let room = match ready!(self.sink.poll_room(cx, wanted)) {
                Ok(room) => room,
                Err(reason) => return Poll::Ready(Err(Stop::Sink(reason))),
            };
            let chunk = self.held.pop(room);
            let len = chunk.len();
            let last = self.held.len == 0
                && match &self.arrived {
                    Arrived::End(trailers) => trailers.is_none(),
                    _ => self.source.is_end(),
                };
            if let Err(reason) = self.sink.send(cx, chunk, last) {
                return Poll::Ready(Err(Stop::Sink(reason)));
            }
            self.sent += len;
            self.pay_back(len);
            if last {
                self.arrived = Arrived::End(None);
                self.done = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes one frame from the source.
    fn take(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if matches!(self.arrived, Arrived::Data) {
            match ready!(self.source.poll_data(cx)) {
                Some(Ok(frame)) => {
                    // An empty frame carries nothing, and h2 counts those that we would send.
                    if !frame.is_empty() {
                        self.remember(&frame);
                        self.held.push(frame);
                    }
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(Stop::Source(error))),
                None => self.arrived = Arrived::AllData,
            }
        }
        let trailers = ready!(self.source.poll_trailers(cx)).map_err(Stop::Source)?;
        self.arrived = Arrived::End(trailers);
        Poll::Ready(Ok(()))
    }

    /// Ends the sink as the source has ended.
    fn finish(&mut self) -> Result<(), Stop> {
        let trailers = match &mut self.arrived {
            Arrived::End(trailers) if self.replay.is_some() => trailers.clone(),
            Arrived::End(trailers) => trailers.take(),
            _ => None,
        };
        let trailers = trailers.map(|mut trailers| {
            // The session's id stands in the head; the worker's word on it never passes.
            trailers.remove(REQUEST_ID);
            trailers
        });
        self.done = true;
        self.sink.finish(trailers).map_err(Stop::Sink)
    }

    fn remember(&mut self, frame: &Bytes) {
        let Some(replay) = &mut self.replay else {
            return;
        };
        replay.len += frame.len();
        if replay.len > REPLAY_MAX || replay.frames.len() == REPLAY_FRAMES_MAX {
            self.replay = None;
        } else {
            replay.frames.push(frame.clone());
        }
    }

    /// Gives credit back for bytes that the sink took, except for those that were paid for before.
    fn pay_back(&mut self, len: usize) {
        let paid = self.paid.min(len);
        self.paid -= paid;
        self.source.release(len - paid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(held: &mut Held, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while held.len > 0 {
            let chunk = held.pop(step);
            assert!(!chunk.is_empty() && chunk.len() <= step);
            out.extend_from_slice(&chunk);
        }
        out
    }

    #[test]
    fn what_is_held_keeps_its_order_however_it_is_cut() {
        let frames: Vec<Vec<u8>> = [1, 3, 255, 256, 1000, 2, 300, 10, 10, 4096]
            .into_iter()
            .enumerate()
            .map(|(n, len)| vec![n as u8; len])
            .collect();
        let whole = frames.concat();
        for step in [1, 7, 256, 1000, 1 << 20] {
            let mut held = Held::default();
            for frame in &frames {
                held.push(Bytes::from(frame.clone()));
            }
            assert_eq!(held.len, whole.len());
            assert_eq!(drain(&mut held, step), whole, "step {step}");
            assert_eq!(held.len, 0);
        }
    }

    #[test]
    fn c_fwd_7_tiny_frames_that_wait_are_merged() {
        let mut held = Held::default();
        for _ in 0..20_000 {
            held.push(Bytes::from_static(b"ten bytes!"));
        }
        assert_eq!(held.len, 200_000);
        assert!(held.queue.len() <= 1);
        assert_eq!(drain(&mut held, 1 << 20).len(), 200_000);
    }

    #[test]
    fn a_single_small_frame_is_not_copied() {
        let frame = Bytes::from_static(b"ping");
        let mut held = Held::default();
        held.push(frame.clone());
        assert_eq!(held.pop(100).as_ptr(), frame.as_ptr());
    }
}
