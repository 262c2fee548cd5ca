//! The client side of a node over real sockets, with a worker at the other end of an in-memory
//! tunnel and a world of sessions that does as it is told.

mod carrying;
mod connections;
mod faults;
mod http1;
mod locating;
mod pressure;
mod worker;
mod world;
