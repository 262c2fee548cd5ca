//! C-LSN over HTTP/2: prior knowledge, limits, idle connections.

use crate::caller::{ask, h2};
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Checked, Target};
use crate::twin::{Flaw, Twin};
use crate::{check, ensure, same};
use pontoon::net;
use std::time::Duration;
use tokio::io::AsyncReadExt;

pub const ROWS: &[Row] = &[
    Row {
        id: "C-LSN-1/h2",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(prior_knowledge),
        twin: Twin::Answer(|_, answer| {
            // A bug that serves HTTP/2 and sends everybody away.
            answer.status = http::StatusCode::UPGRADE_REQUIRED;
        }),
    },
    Row {
        id: "C-LSN-3/head",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(large_heads),
        twin: Twin::Flaw(Flaw::Broad),
    },
    Row {
        id: "C-LSN-3/reset",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(rapid_reset),
        twin: Twin::Flaw(Flaw::Lingers),
    },
    Row {
        id: "C-LSN-3/mute",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(mute),
        twin: Twin::Elsewhere("a twin greets what is behind it, so nobody is mute there"),
    },
    Row {
        id: "C-LSN-4",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(idle),
        twin: Twin::Flaw(Flaw::Lingers),
    },
];

async fn prior_knowledge(target: Target) -> Checked {
    let reply = ask(&target, &target.ask("POST", "/prior-knowledge")).await?;
    same!(reply.status, 200, "HTTP/2 with prior knowledge");
    same!(
        reply.report()?.text("path"),
        "/prior-knowledge",
        "the worker answers"
    );
    Ok(())
}

async fn large_heads(target: Target) -> Checked {
    let conn = h2::Conn::open(&target.address).await?;
    let within = target
        .ask("POST", "/head")
        .with("x-wide", &"w".repeat(32 << 10));
    same!(conn.ask(&within).await?.status, 200, "a head of 32 KiB");
    let beyond = target
        .ask("POST", "/head")
        .with("x-large", &"w".repeat(80 << 10));
    match conn.ask(&beyond).await {
        Ok(reply) => same!(reply.status, 431, "a head of 80 KiB"),
        Err(error) => {
            // The client's own library refuses to send what the server announced it won't take.
            ensure!(
                !error.contains("GO_AWAY"),
                "a large head costs its own stream: {error}"
            );
        }
    }
    let other = h2::Conn::open(&target.address).await?;
    same!(
        other.ask(&target.ask("POST", "/other")).await?.status,
        200,
        "another connection"
    );
    Ok(())
}

async fn rapid_reset(target: Target) -> Checked {
    let conn = h2::Conn::open(&target.address).await?;
    let call = target.ask("POST", "/reset").with("x-echo-hold", "1");
    for _ in 0..5000 {
        let Ok(mut open) = conn.begin(&call, false).await else {
            break;
        };
        open.out.send_reset(::h2::Reason::CANCEL);
    }
    let end = tokio::time::timeout(Duration::from_secs(20), conn.end()).await;
    let end = end.map_err(|_| "5,000 calls that were given up at once end no connection")?;
    // Behind a proxy that closes while we still write, the kernel's word may come before the frame.
    ensure!(
        end.contains("ENHANCE_YOUR_CALM") || end.contains("broken pipe"),
        "the reason is said: {end}"
    );
    let other = h2::Conn::open(&target.address).await?;
    same!(
        other.ask(&target.ask("POST", "/other")).await?.status,
        200,
        "another connection"
    );
    Ok(())
}

async fn mute(target: Target) -> Checked {
    let dialed = net::dial(&target.address, Duration::from_secs(5)).await;
    let mut stream = dialed.map_err(|error| error.to_string())?;
    let mut buffer = [0; 64];
    let began = pontoon::clock::now();
    let end = async {
        // A twin or a server may say something first; what counts is the end.
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(15), end).await;
    ensure!(
        ended.is_ok(),
        "a connection without a byte goes on after 15 s"
    );
    ensure!(
        began.elapsed() > Duration::from_secs(5),
        "it has some time, 10 s"
    );
    Ok(())
}

async fn idle(target: Target) -> Checked {
    let conn = h2::Conn::open(&target.address).await?;
    same!(
        conn.ask(&target.ask("POST", "/idle")).await?.status,
        200,
        "a call"
    );
    let end = tokio::time::timeout(Duration::from_secs(50), conn.end()).await;
    let end = end.map_err(|_| "a connection without a call goes on after 50 s")?;
    let clean = end == "closed" || end.contains("NO_ERROR") || end.contains("no error");
    ensure!(clean, "it is ended cleanly: {end}");
    Ok(())
}

#[test]
fn c_lsn_1_http_2_with_prior_knowledge() {
    prove("C-LSN-1/h2");
}

#[test]
fn c_lsn_3_a_head_beyond_64_kib_is_refused_and_costs_its_own_stream_only() {
    prove("C-LSN-3/head");
}

#[test]
fn c_lsn_3_rapid_resets_end_their_own_connection_only() {
    prove("C-LSN-3/reset");
}

#[test]
fn c_lsn_3_a_connection_that_says_nothing_has_ten_seconds() {
    prove("C-LSN-3/mute");
}

#[test]
fn c_lsn_4_a_connection_without_a_call_is_ended_after_half_a_minute() {
    prove("C-LSN-4");
}
