//! The suite's worker: says exactly what it received, and does what a request's own headers tell it.
//!
//! One port speaks HTTP/2 with prior knowledge ([`h2`]), HTTP/1.1 and WebSockets ([`h1`]); the first
//! bytes of a connection decide. It knows nothing of Pontoon; a sidecar attaches it. What it is told:
//!
//! | header | what it does |
//! | --- | --- |
//! | `x-echo-status: N` | answers with this status |
//! | `x-echo-header: name: value` | sends this header; may come several times |
//! | `x-echo-trailer: name: value` | sends this trailer; may come several times |
//! | `x-echo-trailers-only: 1` | ends the stream with the headers |
//! | `x-echo-informational: N` | sends a 1xx before the answer |
//! | `x-echo-messages: N`, `x-echo-size: N` | streams N gRPC messages of this size |
//! | `x-echo-mirror: 1` | sends the body back as it comes |
//! | `x-echo-digest: 1` | answers with the length of the body and its SHA-256 alone |
//! | `x-echo-stall: 1` | answers, and never reads the body |
//! | `x-echo-hold: 1` | answers nothing until the client has gone |
//! | `x-echo-reset: N` | resets the stream with this code, without an answer |
//! | `x-echo-reset-after: N` | resets it behind N messages of the answer |
//! | `x-echo-tag: NAME` | notes under this name what happens to the call |
//! | `x-echo-refuse: N` | refuses the next N calls of this tag with REFUSED_STREAM |
//!
//! A WebSocket's first message to the client is the report of its handshake; then it echoes. It is
//! told by the query, which browsers can set: `protocol=NAME` is selected, `close=CODE` closes.

pub mod asked;
mod h1;
mod h2;

pub use h2::send as send_all;

use pontoon::clock;
use pontoon::net::{self, TcpStream};
use pontoon::tasks::{self, Kind};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// A worker that listens.
#[derive(Clone)]
pub struct EchoWorker {
    /// Where.
    pub address: String,
    notes: Arc<Notes>,
}

/// What happened, by tag.
#[derive(Default)]
pub struct Notes(Mutex<BTreeMap<String, Vec<(Instant, String)>>>);

impl Notes {
    /// Adds what happened to a call of this tag.
    fn add(&self, tag: &str, what: impl Into<String>) {
        if !tag.is_empty() {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let note = (clock::now(), what.into());
            all.entry(tag.to_owned()).or_default().push(note);
        }
    }

    /// How many notes of this text a tag has.
    fn count(&self, tag: &str, what: &str) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let notes = all.get(tag).into_iter().flatten();
        notes.filter(|(_, note)| note == what).count()
    }
}

impl EchoWorker {
    /// Listens; `only_h1` is a worker that has never heard of HTTP/2.
    pub async fn listen(address: &str, only_h1: bool) -> io::Result<EchoWorker> {
        let listener = net::listen("the echo worker", address).await?;
        let address = listener.local_addr()?.to_string();
        let notes = Arc::new(Notes::default());
        let worker = EchoWorker {
            address,
            notes: Arc::clone(&notes),
        };
        tasks::spawn(Kind::Worker, "echo worker", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let notes = Arc::clone(&notes);
                tasks::spawn(Kind::Worker, "echo connection", async move {
                    // A peer that breaks off is noted where a test waits for it.
                    serve(stream, notes, only_h1).await.ok();
                });
            }
        });
        Ok(worker)
    }

    /// What was noted under a tag so far.
    pub fn notes(&self, tag: &str) -> Vec<String> {
        let notes = self.noted(tag).into_iter();
        notes.map(|(_, note)| note).collect()
    }

    /// The same, with the times at which it happened.
    pub fn noted(&self, tag: &str) -> Vec<(Instant, String)> {
        let all = self.notes.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(tag).cloned().unwrap_or_default()
    }
}

async fn serve(stream: TcpStream, notes: Arc<Notes>, only_h1: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 4];
    let mut seen = stream.peek(&mut first).await?;
    while (1..4).contains(&seen) && b"PRI ".starts_with(&first[..seen]) {
        tokio::task::yield_now().await;
        seen = stream.peek(&mut first).await?;
    }
    if seen == 4 && &first == b"PRI " && !only_h1 {
        h2::serve(stream, notes).await
    } else {
        h1::serve(stream, notes).await
    }
}
