//! Carries one exchange between a client and a worker, frame by frame.
//!
//! ```text
//! attempt: request ──▶ worker            answer's head ──▶ both directions ──▶ Whole
//!             │ refused, or never written: Failed { again: true }
//!             │ tunnel broke before the head: Failed { again: false }
//!             │ worker reset: passed on          tunnel broke after it: Broken
//!             │ client reset or left: Cancelled, and the worker hears of it
//! ```

use super::answer::Answer;
use super::ends::{Failure, Sink, Source};
use super::flow::{Flow, Stop};
use super::respond::Respond;
use crate::pipe;
use crate::tunnel::Wire;
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode};
use std::future::poll_fn;
use std::task::{Context, Poll};

/// A client's side of an exchange.
pub(super) struct Exchange {
    pub(super) respond: Respond,
    /// The request's body, until the first attempt takes it.
    pub(super) body: Option<Source>,
    /// The way to the worker, from the first attempt on.
    pub(super) up: Option<Flow>,
    /// The way back, from the answer's head on.
    pub(super) down: Option<Flow>,
}

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both directions came to their ends.
    Whole(StatusCode),
    /// The client reset the stream or left.
    Cancelled,
    /// The worker reset the stream; so did we.
    WorkerReset(Reason),
    /// The tunnel broke before any answer; nothing was sent to the client.
    Failed {
        /// The worker has surely not acted on it: another attempt is safe.
        again: bool,
    },
    /// The tunnel broke after the answer had begun: the client's stream was reset (C-ERR-10).
    Broken,
    /// The wire does not take the head: a bug in us.
    Unsendable,
}

/// What came of waiting for the answer's head.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for the moment in which the head is taken apart"
)]
pub(super) enum Head {
    Answer(Response<Source>),
    Client(Option<Reason>),
    Worker(Failure),
}

/// What came of carrying both directions.
enum Carried {
    Whole,
    Client(Option<Reason>),
    Worker(Failure),
}

impl Exchange {
    /// The client's side, as it was accepted.
    pub(super) fn new(body: Source, respond: Respond) -> Self {
        Self {
            respond,
            body: Some(body),
            up: None,
            down: None,
        }
    }

    /// Whether the client's connection can become something else.
    pub(super) fn switches(&self) -> bool {
        self.body.as_ref().is_some_and(Source::is_end) && self.respond.switches()
    }

