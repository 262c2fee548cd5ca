//! One HTTP/2 client connection: its streams become calls, its silence becomes GOAWAY.
//!
//! One task polls the connection, and with it all of its streams' IO; each call runs in a task of
//! its own.

use super::Origin;
use super::close::CloseReason;
use super::guard::{Alarm, Guard, Trouble};
use super::limits::Limits;
use crate::call::ends::Source;
use crate::call::respond::Respond;
use crate::call::{self, Connection, Context, Joins, h2_settings};
use crate::clock;
use crate::drain::{Draining, Stage};
use crate::gather::Gather;
use crate::tasks::{self, Kind};
use bytes::Bytes;
use h2::{Ping, PingPong, Reason, server};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// How long the last GOAWAY may take to leave a connection that is cut.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How long the calls that wait for a worker have to say that the node is draining, once its grace is
/// over (C-ERR-12).
pub(super) const LAST_CALLS: Duration = Duration::from_millis(250);

/// What is due on a connection that nothing else moves.
struct Timers {
    /// When the next PING goes out, or its answer is overdue.
    ping: Instant,
    ping_open: bool,
    /// When sessions that had no call are left.
    sweep: Instant,
    /// When a connection that was told to go is cut.
    cut: Option<Instant>,
}

/// Serves a connection until it ends; returns how.
pub(super) async fn serve<J: Joins, IO>(
    cx: Arc<Context<J>>,
    number: u64,
    origin: Origin,
    io: IO,
    draining: Draining,
) -> CloseReason
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = cx.limits;
    let (io, alarm) = Guard::new(io, limits.handshake);
    let settings = h2_settings::towards_client(limits.streams_max, limits.header_list);
    let handshake = tokio::time::timeout(limits.handshake, settings.handshake::<_, Bytes>(io));
    let Ok(Ok(h2)) = Box::pin(handshake).await else {
        return CloseReason::Mute;
    };
    let connection = Connection::new(number, origin);
    let reason = run(&cx, &connection, Box::new(h2), &alarm, draining, limits).await;
    // Leaving because the node drains is not the client's wish: it will be back.
    connection.closes(matches!(reason, CloseReason::Clean | CloseReason::Idle));
    reason
}

async fn run<J: Joins, IO>(
    cx: &Arc<Context<J>>,
    connection: &Arc<Connection<J::Joined>>,
    mut h2: Box<server::Connection<IO, Bytes>>,
    alarm: &Alarm,
    mut draining: Draining,
    limits: Limits,
) -> CloseReason
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut pings = h2.ping_pong();
    // Why the client was told to go, once it was.
    let mut going = None;
    // When it is cut although calls are open.
    let mut ends = None;
    let now = clock::now();
    let mut timers = Timers {
        ping: now + limits.ping_every,
        ping_open: false,
        sweep: now,
        cut: None,
    };
    let mut gather = Gather::default();
    let timer = tokio::time::sleep_until(now);
    tokio::pin!(timer);
    loop {
        let now = clock::now();
        let (calls, idle_since) = connection.idle();
        if now >= timers.sweep {
            timers.sweep = connection.sweep(now, now + limits.idle);
        }
        if connection.given_up() > limits.resets_max {
            cut(h2, Reason::ENHANCE_YOUR_CALM).await;
            return CloseReason::Flood;
        }
        if going.is_none() && calls == 0 && now >= idle_since + limits.idle {
            h2.graceful_shutdown();
            going = Some(CloseReason::Idle);
        }
        if ends.is_some_and(|at| now >= at) {
            cut(h2, Reason::NO_ERROR).await;
            return CloseReason::Drained;
        }
        timers.cut = match going {
            Some(reason) if calls == 0 => match timers.cut {
                Some(at) if now >= at => {
                    cut(h2, Reason::NO_ERROR).await;
                    return reason;
                }
                at => at.or(Some(now + limits.goodbye)),
            },
            _ => None,
        };
        let due = timers.next(match going {
            None if calls == 0 => idle_since + limits.idle,
            _ => ends.unwrap_or(now + limits.idle),
        });
        if timer.deadline() != due || timer.is_elapsed() {
            timer.as_mut().reset(due);
        }
        let next_stage = if going == Some(CloseReason::Drained) {
            Stage::Stopped
        } else {
            Stage::Draining
        };

        tokio::select! {
            biased;
            () = draining.reached(next_stage), if ends.is_none() => {
                if next_stage == Stage::Stopped {
                    ends = Some(clock::now() + LAST_CALLS);
                    continue;
                }
                h2.graceful_shutdown();
                going = Some(CloseReason::Drained);
            }
            trouble = alarm.raised() => {
                cut(h2, Reason::ENHANCE_YOUR_CALM).await;
                return match trouble {
                    Trouble::Flood => CloseReason::Flood,
                    Trouble::SlowHead => CloseReason::SlowHead,
                };
            }
            accepted = poll_fn(|cx| gather.poll(cx, |cx| h2.poll_accept(cx))) => match accepted {
                Some(Ok((request, respond))) => {
                    cx.counters.calls_total.up();
                    let mut respond = Respond::H2(respond);
                    if respond.is_gone() {
                        // Reset before it began: a flood of such calls costs no more than counting.
                        cx.counters.calls_cancelled.up();
                        connection.begins().ends(true, limits.resets_max);
                        continue;
                    }
                    let draining = draining.clone();
                    let request = request.map(Source::H2);
                    let call = call::serve(cx.clone(), connection.clone(), draining, request, respond);
                    tasks::spawn(Kind::Worker, "call", call);
                }
                Some(Err(error)) => return match error.reason() {
                    // What h2 itself counts: fragments of a head, resets, small frames.
                    Some(Reason::ENHANCE_YOUR_CALM) if error.is_library() => CloseReason::Flood,
                    _ => CloseReason::Broken,
                },
                None => return match going {
                    Some(reason) => reason,
                    None if connection.idle().0 == 0 => CloseReason::Clean,
                    None => CloseReason::Broken,
                },
            },
            () = answered(&mut pings), if timers.ping_open => {
                timers.ping_open = false;
                timers.ping = clock::now() + limits.ping_every;
            }
            () = connection.hurry.notified() => timers.sweep = clock::now(),
            () = timer.as_mut() => {
                let now = clock::now();
                if now >= timers.ping {
                    if timers.ping_open {
                        cut(h2, Reason::NO_ERROR).await;
                        return CloseReason::Silent;
                    }
                    if let Some(pings) = &mut pings {
                        // It fails only when the connection is closed, of which `accept` tells.
                        let _closed = pings.send_ping(Ping::opaque());
                    }
                    timers.ping_open = true;
                    timers.ping = now + limits.ping_answer;
                }
            }
        }
    }
}

impl Timers {
    fn next(&self, idle: Instant) -> Instant {
        let other = self.cut.unwrap_or(idle);
        other.min(self.sweep).min(self.ping)
    }
}

/// Ends a connection with its open streams, trying for a moment to say so.
async fn cut<IO>(mut h2: Box<server::Connection<IO, Bytes>>, reason: Reason)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    h2.abrupt_shutdown(reason);
    let flushed = poll_fn(|cx| h2.poll_closed(cx));
    let _said_or_not = tokio::time::timeout(LAST_WORD, flushed).await;
}

/// Returns when the peer has answered our PING; never, when the connection is closed.
async fn answered(pings: &mut Option<PingPong>) {
    match pings {
        Some(pings) => {
            if poll_fn(|cx| pings.poll_pong(cx)).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}
