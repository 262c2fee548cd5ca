//! The process beside a worker: attaches to nodes, dials tunnels, splices bytes.
