//! C-FWD-7, C-FWD-8, C-LSN-2: readers that stop, clients that go, bodies without an end.

use crate::caller::{ask, h2};
use crate::faults::until;
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Checked, Target};
use crate::twin::{Flaw, Twin};
use crate::worker::asked::message;
use crate::{check, ensure, same};
use bytes::Bytes;
use std::time::Duration;

pub const ROWS: &[Row] = &[
    Row {
        id: "C-FWD-7",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(stalled),
        twin: Twin::Flaw(Flaw::Eager),
    },
    Row {
        id: "C-FWD-8",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(gone),
        twin: Twin::Flaw(Flaw::Deaf),
    },
    Row {
        id: "C-LSN-2",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(large),
        twin: Twin::Flaw(Flaw::Bounded),
    },
];

/// What one stalled stream may have in flight: the windows of both hops and of the worker's sidecar,
/// and the buffers of four sockets, rounded up.
const IN_FLIGHT_MAX: u64 = 12 << 20;

/// When a worker has been told that its client left, by the contract.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// A piece of a body that is written for ever.
const PIECE: usize = 64 << 10;

async fn stalled(target: Target) -> Checked {
    // A reader that stops, stops its writer: the worker never reads, so the client's writes must stop.
    let conn = h2::Conn::open(&target.address).await?;
    let call = target.ask("POST", "/stall").with("x-echo-stall", "1");
    let mut open = conn.begin(&call, false).await?;
    let written = write_until_stuck(&mut open.out).await?;
    ensure!(
        written < IN_FLIGHT_MAX,
        "{written} bytes went out that nobody reads"
    );
    // The other way round: a client that never reads stops the worker's sends.
    let mut builder = ::h2::client::Builder::new();
    builder
        .initial_window_size(64 << 10)
        .initial_connection_window_size(8 << 20);
    let slow = h2::Conn::open_with(&target.address, &builder).await?;
    let tag = format!("slow-{}", uuid::Uuid::new_v4());
    let endless = target.ask("POST", "/endless").with("x-echo-tag", &tag);
    let endless = endless
        .with("x-echo-messages", "4000")
        .with("x-echo-size", "16384");
    let mut held = Vec::new();
    for _ in 0..32 {
        let open = slow.begin(&endless, true).await?;
        held.push(h2::head(open.answer).await?);
    }
    // Tiny messages fill no window, but each costs a piece of memory.
    let tiny = target.ask("POST", "/tiny").with("x-echo-tag", &tag);
    let tiny = tiny
        .with("x-echo-messages", "200000")
        .with("x-echo-size", "1");
    for _ in 0..32 {
        let open = slow.begin(&tiny, true).await?;
        held.push(h2::head(open.answer).await?);
    }
    for _ in 0..50 {
        let began = pontoon::clock::now();
        let reply = slow.ask(&target.ask("POST", "/beside")).await?;
        same!(reply.status, 200, "a call beside stalled streams");
        let took = began.elapsed();
        ensure!(
            took < Duration::from_secs(2),
            "a call beside stalled streams took {took:?}"
        );
    }
    let ended = target
        .world
        .worker
        .notes(&tag)
        .iter()
        .filter(|note| *note == "ended")
        .count();
    same!(
        ended,
        0,
        "streams of 64 MiB and of 200,000 messages that the worker could end"
    );
    Ok(())
}

async fn write_until_stuck(out: &mut ::h2::SendStream<Bytes>) -> Result<u64, String> {
    let piece = Bytes::from(vec![b'z'; PIECE]);
    let mut written = 0;
    while written < 64 << 20 {
        let send = h2::send(out, piece.clone());
        match tokio::time::timeout(Duration::from_secs(2), send).await {
            Ok(sent) => sent.map_err(h2::said)?,
            Err(_) => break,
        }
        written += PIECE as u64;
    }
    Ok(written)
}

/// How a client gives a call up.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    ResetsBeforeTheAnswer,
    ResetsBehindIt,
    Closes,
}

async fn gone(target: Target) -> Checked {
    for way in [
        Leaves::ResetsBeforeTheAnswer,
        Leaves::ResetsBehindIt,
        Leaves::Closes,
    ] {
        let mut took = Duration::MAX;
        // A busy machine may hold up either side of one call; who is late by himself always is.
        for _ in 0..3 {
            took = took.min(told_after(&target, way).await?);
            if took < TOLD_WITHIN {
                break;
            }
        }
        ensure!(
            took < TOLD_WITHIN,
            "the worker is told after {took:?} that a client {way:?}"
        );
    }
    Ok(())
}

/// How long after the client gave a call up the worker was told.
async fn told_after(target: &Target, way: Leaves) -> Result<Duration, String> {
    let worker = &target.world.worker;
    let tag = format!("gone-{}", uuid::Uuid::new_v4());
    let held = match way {
        Leaves::ResetsBehindIt => "x-echo-stall",
        _ => "x-echo-hold",
    };
    let call = target.ask("POST", "/gone").grpc().with("x-echo-tag", &tag);
    let conn = h2::Conn::open(&target.address).await?;
    let mut open = conn.begin(&call.with(held, "1"), false).await?;
    h2::send(&mut open.out, message(b"x"))
        .await
        .map_err(h2::said)?;
    until("the worker has the call", || !worker.notes(&tag).is_empty()).await?;
    let left = match way {
        Leaves::ResetsBeforeTheAnswer => {
            let left = pontoon::clock::now();
            open.out.send_reset(::h2::Reason::CANCEL);
            left
        }
        Leaves::ResetsBehindIt => {
            let (response, _) = h2::head(open.answer).await?;
            let left = pontoon::clock::now();
            drop(response);
            open.out.send_reset(::h2::Reason::CANCEL);
            left
        }
        Leaves::Closes => {
            let left = pontoon::clock::now();
            drop((open, conn));
            left
        }
    };
    let told = until("told", || worker.notes(&tag).len() > 1).await;
    told.map_err(|_| format!("the worker is not told of a client that {way:?}"))?;
    let (at, _) = worker.noted(&tag).swap_remove(1);
    Ok(at.saturating_duration_since(left))
}

async fn large(target: Target) -> Checked {
    let conn = h2::Conn::open(&target.address).await?;
    let call = target.ask("POST", "/large").with("x-echo-digest", "1");
    let mut open = conn.begin(&call, false).await?;
    let piece = Bytes::from(vec![b'z'; 1 << 20]);
    let mut hash = crate::worker::asked::Body::default();
    for _ in 0..64 {
        hash.take(&piece);
        h2::send(&mut open.out, piece.clone())
            .await
            .map_err(h2::said)?;
    }
    open.out.send_data(Bytes::new(), true).map_err(h2::said)?;
    let seen = h2::receive(open.answer).await?.report()?;
    same!(seen.0["length"], 64 << 20, "the length of a streamed body");
    same!(seen.text("sha256"), hash.digest(), "its bytes");
    let back = target.ask("POST", "/back").with("x-echo-messages", "1024");
    let back = ask(&target, &back.with("x-echo-size", "65531")).await?;
    same!(back.body.len(), 64 << 20, "the length of a streamed answer");
    Ok(())
}

#[test]
fn c_fwd_7_a_reader_that_stops_stops_its_writer_and_nobody_else() {
    prove("C-FWD-7");
}

#[test]
fn c_fwd_8_the_worker_is_told_when_a_client_gives_up() {
    prove("C-FWD-8");
}

#[test]
fn c_lsn_2_bodies_of_64_mib_cross_in_both_directions() {
    prove("C-LSN-2");
}
