//! One exchange, from a client's head to the worker's last byte.

pub mod h2_settings;
