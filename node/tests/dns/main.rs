//! DNS answers of real nodes, asked by `dig`, `kdig` and a client of our own: what each name has, how the
//! protocol's corners are met, and that clients find their way when a region dies.
//!
//! [`world`] is the cluster, [`asking`] the ways to ask it.

#![allow(unreachable_pub, reason = "a module tree inside a test binary")]

#[path = "../support/mod.rs"]
mod support;

mod asking;
mod world;

mod corners;
mod dev;
mod losses;
mod records;
