//! Whether the worker lives and takes calls (contract K-HLT-1, C-RSM-7).
//!
//! One connection to the worker's port is kept open: a worker that dies closes it, so its death is
//! noticed at once and not at the next check. Whether what answers afterwards is the same worker is
//! told by its listening socket, where it is on this machine; for a remote one, an HTTP/2 connection
//! that broke without GOAWAY counts as a restart, and with the checks `http` and `tcp` a restart
//! between two checks can't be told.

use super::{http, listener};
use crate::{net, tasks};
use bytes::Bytes;
use h2::client::SendRequest;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long one check may take.
const WITHIN: Duration = Duration::from_secs(2);

/// How many checks in a row may fail before the worker counts as dead.
const FAILURES_MAX: u32 = 3;

/// How the worker is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// `grpc.health.v1.Health/Check`. A gRPC server without that service counts as serving.
    Grpc,
    /// GET of this path: 200 is serving, 503 not serving, all else a failure.
    Http(String),
    /// The port takes a connection.
    Tcp,
}

impl Check {
    /// Reads `grpc`, `http:/PATH` or `tcp`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "grpc" => Some(Check::Grpc),
            None if text == "tcp" => Some(Check::Tcp),
            Some(("http", path)) if path.starts_with('/') => Some(Check::Http(path.to_owned())),
            _ => None,
        }
    }
}

/// What one check found.
#[derive(Debug)]
enum Finding {
    Serving,
    NotServing,
    /// Nobody listens.
    Refused,
    Failed(String),
}

/// What is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It lives; whether it takes new sessions.
    Alive {
        /// `not serving` drains it.
        serving: bool,
    },
    /// Too early to say.
    Unsure(String),
    /// Its memory is gone.
    Dead(String),
}

/// Watches one worker's port.
pub(super) struct Probe {
    address: String,
    check: Check,
    failures: u32,
    serving: bool,
    kept: Option<Kept>,
    /// The listening sockets of the worker life that was last found healthy.
    sockets: Option<BTreeSet<u64>>,
    /// An HTTP/2 connection to it broke without GOAWAY.
    broke: bool,
}

/// The connection that is kept open.
struct Kept {
    sender: Option<SendRequest<Bytes>>,
    /// Resolves when the connection closes.
    closed: oneshot::Receiver<()>,
}

impl Probe {
    pub(super) fn new(address: &str, check: Check) -> Self {
        Self {
            address: address.to_owned(),
            check,
            failures: 0,
            serving: false,
            kept: None,
            sockets: None,
            broke: false,
        }
    }

    /// Forgets the worker's earlier life.
    pub(super) fn reset(&mut self) {
        *self = Self::new(&self.address, self.check.clone());
    }

    /// Returns when the kept connection closes; never while there is none.
    pub(super) async fn closed(&mut self) {
        let Some(kept) = &mut self.kept else {
            return std::future::pending().await;
        };
        let _closed = (&mut kept.closed).await;
        let graceful = kept.sender.as_mut().is_none_or(said_goaway);
        self.broke |= !graceful;
        self.kept = None;
    }

    /// Asks the worker.
    pub(super) async fn look(&mut self) -> Verdict {
        let finding = match timeout(WITHIN, self.ask()).await {
            Ok(finding) => finding,
            Err(_) => Finding::Failed(format!("no answer within {} s", WITHIN.as_secs())),
        };
        if let Finding::Failed(_) | Finding::Refused = finding {
            self.kept = None;
        }
        if let Some(verdict) = self.restarted(&finding) {
            return verdict;
        }
        match finding {
            Finding::Serving | Finding::NotServing => {
                self.failures = 0;
                self.serving = matches!(finding, Finding::Serving);
                let serving = self.serving;
                Verdict::Alive { serving }
            }
            Finding::Refused => Verdict::Dead("the port is refused".to_owned()),
            Finding::Failed(cause) => {
                self.failures += 1;
                match self.failures >= FAILURES_MAX {
                    true => Verdict::Dead(cause),
                    false => Verdict::Unsure(cause),
                }
            }
        }
    }

    /// Whether what answers is no longer the worker that answered before.
    fn restarted(&mut self, finding: &Finding) -> Option<Verdict> {
        if let Finding::Refused | Finding::Failed(_) = finding {
            return None;
        }
        let now = listener::inodes(&self.address);
        let restarted = match (&self.sockets, &now) {
            (Some(before), Some(now)) => before.is_disjoint(now),
            _ => self.broke,
        };
        self.broke = false;
        if restarted {
            return Some(Verdict::Dead("it was restarted".to_owned()));
        }
        self.sockets = now;
        None
    }

