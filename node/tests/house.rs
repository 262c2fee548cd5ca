//! The house rules that a machine can check: which files may name what, how long a file may get, and
//! what may be linked in. `CONTRIBUTING.md` says why each rule exists.
//!
//! Every exception is listed here with its reason; an exception that is no longer needed fails too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where a new reader would look for the second half of a file that passed this is unclear: split.
const LINES_MAX: usize = 800;

/// Files and folders that decide and never do: no clock, no randomness, no IO, no unordered maps.
const PURE: &[&str] = &[
    "proto/src/id.rs",
    "proto/src/head.rs",
    "proto/src/protocols.rs",
    "proto/src/cookies.rs",
    "proto/src/connect.rs",
    "proto/src/ticket.rs",
    "proto/src/fault.rs",
    "proto/src/key.rs",
    "proto/src/proxy_header.rs",
    "raft/src/machine.rs",
    "raft/src/directory",
    "raft/src/catalog",
    "raft/src/placement.rs",
    "raft/src/codec.rs",
    "node/src/session/pin.rs",
    "node/src/listen/frames.rs",
    "node/src/listen/tongue.rs",
    "node/src/listen/proxies.rs",
    "node/src/session/limits/bucket.rs",
    "node/src/session/limits/ledger.rs",
    "node/src/call/admit.rs",
    "node/src/call/identity.rs",
    "node/src/tunnel/close.rs",
    "node/src/tunnel/pulse.rs",
    "node/src/sidecar/slots.rs",
    "node/src/sidecar/roster.rs",
    "node/src/sidecar/ways.rs",
    "node/src/relay/sources.rs",
    "node/src/dns/answer.rs",
    "node/src/dns/prefixes.rs",
    "node/src/dns/query.rs",
    "node/src/dns/rate.rs",
    "node/src/dns/roll.rs",
    "node/src/dns/view.rs",
    "node/src/dns/zone.rs",
];

/// What a pure file may not name.
const IMPURE: &[&str] = &[
    "tokio",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "std::fs",
    "std::thread",
    "std::env",
    "TcpStream",
    "getrandom",
    "tracing",
];

/// (file, word, why it may).
const PURE_EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// (word, where alone it may occur, why).
const CONFINED: &[(&str, &[&str], &str)] = &[
    (
        "tokio::net",
        &["node/src/net.rs"],
        "the network is a seam, so that the simulation can stand in for it",
    ),
    (
        "sled::",
        &["raft/src/store/"],
        "the log engine is a seam: the simulated disk is its second side",
    ),
    (
        "openraft::",
        &["raft/src/group/"],
        "an alpha library: what changes in it may cost one folder",
    ),
    (
        "bincode::",
        &["raft/src/codec.rs", "raft/src/codec/"],
        "positional and unframed: only inside our own versioned frames",
    ),
];

/// (file, confined word, why it may).
const CONFINED_EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "chaos/src/net.rs",
        "tokio::net",
        "the load generator's own sockets: it doesn't link the node, and nobody simulates it",
    ),
    (
        "raft/src/machine.rs",
        "bincode::",
        "only feeds a hash for comparing replicas: nothing of it is stored or read back",
    ),
    (
        "node/src/config/raw.rs",
        "openraft::",
        "names of log targets in the default filter, no types",
    ),
];

/// Words that may be nowhere in the code.
const NOWHERE: &[(&str, &str)] = &[
    ("todo!(", "finish it, or leave it out and say so"),
    ("unimplemented!(", "finish it, or leave it out and say so"),
    ("dbg!(", "left over from debugging"),
    ("fn test_", "a test is named as a sentence"),
];

/// Libraries whose types cross our modules, or of which two would be two runtimes in one process.
const SINGLE: &[&str] = &[
    "tokio", "hyper", "h2", "rustls", "prost", "tonic", "http", "bytes",
];

