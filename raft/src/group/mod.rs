//! One replicated group: the typed face over the consensus library.

pub mod network;
