//! One HTTP/1.1 client connection: its requests become calls, one after the other.
//!
//! The codec is hyper's. What is ours is when a connection goes: after a silence, when a head does not
//! come to its end, when the node drains; and what it may become: a WebSocket, or HTTP/2.

use super::close::CloseReason;
use super::h2::{self, LAST_CALLS};
use super::limits::Limits;
use super::{Origin, upgrade};
use crate::call::ends::Source;
use crate::call::respond::{Http1, Respond};
use crate::call::{self, Connection, Context, Joins};
use crate::clock;
use crate::drain::{Draining, Stage};
use crate::pipe::{self, Reader};
use crate::tasks::{self, Kind};
use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_util::io::InspectReader;

/// How many header lines a request may have; more are answered with 431. Each costs 32 bytes while
/// the head is read.
const HEADERS_MAX: usize = 512;

/// The connection is cut: an answer that can't come to its end, or a worker's reset.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the exchange was cut")]
struct Cut;

/// Serves a connection until it ends; returns how.
pub(super) async fn serve<J: Joins, IO>(
    cx: Arc<Context<J>>,
    number: u64,
    origin: Origin,
    io: IO,
    mut draining: Draining,
) -> CloseReason
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = cx.limits;
    let connection = Connection::new(number, origin);
    let becomes = Arc::new(Mutex::new(None));
    // Bytes have come that no request is made of yet.
    let heard = Arc::new(AtomicBool::new(false));
    let hears = Arc::clone(&heard);
    let io = InspectReader::new(io, move |bytes: &[u8]| {
        if !bytes.is_empty() {
            hears.store(true, Ordering::Relaxed);
        }
    });
    let service = Calls {
        cx: Arc::clone(&cx),
        connection: Arc::clone(&connection),
        draining: draining.clone(),
        heard: Arc::clone(&heard),
        clear: !origin.tls,
        becomes: Arc::clone(&becomes),
    };
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(limits.header_list as usize)
        .max_headers(HEADERS_MAX)
        .auto_date_header(false);
    let serving = builder.serve_connection(TokioIo::new(io), service);
    let serving = serving.with_upgrades();
    let (result, going) = match run(serving, &connection, &heard, &mut draining, limits).await {
        Ran::Over(result, going) => (result, going),
        Ran::Cut(reason) => return reason,
    };
    let http2 = becomes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(Http2 { upgrade, frames }) = http2
        && let Ok(io) = upgrade.await
    {
        let io = upgrade::injected(TokioIo::new(io), frames);
        return h2::serve(cx, number, origin, io, draining).await;
    }
    // What was upgraded is still a call of this connection.
    tokio::select! {
        () = connection.rests() => {}
        () = draining.reached(Stage::Stopped) => return CloseReason::Drained,
    }
    let whole = result.is_ok() && connection.given_up() == 0;
    let reason = match going {
        Some(reason) => reason,
        None if result.is_err_and(|error| error.is_parse()) => CloseReason::Mute,
        None if whole => CloseReason::Clean,
        None => CloseReason::Broken,
    };
    // Leaving because the node drains is not the client's wish: it will be back.
    connection.closes(matches!(reason, CloseReason::Clean | CloseReason::Idle));
    reason
}

/// How a connection's HTTP/1.1 came to its end.
enum Ran {
    /// By itself, or because it was told to go for this reason.
    Over(hyper::Result<()>, Option<CloseReason>),
    /// By our hand.
    Cut(CloseReason),
}

