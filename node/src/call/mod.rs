//! One gRPC or HTTP exchange inside a session.
