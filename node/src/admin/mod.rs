//! The admin API: what operators say to a node.
