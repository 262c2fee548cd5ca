//! The command line, as an operator uses it.

use super::cluster::PONTOON;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs a command that must succeed; its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = finish(command);
    assert!(output.status.success(), "{command:?}:\n{}", both(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs a command that must fail with this code; what it said on stderr.
#[track_caller]
pub fn fail(code: i32, command: &mut Command) -> String {
    let output = finish(command);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command:?}:\n{}",
        both(&output)
    );
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// Runs a command to its end.
#[track_caller]
pub fn finish(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .expect("the command starts")
}

/// Both outputs, for a message.
pub fn both(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// `pontoon NOUN VERB ...` against an admin address, with a token from the environment.
pub fn pontoon(admin: &str, token: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(PONTOON);
    command
        .args(arguments)
        .env("PONTOON_ENDPOINT", format!("http://{admin}"))
        .env("PONTOON_TOKEN", token);
    command
}

/// As [`pontoon`], with `-o json`, and must succeed.
#[track_caller]
pub fn ask(admin: &str, token: &str, arguments: &[&str]) -> Value {
    json(&mut pontoon(admin, token, arguments))
}

/// What a command says with `-o json`.
#[track_caller]
pub fn json(command: &mut Command) -> Value {
    let text = run(command.args(["-o", "json"]));
    match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(error) => panic!("{command:?} printed no JSON ({error}):\n{text}"),
    }
}

/// As [`ask`], or `None` when it fails: for a node that may be gone, or not there yet.
pub fn try_ask(admin: &str, token: &str, arguments: &[&str]) -> Option<Value> {
    let output = finish(pontoon(admin, token, arguments).args(["-o", "json"]));
    let good = output.status.success();
    good.then(|| serde_json::from_slice(&output.stdout).ok())?
}

/// A data folder of nobody, for a node that is to refuse its configuration.
pub fn node_with(config: &Path) -> Command {
    let mut command = Command::new(PONTOON);
    command.args(["node", "--config"]).arg(config);
    command
}
