//! The one wide event that each call leaves in the log, and what is counted of it. Of calls that came
//! to no session only so many leave one (see `chatter`).
//!
//! It holds no secrets: no header but ids, no query, no cause that a peer wrote.

use super::carry::End;
use super::chatter::Chatter;
use super::counters::Counters;
use crate::clock;
use http::request;
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{FunctionId, RequestId, TenantId, VersionId};
use pontoon_proto::trace::Trace;
use std::sync::Arc;
use tokio::time::Instant;

/// How much of a path is logged: gRPC paths are shorter, and a log line has to stay one.
const PATH_MAX: usize = 256;

/// What is known of a call so far.
pub(super) struct Story {
    connection: u64,
    method: http::Method,
    path: String,
    began: Instant,
    answered: Option<Instant>,
    /// What the client says that the call is a part of.
    pub(super) trace: Option<Trace>,
    pub(super) tenant: Option<TenantId>,
    pub(super) function: Option<FunctionId>,
    pub(super) version: Option<VersionId>,
    pub(super) session: Option<RequestId>,
    pub(super) attempts: u32,
    /// The number of the tunnel that the last attempt went over, as that tunnel's own line has it.
    pub(super) tunnel: Option<u64>,
}

/// How a call ended, for the log and the counters.
pub(super) enum Ending {
    /// Answered here: health, info, an absorbed call.
    Here,
    /// Carried to some end.
    Carried(End),
    /// A fault was reported.
    Fault(Fault),
    /// The client left before there was anything to carry.
    LeftEarly,
}

impl Story {
    /// A call begins.
    pub(super) fn begins(connection: u64, request: &request::Parts) -> Self {
        let path = request.uri.path();
        Self {
            connection,
            method: request.method.clone(),
            path: path.chars().take(PATH_MAX).collect(),
            began: clock::now(),
            answered: None,
            trace: Trace::read(&request.headers),
            tenant: None,
            function: None,
            version: None,
            session: None,
            attempts: 0,
            tunnel: None,
        }
    }

    /// When the call's head arrived.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// The worker's answer begins.
    pub(super) fn answered(&mut self) {
        self.answered = Some(clock::now());
    }

    /// The call is over: counts it and logs it. `bytes` went to the worker and to the client.
    pub(super) fn ends(
        self,
        counters: &Counters,
        chatter: &Arc<Chatter>,
        ending: &Ending,
        bytes: (u64, u64),
    ) {
        counters.bytes_up.add(bytes.0);
        counters.bytes_down.add(bytes.1);
        let (outcome, fault, status) = match ending {
            Ending::Here => ("answered here", None, None),
            Ending::Fault(fault) => {
                counters.fault(*fault);
                ("fault", Some(*fault), None)
            }
            Ending::LeftEarly | Ending::Carried(End::Cancelled) => {
                counters.calls_cancelled.up();
                ("cancelled", None, None)
            }
            Ending::Carried(End::Whole(status)) => ("whole", None, Some(status.as_u16())),
            Ending::Carried(End::WorkerReset(_)) => ("reset by the worker", None, None),
            Ending::Carried(_) => {
                counters.calls_broken.up();
                ("broken", None, None)
            }
        };
        let fault = fault.map(|fault| fault.row().label);
        if self.session.is_none() && !chatter.may_say(fault.unwrap_or(outcome), counters) {
            return;
        }
        let total = clock::now().saturating_duration_since(self.began);
        let first = self
            .answered
            .map(|at| at.saturating_duration_since(self.began).as_micros() as u64);
        tracing::info!(
            connection = self.connection,
            method = %self.method,
            path = self.path,
            tenant = self.tenant.map(tracing::field::display),
            function = self.function.map(tracing::field::display),
            version = self.version.map(tracing::field::display),
            session = self.session.map(tracing::field::display),
            trace = self.trace.map(tracing::field::display),
            span = self.trace.map(|trace| tracing::field::display(trace.span())),
            attempts = self.attempts,
            tunnel = self.tunnel,
            outcome,
            fault,
            status,
            bytes_up = bytes.0,
            bytes_down = bytes.1,
            first_byte_us = first,
            total_us = total.as_micros() as u64,
            "call"
        );
    }
}