    /// Body bytes carried: to the worker, to the client.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let sent = |flow: &Option<Flow>| flow.as_ref().map_or(0, Flow::sent);
        (sent(&self.up), sent(&self.down))
    }

    /// Returns when the client resets the stream or leaves, while nothing was sent to it yet.
    pub(super) async fn client_leaves(&mut self) {
        let _reset_or_gone = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }

    /// Answers without a worker. `trailers` follow the body; without them the body ends the answer.
    pub(super) fn answer(&mut self, response: Response<Bytes>, trailers: Option<HeaderMap>) {
        self.respond.whole(response, trailers);
    }

    /// Whether the request can be sent once more: all that was taken of it is still here.
    pub(super) fn can_repeat(&self) -> bool {
        self.up.as_ref().is_none_or(Flow::can_begin_again)
    }

    /// Sends the request through a tunnel and carries what follows. `dress` makes the worker's
    /// answer ours. After [`End::Failed`] the client waits for an answer or another attempt.
    pub(super) async fn attempt(
        &mut self,
        request: Request<()>,
        wire: Wire,
        mut dress: impl FnMut(&mut HeaderMap),
    ) -> End {
        let bodyless = match (&self.body, &self.up) {
            (Some(body), _) => body.is_end(),
            (None, Some(up)) => up.was_empty(),
            (None, None) => true,
        };
        let (mut answer, sink) = match self.send(request, wire, bodyless).await {
            Ok(sent) => sent,
            Err(end) => return end,
        };
        match (self.body.take(), &mut self.up) {
            (Some(body), _) => self.up = Some(Flow::new(body, sink, bodyless).keep()),
            (None, Some(up)) => {
                if !up.again(sink, bodyless) {
                    return End::Failed { again: false };
                }
            }
            (None, None) => return End::Failed { again: false },
        }

        let head = poll_fn(|cx| self.poll_head(cx, &mut answer)).await;
        let (mut head, body) = match head {
            Head::Answer(answer) => answer.into_parts(),
            Head::Client(reason) => return self.cancel(reason),
            Head::Worker(failure) => return self.failed_before_head(failure),
        };
        dress(&mut head.headers);
        self.answered(Response::from_parts(head, ()), body).await
    }

    /// Begins the client's answer with the worker's head, and carries the rest.
    pub(super) async fn answered(&mut self, head: Response<()>, body: Source) -> End {
        let status = head.status();
        let ends = body.is_end();
        let sink = match self.respond.begin(head, ends) {
            Ok(sink) => sink,
            Err(reason) => return self.cancel(reason),
        };
        self.down = Some(Flow::new(body, sink, ends));
        if let Some(up) = &mut self.up {
            up.keep_no_longer();
        }
        self.carry(status).await
    }

    /// Puts the request on the wire; the answer is awaited, the sink takes its body.
    async fn send(
        &mut self,
        request: Request<()>,
        wire: Wire,
        bodyless: bool,
    ) -> Result<(Answer, Sink), End> {
        match wire {
            Wire::H2(mut worker, _) => {
                let ready = poll_fn(|cx| {
                    if self.respond.poll_reset(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    worker.poll_ready(cx).map(Some)
                });
                match ready.await {
                    None => return Err(End::Cancelled),
                    Some(Err(_)) => return Err(End::Failed { again: true }),
                    Some(Ok(())) => {}
                }
                match worker.send_request(request, bodyless) {
                    Ok((response, sink)) => Ok((Answer::over_h2(response), Sink::H2(sink))),
                    Err(error) if error.reason().is_none() && !error.is_io() => {
                        Err(End::Unsendable)
                    }
                    Err(_) => Err(End::Failed { again: true }),
                }
            }
            Wire::H1(lent) => {
                let (mut writer, reader) = pipe::pipe();
                if bodyless {
                    writer.finish(None);
                }
                let request = request.map(|()| reader);
                Ok((Answer::over_h1(lent, request), Sink::Pipe(writer)))
            }
        }
    }

    /// Carries both directions to their ends.
    pub(super) async fn carry(&mut self, status: StatusCode) -> End {
        let mut listens = true;
        match poll_fn(|cx| self.poll_both(cx, &mut listens)).await {
            Carried::Whole => End::Whole(status),
            Carried::Client(reason) => self.cancel(reason),
            Carried::Worker(failure) => self.failed_after_head(failure),
        }
    }

    /// Waits for the answer's head; the request goes on, interim answers pass.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>, answer: &mut Answer) -> Poll<Head> {
        if let Poll::Ready(reason) = self.respond.poll_reset(cx) {
            return Poll::Ready(Head::Client(reason));
        }
        if let Some(up) = &mut self.up
            && let Poll::Ready(Err(Stop::Source(failure))) = up.poll(cx)
        {
            return Poll::Ready(Head::Client(failure.reason));
        }
        // A worker that stops listening may answer all the same, and why it did says the answer.
        answer
            .poll(cx, |interim| self.respond.inform(interim))
            .map(|answer| match answer {
                Ok(answer) => Head::Answer(answer),
                Err(failure) => Head::Worker(failure),
            })
    }

    /// Carries both directions to their ends. `listens` is whether the worker still takes the
    /// request: one that has answered may stop, and that is no failure (RFC 9113 8.1).
    fn poll_both(&mut self, cx: &mut Context<'_>, listens: &mut bool) -> Poll<Carried> {
        let Some(down) = &mut self.down else {
            return Poll::Ready(Carried::Whole);
        };
        match down.poll(cx) {
            Poll::Ready(Err(Stop::Source(failure))) => {
                return Poll::Ready(Carried::Worker(failure));
            }
            Poll::Ready(Err(Stop::Sink(reason))) => return Poll::Ready(Carried::Client(reason)),
            _ => {}
        }
        if let Some(up) = self.up.as_mut().filter(|_| *listens) {
            match up.poll(cx) {
                Poll::Ready(Err(Stop::Source(failure))) => {
                    return Poll::Ready(Carried::Client(failure.reason));
                }
                Poll::Ready(Err(Stop::Sink(_))) => *listens = false,
                _ => {}
            }
        }
        let up_is_done = !*listens || self.up.as_ref().is_none_or(Flow::is_done);
        if down.is_done() && up_is_done {
            return Poll::Ready(Carried::Whole);
        }
        Poll::Pending
    }

    /// The client has left: the worker hears of it.
    pub(super) fn cancel(&mut self, reason: Option<Reason>) -> End {
        if let Some(up) = &mut self.up {
            up.reset(match reason {
                // Neither is a client's to send, and both would say something else to the worker.
                None | Some(Reason::NO_ERROR | Reason::REFUSED_STREAM) => Reason::CANCEL,
                Some(reason) => reason,
            });
        }
        End::Cancelled
    }

    pub(super) fn failed_before_head(&mut self, failure: Failure) -> End {
        match failure.reason {
            Some(Reason::REFUSED_STREAM) if failure.reset => End::Failed { again: true },
            Some(reason) if failure.reset => {
                let reason = for_client(reason);
                self.respond.reset(reason);
                End::WorkerReset(reason)
            }
            _ => End::Failed {
                again: failure.left_out,
            },
        }
    }

    fn failed_after_head(&mut self, failure: Failure) -> End {
        let reset = failure.reason.filter(|_| failure.reset).map(for_client);
        if let Some(down) = &mut self.down {
            down.reset(reset.unwrap_or(Reason::INTERNAL_ERROR));
        }
        match reset {
            Some(reason) => End::WorkerReset(reason),
            None => End::Broken,
        }
    }
}

/// A worker's reason as the client may read it: one that says "nothing happened" or "no error" is
/// untrue once the worker has seen the request, and clients would repeat the call on it.
fn for_client(reason: Reason) -> Reason {
    match reason {
        Reason::NO_ERROR | Reason::REFUSED_STREAM => Reason::INTERNAL_ERROR,
        reason => reason,
    }
}
