//! Tests of the directory: scripts per hazard and per rule, a model, and measures.

mod cost;
mod hash;
mod hazards;
mod measure;
mod model;
mod oracle;
mod pins;
mod rules;
mod script;
mod turns;
