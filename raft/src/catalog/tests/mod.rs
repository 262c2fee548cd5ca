//! Tests of the catalog: scripts per rule, and replicas against each other.

mod pins;
mod rules;
