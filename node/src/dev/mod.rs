//! A whole cluster on this machine.

pub mod leash;
