//! The cluster-wide catalog: tenants, keys, functions, versions, regions and nodes.

pub mod command;
