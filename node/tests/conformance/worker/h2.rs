//! The worker over HTTP/2, stream by stream.

use super::Notes;
use super::asked::{Asked, Body, message};
use ::h2::server::{self, SendResponse};
use ::h2::{Reason, RecvStream, SendStream};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use pontoon::net::TcpStream;
use pontoon::tasks::{self, Kind};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;

/// Any step of an exchange may find that the other side has gone.
type Step<T> = Result<T, ::h2::Error>;

/// Serves one connection.
pub(super) async fn serve(stream: TcpStream, notes: Arc<Notes>) -> io::Result<()> {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(4096)
        .max_header_list_size(256 << 10);
    let handshake = builder.handshake::<_, Bytes>(stream).await;
    let mut connection = handshake.map_err(io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        let notes = Arc::clone(&notes);
        tasks::spawn(Kind::Worker, "echo stream", async move {
            let asked = Asked::from_h2(&request_parts(&request));
            notes.add(asked.tag(), "began");
            let end = match exchange(&asked, request.into_body(), respond, &notes).await {
                Ok(()) => "ended".to_owned(),
                Err(error) => match error.reason() {
                    Some(reason) => format!("reset {}", u32::from(reason)),
                    None => "gone".to_owned(),
                },
            };
            notes.add(asked.tag(), end);
        });
    }
    Ok(())
}

fn request_parts(request: &Request<RecvStream>) -> http::request::Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy.into_parts().0
}

async fn exchange(
    asked: &Asked,
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
    notes: &Notes,
) -> Step<()> {
    if asked.path == "/grpc.health.v1.Health/Check" && asked.told("tag").is_empty() {
        drain(&mut body, &mut Body::default()).await?;
        let mut out = respond.send_response(asked.head(), false)?;
        send(&mut out, message(&[8, 1])).await?;
        return out.send_trailers(asked.trailers());
    }
    if let Some(refusals) = asked.number("refuse")
        && notes.count(asked.tag(), "refused") < refusals as usize
    {
        notes.add(asked.tag(), "refused");
        respond.send_reset(Reason::REFUSED_STREAM);
        return Ok(());
    }
    if let Some(code) = asked.number("reset") {
        respond.send_reset(Reason::from(code as u32));
        return Ok(());
    }
    if let Some(code) = asked.number("informational") {
        let mut early = Response::new(());
        let code = http::StatusCode::from_u16(code as u16).expect("a 1xx code");
        *early.status_mut() = code;
        early
            .headers_mut()
            .insert("x-early", http::HeaderValue::from_static("yes"));
        respond.send_informational(early)?;
    }
    if !asked.told("hold").is_empty() {
        let reason = poll_fn(|cx| respond.poll_reset(cx)).await?;
        return Err(reason.into());
    }
    if !asked.told("trailers-only").is_empty() {
        let mut head = asked.head();
        head.headers_mut().extend(asked.trailers());
        respond.send_response(head, true)?;
        return Ok(());
    }
    if !asked.told("stall").is_empty() {
        let mut out = respond.send_response(asked.head(), false)?;
        let reason = poll_fn(|cx| out.poll_reset(cx)).await?;
        return Err(reason.into());
    }
    if !asked.told("mirror").is_empty() {
        return mirror(asked, body, respond, notes).await;
    }
    let mut taken = Body::default();
    // The client ends its request once it has seen what comes before the reset.
    let late = !asked.told("late").is_empty();
    let trailers = match late {
        true => None,
        false => drain(&mut body, &mut taken).await?,
    };
    notes.add(asked.tag(), "heard");
    let mut out = respond.send_response(asked.head(), false)?;
    if let Some(count) = asked.number("messages") {
        let one = message(&vec![b'x'; asked.number("size").unwrap_or(1) as usize]);
        for sent in 0..count {
            if asked.number("reset-after") == Some(sent) {
                // A reset overtakes what waits in front of it, the head too.
                if late {
                    drain(&mut body, &mut taken).await?;
                }
                out.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            send(&mut out, one.clone()).await?;
        }
    } else {
        send(&mut out, asked.answer(&taken, trailers.as_ref())).await?;
    }
    finish(asked, out).await
}

async fn finish(asked: &Asked, mut out: SendStream<Bytes>) -> Step<()> {
    if asked.is_grpc_web() {
        send(&mut out, asked.web_trailers()).await?;
        return out.send_data(Bytes::new(), true);
    }
    let trailers = asked.trailers();
    if trailers.is_empty() {
        out.send_data(Bytes::new(), true)
    } else {
        out.send_trailers(trailers)
    }
}

async fn mirror(
    asked: &Asked,
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
    notes: &Notes,
) -> Step<()> {
    let mut out = respond.send_response(asked.head(), false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        let length = data.len();
        send(&mut out, data).await?;
        body.flow_control().release_capacity(length)?;
    }
    body.trailers().await?;
    notes.add(asked.tag(), "heard");
    finish(asked, out).await
}

async fn drain(body: &mut RecvStream, taken: &mut Body) -> Step<Option<HeaderMap>> {
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        taken.take(&data);
    }
    body.trailers().await
}

/// Sends all of it as the peer makes room.
pub async fn send(out: &mut SendStream<Bytes>, bytes: impl Into<Bytes>) -> Step<()> {
    let mut bytes = bytes.into();
    while !bytes.is_empty() {
        out.reserve_capacity(bytes.len());
        let room = match poll_fn(|cx| out.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Err(Reason::CANCEL.into()),
        };
        let now = bytes.split_to(room.min(bytes.len()));
        out.send_data(now, false)?;
    }
    Ok(())
}
