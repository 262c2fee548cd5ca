//! A worker's answer on its way: interim answers first, then the head.

use super::ends::{Failure, Source};
use crate::pipe::Reader;
use crate::tunnel::Lent;
use futures::future::BoxFuture;
use h2::client::ResponseFuture;
use http::{Request, Response};
use hyper::ext::on_informational;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// How many interim answers of an HTTP/1.1 worker may wait; one more is dropped, as HTTP allows.
const INTERIM_MAX: usize = 8;

/// An answer that is awaited.
pub(super) enum Answer {
    H2(OverH2),
    H1(OverH1),
}

pub(super) struct OverH2 {
    response: ResponseFuture,
    /// No interim answer can come any more.
    all_interim: bool,
}

pub(super) struct OverH1 {
    response: BoxFuture<'static, Result<Response<Source>, Failure>>,
    interim: mpsc::Receiver<Response<()>>,
}

impl Answer {
    /// The answer to a request that was sent over HTTP/2.
    pub(super) fn over_h2(response: ResponseFuture) -> Self {
        Answer::H2(OverH2 {
            response,
            all_interim: false,
        })
    }

    /// Sends a request over HTTP/1.1, for its answer. The tunnel goes back when the answer's body is
    /// dropped.
    pub(super) fn over_h1(mut lent: Lent, mut request: Request<Reader>) -> Self {
        let (tell, interim) = mpsc::channel(INTERIM_MAX);
        on_informational(&mut request, move |interim| {
            let mut response = Response::new(());
            *response.status_mut() = interim.status();
            *response.headers_mut() = interim.headers().clone();
            let _too_many = tell.try_send(response);
        });
        let response = async move {
            let Some(sender) = lent.sender() else {
                return Err(Failure::untouched());
            };
            match sender.try_send_request(request).await {
                Ok(answer) => Ok(answer.map(|body| Source::message(body, Some(lent)))),
                // The request came back: nothing of it was written.
                Err(error) if error.message().is_some() => Err(Failure::untouched()),
                Err(_broken) => Err(Failure::default()),
            }
        };
        Answer::H1(OverH1 {
            response: Box::pin(response),
            interim,
        })
    }

    /// Ready with the answer's head; interim answers are handed over on the way.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut inform: impl FnMut(Response<()>),
    ) -> Poll<Result<Response<Source>, Failure>> {
        match self {
            // The future skips interim answers, so it is asked only when none can come any more.
            Answer::H2(over) => {
                while !over.all_interim {
                    match ready!(over.response.poll_informational(cx)) {
                        Some(Ok(interim)) => inform(interim),
                        Some(Err(error)) => return Poll::Ready(Err(error.into())),
                        None => over.all_interim = true,
                    }
                }
                let answer = ready!(Pin::new(&mut over.response).poll(cx));
                Poll::Ready(match answer {
                    Ok(answer) => Ok(answer.map(Source::H2)),
                    Err(error) => Err(error.into()),
                })
            }
            Answer::H1(over) => {
                let answer = over.response.as_mut().poll(cx);
                while let Poll::Ready(Some(interim)) = over.interim.poll_recv(cx) {
                    inform(interim);
                }
                answer
            }
        }
    }
}
