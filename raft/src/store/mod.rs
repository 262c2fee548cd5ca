//! Durable state: logs, votes and marks in one engine, snapshots in files beside it.
//!
//! [`log`] is the handle of one group's log, [`Store`] that of the one thread (`writer`) that owns
//! the engine: it takes jobs in order, of all groups, and makes them durable together with one sync.
//! Its work is in `core`, a log's layout in `layout`, what is known of an open one in `open`, reading
//! it at the start in `recover`, and what makes a lost end noticed in [`durable`].
//!
//! [`engine`] is what it writes to: [`disk`] is the real one (with `slots`), [`memory`] the simulated
//! one. [`snapshot`] has the files. Nothing here knows the consensus library: entries are framed
//! records with an index.
//!
//! Damage is found when a log is opened: it is refused as a whole, and never repaired. What can't be
//! decided on one node is whether the last batch before a crash was acknowledged, when it is the one
//! that is damaged; see [`durable`].

mod core;
pub mod disk;
pub(crate) mod durable;
pub mod engine;
mod error;
mod job;
mod layout;
pub mod log;
pub mod memory;
mod open;
mod recover;
mod slots;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

pub use error::StoreError;
pub use log::{Log, Recovered};
pub use writer::{Steps, Store};
