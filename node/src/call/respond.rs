//! The client's side of an exchange: where its answer goes, over either HTTP.

use super::ends::{self, Sink, Source};
use crate::pipe::{self, Reader};
use bytes::Bytes;
use futures::future::BoxFuture;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use hyper::upgrade::OnUpgrade;
use std::task::{Context, Poll, Waker};
use tokio::sync::oneshot;

/// An HTTP/1.1 answer; without one the connection is cut, which is how HTTP/1.1 resets a stream.
pub(crate) type Reply = Option<Response<Reader>>;

/// Where the answer goes.
pub(crate) enum Respond {
    /// To an HTTP/2 stream.
    H2(SendResponse<Bytes>),
    /// To an HTTP/1.1 connection.
    H1(Http1),
}

/// An HTTP/1.1 connection that waits for its answer.
pub(crate) struct Http1 {
    /// Gone once it has the answer.
    pub(crate) reply: Option<oneshot::Sender<Reply>>,
    /// What the connection becomes when the answer is 101.
    pub(crate) upgrade: Option<OnUpgrade>,
}

/// Both ends of an upgraded exchange at the client, once the upgrade is through.
pub(super) type Switched = BoxFuture<'static, Option<(Source, Sink)>>;

impl Respond {
    /// Ready when the client reset the stream or left, while it has no answer.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reason>> {
        match self {
            Respond::H2(respond) => respond.poll_reset(cx).map(Result::ok),
            Respond::H1(Http1 { reply, .. }) => match reply {
                Some(reply) => reply.poll_closed(cx).map(|()| None),
                None => Poll::Pending,
            },
        }
    }

    /// Whether the client has left already.
    pub(crate) fn is_gone(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        self.poll_reset(&mut nobody).is_ready()
    }

    /// Whether an HTTP/1.1 upgrade is possible.
    pub(super) fn switches(&self) -> bool {
        matches!(self, Respond::H1(http1) if http1.upgrade.is_some())
    }

    /// An interim answer; worth nothing to a client that doesn't take it. HTTP/1.1 clients get none
    /// but `100 Continue`, which the connection sends by itself.
    pub(super) fn inform(&mut self, interim: Response<()>) {
        if let Respond::H2(respond) = self {
            let _gone = respond.send_informational(interim);
        }
    }

    /// Begins the answer. `ends` is whether the head is all of it.
    pub(super) fn begin(&mut self, head: Response<()>, ends: bool) -> Result<Sink, Option<Reason>> {
        match self {
            Respond::H2(respond) => respond
                .send_response(head, ends)
                .map(Sink::H2)
                .map_err(|error| error.reason()),
            Respond::H1(http1) => {
                let (mut writer, reader) = pipe::pipe();
                if ends {
                    writer.finish(None);
                }
                http1.reply(Some(head.map(|()| reader)))?;
                Ok(Sink::Pipe(writer))
            }
        }
    }

    /// Gives the whole answer. `trailers` follow the body; HTTP/1.1 goes without them.
    pub(super) fn whole(&mut self, response: Response<Bytes>, trailers: Option<HeaderMap>) {
        let (head, body) = response.into_parts();
        // Whatever fails here fails because the client is gone: nobody is left to tell.
        match self {
            Respond::H1(http1) => {
                let _gone = http1.reply(Some(Response::from_parts(head, pipe::whole(body))));
            }
            Respond::H2(respond) => {
                let ends = body.is_empty() && trailers.is_none();
                let head = Response::from_parts(head, ());
                let Ok(mut stream) = respond.send_response(head, ends) else {
                    return;
                };
                if !body.is_empty() {
                    let _gone = stream.send_data(body, trailers.is_none());
                }
                if let Some(trailers) = trailers {
                    let _gone = stream.send_trailers(trailers);
                }
            }
        }
    }

    /// Answers that the exchange is upgraded. `body` is the request's own.
    pub(super) fn switch(
        &mut self,
        head: Response<()>,
        body: Source,
    ) -> Result<Switched, Option<Reason>> {
        match self {
            Respond::H2(_) => {
                let sink = self.begin(head, false)?;
                Ok(Box::pin(std::future::ready(Some((body, sink)))))
            }
            Respond::H1(http1) => {
                let upgrade = http1.upgrade.take().ok_or(None)?;
                http1.reply(Some(head.map(|()| pipe::whole(Bytes::new()))))?;
                Ok(Box::pin(async { upgrade.await.ok().map(ends::raw) }))
            }
        }
    }

    /// Resets the stream instead of an answer.
    pub(super) fn reset(&mut self, reason: Reason) {
        match self {
            Respond::H2(respond) => respond.send_reset(reason),
            Respond::H1(http1) => {
                let _gone = http1.reply(None);
            }
        }
    }
}

impl Http1 {
    fn reply(&mut self, reply: Reply) -> Result<(), Option<Reason>> {
        let to = self.reply.take().ok_or(None)?;
        to.send(reply).map_err(|_gone| None)
    }
}
