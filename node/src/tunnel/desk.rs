//! The desk where tickets are issued and where CONNECTs meet who waits for them.
//!
//! A ticket and its waiter live under one lock, so a CONNECT is either good and handed over, or
//! refused; a waiter that gives up takes its ticket along.

use super::wire::Speaks;
use crate::ops::metrics::Metrics;
use crate::prefixed::ByteStream;
use crate::{clock, random};
use pontoon_proto::id::{NodeBoot, NodeId, RequestId, WorkerId};
use pontoon_proto::ticket::{Presented, Refusal, Table, Ticket};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A byte stream that a sidecar opened and that was found good.
pub(super) struct Incoming {
    pub(super) stream: Box<dyn ByteStream>,
    /// What the worker at its end speaks, if the sidecar said.
    pub(super) speaks: Option<Speaks>,
    /// The node that relays it, if one does.
    pub(super) through: Option<NodeId>,
}

/// All outstanding tickets of this process, with who waits for each.
#[derive(Clone)]
pub(super) struct Desk(Arc<Inner>);

struct Inner {
    started: Instant,
    metrics: Arc<Metrics>,
    table: Mutex<Waiters>,
}

struct Waiters {
    tickets: Table,
    waiting: BTreeMap<[u8; 16], oneshot::Sender<Incoming>>,
}

/// Waits for one CONNECT. Dropped, it takes the ticket back.
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) stream: oneshot::Receiver<Incoming>,
    desk: Desk,
}

impl Waiting {
    /// Whether the ticket was shown by a good CONNECT, so that its stream is here or about to be.
    pub(super) fn is_shown(&self) -> bool {
        !self.desk.lock().waiting.contains_key(&self.ticket.nonce)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut table = self.desk.lock();
        if table.waiting.remove(&self.ticket.nonce).is_some() {
            table.tickets.cancel(&self.ticket);
        }
    }
}

impl Desk {
    pub(super) fn new(at: NodeBoot, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            started: clock::now(),
            metrics,
            table: Mutex::new(Waiters {
                tickets: Table::new(at),
                waiting: BTreeMap::new(),
            }),
        }))
    }

    /// This node took a new boot.
    pub(super) fn rise(&self, at: NodeBoot) {
        self.lock().tickets.rise(at);
    }

    /// Issues a ticket; `None` when too many are outstanding.
    pub(super) fn register(&self, id: RequestId, worker: WorkerId) -> Option<Waiting> {
        let (sender, stream) = oneshot::channel();
        let mut table = self.lock();
        let ticket = table
            .tickets
            .mint(self.now(), random::bytes(), id, worker)?;
        table.waiting.insert(ticket.nonce, sender);
        drop(table);
        self.0.metrics.worker_token_issued.add();
        Some(Waiting {
            ticket,
            stream,
            desk: self.clone(),
        })
    }

    /// Judges the ticket of a CONNECT; a good one is struck out, and gives who waits for it.
    pub(super) fn present(
        &self,
        ticket: &str,
        id: RequestId,
        worker: Option<WorkerId>,
    ) -> Result<oneshot::Sender<Incoming>, Refusal> {
        let Some(ticket) = Ticket::parse(ticket) else {
            self.count(Refusal::Unknown.label());
            return Err(Refusal::Unknown);
        };
        let presented = Presented { ticket, id, worker };
        let mut table = self.lock();
        let judgement = table.tickets.present(self.now(), &presented);
        let waiter = match judgement.verdict {
            Ok(()) => table.waiting.remove(&ticket.nonce).ok_or(Refusal::Unknown),
            Err(refusal) => Err(refusal),
        };
        drop(table);
        self.count(waiter.as_ref().map_or_else(|r| r.label(), |_| "ok"));
        if let Some(age) = judgement.age {
            match waiter {
                Ok(_) => self.0.metrics.token_age_ok.observe(age),
                Err(_) => self.0.metrics.token_age_refused.observe(age),
            }
        }
        waiter
    }

    /// Counts how a CONNECT came out.
    pub(super) fn count(&self, result: &str) {
        self.0.metrics.worker_connect.add(result);
    }

    fn now(&self) -> Duration {
        clock::now().saturating_duration_since(self.0.started)
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
