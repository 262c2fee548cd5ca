//! The `pontoon` command from outside: exit codes, and what a person is told who got it wrong.

use std::net::TcpListener;
use std::process::{Command, Output};

const SECRET: &str = "pnt_a_T7TbRdHvBMPlTN8WSc5kP6zj869vT6Lp2BGPBw";

fn pontoon(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pontoon"))
        .args(args)
        .env_remove("PONTOON_ENDPOINT")
        .env_remove("PONTOON_TOKEN")
        .env_remove("PONTOON_CA_FILE")
        .envs(variables.iter().copied())
        .output()
        .expect("the binary runs")
}

/// Runs it and gives back its exit code and stderr; no failure may print to stdout, and none may
/// repeat the token.
fn failed(args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let output = pontoon(args, variables);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.stdout.is_empty(), "{args:?} printed an answer");
    assert!(!stderr.contains(SECRET), "{args:?} printed the token");
    (output.status.code().expect("an exit code"), stderr)
}

#[test]
fn wrong_usage_ends_with_64() {
    for args in [
        &["nonsense"][..],
        &[],
        &["node", "frobnicate"],
        &["session", "list", "--limit", "0"],
        &["key", "create", "--kind", "client"],
        &["key", "create", "--kind", "worker", "--tenant", "x"],
        &["version", "create", "--function", "x", "--slots", "20000"],
        &["key", "create", "--kind", "admin", "--expires-in", "soon"],
    ] {
        let (code, stderr) = failed(args, &[("PONTOON_TOKEN", SECRET)]);
        assert_eq!(code, 64, "{args:?}: {stderr}");
        assert!(!stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn the_version_that_a_worker_key_covers_is_not_taken_for_a_question() {
    let args = [
        "key",
        "create",
        "--kind",
        "worker",
        "--tenant",
        "x",
        "--version",
        "y",
    ];
    let (code, stderr) = failed(&args, &[]);
    assert_eq!(code, 64);
    assert!(stderr.contains("PONTOON_TOKEN"), "{stderr}");
    let help = pontoon(&["key", "create", "--help"], &[]).stdout;
    let help = String::from_utf8(help).expect("UTF-8");
    assert_eq!(help.matches("--version").count(), 1, "{help}");
}

#[test]
fn help_and_version_are_answers() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["key", "create", "--help"],
    ] {
        let output = pontoon(args, &[]);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_missing_token_is_named_with_both_ways_to_give_it() {
    let (code, stderr) = failed(&["node", "list"], &[]);
    assert_eq!(code, 64);
    assert!(stderr.contains("PONTOON_TOKEN"), "{stderr}");
    assert!(stderr.contains("--token-file"), "{stderr}");

    let (code, stderr) = failed(&["node", "list", "--token-file", "/nowhere/token"], &[]);
    assert_eq!(code, 64);
    assert!(stderr.contains("/nowhere/token"), "{stderr}");

    let two_lines = format!("{SECRET}\n{SECRET}");
    let (code, stderr) = failed(&["node", "list"], &[("PONTOON_TOKEN", &two_lines)]);
    assert_eq!(code, 64, "{stderr}");
}

#[test]
fn an_endpoint_where_nobody_listens_is_named_with_what_to_try() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let token = ("PONTOON_TOKEN", SECRET);
    let url = format!("http://{address}");
    for (args, variables) in [
        (vec!["node", "list", "--endpoint", &url], vec![token]),
        (vec!["cluster", "show", "--endpoint", &address], vec![token]),
        (
            vec!["tenant", "create", "x"],
            vec![token, ("PONTOON_ENDPOINT", &url)],
        ),
    ] {
        let (code, stderr) = failed(&args, &variables);
        assert_eq!(code, 69, "{args:?}: {stderr}");
        assert!(stderr.contains(&address), "{stderr}");
        assert!(stderr.contains("--endpoint"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn an_endpoint_that_is_none_is_refused_unasked() {
    for wrong in ["ftp://x", "not an address", ""] {
        let (code, stderr) = failed(
            &["node", "list", "--endpoint", wrong],
            &[("PONTOON_TOKEN", SECRET)],
        );
        assert_eq!(code, 64, "{wrong:?}: {stderr}");
        assert!(stderr.contains("http://host:port"), "{stderr}");
    }
    let args = ["node", "list", "--endpoint", "https://127.0.0.1:1"];
    let (code, stderr) = failed(&args, &[("PONTOON_TOKEN", SECRET)]);
    assert_eq!(code, 64, "{stderr}");
    assert!(stderr.contains("--ca-file"), "{stderr}");
}
