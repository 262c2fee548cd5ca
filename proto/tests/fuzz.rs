//! Mutates kept inputs and checks what must hold for every parser of bytes that strangers send.
//!
//! The properties are in `proto/fuzz/properties`; `proto/fuzz/run` looks for inputs with the help of
//! coverage, and this test runs on what it found, on any toolchain. Here an input counts as new when
//! the parser decided something new, and new ones are mutated further.
//!
//! `PONTOON_FUZZ_SECONDS` is how long each parser is tried: 10 in CI, else 1. `PONTOON_SEED` repeats a
//! run, `PONTOON_FUZZ_INPUT` checks the one input in that file; a failure prints the whole command.

#[path = "../fuzz/mutate.rs"]
mod mutate;
#[path = "../fuzz/properties/mod.rs"]
mod properties;

use mutate::{INPUT_MAX, Random};
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

/// How many inputs a run mutates; further new ones are checked and let go.
const POOL_MAX: usize = 4096;

#[test]
fn k_con_1_the_head_of_a_connect_is_judged_once_and_within_its_bound() {
    fuzz("connect");
}

#[test]
fn c_rid_4_our_cookie_is_found_and_taken_out_whatever_its_neighbours() {
    fuzz("cookies");
}

#[test]
fn c_key_1_whatever_a_call_says_is_read_in_one_way_only() {
    fuzz("head");
}

#[test]
fn c_rid_2_an_id_has_four_spellings_and_no_others() {
    fuzz("id");
}

#[test]
fn c_key_2_a_text_is_a_key_only_if_it_can_be_minted() {
    fuzz("key");
}

#[test]
fn c_wsp_2_no_credential_is_passed_on_and_nothing_is_selected_that_was_not_offered() {
    fuzz("protocols");
}

#[test]
fn c_lsn_5_a_proxy_header_is_bounded_and_judged_once() {
    fuzz("proxy_header");
}

#[test]
fn k_con_3_a_text_is_a_ticket_only_if_it_can_be_printed() {
    fuzz("ticket");
}

#[test]
fn o_log_1_a_trace_is_logged_as_it_was_sent_or_not_at_all() {
    fuzz("trace");
}

fn fuzz(name: &str) {
    let target = properties::find(name);
    if let Some(file) = env::var_os("PONTOON_FUZZ_INPUT") {
        let input = fs::read(&file).expect("PONTOON_FUZZ_INPUT names a file");
        (target.check)(&input);
        return;
    }
    let seed = number("PONTOON_SEED").unwrap_or_else(|| RandomState::new().hash_one(name));
    let default = if env::var_os("CI").is_some() { 10 } else { 1 };
    let span = Duration::from_secs(number("PONTOON_FUZZ_SECONDS").unwrap_or(default));
    let mut run = Run {
        name,
        check: target.check,
        seed,
        pool: Vec::new(),
        seen: BTreeSet::new(),
        executions: 0,
    };
    let kept = corpus(name);
    assert!(!kept.is_empty(), "proto/fuzz/corpus/{name} has no inputs");
    for input in kept {
        run.check(&input);
        run.pool.push(input);
    }
    let began = now();
    let mut random = Random(seed);
    let words = mutate::words(&read_text(&folder().join("words").join(name)));
    // The clock is asked once in a while only: most inputs take a few microseconds.
    while !run.executions.is_multiple_of(64) || now() - began < span {
        let input = mutate::mutant(&mut random, &run.pool, &words);
        let new = run.check(&input);
        if new && run.pool.len() < POOL_MAX {
            run.pool.push(input);
        }
    }
    // Past the capture of the test harness, because a run is worth nothing when nobody sees its size.
    let said = writeln!(
        std::io::stderr(),
        "fuzz {name}: {} executions in {} s, {} decisions, PONTOON_SEED={seed}",
        run.executions,
        span.as_secs(),
        run.seen.len(),
    );
    said.expect("a standard error output");
}

struct Run<'a> {
    name: &'a str,
    check: fn(&[u8]) -> u64,
    seed: u64,
    pool: Vec<Vec<u8>>,
    seen: BTreeSet<u64>,
    executions: u64,
}

impl Run<'_> {
    /// Whether the input made the parser decide something new. Keeps the input when it fails.
    fn check(&mut self, input: &[u8]) -> bool {
        self.executions += 1;
        match catch_unwind(AssertUnwindSafe(|| (self.check)(input))) {
            Ok(decided) => self.seen.insert(decided),
            Err(_) => {
                let file = Path::new(env!("CARGO_TARGET_TMPDIR"))
                    .join(format!("fuzz-{}-{:016x}", self.name, self.seed));
                fs::write(&file, input).expect("a writable target folder");
                panic!(
                    "a property of {} is broken (seed {}, execution {}); replay with\n\
                     PONTOON_FUZZ_INPUT={} cargo test --release -p pontoon-proto --test fuzz {}",
                    self.name,
                    self.seed,
                    self.executions,
                    file.display(),
                    std::thread::current().name().unwrap_or_default(),
                );
            }
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The kept inputs in the order of their names, so that a seed means the same on every machine.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder().join("corpus").join(name)).expect("a corpus");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| fs::read(file).expect("a readable input"))
        .collect()
}

fn read_text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long to look for inputs is wall time, and decides nothing about them"
)]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_seed_repeats_its_mutations_and_a_word_may_have_any_byte() {
    let words = mutate::words("# a comment\n\"a\\x0d\\x0a\\\"b\\\\\"\n");
    assert_eq!(words, [b"a\r\n\"b\\".to_vec()]);
    let pool = vec![b"function-id: x".to_vec(), vec![b'y'; 64]];
    let mutants = |seed| -> Vec<Vec<u8>> {
        let mut random = Random(seed);
        (0..1000)
            .map(|_| mutate::mutant(&mut random, &pool, &words))
            .collect()
    };
    assert_eq!(mutants(7), mutants(7));
    assert_ne!(mutants(7), mutants(8));
    assert!(mutants(7).iter().all(|input| input.len() <= INPUT_MAX));
}

#[test]
fn a_broken_property_is_found_within_a_second() {
    let planted = |input: &[u8]| -> u64 {
        assert!(!input.windows(3).any(|three| three == b"\r\n\0"));
        input.first().copied().unwrap_or_default().into()
    };
    let mut random = Random(1);
    let pool = vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()];
    let found = (0..200_000).any(|_| {
        let input = mutate::mutant(&mut random, &pool, &[]);
        input.windows(3).any(|three| three == b"\r\n\0")
            && catch_unwind(|| planted(&input)).is_err()
    });
    assert!(found);
}
