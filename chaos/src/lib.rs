//! The world that Pontoon must survive, and how fast it is there: real processes, measured and killed.
//!
//! To follow a command, read [`cli`], then [`bench`] (what is measured against what). [`cluster`] has
//! the processes: of ours, and of the systems beside ours, and
//! [`part`] what both are measured with. Nothing here links the node itself: what it
//! does is seen from outside, through its admin and peer APIs. [`sim`] is the other half: the control
//! plane in one thread, from a seed.

pub mod bench;
pub mod cli;
pub mod clock;
pub mod cluster;
mod net;
pub mod part;
pub mod sim;
