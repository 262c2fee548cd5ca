//! Tests of the catalog: scripts per rule, and replicas against each other.

mod hash;
mod limits;
mod members;
mod pins;
mod routes;
mod rules;
mod shares;
