//! What is spoken over a tunnel: HTTP/2 for any number of calls at once, or HTTP/1.1 for one at a
//! time.

use super::Tunnel;
use crate::pipe::Reader;
use bytes::Bytes;
use hyper::client::conn::http1;
use pontoon_proto::trace::Trace;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// What a call needs of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A gRPC call: HTTP/2, whatever else the worker speaks.
    Grpc,
    /// Any other exchange: what the worker speaks.
    Plain,
    /// An upgrade, which only HTTP/1.1 has; it leaves nothing of the tunnel.
    Upgrade,
}

/// What a worker speaks, as its sidecar found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// It answered an HTTP/2 preface.
    Http2,
    /// It did not.
    Http1,
}

impl Speaks {
    /// As the CONNECT's `X-Worker-Protocol` says it.
    pub fn label(self) -> &'static str {
        match self {
            Speaks::Http2 => "h2",
            Speaks::Http1 => "http/1.1",
        }
    }

    /// Reads what [`Speaks::label`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        [Speaks::Http2, Speaks::Http1]
            .into_iter()
            .find(|speaks| speaks.label().eq_ignore_ascii_case(text))
    }
}

/// Our side of a tunnel, ready for a request.
pub enum Wire {
    /// HTTP/2: wait until it is ready, then send.
    H2(h2::client::SendRequest<Bytes>, Arc<Carried>),
    /// HTTP/1.1.
    H1(Lent),
}

impl Wire {
    /// A call goes over it, as a part of this trace; the tunnel's number, for the call's line in the log.
    pub fn carries(&self, trace: Option<Trace>) -> u64 {
        let carried = match self {
            Wire::H2(_, carried) => carried,
            Wire::H1(lent) => &lent.home.life().carried,
        };
        carried.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(trace) = trace {
            carried.trace.get_or_init(|| trace);
        }
        carried.number
    }
}

/// What a tunnel's line in the log says of the calls that it carried.
#[derive(Debug, Default)]
pub struct Carried {
    /// Counts the tunnels of this node's life; calls name theirs by it.
    pub(super) number: u64,
    calls: AtomicU64,
    /// Of the first call that had one.
    trace: OnceLock<Trace>,
}

impl Carried {
    pub(super) fn by(number: u64) -> Self {
        Self {
            number,
            ..Self::default()
        }
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(super) fn trace(&self) -> Option<Trace> {
        self.trace.get().copied()
    }
}

/// The sending side of an HTTP/1.1 tunnel.
pub(super) type Http1 = http1::SendRequest<Reader>;

/// Where an HTTP/1.1 tunnel keeps its sending side between exchanges.
#[derive(Debug)]
pub(super) struct Slot(Mutex<Option<Http1>>);

/// How long a tunnel whose exchange is over may take to be ready for the next one: its own task has
/// only to notice.
const SETTLE: Duration = Duration::from_millis(50);

impl Slot {
    pub(super) fn new(sender: Http1) -> Self {
        Self(Mutex::new(Some(sender)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Http1>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the sending side away, if no exchange has it.
    pub(super) fn let_go(&self) {
        self.lock().take();
    }

    /// Whether an exchange could begin, as far as is known.
    pub(super) fn is_free(&self) -> bool {
        self.lock()
            .as_ref()
            .is_some_and(|sender| !sender.is_closed())
    }
}

/// An HTTP/1.1 tunnel, lent for one exchange; dropped, it goes back.
pub struct Lent {
    sender: Option<Http1>,
    home: Tunnel,
}

impl Lent {
    /// Borrows an idle tunnel; `None` when it is in use or can't take another exchange.
    pub(super) async fn borrow(tunnel: &Tunnel, slot: &Slot) -> Option<Self> {
        let mut sender = slot.lock().take()?;
        let ready = timeout(SETTLE, sender.ready()).await;
        matches!(ready, Ok(Ok(()))).then(|| Self {
            sender: Some(sender),
            home: tunnel.clone(),
        })
    }

    /// The sending side.
    pub(crate) fn sender(&mut self) -> Option<&mut http1::SendRequest<Reader>> {
        self.sender.as_mut()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take()
            && !sender.is_closed()
            && let Some(slot) = self.home.slot()
        {
            *slot.lock() = Some(sender);
        }
    }
}
