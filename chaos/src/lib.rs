//! The world that Pontoon must survive, and how fast it is there: real processes, measured and killed.
//!
//! To follow a command, read [`cli`], then one of three: [`bench`] (what is measured against what), [`run`] (a
//! [`scenario`] with [`fault`]s, its [`workload`], what happened as [`history`], what must be true of it in
//! [`check`], and the [`report`]), or [`sim`] (the control plane in one thread, from a seed). [`cluster`] has the processes, of ours and of
//! the systems beside ours, [`link`] what lies between regions, and [`part`] what is measured with. Except in
//! [`sim`], nothing here links the node itself: what it does is seen from outside, through its admin and peer
//! APIs.

pub mod bench;
pub mod check;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod fault;
pub mod history;
pub mod link;
mod net;
pub mod part;
pub mod report;
pub mod run;
pub mod scenario;
pub mod seed;
pub mod sim;
pub mod workload;
