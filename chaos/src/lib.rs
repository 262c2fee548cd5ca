//! The world that Pontoon must survive, and how fast it is there: real processes, measured and killed.
//!
//! To follow a command, read [`cli`], then [`bench`] (what is measured against what) and [`run`] (a [`scenario`] with [`fault`]s, its [`workload`],
//! what happened as [`history`], and what must be true of it in [`check`]). [`cluster`] has
//! the processes: of ours, and of the systems beside ours, and
//! [`part`] what both are measured with. Nothing here links the node itself: what it
//! does is seen from outside, through its admin and peer APIs. [`sim`] is the other half: the control
//! plane in one thread, from a seed.

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
pub mod run;
pub mod scenario;
pub mod seed;
pub mod sim;
pub mod workload;
