//! The worker port: takes connections, tells by their first bytes what they are, and serves them.
//! Below TLS the same two kinds come.
//!
//! Control streams (HTTP/2) go to the gRPC service in [`super::attach`]; CONNECTs are judged here and
//! handed to whoever waits for them, or relayed to the node that issued their ticket
//! ([`super::landing`]).

use super::Tunnels;
use super::attach::Attach;
use super::desk::Incoming;
use super::landing::{self, Connect};
use super::wire::Speaks;
use crate::net::{TcpListener, TcpStream};
use crate::prefixed::{ByteStream, Prefixed};
use crate::tasks;
use crate::tls::Stream;
use crate::tls::accept::Port;
use bytes::BytesMut;
use pontoon_proto::connect::{self, HEAD_MAX, Parsed, Protocol, Refusal, Request};
use pontoon_proto::worker::worker_server::WorkerServer;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// How long a connection may take to show what it is, and to complete its head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How many connections may be in their first bytes at once; more wait in the listener's backlog.
/// Each costs a head's buffer, so 64 MiB at worst.
const UNKNOWN_MAX: usize = 4096;

/// How long and how much a refused peer may still send, so that closing does not reset the
/// connection before it has read the answer.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 64 * 1024);

/// How often an HTTP/2 connection is probed, and how long it may take to answer: one whose other end
/// has vanished goes within 15 s, whether or not it carries a control stream.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// How long to pause when the machine is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The largest message of a sidecar, in bytes: all sessions of a worker with the most slots are 600 KiB.
const MESSAGE_MAX: usize = 1 << 20;

/// HTTP/2 connections on their way to the gRPC server.
const ATTACHING_MAX: usize = 64;

type Control = mpsc::Sender<io::Result<Prefixed<Stream>>>;

/// Serves the worker port until the node stops. `port` says in which tongues.
pub(crate) async fn serve(listener: TcpListener, port: Port, tunnels: Tunnels) {
    let (control, attaching) = mpsc::channel(ATTACHING_MAX);
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(16)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .http2_max_header_list_size(HEAD_MAX as u32)
        .add_service(
            WorkerServer::new(Attach::new(tunnels.clone())).max_decoding_message_size(MESSAGE_MAX),
        )
        .serve_with_incoming(ReceiverStream::new(attaching));
    let stop = tunnels.stop().clone();
    tokio::select! {
        () = stop.cancelled() => {}
        result = server => {
            if let Err(error) = result {
                tracing::error!(%error, "the control service of the worker port has ended");
            }
        }
        () = accept(listener, port, control, tunnels) => {}
    }
}

async fn accept(listener: TcpListener, port: Port, control: Control, tunnels: Tunnels) {
    let unknown = Arc::new(Semaphore::new(UNKNOWN_MAX));
    loop {
        let Ok(permit) = Arc::clone(&unknown).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the worker port could not take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (port, control, tunnels) = (port.clone(), control.clone(), tunnels.clone());
        tasks::spawn(tasks::Kind::Worker, "worker-connection", async move {
            let greet = greet(stream, &port, &control, &tunnels);
            let _or_timed_out = tokio::time::timeout(HEAD_WITHIN + LINGER.0, greet).await;
            drop(permit);
        });
    }
}

async fn greet(
    stream: TcpStream,
    port: &Port,
    control: &Control,
    tunnels: &Tunnels,
) -> io::Result<()> {
    let Some(mut stream) = port.greet(stream).await else {
        return Ok(());
    };
    let mut read = BytesMut::with_capacity(1024);
    let parsed = tokio::time::timeout(HEAD_WITHIN, read_head(&mut stream, &mut read)).await??;
    match parsed {
        None => {
            let stream = Prefixed::new(read.freeze(), stream);
            let _or_stopping = control.send(Ok(stream)).await;
            Ok(())
        }
        Some(Parsed::Complete(Request::Health, _)) => answer(stream, &connect::healthy()).await,
        Some(Parsed::Complete(
            Request::Connect {
                ticket,
                id,
                worker,
                speaks,
            },
            length,
        )) => {
            let behind = read.split_off(length).freeze();
            let connect = Connect {
                ticket,
                id,
                worker,
                speaks,
            };
            if let Some(entry) = connect.issued_elsewhere(tunnels) {
                let source = stream.socket().peer_addr().ok().map(|peer| peer.ip());
                return match landing::ask(tunnels, entry, source, connect).await {
                    Ok(agreed) => agreed.carry(tunnels, stream, behind).await,
                    Err(refusal) => answer(stream, &refusal.answer()).await,
                };
            }
            let Connect { ticket, speaks, .. } = connect;
            let Ok(waiter) = tunnels.desk().present(&ticket, id, worker) else {
                return answer(stream, &Refusal::InvalidAuth.answer()).await;
            };
            stream.write_all(connect::CONNECTED.as_bytes()).await?;
            let stream: Box<dyn ByteStream> = match behind.is_empty() {
                true => Box::new(stream),
                false => Box::new(Prefixed::new(behind, stream)),
            };
            let speaks = speaks.as_deref().and_then(Speaks::parse);
            let incoming = Incoming {
                stream,
                speaks,
                through: None,
            };
            // Whoever waited has just given up: the sidecar sees its tunnel close.
            let _or_gone = waiter.send(incoming);
            Ok(())
        }
        Some(Parsed::Refused(refusal)) => {
            tunnels.desk().count(refusal.label());
            answer(stream, &refusal.answer()).await
        }
        Some(Parsed::Incomplete) => Ok(()),
    }
}

/// Reads until it is clear what this is: `None` for HTTP/2. `Incomplete` when the peer closed.
async fn read_head(stream: &mut Stream, read: &mut BytesMut) -> io::Result<Option<Parsed>> {
    loop {
        match connect::protocol(read) {
            Protocol::Http2 => return Ok(None),
            Protocol::Unclear => {}
            Protocol::Http1 => match connect::parse(read) {
                Parsed::Incomplete => {}
                parsed => return Ok(Some(parsed)),
            },
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(Some(Parsed::Incomplete));
        }
    }
}

async fn answer(mut stream: Stream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(LINGER.1);
    let _or_timed_out =
        tokio::time::timeout(LINGER.0, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(())
}
