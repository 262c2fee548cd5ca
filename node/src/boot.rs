//! Starts a node: binds, opens the store, joins the groups, serves.
