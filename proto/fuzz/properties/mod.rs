//! What must hold for any bytes that strangers send, one file for each parser that reads them.
//!
//! Two drivers run these: `proto/tests/fuzz.rs` on every run of the tests, and libFuzzer by
//! `proto/fuzz/run`. A check panics when a property is broken, and returns a number for what the
//! parser decided. Inputs with a number that was not seen before are worth keeping.
//!
//! A new parser is a file here, its line in each of the two lists below, and a test in
//! `proto/tests/fuzz.rs`. Words to build inputs from may lie in `proto/fuzz/words/<name>`, inputs to
//! begin with in `proto/fuzz/corpus/<name>/`.

mod connect;
mod cookies;
mod head;
mod id;
mod key;
mod lines;
mod protocols;
mod proxy_header;
mod ticket;
mod trace;

/// One parser, and what must hold for it.
pub(crate) struct Target {
    /// The name of its file, its words and its corpus.
    pub(crate) name: &'static str,
    /// Checks the properties for one input.
    pub(crate) check: fn(&[u8]) -> u64,
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    target("connect", connect::check),
    target("cookies", cookies::check),
    target("head", head::check),
    target("id", id::check),
    target("key", key::check),
    target("protocols", protocols::check),
    target("proxy_header", proxy_header::check),
    target("ticket", ticket::check),
    target("trace", trace::check),
];

const fn target(name: &'static str, check: fn(&[u8]) -> u64) -> Target {
    Target { name, check }
}

/// Finds a target by its name.
pub(crate) fn find(name: &str) -> &'static Target {
    TARGETS
        .iter()
        .find(|target| target.name == name)
        .unwrap_or_else(|| panic!("there is no target {name}"))
}

/// Packs what a parser decided into one number, six bits for each decision.
fn decisions(each: &[usize]) -> u64 {
    each.iter()
        .fold(0, |all, &one| all << 6 | one.min(63) as u64)
}
