//! Runs one tunnel: the HTTP connection over it, its probes, and how it ends.
//!
//! Only HTTP/2 has probes; a silent HTTP/1.1 tunnel is found by the keepalive of its socket.
//!
//! A probe is an unchanged SETTINGS, not a PING: RFC 9113 6.5.3 makes the peer acknowledge both at
//! once, but gRPC servers count PINGs between which they sent no data, and answer the third with
//! GOAWAY `too_many_pings`. That would cut every call that is silent for 12 s.

use super::close::{Close, CloseReason, Closing};
use super::desk::Incoming;
use super::metered::{Meter, Metered};
use super::past::Past;
use super::pool::{Dialing, Pool};
use super::pulse::{Pulse, Verdict};
use super::wire::{Carried, Carries, Slot, Speaks};
use super::{Shared, Spoken, Tunnel};
use crate::call::h2_settings::{CONNECTION_WINDOW, HEADER_LIST_MAX, STREAM_WINDOW};
use crate::gather::Gather;
use crate::ops::metrics::{Entered, Metrics};
use crate::session::Target;
use crate::{clock, tasks};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::Either;
use h2::client::Connection;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pontoon_proto::id::NodeId;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
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
    /// The node that relays it.
    through: Option<NodeId>,
    /// It takes no new call, and ends with those that it has.
    retired: AtomicBool,
    /// Nobody uses it at present.
    parked: AtomicBool,
    meter: Arc<Meter>,
    pub(super) carried: Arc<Carried>,
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

    /// The node that relays it, if one does.
    pub(super) fn through(&self) -> Option<NodeId> {
        self.through
    }

    /// Lets it end with the calls that it has: the node that relays it is about to leave.
    pub(super) fn retire(&self) {
        self.closing.record(CloseReason::RelayLeaving, None, "");
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
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
    carries: Carries,
    incoming: Incoming,
) -> Option<Tunnel> {
    let speaks = incoming.speaks;
    let life = Arc::new(Life {
        target,
        closing: Closing::default(),
        close: CancellationToken::new(),
        closed: AtomicBool::new(false),
        through: incoming.through,
        retired: AtomicBool::new(false),
        parked: AtomicBool::new(false),
        meter: Arc::default(),
        carried: Arc::new(Carried::by(
            shared.numbers.fetch_add(1, Ordering::Relaxed) + 1,
        )),
    });
    let io = Metered::new(incoming.stream, Arc::clone(&life.meter));
    let http2 = match carries {
        Carries::Grpc => true,
        Carries::Plain => speaks == Some(Speaks::Http2),
        Carries::Upgrade => false,
    };
    let (spoken, connection) = if http2 {
        let (sender, connection) = settings().handshake::<_, Bytes>(io).await.ok()?;
        (
            Spoken::H2(Mutex::new(Some(sender))),
            Either::Left(connection),
        )
    } else {
        let io = io.cut_by(life.close.clone());
        let gone = io.gone();
        let handshake = http1_settings().handshake(TokioIo::new(io));
        let (sender, connection) = handshake.await.ok()?;
        let slot = Spoken::H1(Slot::new(sender));
        (slot, Either::Right((connection.with_upgrades(), gone)))
    };
    if !dialing.up(Arc::clone(&life)) {
        return None;
    }
    shared.metrics.worker_connection_opened.add();
    let tunnel = Tunnel::new(spoken, speaks, Arc::clone(&life));
    let run = Run {
        pool: shared.pool.clone(),
        past: Arc::clone(&shared.past),
        life,
        users: Arc::downgrade(&tunnel.inner),
        started: clock::now(),
        metrics: Arc::clone(&shared.metrics),
        _active: shared.metrics.worker_connections_active.enter(),
    };
    match connection {
        Either::Left(connection) => {
            tasks::spawn(tasks::Kind::Worker, "tunnel", run.http2(connection));
        }
        Either::Right((connection, gone)) => {
            tasks::spawn(tasks::Kind::Worker, "tunnel", run.http1(connection, gone));
        }
    }
    Some(tunnel)
}