/// Libraries that may not be linked in at all.
const BANNED: &[(&str, &str)] = &[
    ("aws-lc-rs", "one TLS provider: ring"),
    ("aws-lc-sys", "one TLS provider: ring"),
    ("openssl-sys", "one TLS provider: ring"),
    ("rustls-pemfile", "unmaintained"),
];

/// Licences that a dependency may offer us.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "MPL-2.0+",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

struct Source {
    /// Relative to the workspace's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The code without comments; in pure files also without the tests, which may do what they like.
    fn code(&self, with_tests: bool) -> String {
        let mut code = String::new();
        for line in self.text.lines() {
            if !with_tests && line.trim_start().starts_with("#[cfg(test)]") {
                break;
            }
            let line = line.split("//").next().unwrap_or_default();
            code.push_str(line);
            code.push('\n');
        }
        code
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
        .to_path_buf()
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for package in ["proto", "raft", "node", "chaos"] {
        walk(&root().join(package), &mut found);
    }
    assert!(
        found.len() > 20,
        "the walk found only {} files",
        found.len()
    );
    found
}

fn walk(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                walk(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root()).expect("inside the workspace");
            found.push(Source {
                path: relative.to_string_lossy().replace('\\', "/"),
                text: fs::read_to_string(&path).expect("a source file is UTF-8"),
            });
        }
    }
}

/// Whether `word` is in `code` as a word of its own, not inside a longer one.
fn names(code: &str, word: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    code.match_indices(word).any(|(at, _)| {
        edge(code[..at].chars().next_back())
            && (!word.ends_with(|c: char| c.is_alphanumeric())
                || edge(code[at + word.len()..].chars().next()))
    })
}

fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn pure_files_take_time_bytes_and_randomness_as_arguments() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources() {
        let pure = PURE
            .iter()
            .any(|pure| source.path == *pure || source.path.starts_with(&format!("{pure}/")));
        if !pure || source.path.ends_with("tests.rs") || source.path.contains("/tests/") {
            continue;
        }
        let code = source.code(false);
        for word in IMPURE.iter().filter(|word| names(&code, word)) {
            match PURE_EXCEPTIONS
                .iter()
                .position(|(file, name, _)| *file == source.path && name == word)
            {
                Some(exception) => {
                    used.insert(exception);
                }
                None => wrong.push(format!("{} is pure but names {word}", source.path)),
            }
        }
    }
    for (index, (file, word, _)) in PURE_EXCEPTIONS.iter().enumerate() {
        if !used.contains(&index) {
            wrong.push(format!(
                "the exception of {file} for {word} is no longer needed"
            ));
        }
    }
    report(wrong);
}

#[test]
fn each_seam_is_named_in_one_place_only() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources() {
        if source.path == "node/tests/house.rs" {
            continue;
        }
        let code = source.code(true);
        for (word, places, why) in CONFINED {
            if !names(&code, word) || places.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            match CONFINED_EXCEPTIONS
                .iter()
                .position(|(file, name, _)| *file == source.path && name == word)
            {
                Some(exception) => {
                    used.insert(exception);
                }
                None => wrong.push(format!("{} names {word}: {why}", source.path)),
            }
        }
    }
    for (index, (file, word, _)) in CONFINED_EXCEPTIONS.iter().enumerate() {
        if !used.contains(&index) {
            wrong.push(format!(
                "the exception of {file} for {word} is no longer needed"
            ));
        }
    }
    report(wrong);
}

#[test]
fn no_file_outgrows_its_reader() {
    report(
        sources()
            .iter()
            .map(|source| (&source.path, source.text.lines().count()))
            .filter(|(_, lines)| *lines > LINES_MAX)
            .map(|(path, lines)| {
                format!("{path} has {lines} lines, {LINES_MAX} is the most: split it")
            })
            .collect(),
    );
}

