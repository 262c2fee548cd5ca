//! C-LSN-3: floods of control frames, written by hand.

use crate::caller::ask;
use crate::support::raw::frame;
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Checked, Target};
use crate::twin::Twin;
use crate::{check, ensure, same};
use pontoon::net;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub const ROWS: &[Row] = &[Row {
    id: "C-LSN-3/floods",
    wires: Wires::H2,
    needs: Needs::Client,
    check: check!(floods),
    twin: Twin::Elsewhere("a twin reads frames itself, so a flood never reaches what is behind"),
}];

/// The preface, SETTINGS, and then whatever a test adds.
async fn raw(target: &Target) -> Result<net::TcpStream, String> {
    let dialed = net::dial(&target.address, Duration::from_secs(5)).await;
    let mut stream = dialed.map_err(|error| error.to_string())?;
    let mut hello = pontoon_proto::connect::PREFACE.to_vec();
    hello.extend_from_slice(&frame(4, 0, 0, &[]));
    stream
        .write_all(&hello)
        .await
        .map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Writes `one` until the peer ends the connection, at most `count` times; the error code of its
/// GOAWAY, if it said one.
async fn flood(
    target: &Target,
    what: &str,
    count: usize,
    mut one: impl FnMut(usize) -> Vec<u8>,
) -> Result<Option<u32>, String> {
    let (mut from, mut to) = raw(target).await?.into_split();
    let reader = async move {
        let mut seen = Vec::new();
        let read = from.read_to_end(&mut seen);
        let ended = tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .is_ok();
        (ended, seen)
    };
    let writer = async {
        for at in 0..count {
            if to.write_all(&one(at)).await.is_err() {
                return to;
            }
        }
        // The write side stays open, so that an end is the peer's.
        to
    };
    let ((ended, seen), _to) = tokio::join!(reader, writer);
    ensure!(ended, "{what}: {count} frames, and the connection goes on");
    Ok(goaway(&seen))
}

/// The code of the last GOAWAY in a stream of frames.
fn goaway(mut bytes: &[u8]) -> Option<u32> {
    let mut code = None;
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let payload = bytes.get(9..9 + length)?;
        if bytes[3] == 7 && length >= 8 {
            code = Some(u32::from_be_bytes([
                payload[4], payload[5], payload[6], payload[7],
            ]));
        }
        bytes = &bytes[9 + length..];
    }
    code
}

/// ENHANCE_YOUR_CALM.
const CALM: Option<u32> = Some(11);

async fn floods(target: Target) -> Checked {
    let ping = |_| frame(6, 0, 0, &[7; 8]);
    let settings = |_| frame(4, 0, 0, &[]);
    // One HEADERS without END_HEADERS, and then CONTINUATION for ever.
    let continuation = |at| match at {
        0 => frame(1, 0, 1, &[0x82, 0x86, 0x84]),
        _ => frame(9, 0, 1, &vec![0; 4096]),
    };
    flood(&target, "SETTINGS", 40_000, settings).await?;
    flood(&target, "PING", 40_000, ping).await?;
    let code = flood(&target, "CONTINUATION", 2_000, continuation).await?;
    ensure!(
        code.is_none() || code == CALM,
        "CONTINUATION ends with {code:?}"
    );
    let reply = ask(&target, &target.ask("POST", "/other")).await?;
    same!(reply.status, 200, "another connection");
    Ok(())
}

#[test]
fn c_lsn_3_floods_of_control_frames_end_their_own_connection_only() {
    prove("C-LSN-3/floods");
}