/// Runs the codec. It is gone when this returns, and with it every request that waits for an answer.
async fn run<J: Joins, IO>(
    serving: http1::UpgradeableConnection<TokioIo<IO>, Calls<J>>,
    connection: &Connection<J::Joined>,
    heard: &AtomicBool,
    draining: &mut Draining,
    limits: Limits,
) -> Ran
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut serving = pin!(serving);
    let mut going = None;
    // When it is cut although a call is open.
    let mut ends = None;
    let mut head_since = None;
    let mut sweep = clock::now();
    loop {
        let now = clock::now();
        let (calls, idle_since) = connection.idle();
        if now >= sweep {
            sweep = connection.sweep(now, now + limits.idle);
        }
        head_since = match heard.load(Ordering::Relaxed) && calls == 0 {
            true => head_since.or(Some(now)),
            false => None,
        };
        if head_since.is_some_and(|since| now >= since + limits.handshake) {
            return Ran::Cut(CloseReason::Mute);
        }
        if ends.is_some_and(|at| now >= at) {
            return Ran::Cut(CloseReason::Drained);
        }
        let idle = going.is_none() && calls == 0 && head_since.is_none();
        if idle && now >= idle_since + limits.idle {
            serving.as_mut().graceful_shutdown();
            going = Some(CloseReason::Idle);
        }
        let due = match head_since {
            Some(since) => since + limits.handshake,
            None if idle => idle_since + limits.idle,
            None => ends.unwrap_or(now + limits.idle),
        };
        let next_stage = match going {
            Some(CloseReason::Drained) => Stage::Stopped,
            _ => Stage::Draining,
        };
        let expected = head_since.is_some();
        let turn = poll_fn(|task| {
            if let Poll::Ready(result) = serving.as_mut().poll(task) {
                return Poll::Ready(Some(result));
            }
            // What comes while a call is open belongs to it.
            if connection.idle().0 > 0 {
                heard.store(false, Ordering::Relaxed);
            }
            // A head has begun, or become a request: other times count from now on.
            match heard.load(Ordering::Relaxed) == expected {
                true => Poll::Pending,
                false => Poll::Ready(None),
            }
        });
        tokio::select! {
            biased;
            () = draining.reached(next_stage), if ends.is_none() => {
                if next_stage == Stage::Stopped {
                    ends = Some(clock::now() + LAST_CALLS);
                    continue;
                }
                // Answers say `connection: close` from here on.
                serving.as_mut().graceful_shutdown();
                going = Some(CloseReason::Drained);
            }
            turn = turn => if let Some(result) = turn {
                return Ran::Over(result, going);
            },
            () = connection.hurry.notified() => sweep = clock::now(),
            () = tokio::time::sleep_until(due.min(sweep)) => {}
        }
    }
}

/// Makes calls of a connection's requests.
struct Calls<J: Joins> {
    cx: Arc<Context<J>>,
    connection: Arc<Connection<J::Joined>>,
    draining: Draining,
    heard: Arc<AtomicBool>,
    /// Whether it may go on in HTTP/2; over TLS that is agreed upon by ALPN.
    clear: bool,
    becomes: Arc<Mutex<Option<Http2>>>,
}

/// What the connection goes on as: HTTP/2, with these frames in place of the request that asked.
struct Http2 {
    upgrade: OnUpgrade,
    frames: Bytes,
}

impl<J: Joins> Calls<J> {
    /// Takes a request for `h2c` that can become stream 1; gives back others, to be served as they are.
    fn go_on_in_http2(&self, request: Request<Incoming>) -> Option<Request<Incoming>> {
        if !self.clear || !asks_for_h2c(&request) {
            return Some(request);
        }
        let (parts, body) = request.into_parts();
        let frames = upgrade::stream_1(&parts);
        let mut request = Request::from_parts(parts, body);
        let Ok(frames) = frames else {
            return Some(request);
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let mut becomes = self.becomes.lock().unwrap_or_else(PoisonError::into_inner);
        *becomes = Some(Http2 { upgrade, frames });
        None
    }
}

/// Whether `upgrade` offers `h2c` and no WebSocket, which wins.
fn asks_for_h2c(request: &Request<Incoming>) -> bool {
    let all = request.headers().get_all(UPGRADE);
    let offers = |what: &[u8]| {
        let mut offered = all
            .iter()
            .flat_map(|value| value.as_bytes().split(|&b| b == b','));
        offered.any(|one| one.trim_ascii().eq_ignore_ascii_case(what))
    };
    offers(b"h2c") && !offers(b"websocket")
}

/// Agrees to go on in HTTP/2.
fn switching() -> Response<Reader> {
    let mut response = Response::new(pipe::whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("h2c"));
    response
}

impl<J: Joins> Service<Request<Incoming>> for Calls<J> {
    type Response = Response<Reader>;
    type Error = Cut;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Reader>, Cut>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.heard.store(false, Ordering::Relaxed);
        request = match self.go_on_in_http2(request) {
            Some(request) => request,
            None => return Box::pin(std::future::ready(Ok(switching()))),
        };
        self.cx.counters.calls_total.up();
        let upgrade = request.headers().contains_key(UPGRADE);
        let upgrade = upgrade.then(|| hyper::upgrade::on(&mut request));
        let (reply, answer) = oneshot::channel();
        let call = call::serve(
            Arc::clone(&self.cx),
            Arc::clone(&self.connection),
            self.draining.clone(),
            request.map(|body| Source::message(body, None)),
            Respond::H1(Http1 {
                reply: Some(reply),
                upgrade,
            }),
        );
        tasks::spawn(Kind::Worker, "call", call);
        Box::pin(async {
            match answer.await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) | Err(_) => Err(Cut),
            }
        })
    }
}
