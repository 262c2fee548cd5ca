//! libFuzzer's entry: one binary for all targets, the name of which is in `PONTOON_FUZZ_TARGET`.

#![no_main]

mod properties;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static TARGET: OnceLock<&'static properties::Target> = OnceLock::new();

fuzz_target!(|input: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("PONTOON_FUZZ_TARGET").expect("PONTOON_FUZZ_TARGET");
        properties::find(&name)
    });
    (target.check)(input);
});
