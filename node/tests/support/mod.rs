//! What the end-to-end tests stand on: real processes, real clients, and waiting with a bound.
//!
//! [`cluster`] starts `pontoon dev` and ends it, [`cli`] asks its admin API by the command line,
//! [`client`] drives a real Python gRPC client, [`worker`] attaches a Python gRPC server through a
//! sidecar, [`load`] are many clients that remember what they were promised, [`member`] is a node that
//! `pontoon dev` did not start, [`groups`] looks at replicas, [`raw`] speaks bare HTTP/2, [`told`] hears
//! from sidecars that sessions have ended, [`haproxy`] is a load balancer, [`node`] runs programs of Node,
//! [`ops`] asks ops ports, [`process`] is a child process with its logs, [`wait`] is the only place that sleeps.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(unreachable_pub, reason = "a module tree inside a test binary")]

pub mod cli;
pub mod client;
pub mod cluster;
pub mod groups;
pub mod haproxy;
pub mod load;
pub mod member;
pub mod node;
pub mod ops;
pub mod process;
pub mod python;
pub mod raw;
pub mod told;
pub mod wait;
pub mod worker;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test of a binary at a time: a node that was killed wants its ports again, and a cluster that
/// starts meanwhile could draw them.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that a part of the tests can't run on this machine, and why; in CI that is a failure.
///
/// The line goes past the capture of the test harness, so that it is seen when the test passes.
pub fn skipped(why: &str) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} was skipped, and CI counts that as a failure: {why}"
    );
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let line = format!("skipped: {test}: {why} ({count} so far in this group)\n");
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("stderr is there");
}
