//! The TCP port (RFC 7766): each message has its length in front, connections carry many, and answers
//! come in the order of the questions.

use super::Shared;
use super::answer::Way;
use super::rate;
use crate::net::{TcpListener, TcpStream};
use crate::tasks::{self, Kind};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;

/// Connections at the same time; a connection holds about 12 KiB, so all of them 6 MB.
const CONNECTIONS_MAX: u32 = 512;

/// Connections of one prefix, an IPv4 /24 or an IPv6 /56: nobody takes all of them.
const SOURCE_MAX: u32 = 64;

/// How long a connection may stay without a question, and a question or an answer may take. RFC 7766
/// 6.2.3 asks for seconds.
const IDLE: Duration = Duration::from_secs(10);

/// The longest question, as by UDP.
const QUESTION_MAX: u16 = 4_096;

/// The pause after a connection that could not be accepted, for want of descriptors most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let places: Arc<Places> = Arc::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the DNS port could not accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = Places::take(&places, rate::key(from.ip())) else {
            shared.counters.connections_refused.fetch_add(1, Relaxed);
            continue;
        };
        let shared = shared.clone();
        drop(tasks::spawn(Kind::Worker, "DNS connection", async move {
            let _counted = shared.counters.connections.enter();
            // A client that breaks off is no news.
            let _ = carry(stream, from, &shared).await;
            drop(place);
        }));
    }
}

async fn carry(stream: TcpStream, from: SocketAddr, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(usize::from(QUESTION_MAX), stream);
    let mut question = Vec::new();
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        if length > QUESTION_MAX {
            return Ok(());
        }
        question.resize(usize::from(length), 0);
        timeout(IDLE, stream.read_exact(&mut question)).await??;
        // What gets no answer would leave its sender waiting.
        let Some(answer) = shared.answer(&question, from, Way::Tcp) else {
            return Ok(());
        };
        // Never longer than a message can be.
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = Vec::with_capacity(answer.len() + 2);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&answer);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// Who has how many connections.
#[derive(Debug, Default)]
struct Places(Mutex<BTreeMap<u64, u32>>);

impl Places {
    /// A place for a connection of this source, while there is one.
    fn take(places: &Arc<Places>, source: u64) -> Option<Place> {
        let mut taken = places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = taken.values().sum();
        let own = taken.get(&source).copied().unwrap_or(0);
        if all >= CONNECTIONS_MAX || own >= SOURCE_MAX {
            return None;
        }
        taken.insert(source, own + 1);
        Some(Place {
            places: places.clone(),
            source,
        })
    }
}

/// A place; it is given back when it is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    source: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.source) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_never_takes_all_places_and_all_sources_never_more() {
        let places: Arc<Places> = Arc::default();
        let mut held = Vec::new();
        for source in 0..20 {
            for _ in 0..SOURCE_MAX {
                held.extend(Places::take(&places, source));
            }
            assert!(Places::take(&places, source).is_none());
        }
        assert_eq!(held.len(), CONNECTIONS_MAX as usize);
        held.truncate(1);
        assert_eq!(places.0.lock().unwrap().len(), 1);
        assert!(Places::take(&places, 19).is_some());
        held.clear();
        assert!(places.0.lock().unwrap().is_empty());
    }
}
