//! Tests of the directory: scripts per hazard, a model, and measures.

mod hazards;
mod script;
