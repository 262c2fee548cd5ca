//! One replicated group: the typed face over the consensus library.
//!
//! Read [`handle`] for what a group offers and [`network`] for what it needs. Behind them: `core`
//! (one group on one node, untyped), `propose` (the leader's batches), `forward` (commands on their
//! way to it), `read` (shared questions), `beat` (who lives), `members` (who votes), `machine` and
//! `log` (what the library drives and stores), `peer` and [`serve`] (what it sends and receives), `leash`
//! (what it sends ends in time), [`types`] (how it is set up). The library's types do not leave this folder.

pub(crate) mod beat;
mod core;
mod forward;
#[cfg(test)]
mod golden;
mod handle;
mod leash;
mod log;
mod machine;
pub(crate) mod members;
pub mod network;
mod peer;
mod propose;
mod read;
mod runtime;
pub mod serve;
#[cfg(test)]
mod suite;
pub mod types;

pub use handle::{Birth, Group, GroupError, ProposeError, Proposed, Setup, Status, Unavailable};
pub use machine::FORMAT;
pub use types::Timing;