/// The HTTP/1.1 settings of our side of a tunnel: a worker's head may be as long as over HTTP/2.
fn http1_settings() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_LIST_MAX as usize);
    builder
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

/// What a running tunnel's task holds. It counts as active as long as this lives.
struct Run {
    pool: Pool,
    past: Arc<Past>,
    life: Arc<Life>,
    users: std::sync::Weak<super::Inner>,
    started: Instant,
    metrics: Arc<Metrics>,
    _active: Entered,
}

impl Run {
    async fn http2(self, mut connection: Connection<Metered, Bytes>) {
        let life = &self.life;
        let mut gather = Gather::default();
        let mut pulse = Pulse::default();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                () = life.close.cancelled() => break None,
                result = poll_fn(|cx| gather.poll(cx, |cx| connection.poll_unpin(cx))) => break Some(result),
                _ = look.tick() => {
                    self.retire();
                    let received = life.meter.received();
                    let in_use = !life.parked.load(Ordering::Relaxed);
                    match pulse.look(self.started.elapsed(), received, in_use) {
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
            record(life, result, self.users.strong_count() == 0);
        }
        drop(connection);
        self.over();
    }

    /// `gone` is cancelled when the byte stream is dropped, by the connection or by what it was
    /// upgraded to.
    async fn http1(
        self,
        connection: impl Future<Output = hyper::Result<()>>,
        gone: CancellationToken,
    ) {
        let life = &self.life;
        let retires = async {
            loop {
                tokio::time::sleep(LOOK).await;
                self.retire();
            }
        };
        let ended = tokio::select! {
            () = life.close.cancelled() => None,
            result = connection => Some(result),
            () = retires => None,
        };
        let released = self.users.strong_count() == 0 && !life.meter.is_finished();
        match ended {
            None => {}
            Some(Ok(())) if gone.is_cancelled() => {
                let reason = match released {
                    true => CloseReason::Released,
                    false => CloseReason::WorkerClosed,
                };
                life.closing.record(reason, None, "");
            }
            Some(Ok(())) => {
                // An upgrade took it: whoever has it now cuts it when it is told to close.
                gone.cancelled().await;
                life.closing.record(CloseReason::Released, None, "");
            }
            Some(Err(error)) => {
                let reason = match error.is_parse() || error.is_parse_too_large() {
                    true => CloseReason::Protocol,
                    false => CloseReason::Broken,
                };
                life.closing.record(reason, None, &error.to_string());
            }
        }
        self.over();
    }

    /// Takes a retired tunnel from its users, between two exchanges.
    fn retire(&self) {
        if self.life.is_retired()
            && let Some(tunnel) = self.users.upgrade()
        {
            tunnel.let_go();
        }
    }

    fn over(self) {
        self.life.closed.store(true, Ordering::Release);
        self.pool.gone(&self.life);
        report(
            &self.life,
            self.started.elapsed(),
            &self.metrics,
            &self.past,
        );
    }
}

fn record(life: &Life, result: Result<(), h2::Error>, released: bool) {
    let finished = life.meter.is_finished();
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
fn report(life: &Life, lasted: Duration, metrics: &Metrics, past: &Past) {
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
    past.tunnel(target, close, lasted);
    tracing::info!(
        session = %target.id,
        worker = %target.binding.worker,
        slot = target.binding.slot,
        binding = target.binding.index,
        reason = close.reason.label(),
        code = close.code,
        text = close.text,
        tunnel = life.carried.number,
        calls = life.carried.calls(),
        trace = life.carried.trace().map(tracing::field::display),
        received = life.meter.received(),
        sent = life.meter.sent(),
        seconds = lasted.as_secs_f64(),
        "tunnel closed"
    );
}
