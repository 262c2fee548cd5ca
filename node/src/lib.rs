//! One node of Pontoon, its sidecar, and everything that is started with the `pontoon` command.
//!
//! To follow a call, read the folders in this order: [`listen`] (sockets), [`call`] (one exchange),
//! [`session`] (which worker), [`tunnel`] (how to reach it), [`relay`] (when another node is in
//! between), [`sidecar`] (the other end). [`discovery`] turns names into sockets, [`dns`] is asked for
//! names. [`peer`] is what nodes say to each other, [`admin`] what
//! operators say to them.

pub mod admin;
pub mod boot;
pub mod call;
pub mod cert;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dev;
pub mod discovery;
pub mod dns;
pub mod drain;
mod gather;
pub mod listen;
pub mod net;
pub mod ops;
pub mod peer;
pub mod pipe;
pub mod prefixed;
pub mod random;
pub mod relay;
pub mod session;
pub mod sidecar;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod tunnel;
