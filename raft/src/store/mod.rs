//! Durable state: logs, votes and marks in one engine, snapshots in files beside it.
//!
//! [`writer`] is the one thread that owns the engine: it takes jobs in order, of all groups, and
//! makes them durable together with one sync. [`engine`] is what it writes to, [`memory`] the
//! simulated one, [`log`] the handle of one group's log, [`snapshot`] the files. Nothing here knows
//! the consensus library: entries are framed records with an index.
//!
//! Left out on purpose: a mark outside of the engine that says how far each log was durable. Sled
//! cuts its own log at the first bad record, so a damaged end looks merely short; a hole or a bad
//! record before the end is noticed at the start.

pub mod engine;
pub mod log;
pub mod memory;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

pub use log::{Log, Recovered};
pub use writer::{Store, StoreError};
