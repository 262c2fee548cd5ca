//! Runs one tunnel: the HTTP/2 connection over it, its probes, and how it ends.
//!
//! A probe is an unchanged SETTINGS, not a PING: RFC 9113 6.5.3 makes the peer acknowledge both at
//! once, but gRPC servers count PINGs between which they sent no data, and answer the third with
//! GOAWAY `too_many_pings`. That would cut every call that is silent for 12 s.

use super::close::{Close, CloseReason, Closing};
use super::desk::Incoming;
use super::pool::{Dialing, Pool};
use super::pulse::{Pulse, Verdict};
use super::{Shared, Tunnel};
use crate::call::h2_settings::{CONNECTION_WINDOW, HEADER_LIST_MAX, STREAM_WINDOW};
use crate::ops::metrics::{Entered, Metrics};
use crate::session::Target;
use crate::{clock, tasks};
use bytes::Bytes;
use h2::client::Connection;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// How often a tunnel's pulse is looked at; a death is noticed at most this much late.
const LOOK: Duration = Duration::from_millis(500);

/// What is known of a tunnel, whoever uses it.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) target: Target,
    closing: Closing,
    close: CancellationToken,
    closed: AtomicBool,
    /// Nobody uses it at present.
    parked: AtomicBool,
    meter: Arc<Meter>,
}

/// What went through a byte stream.
#[derive(Debug, Default)]
struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
    finished: AtomicBool,
}

impl Life {
    /// Asks the tunnel to close, for this reason if it is the first.
    pub(super) fn close(&self, reason: CloseReason) {
        self.closing.record(reason, None, "");
        self.close.cancel();
    }

    pub(super) fn is_live(&self) -> bool {
        !self.close.is_cancelled() && !self.closed.load(Ordering::Acquire)
    }

    /// Notes whether it waits in the pool.
    pub(super) fn set_parked(&self, parked: bool) {
        self.parked.store(parked, Ordering::Relaxed);
    }

    pub(super) fn is(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, other)
    }
}

/// Makes a tunnel of a stream that a sidecar opened; `None` when the stream broke at once, or the
/// session ended while it was dialed.
pub(super) async fn start(
    shared: &Shared,
    dialing: Dialing,
    target: Target,
    stream: Incoming,
) -> Option<Tunnel> {
    let meter = Arc::new(Meter::default());
    let metered = Metered {
        inner: stream,
        meter: Arc::clone(&meter),
    };
    let handshake = settings().handshake::<_, Bytes>(metered);
    let (sender, connection) = handshake.await.ok()?;
    let life = Arc::new(Life {
        target,
        closing: Closing::default(),
        close: CancellationToken::new(),
        closed: AtomicBool::new(false),
        parked: AtomicBool::new(false),
        meter,
    });
    if !dialing.up(Arc::clone(&life)) {
        return None;
    }
    shared.metrics.worker_connection_opened.add();
    let tunnel = Tunnel::new(sender.clone(), Arc::clone(&life));
    let count = Count {
        metrics: Arc::clone(&shared.metrics),
        _active: shared.metrics.worker_connections_active.enter(),
    };
    let users = Arc::downgrade(&tunnel.inner);
    let run = run(shared.pool.clone(), life, connection, users, count);
    tasks::spawn(tasks::Kind::Worker, "tunnel", run);
    Some(tunnel)
}

/// The HTTP/2 settings of our side of a tunnel.
///
/// A tunnel outlives any number of cancelled calls, so what the worker still sends for them never
/// counts against it: by default the 1,025th such frame would end the tunnel and all its calls. 4,096
/// reset streams are remembered for 1 s, so that frames on their way are ignored.
fn settings() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST_MAX)
        .max_concurrent_reset_streams(4096)
        .max_local_error_reset_streams(None)
        .reset_stream_duration(Duration::from_secs(1))
        .max_send_buffer_size(STREAM_WINDOW as usize)
        .data_frame_budget(CONNECTION_WINDOW as usize);
    builder
}

/// Where a tunnel is counted; it counts as active as long as this lives.
struct Count {
    metrics: Arc<Metrics>,
    _active: Entered,
}

async fn run(
    pool: Pool,
    life: Arc<Life>,
    mut connection: Connection<Metered, Bytes>,
    users: std::sync::Weak<super::Inner>,
    count: Count,
) {
    let started = clock::now();
    let mut pulse = Pulse::default();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            () = life.close.cancelled() => break None,
            result = &mut connection => break Some(result),
            _ = look.tick() => {
                let received = life.meter.received.load(Ordering::Relaxed);
                let in_use = !life.parked.load(Ordering::Relaxed);
                match pulse.look(started.elapsed(), received, in_use) {
                    Verdict::Quiet => {}
                    Verdict::Ask => {
                        // Refused only while an earlier SETTINGS is unanswered, which asks as well.
                        let _or_asked = connection.set_initial_window_size(STREAM_WINDOW);
                    }
                    Verdict::Dead => {
                        life.closing.record(CloseReason::Silent, None, "no answer to a probe");
                        break None;
                    }
                }
            }
        }
    };
    if let Some(result) = ended {
        record(&life, result, users.strong_count() == 0);
    }
    life.closed.store(true, Ordering::Release);
    drop(connection);
    pool.gone(&life);
    report(&life, started.elapsed(), &count.metrics);
}

fn record(life: &Life, result: Result<(), h2::Error>, released: bool) {
    let finished = life.meter.finished.load(Ordering::Relaxed);
    let (reason, code, text) = match result {
        Ok(()) if released && !finished => (CloseReason::Released, None, String::new()),
        Ok(()) => (CloseReason::WorkerClosed, None, String::new()),
        Err(error) if error.is_io() => (CloseReason::Broken, None, error.to_string()),
        Err(error) => {
            let code = error.reason().map(u32::from);
            let reason = match (error.is_go_away() && error.is_remote(), code) {
                (true, Some(0)) => CloseReason::WorkerClosed,
                (true, _) => CloseReason::WorkerGoAway,
                (false, _) => CloseReason::Protocol,
            };
            (reason, code, error.to_string())
        }
    };
    life.closing.record(reason, code, &text);
}

/// One wide event per tunnel.
fn report(life: &Life, lasted: Duration, metrics: &Metrics) {
    let fallback = Close {
        reason: CloseReason::Broken,
        code: None,
        text: String::new(),
    };
    let close = life.closing.get().unwrap_or(&fallback);
    metrics.worker_connection_closed.add(close.reason.label());
    metrics.worker_connection_close_code.add(close.code_label());
    metrics.worker_connection_duration.observe(lasted);
    let target = &life.target;
    tracing::info!(
        session = %target.id,
        worker = %target.binding.worker,
        slot = target.binding.slot,
        binding = target.binding.index,
        reason = close.reason.label(),
        code = close.code,
        text = close.text,
        received = life.meter.received.load(Ordering::Relaxed),
        sent = life.meter.sent.load(Ordering::Relaxed),
        seconds = lasted.as_secs_f64(),
        "tunnel closed"
    );
}

/// Counts what goes through a byte stream.
struct Metered {
    inner: Incoming,
    meter: Arc<Meter>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) {
            let n = buf.filled().len() - before;
            self.meter.received.fetch_add(n as u64, Ordering::Relaxed);
            if n == 0 && room {
                self.meter.finished.store(true, Ordering::Relaxed);
            }
        }
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.count(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl Metered {
    fn count(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &result {
            self.meter.sent.fetch_add(*n as u64, Ordering::Relaxed);
        }
        result
    }
}
