//! A worker as a tunnel shows it: an HTTP/2 server that does what the path says.

use crate::tasks::{self, Kind};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

/// What a worker remembers of what it met.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) heads: Mutex<Vec<Request<()>>>,
    pub(super) resets: Mutex<Vec<Reason>>,
    pub(super) refusals_left: AtomicUsize,
    pub(super) dials: AtomicUsize,
    /// Lets `/stall` go on.
    pub(super) unstall: CancellationToken,
}

impl Seen {
    pub(super) fn last_head(&self) -> Request<()> {
        self.heads.lock().unwrap().last().unwrap().clone()
    }
}

/// Dials a worker: our side of a fresh tunnel.
pub(super) async fn dial(seen: &Arc<Seen>) -> SendRequest<Bytes> {
    seen.dials.fetch_add(1, Ordering::Relaxed);
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let seen = seen.clone();
    tasks::spawn(Kind::Worker, "test worker", async move {
        let mut h2 = h2::server::Builder::new()
            .initial_window_size(256 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .data_frame_budget(16 * 1024 * 1024)
            .handshake::<_, Bytes>(theirs)
            .await
            .unwrap();
        let dies = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = dies.cancelled() => return,
                accepted = h2.accept() => accepted,
            };
            let Some(Ok((request, respond))) = accepted else {
                return;
            };
            let call = call(seen.clone(), dies.clone(), request, respond);
            tasks::spawn(Kind::Worker, "test worker call", async move {
                let _cut_off = call.await;
            });
        }
    });
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(super::super::h2_settings::STREAM_WINDOW)
        .initial_connection_window_size(super::super::h2_settings::CONNECTION_WINDOW)
        .data_frame_budget(16 * 1024 * 1024)
        .max_local_error_reset_streams(None)
        .handshake::<_, Bytes>(ours)
        .await
        .unwrap();
    tasks::spawn(Kind::Worker, "test tunnel", async move {
        let _ended = connection.await;
    });
    sender
}

fn ok() -> Response<()> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-after", "all".parse().unwrap());
    trailers.insert("nvcf-reqid", "the worker's".parse().unwrap());
    trailers
}

/// Takes the next frame and gives its credit back.
async fn frame(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let frame = body.data().await?;
    if let Ok(frame) = &frame {
        body.flow_control().release_capacity(frame.len()).unwrap();
    }
    Some(frame)
}

async fn call(
    seen: Arc<Seen>,
    dies: CancellationToken,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let sum = parts.headers.contains_key("x-trailers");
    seen.heads
        .lock()
        .unwrap()
        .push(Request::from_parts(parts, ()));
    let refused = seen
        .refusals_left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    if refused.is_ok() {
        respond.send_reset(Reason::REFUSED_STREAM);
        return Ok(());
    }
    match path.as_str() {
        "/unary" => {
            let mut whole = Vec::new();
            while let Some(frame) = frame(&mut body).await {
                whole.extend_from_slice(&frame?);
            }
            let mut out = trailers();
            if sum && let Some(theirs) = body.trailers().await? {
                out.insert("x-echo", theirs["x-mine"].clone());
            }
            let mut stream = respond.send_response(ok(), false)?;
            stream.send_data(whole.into(), false)?;
            stream.send_trailers(out)?;
        }
        "/bidi" => {
            let mut stream = respond.send_response(ok(), false)?;
            while let Some(frame) = frame(&mut body).await {
                stream.send_data(frame?, false)?;
            }
            stream.send_trailers(trailers())?;
        }
        "/many" => {
            let mut stream = respond.send_response(ok(), false)?;
            for n in 0..100_u8 {
                stream.send_data(Bytes::from(vec![n; 100]), false)?;
            }
            stream.send_trailers(trailers())?;
        }
        "/flood" => {
            // Writes as long as it may, one capacity grant at a time.
            let mut stream = respond.send_response(ok(), false)?;
            for _ in 0..4096 {
                stream.reserve_capacity(16 * 1024);
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                let Some(Ok(room)) = room else { return Ok(()) };
                stream.send_data(Bytes::from(vec![7; room.min(16 * 1024)]), false)?;
            }
            stream.send_data(Bytes::new(), true)?;
        }
        "/trailers-only" => {
            let head = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "9")
                .header("nvcf-reqid", "the worker's")
                .header("set-cookie", "theirs=1")
                .body(())
                .unwrap();
            respond.send_response(head, true)?;
        }
        "/interim" => {
            let interim = Response::builder()
                .status(103)
                .header("link", "</style.css>")
                .body(())
                .unwrap();
            respond.send_informational(interim)?;
            respond.send_response(ok(), true)?;
        }
        "/early" => {
            let mut stream = respond.send_response(ok(), false)?;
            stream.send_trailers(trailers())?;
            // Dropping the unread request makes h2 reset it with NO_ERROR.
        }
        "/reset-before" => respond.send_reset(Reason::ENHANCE_YOUR_CALM),
        "/reset-after" => {
            let mut stream = respond.send_response(ok(), false)?;
            stream.send_data(Bytes::from_static(b"some"), false)?;
            let _first_frame = frame(&mut body).await;
            stream.send_reset(Reason::COMPRESSION_ERROR);
        }
        "/die-before" => {
            dies.cancel();
            std::future::pending::<()>().await;
        }
        "/die-after" => {
            let mut stream = respond.send_response(ok(), false)?;
            stream.send_data(Bytes::from_static(b"some"), false)?;
            let _first_frame = frame(&mut body).await;
            dies.cancel();
            std::future::pending::<()>().await;
        }
        "/hang" => {
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
            seen.resets.lock().unwrap().push(reason);
        }
        "/hang-open" => {
            let mut stream = respond.send_response(ok(), false)?;
            let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await?;
            seen.resets.lock().unwrap().push(reason);
        }
        "/stall" => {
            let mut stream = respond.send_response(ok(), false)?;
            seen.unstall.cancelled().await;
            let mut len = 0;
            while let Some(frame) = frame(&mut body).await {
                len += frame?.len();
            }
            stream.send_data(Bytes::from(len.to_string()), true)?;
        }
        _ => {
            respond.send_response(Response::builder().status(404).body(()).unwrap(), true)?;
        }
    }
    Ok(())
}
