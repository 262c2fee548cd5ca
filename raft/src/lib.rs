//! Replicated state: what Pontoon remembers, and how it stays remembered.
//!
//! Pure: [`machine`] (what a state machine is), [`directory`] and [`catalog`] (the two that we
//! have), [`placement`] (who shall vote), [`member`] (replicas by number), [`codec`] (how records look
//! on disk). With IO: [`store`] (the one storage thread over sled), [`group`] (all of the consensus
//! glue), [`identity`] (whose data folder it is), [`cluster`] (the groups of one node), `autopilot`
//! (walks memberships towards the placement). [`host`] is the seam of the simulation.

mod autopilot;
pub mod catalog;
pub mod clock;
pub mod cluster;
pub mod codec;
pub mod directory;
#[cfg(test)]
mod golden;
pub mod group;
pub mod host;
pub mod identity;
pub mod machine;
pub mod member;
pub mod placement;
mod presence;
pub mod store;
mod tasks;