    async fn ask(&mut self) -> Finding {
        if self.kept.is_none() {
            self.kept = match self.keep().await {
                Ok(kept) => Some(kept),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Finding::Refused;
                }
                Err(error) => return Finding::Failed(error.to_string()),
            };
        }
        match (&self.check, self.kept.as_mut()) {
            (
                Check::Grpc,
                Some(Kept {
                    sender: Some(sender),
                    ..
                }),
            ) => grpc(sender.clone(), &self.address)
                .await
                .unwrap_or_else(|error| Finding::Failed(error.to_string())),
            (Check::Http(path), _) => match http::get(&self.address, path, WITHIN).await {
                Ok(status) if status.is_success() => Finding::Serving,
                Ok(::http::StatusCode::SERVICE_UNAVAILABLE) => Finding::NotServing,
                Ok(status) => Finding::Failed(format!("GET {path} answered {status}")),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Finding::Refused,
                Err(error) => Finding::Failed(error.to_string()),
            },
            _ => Finding::Serving,
        }
    }

    /// Opens the connection that is kept.
    async fn keep(&self) -> io::Result<Kept> {
        let mut stream = net::dial(&self.address, WITHIN).await?;
        let (close, closed) = oneshot::channel();
        let sender = match self.check {
            Check::Grpc => {
                let (sender, connection) = h2::client::Builder::new()
                    .enable_push(false)
                    .handshake::<_, Bytes>(stream)
                    .await
                    .map_err(io::Error::other)?;
                tasks::spawn(tasks::Kind::Worker, "worker-kept", async move {
                    let _how = connection.await;
                    drop(close);
                });
                Some(sender)
            }
            Check::Http(_) | Check::Tcp => {
                let mut close = close;
                tasks::spawn(tasks::Kind::Worker, "worker-kept", async move {
                    use tokio::io::AsyncReadExt as _;
                    let mut ignored = [0; 256];
                    loop {
                        tokio::select! {
                            () = close.closed() => return,
                            read = stream.read(&mut ignored) => {
                                if !matches!(read, Ok(1..)) {
                                    return;
                                }
                            }
                        }
                    }
                });
                None
            }
        };
        Ok(Kept { sender, closed })
    }
}

/// Whether the connection behind this sender was told GOAWAY before it closed.
fn said_goaway(sender: &mut SendRequest<Bytes>) -> bool {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match sender.poll_ready(&mut cx) {
        std::task::Poll::Ready(Err(error)) => error.is_go_away(),
        _ => false,
    }
}

/// gRPC's status "unimplemented".
const UNIMPLEMENTED: &[u8] = b"12";

/// One `grpc.health.v1.Health/Check`, of the server as a whole.
async fn grpc(sender: SendRequest<Bytes>, authority: &str) -> Result<Finding, h2::Error> {
    let request = ::http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(());
    let Ok(request) = request else {
        return Ok(Finding::Failed(
            "the worker's address makes no URL".to_owned(),
        ));
    };
    let (answer, mut body) = sender.ready().await?.send_request(request, false)?;
    // One uncompressed message of no bytes: the default request names no service.
    body.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), true)?;
    let answer = answer.await?;
    let mut status = answer.headers().get("grpc-status").cloned();
    let http_status = answer.status();
    let mut body = answer.into_body();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if message.len() < 64 {
            message.extend_from_slice(&data);
        }
    }
    if let Some(trailers) = body.trailers().await? {
        status = trailers.get("grpc-status").cloned().or(status);
    }
    let status = status.as_ref().map(|value| value.as_bytes());
    Ok(match (status, message.get(5..7)) {
        // Field 1, status: 1 is SERVING.
        (Some(b"0"), Some([0x08, 1])) => Finding::Serving,
        (Some(b"0"), _) => Finding::NotServing,
        (Some(UNIMPLEMENTED), _) => Finding::Serving,
        (Some(status), _) => {
            let status = String::from_utf8_lossy(status);
            Finding::Failed(format!("the gRPC health check answered status {status}"))
        }
        (None, _) => Finding::Failed(format!("no gRPC answer: HTTP status {http_status}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_as_documented() {
        assert_eq!(Check::parse("grpc"), Some(Check::Grpc));
        assert_eq!(Check::parse("tcp"), Some(Check::Tcp));
        assert_eq!(
            Check::parse("http:/a:b"),
            Some(Check::Http("/a:b".to_owned()))
        );
        assert_eq!(Check::parse("http:a"), None);
        assert_eq!(Check::parse("grpc:/a"), None);
    }

    #[tokio::test]
    async fn k_hlt_1_a_refused_port_is_dead_at_once_and_a_restarted_listener_too() {
        let bind = |address: &str| std::net::TcpListener::bind(address).unwrap();
        let first = bind("127.0.0.1:0");
        let address = first.local_addr().unwrap().to_string();
        let mut probe = Probe::new(&address, Check::Tcp);
        assert_eq!(probe.look().await, Verdict::Alive { serving: true });
        drop(first);
        probe.closed().await;
        let second = bind(&address);
        assert!(matches!(probe.look().await, Verdict::Dead(_)));
        probe.reset();
        assert_eq!(probe.look().await, Verdict::Alive { serving: true });
        drop(second);
        probe.closed().await;
        assert!(matches!(probe.look().await, Verdict::Dead(_)));
    }
}
