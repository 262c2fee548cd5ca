//! The UDP port: one loop, which answers each message before it takes the next.
//!
//! An answer takes microseconds and waits for nothing: the view is a pointer, the limiter is the loop's
//! own, and what the kernel has no room for is dropped.

use super::Shared;
use super::answer::Way;
use super::counters::Dropped;
use super::rate::{Limiter, Verdict};
use crate::net::UdpSocket;
use crate::tasks::{self, Kind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The longest question. One with every option that there is takes a few hundred bytes; a longer message
/// is cut here, and so malformed.
const QUESTION_MAX: usize = 4_096;

/// The pause after an error of the socket, which keeps the loop from spinning.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves for ever. The loop is a task of its own: a bug that some message finds costs that message, not
/// the node.
pub(super) async fn serve(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    loop {
        let messages = receive(socket.clone(), shared.clone());
        if let Err(error) = tasks::spawn(Kind::Worker, "DNS messages", messages).await {
            tracing::error!(%error, "a DNS message could not be answered");
            shared.counters.dropped(Dropped::Broken);
        }
    }
}

async fn receive(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut limiter = Limiter::new(shared.rate);
    let mut buffer = [0; QUESTION_MAX];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "the DNS port could not receive");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let way = match limiter.judge(shared.now(), from.ip()) {
            Verdict::Answer => Way::Udp,
            over => {
                shared.counters.limited.fetch_add(1, Relaxed);
                if over == Verdict::Drop {
                    shared.counters.dropped(Dropped::Rate);
                    continue;
                }
                Way::UdpCut
            }
        };
        if let Some(answer) = shared.answer(&buffer[..length], from, way)
            && socket.try_send_to(&answer, from).is_err()
        {
            shared.counters.dropped(Dropped::Unsent);
        }
    }
}
