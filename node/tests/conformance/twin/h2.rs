//! The twin over HTTP/2, message by message.

use super::{Flaw, Twin};
use crate::caller::{WITHIN, h2 as wire};
use crate::worker::send_all;
use ::h2::client::SendRequest;
use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream, SendStream};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use pontoon::net::{self, TcpStream};
use pontoon::tasks::{self, Kind};
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::Mutex;

/// What the connections of one twin share: with [`Flaw::Shared`] the way to the target, with
/// [`Flaw::Single`] a turn.
#[derive(Clone, Default)]
pub(super) struct Shared {
    sender: Arc<Mutex<Option<SendRequest<Bytes>>>>,
    turn: Arc<Mutex<()>>,
}

/// The most that a twin with [`Flaw::Bounded`] lets through.
const BODY_MAX: u64 = 16 << 20;

type Step<T> = Result<T, ::h2::Error>;

async fn dial(
    behind: &str,
    end: Option<tokio::sync::oneshot::Sender<()>>,
) -> Result<SendRequest<Bytes>, String> {
    let stream = net::dial(behind, WITHIN)
        .await
        .map_err(|error| error.to_string())?;
    let mut builder = ::h2::client::Builder::new();
    builder
        .initial_window_size(256 << 10)
        .initial_connection_window_size(64 << 20)
        .max_header_list_size(256 << 10);
    let (sender, connection) = builder.handshake(stream).await.map_err(wire::said)?;
    tasks::spawn(Kind::Worker, "twin upstream", async move {
        connection.await.ok();
        end.map(|end| end.send(()));
    });
    Ok(sender)
}

/// Passes one connection.
pub(super) async fn serve(
    client: TcpStream,
    behind: &str,
    twin: Twin,
    shared: Shared,
) -> Result<(), String> {
    let flaw = match twin {
        Twin::Flaw(flaw) => Some(flaw),
        _ => None,
    };
    let (end, mut ended) = tokio::sync::oneshot::channel();
    let sender = if flaw == Some(Flaw::Shared) {
        let mut kept = shared.sender.lock().await;
        match &*kept {
            Some(sender) => sender.clone(),
            None => kept.insert(dial(behind, None).await?).clone(),
        }
    } else {
        dial(behind, Some(end)).await?
    };
    let mut builder = ::h2::server::Builder::new();
    builder
        .initial_window_size(256 << 10)
        .initial_connection_window_size(64 << 20)
        .max_concurrent_streams(1024)
        .enable_connect_protocol()
        .max_header_list_size(if flaw == Some(Flaw::Broad) {
            1 << 20
        } else {
            64 << 10
        });
    if flaw == Some(Flaw::Lingers) {
        builder
            .max_pending_accept_reset_streams(1_000_000)
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(1_000_000);
    }
    let mut connection = builder
        .handshake::<_, Bytes>(client)
        .await
        .map_err(wire::said)?;
    let mut watches = flaw != Some(Flaw::Shared) && flaw != Some(Flaw::Lingers);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            _ = &mut ended, if watches => {
                watches = false;
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(accepted) = accepted else {
            return Ok(());
        };
        let (request, respond) = accepted.map_err(wire::said)?;
        let (sender, shared, behind) = (sender.clone(), shared.clone(), behind.to_owned());
        tasks::spawn(Kind::Worker, "twin stream", async move {
            let _turn = match flaw {
                Some(Flaw::Single) => Some(shared.turn.lock().await),
                _ => None,
            };
            let sender = match flaw {
                Some(Flaw::Fresh) => dial(&behind, None).await.unwrap_or(sender),
                _ => sender,
            };
            exchange(request, respond, sender, twin, flaw).await.ok();
        });
    }
}