#[test]
fn nothing_is_left_unfinished_in_the_code() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.path == "node/tests/house.rs" {
            continue;
        }
        let code = source.code(true);
        for (word, why) in NOWHERE {
            if code.contains(word) {
                wrong.push(format!("{} has {word}: {why}", source.path));
            }
        }
    }
    report(wrong);
}

#[test]
fn every_file_says_what_it_is() {
    report(
        sources()
            .iter()
            .filter(|source| !source.text.starts_with("//!"))
            .map(|source| format!("{} does not begin with module documentation", source.path))
            .collect(),
    );
}

#[test]
fn every_lint_that_is_switched_off_says_why() {
    let mut wrong = Vec::new();
    for source in sources() {
        let code = source.code(true);
        for start in ["#[expect(", "#![expect(", "#[allow(", "#![allow("] {
            for (at, _) in code.match_indices(start) {
                let attribute = code[at..].split(")]").next().unwrap_or_default();
                if !attribute.contains("reason") && source.path != "node/tests/house.rs" {
                    wrong.push(format!("{}: {attribute})] gives no reason", source.path));
                }
            }
        }
    }
    report(wrong);
}

#[test]
fn tests_wait_for_a_level_and_never_sleep() {
    report(
        sources()
            .iter()
            .filter(|source| source.path.starts_with("node/tests/"))
            .filter(|source| {
                !["node/tests/house.rs", "node/tests/support/wait.rs"].contains(&&*source.path)
            })
            .filter(|source| names(&source.code(true), "sleep"))
            .map(|source| format!("{} sleeps: use support::wait", source.path))
            .collect(),
    );
}

/// The rows of `docs/contract.md`: id and status.
fn rows() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("docs/contract.md")).expect("docs/contract.md");
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(id), Some(status)) = (cells.next(), cells.next()) else {
            continue;
        };
        let known = ["C-", "K-", "O-"].iter().any(|start| id.starts_with(start));
        if known && rows.insert(id.to_owned(), status.to_owned()).is_some() {
            panic!("docs/contract.md has two rows {id}");
        }
    }
    assert!(
        rows.len() > 60,
        "docs/contract.md has only {} rows",
        rows.len()
    );
    rows
}

/// The names of all test functions.
fn tests() -> Vec<String> {
    let mut tests = Vec::new();
    for source in sources() {
        let mut is_test = false;
        for line in source.text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(rest) = line
                .strip_prefix("fn ")
                .or_else(|| line.strip_prefix("async fn "))
            {
                if is_test {
                    tests.push(rest.split('(').next().unwrap_or_default().to_owned());
                }
                is_test = false;
            }
        }
    }
    tests
}

/// Whether a test's name carries this id: `c_rid_1` for C-RID-1, not `c_rid_12`.
fn carries(test: &str, id: &str) -> bool {
    let id = id.to_lowercase().replace('-', "_");
    test.match_indices(&id).any(|(at, _)| {
        (at == 0 || test[..at].ends_with('_'))
            && !test[at + id.len()..].starts_with(|c: char| c.is_ascii_digit())
    })
}

#[test]
fn every_row_of_the_contract_that_counts_as_proved_has_a_test_of_its_name() {
    let tests = tests();
    let mut wrong = Vec::new();
    for (id, status) in rows() {
        match status.as_str() {
            "proved" | "partly" => {
                if !tests.iter().any(|test| carries(test, &id)) {
                    wrong.push(format!(
                        "{id} is {status}, but no test has {id} in its name"
                    ));
                }
            }
            "works" | "later" => {}
            other => wrong.push(format!("{id} has the unknown status {other:?}")),
        }
    }
    report(wrong);
}

