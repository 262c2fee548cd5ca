//! Client sockets: accept, speak HTTP, hand calls on.