async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    sender: SendRequest<Bytes>,
    twin: Twin,
    flaw: Option<Flaw>,
) -> Step<()> {
    let (mut parts, mut body) = request.into_parts();
    let asked = parts.clone();
    if flaw == Some(Flaw::Broad) && parts.headers.contains_key("x-large") {
        respond.send_response(Response::new(()), true)?;
        return Ok(());
    }
    if let Twin::Request(change) = twin {
        change(&mut parts);
    }
    let mut sender = match sender.ready().await {
        Ok(sender) => sender,
        Err(error) => {
            respond.send_reset(Reason::REFUSED_STREAM);
            return Err(error);
        }
    };
    let ends = body.is_end_stream();
    let kept = if flaw == Some(Flaw::Patient) {
        Some(whole(&mut body).await?)
    } else {
        None
    };
    // Of what the connection has attached, the protocol of an extended CONNECT goes on.
    let protocol = parts.extensions.remove::<::h2::ext::Protocol>();
    parts.extensions.clear();
    if let Some(protocol) = protocol {
        parts.extensions.insert(protocol);
    }
    let (answer, mut out) = sender.send_request(Request::from_parts(parts, ()), ends)?;
    let up = async {
        let sent = match kept {
            Some(all) if !ends => match send_all(&mut out, all).await {
                Ok(()) => out.send_data(Bytes::new(), true),
                Err(error) => Err(error),
            },
            Some(_) => Ok(()),
            None if ends => Ok(()),
            None => pass_up(&mut body, &mut out, twin, flaw).await,
        };
        if let Err(error) = sent {
            if flaw == Some(Flaw::Deaf) {
                std::future::pending::<()>().await;
            }
            out.send_reset(error.reason().unwrap_or(Reason::CANCEL));
        }
        Ok::<(), ::h2::Error>(())
    };
    let down = async {
        // A client that gives up is told on at once, unless the twin is deaf.
        let head = wire::try_head(answer);
        let found = tokio::select! {
            found = head => found,
            reason = poll_fn(|cx| respond.poll_reset(cx)) => {
                if flaw == Some(Flaw::Deaf) {
                    std::future::pending::<()>().await;
                }
                return Err(reason.unwrap_or(Reason::CANCEL).into());
            }
        };
        let (response, early) = match found {
            Ok(found) => found,
            Err(error) => {
                respond.send_reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
                return Ok(());
            }
        };
        pass_down(&asked, response, early, respond, twin, flaw).await
    };
    tokio::pin!(up);
    tokio::select! {
        result = down => result,
        _ = async { (&mut up).await.ok(); std::future::pending::<()>().await } => Ok(()),
    }
}

async fn whole(body: &mut RecvStream) -> Step<Bytes> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all.into())
}

async fn pass_up(
    body: &mut RecvStream,
    out: &mut SendStream<Bytes>,
    twin: Twin,
    flaw: Option<Flaw>,
) -> Step<()> {
    let mut passed = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        let length = data.len();
        passed += length as u64;
        if flaw == Some(Flaw::Bounded) && passed > BODY_MAX {
            return Err(Reason::CANCEL.into());
        }
        let mut data = data;
        if let Twin::Body(change) = twin {
            let mut bytes = data.to_vec();
            change(&mut bytes);
            data = bytes.into();
        }
        send_all(out, data).await?;
        body.flow_control().release_capacity(length)?;
    }
    match body.trailers().await? {
        Some(trailers) => out.send_trailers(trailers),
        None => out.send_data(Bytes::new(), true),
    }
}

async fn pass_down(
    asked: &http::request::Parts,
    response: Response<RecvStream>,
    early: Vec<(u16, http::HeaderMap)>,
    mut respond: SendResponse<Bytes>,
    twin: Twin,
    flaw: Option<Flaw>,
) -> Step<()> {
    for (code, headers) in early {
        if flaw != Some(Flaw::Patient) {
            let mut one = Response::new(());
            *one.status_mut() = StatusCode::from_u16(code).expect("it came as one");
            *one.headers_mut() = headers;
            respond.send_informational(one)?;
        }
    }
    let (mut parts, mut body) = response.into_parts();
    if let Twin::Answer(change) = twin {
        change(asked, &mut parts);
    }
    parts.extensions.clear();
    let ends = body.is_end_stream();
    let mut out = respond.send_response(Response::from_parts(parts, ()), ends)?;
    if ends {
        return Ok(());
    }
    let passed = pass_body(&mut body, &mut out, twin, flaw).await;
    if let Err(error) = &passed {
        if flaw == Some(Flaw::Clean) {
            return out.send_data(Bytes::new(), true);
        }
        if flaw == Some(Flaw::Deaf) && error.reason() == Some(Reason::CANCEL) {
            std::future::pending::<()>().await;
        }
        out.send_reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
    }
    passed
}

async fn pass_body(
    body: &mut RecvStream,
    out: &mut SendStream<Bytes>,
    twin: Twin,
    flaw: Option<Flaw>,
) -> Step<()> {
    loop {
        let data = tokio::select! {
            data = body.data() => data,
            reason = poll_fn(|cx| out.poll_reset(cx)) => return Err(reason?.into()),
        };
        let Some(data) = data else { break };
        let mut data = data?;
        let length = data.len();
        if let Twin::Report(change) = twin {
            let mut bytes = data.to_vec();
            change(&mut bytes);
            data = bytes.into();
        }
        if flaw == Some(Flaw::Eager) {
            body.flow_control().release_capacity(length)?;
            out.send_data(data, false)?;
            continue;
        }
        send_all(out, data).await?;
        body.flow_control().release_capacity(length)?;
    }
    match body.trailers().await? {
        Some(mut trailers) => {
            if let Twin::Trailers(change) = twin {
                change(&mut trailers);
            }
            out.send_trailers(trailers)
        }
        None => out.send_data(Bytes::new(), true),
    }
}
