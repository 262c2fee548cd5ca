//! What the tests of this package share.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(unreachable_pub, reason = "a module tree inside a test binary")]

/// What this machine can't show. In CI it must.
pub fn left_out(what: &str) {
    println!("left out: {what}");
    assert!(std::env::var_os("CI").is_none(), "left out: {what}");
}
