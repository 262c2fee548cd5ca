//! Carries one exchange between a client's h2 stream and a worker's, frame by frame.
//!
//! ```text
//! attempt: request ──▶ worker            answer's head ──▶ both directions ──▶ Whole
//!             │ refused, or never written: Failed { again: true }
//!             │ tunnel broke before the head: Failed { again: false }
//!             │ worker reset: passed on          tunnel broke after it: Broken
//!             │ client reset or left: Cancelled, and the worker hears of it
//! ```

use super::flow::{Flow, Stop};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, StatusCode};
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A client's side of an exchange.
pub(super) struct Exchange {
    respond: SendResponse<Bytes>,
    /// The request's body, until the first attempt takes it.
    body: Option<RecvStream>,
    /// The way to the worker, from the first attempt on.
    up: Option<Flow>,
    /// The way back, from the answer's head on.
    down: Option<Flow>,
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
    /// h2 does not take the head: a bug in us.
    Unsendable,
}

/// What came of waiting for the answer's head.
enum Head {
    Answer(Response<RecvStream>),
    Client(Option<Reason>),
    Worker(h2::Error),
}

/// What came of carrying both directions.
enum Carried {
    Whole,
    Client(Option<Reason>),
    Worker(h2::Error),
}

impl Exchange {
    /// The client's side, as h2 accepted it.
    pub(super) fn new(body: RecvStream, respond: SendResponse<Bytes>) -> Self {
        Self {
            respond,
            body: Some(body),
            up: None,
            down: None,
        }
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
        let (head, body) = response.into_parts();
        let ends = body.is_empty() && trailers.is_none();
        // Whatever fails here fails because the client is gone: nobody is left to tell.
        let Ok(mut stream) = self
            .respond
            .send_response(Response::from_parts(head, ()), ends)
        else {
            return;
        };
        if !body.is_empty() {
            let _gone = stream.send_data(body, trailers.is_none());
        }
        if let Some(trailers) = trailers {
            let _gone = stream.send_trailers(trailers);
        }
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
        mut worker: SendRequest<Bytes>,
        mut dress: impl FnMut(&mut HeaderMap),
    ) -> End {
        let ready = poll_fn(|cx| {
            if self.respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            worker.poll_ready(cx).map(Some)
        });
        match ready.await {
            None => return End::Cancelled,
            Some(Err(_)) => return End::Failed { again: true },
            Some(Ok(())) => {}
        }
        let bodyless = match (&self.body, &self.up) {
            (Some(body), _) => body.is_end_stream(),
            (None, Some(up)) => up.was_empty(),
            (None, None) => true,
        };
        let (mut response, sink) = match worker.send_request(request, bodyless) {
            Ok(sent) => sent,
            Err(error) if error.reason().is_none() && !error.is_io() => return End::Unsendable,
            Err(_) => return End::Failed { again: true },
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

        let mut all_interim = false;
        let head = poll_fn(|cx| self.poll_head(cx, &mut response, &mut all_interim)).await;
        let answer = match head {
            Head::Answer(answer) => answer,
            Head::Client(reason) => return self.cancel(reason),
            Head::Worker(error) => return self.failed_before_head(&error),
        };
        let (mut head, body) = answer.into_parts();
        let status = head.status;
        dress(&mut head.headers);
        let ends = body.is_end_stream();
        let sink = match self
            .respond
            .send_response(Response::from_parts(head, ()), ends)
        {
            Ok(sink) => sink,
            Err(error) => return self.cancel(error.reason()),
        };
        self.down = Some(Flow::new(body, sink, ends));
        if let Some(up) = &mut self.up {
            up.keep_no_longer();
        }

        let mut listens = true;
        match poll_fn(|cx| self.poll_both(cx, &mut listens)).await {
            Carried::Whole => End::Whole(status),
            Carried::Client(reason) => self.cancel(reason),
            Carried::Worker(error) => self.failed_after_head(&error),
        }
    }

    /// Waits for the answer's head; the request goes on, interim answers pass.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        response: &mut ResponseFuture,
        all_interim: &mut bool,
    ) -> Poll<Head> {
        if let Poll::Ready(reset) = self.respond.poll_reset(cx) {
            return Poll::Ready(Head::Client(reset.ok()));
        }
        if let Some(up) = &mut self.up
            && let Poll::Ready(Err(Stop::Source(error))) = up.poll(cx)
        {
            return Poll::Ready(Head::Client(error.reason()));
        }
        // A worker that stops listening may answer all the same, and why it did says the answer's
        // future. That one skips interim answers, so it is asked only when none can come any more.
        while !*all_interim {
            match ready!(response.poll_informational(cx)) {
                Some(Ok(interim)) => {
                    // Worth nothing to a client that doesn't take it.
                    let _gone = self.respond.send_informational(interim);
                }
                Some(Err(error)) => return Poll::Ready(Head::Worker(error)),
                None => *all_interim = true,
            }
        }
        Poll::Ready(match ready!(Pin::new(response).poll(cx)) {
            Ok(answer) => Head::Answer(answer),
            Err(error) => Head::Worker(error),
        })
    }

    /// Carries both directions to their ends. `listens` is whether the worker still takes the
    /// request: one that has answered may stop, and that is no failure (RFC 9113 8.1).
    fn poll_both(&mut self, cx: &mut Context<'_>, listens: &mut bool) -> Poll<Carried> {
        let (Some(up), Some(down)) = (&mut self.up, &mut self.down) else {
            return Poll::Ready(Carried::Whole);
        };
        match down.poll(cx) {
            Poll::Ready(Err(Stop::Source(error))) => return Poll::Ready(Carried::Worker(error)),
            Poll::Ready(Err(Stop::Sink(reason))) => return Poll::Ready(Carried::Client(reason)),
            _ => {}
        }
        if *listens {
            match up.poll(cx) {
                Poll::Ready(Err(Stop::Source(error))) => {
                    return Poll::Ready(Carried::Client(error.reason()));
                }
                Poll::Ready(Err(Stop::Sink(_))) => *listens = false,
                _ => {}
            }
        }
        if down.is_done() && (up.is_done() || !*listens) {
            return Poll::Ready(Carried::Whole);
        }
        Poll::Pending
    }

    /// The client has left: the worker hears of it.
    fn cancel(&mut self, reason: Option<Reason>) -> End {
        if let Some(up) = &mut self.up {
            up.reset(match reason {
                // Neither is a client's to send, and both would say something else to the worker.
                None | Some(Reason::NO_ERROR | Reason::REFUSED_STREAM) => Reason::CANCEL,
                Some(reason) => reason,
            });
        }
        End::Cancelled
    }

    fn failed_before_head(&mut self, error: &h2::Error) -> End {
        if !error.is_remote() {
            return End::Failed { again: false };
        }
        match error.reason() {
            Some(Reason::REFUSED_STREAM) => End::Failed { again: true },
            Some(reason) if error.is_reset() => {
                let reason = for_client(reason);
                self.respond.send_reset(reason);
                End::WorkerReset(reason)
            }
            // The worker's GOAWAY left this stream out: it was not acted on.
            _ => End::Failed {
                again: error.is_go_away(),
            },
        }
    }

    fn failed_after_head(&mut self, error: &h2::Error) -> End {
        let reset = error
            .reason()
            .filter(|_| error.is_reset() && error.is_remote())
            .map(for_client);
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
