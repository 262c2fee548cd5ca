//! Conformance: the contract's client rows, as a client sees them, against real processes.
//!
//! [`table`] has the rows, a module per section has their checks, [`worker`] is what stands behind the
//! target, [`twin`] breaks rows on purpose and [`twins`] sees to it that the checks notice. `docs/conformance.md`
//! says how to ask another address.

#![allow(dead_code, reason = "the suite's tools have more than each test needs")]
#![allow(unreachable_pub, reason = "a module tree inside a test binary")]

#[path = "../support/mod.rs"]
mod support;

mod caller;
mod clients;
mod clients_h1;
mod contract;
mod memory;
mod program;
mod table;
mod target;
mod twin;
mod twins;
mod wire;
mod worker;

mod answers;
mod cors;
mod faults;
mod floods;
mod forwarding;
mod health;
mod http1;
mod ids;
mod keys;
mod listener;
mod pressure;
mod sessions;
mod websocket;
