//! A region's directory: workers, sessions and the queue.

pub mod command;