#[test]
fn every_fault_of_the_contract_has_a_section_for_those_who_meet_it() {
    let read = |name: &str| {
        fs::read_to_string(root().join("docs").join(name)).unwrap_or_else(|_| panic!("docs/{name}"))
    };
    let (contract, help) = (read("contract.md"), read("troubleshooting.md"));
    let sections: BTreeMap<&str, &str> = help
        .split("\n## ")
        .filter_map(|section| section.split_once(':'))
        .collect();
    let mut wrong = Vec::new();
    let mut faults = 0;
    for row in contract.lines().filter(|line| line.starts_with("| C-ERR-")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, id, _, _, texts, grpc, http, _] = cells[..] else {
            panic!("docs/contract.md has a fault with other columns: {row}");
        };
        faults += 1;
        let Some(section) = sections.get(id) else {
            wrong.push(format!(
                "docs/troubleshooting.md has no section \"## {id}:\""
            ));
            continue;
        };
        // Texts are in backticks, so every second piece is one.
        let mut wanted: Vec<String> = texts
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|text| format!("`{text}`"))
            .collect();
        if !texts.is_empty() {
            wanted.push(format!("gRPC {grpc} "));
            wanted.push(format!("HTTP {http}"));
        }
        for text in wanted.iter().filter(|text| !section.contains(*text)) {
            wrong.push(format!(
                "the section {id} of docs/troubleshooting.md lacks {text}"
            ));
        }
    }
    assert!(faults >= 14, "docs/contract.md has only {faults} faults");
    report(wrong);
}

#[test]
fn every_row_that_a_test_names_is_in_the_contract() {
    let rows = rows();
    let mut wrong = Vec::new();
    for test in tests() {
        let words: Vec<&str> = test.split('_').collect();
        for three in words.windows(3) {
            let row = format!("{}-{}-{}", three[0], three[1], three[2]).to_uppercase();
            let looks = ["c", "k", "o"].contains(&three[0])
                && three[1].len() == 3
                && three[2].starts_with(|c: char| c.is_ascii_digit());
            if looks && !rows.contains_key(&row) {
                wrong.push(format!(
                    "{test} names {row}, which docs/contract.md does not have"
                ));
            }
        }
    }
    report(wrong);
}

#[test]
fn one_version_of_each_library_whose_types_cross_modules_and_one_tls_provider() {
    let text = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let lock: toml::Table = text.parse().expect("Cargo.lock is TOML");
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("a list of packages") {
        let field = |name: &str| package[name].as_str().expect("text");
        versions
            .entry(field("name"))
            .or_default()
            .push(field("version"));
    }
    let mut wrong = Vec::new();
    for name in SINGLE {
        match versions.get(name).map(Vec::as_slice) {
            Some([_]) => {}
            Some(several) => wrong.push(format!("{name} is there in versions {several:?}")),
            None => wrong.push(format!("{name} is not in Cargo.lock: the list here is old")),
        }
    }
    for (name, why) in BANNED {
        if versions.contains_key(name) {
            wrong.push(format!("{name} is in Cargo.lock: {why}"));
        }
    }
    report(wrong);
}

#[test]
fn every_dependency_offers_a_licence_that_we_accept_and_packages_depend_one_way() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let mut wrong = Vec::new();
    let order = ["pontoon-proto", "pontoon-raft", "pontoon", "pontoon-chaos"];
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let licence = package["license"].as_str().unwrap_or("none");
        if !acceptable(licence) {
            wrong.push(format!("{name} has the licence {licence}"));
        }
        let Some(place) = order.iter().position(|own| *own == name) else {
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let other = dependency["name"].as_str().expect("a name");
            if order
                .iter()
                .position(|own| *own == other)
                .is_some_and(|at| at >= place)
            {
                wrong.push(format!(
                    "{name} depends on {other}: dependencies point one way"
                ));
            }
        }
    }
    report(wrong);
}

/// Whether a licence expression can be satisfied: for each `AND` part one of its `OR` choices.
fn acceptable(expression: &str) -> bool {
    let flat = expression.replace(['(', ')'], " ").replace('/', " OR ");
    flat.split(" AND ").all(|part| {
        part.split(" OR ").any(|choice| {
            let choice = choice.split(" WITH ").next().unwrap_or_default().trim();
            LICENCES.contains(&choice)
        })
    })
}
