//! Takes connections: in clear text where there is no TLS, and after the handshake where there is.
//!
//! The first byte tells the two apart: a TLS handshake begins with 22 (RFC 8446 5.1), which neither
//! HTTP/1.1 nor HTTP/2 does. Whoever speaks the wrong one of the two is told in its own language, and
//! the log says what to do.

use super::said::Said;
use super::{Stream, Tls, explain};
use crate::net::{TcpListener, TcpStream};
use crate::tasks::{self, Kind};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

/// The first byte of a TLS handshake.
pub(crate) const HANDSHAKE: u8 = 22;

/// An empty SETTINGS frame, with which an HTTP/2 server begins (RFC 9113 3.4): a TLS client that sees
/// it knows that it met clear text.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// How long a caller may take to show what it is, and for the handshake: ten round trips of 150 ms,
/// and patience for a machine that is busy with elections.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Connections in their handshakes at once, about 20 KiB each; more wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 256;

/// Connections on their way to the server; it takes them at once.
const READY_MAX: usize = 16;

/// How long and how much a refused caller may still send.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 64 * 1024);

/// How long to pause when the machine is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whom a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Nodes of this cluster, which show their certificates.
    Nodes,
    /// Others, which show none.
    Others,
}

/// A port, and how it is guarded.
#[derive(Clone)]
pub(crate) struct Port {
    name: &'static str,
    tls: Option<Tls>,
    whom: For,
    /// Where there is TLS, clear text is taken as well.
    clear_too: bool,
    said: Arc<Said>,
}

/// The connections of a listener, ready to be read. The listener is closed when this is dropped, and
/// so is what is on its way.
pub type Incoming = ReceiverStream<io::Result<Stream>>;

/// Takes the connections of a listener.
pub(crate) fn incoming(listener: TcpListener, port: Port) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY_MAX);
    let accepting = async move {
        tokio::select! {
            () = ready.closed() => {}
            () = accept(listener, port, &ready) => {}
        }
    };
    tasks::spawn(Kind::Worker, "accept", accepting);
    ReceiverStream::new(incoming)
}

async fn accept(listener: TcpListener, port: Port, ready: &mpsc::Sender<io::Result<Stream>>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                let port = port.name;
                tracing::warn!(port, %error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (port, ready) = (port.clone(), ready.clone());
        tasks::spawn(Kind::Worker, "handshake", async move {
            let greeted = tokio::time::timeout(HANDSHAKE_WITHIN, port.greet(stream)).await;
            if let Ok(Some(stream)) = greeted {
                let _or_stopping = ready.send(Ok(stream)).await;
            }
            drop(place);
        });
    }
}

impl Port {
    /// `name` is for logs.
    pub(crate) fn new(name: &'static str, tls: Option<Tls>, whom: For) -> Self {
        Self {
            name,
            tls,
            whom,
            clear_too: false,
            said: Arc::default(),
        }
    }

    /// The same, also for callers in clear text, if `clear` says so.
    pub(crate) fn and_clear_text(mut self, clear: bool) -> Self {
        self.clear_too = clear;
        self
    }

    /// The connection, when it is of the right kind; the log says why not.
    pub(crate) async fn greet(&self, mut stream: TcpStream) -> Option<Stream> {
        let _or_broken = stream.set_nodelay(true);
        let mut first = [0];
        if stream.peek(&mut first).await.ok()? == 0 {
            // A probe that only connects.
            return None;
        }
        let speaks_tls = first[0] == HANDSHAKE;
        match &self.tls {
            None if !speaks_tls => Some(Stream::clear(stream)),
            None => {
                self.refuse(&stream, WANTS_TLS);
                let _or_gone = stream.write_all(&SETTINGS).await;
                linger(stream).await;
                None
            }
            Some(_) if !speaks_tls && self.clear_too => Some(Stream::clear(stream)),
            Some(tls) => self.handshake(stream, tls, speaks_tls).await,
        }
    }

    /// Our side of the handshake, also with one who speaks clear text: it gets TLS's own answer.
    async fn handshake(&self, stream: TcpStream, tls: &Tls, speaks_tls: bool) -> Option<Stream> {
        let config = match self.whom {
            For::Nodes => tls.for_nodes(),
            For::Others => tls.for_others(),
        };
        let accepted = TlsAcceptor::from(config).accept(stream).into_fallible();
        match accepted.await {
            Ok(stream) => Some(match self.whom {
                For::Nodes => Stream::with_node(stream.into(), tls.cluster()),
                For::Others => Stream::tls(stream.into()),
            }),
            Err((error, stream)) => {
                let text = match (speaks_tls, self.whom) {
                    (true, _) => &explain::io(&error),
                    (false, For::Nodes) => CLEAR_NODE,
                    (false, For::Others) => CLEAR_OTHER,
                };
                self.refuse(&stream, text);
                linger(stream).await;
                None
            }
        }
    }

    /// Says it in one line per caller and problem.
    fn refuse(&self, stream: &TcpStream, text: &str) {
        let from = stream.peer_addr().map_or_else(
            |_| "somebody".to_owned(),
            |address| address.ip().to_string(),
        );
        if self.said.is_news(&format!("{from} {text}"), text) {
            let port = self.name;
            tracing::warn!(port, from, "a connection was refused: {text}");
        }
    }
}

/// Closes so that the other side reads our answer: what it still sends is taken, because unread bytes
/// would make a reset of the close.
async fn linger(mut stream: TcpStream) {
    let _or_gone = stream.shutdown().await;
    let mut rest = stream.take(LINGER.1);
    let mut nowhere = tokio::io::sink();
    let drain = tokio::io::copy(&mut rest, &mut nowhere);
    let _or_timed_out = tokio::time::timeout(LINGER.0, drain).await;
}

/// What the log says of clear text where TLS is configured.
const CLEAR_NODE: &str = "it speaks clear text, and this node speaks TLS: set [tls] on the other \
                          node as well, or on neither";
const CLEAR_OTHER: &str = "it speaks clear text, and this port speaks TLS: give it --ca-file or \
                           PONTOON_CA_FILE, and endpoints that begin with https://";

/// What the log says where no TLS is configured.
const WANTS_TLS: &str = "it speaks TLS, and this node speaks clear text: set [tls] on this node \
                         as well, or on neither";
