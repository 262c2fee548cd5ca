//! Programs of real clients in `node/tests/clients`: what they are given, and how they are judged.
//!
//! A program prints `ok NAME` or `not ok NAME` per case and exits with 0 when all went well.

use crate::support::node::folder;
use crate::support::python as environment;
use crate::support::{self, skipped};
use crate::target::{Target, Wire};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The longest that a program may take.
const ENDS_WITHIN: Duration = Duration::from_secs(150);

/// One program.
pub struct Program {
    name: String,
    pub command: Command,
}

impl Program {
    /// With the target of this run; later variables win.
    pub fn new(name: &str, mut command: Command) -> Program {
        let target = Target::shared(Wire::H2);
        for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(proxy);
        }
        command
            .env("CASE_TARGET", &target.address)
            .env("CASE_AUTHORIZATION", &target.world.bearer)
            .env("CASE_KEY", &target.world.key)
            .env("CASE_FUNCTION", &target.world.function);
        Program {
            name: name.to_owned(),
            command,
        }
    }

    /// Runs it; every case must go well.
    #[track_caller]
    pub fn run(mut self) {
        let home = crate::target::folder();
        let log = home.join(format!("{}.log", self.name));
        let out = File::create(&log).expect("a log");
        self.command
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out);
        let mut child = self.command.spawn().expect("the program starts");
        let ended = crate::support::wait::within(ENDS_WITHIN, || child.try_wait().ok().flatten());
        if ended.is_none() {
            child.kill().ok();
            child.wait().ok();
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        let good = ended.is_some_and(|status| status.success());
        let cases = said.lines().filter(|line| line.starts_with("ok ")).count();
        assert!(good && cases > 0, "{}: {ended:?}\n{said}", self.name);
    }
}

/// Runs a Python program.
#[track_caller]
pub fn python(script: &str, more: &[(&str, &str)]) {
    let Some(interpreter) = environment::interpreter() else {
        return;
    };
    let mut program = Program::new(script, Command::new(interpreter));
    program
        .command
        .arg(folder().join(script))
        .envs(more.iter().copied());
    program.run();
}

/// Runs a program of Node.
#[track_caller]
pub fn node(script: &str, more: &[(&str, &str)]) {
    let Some(command) = support::node::command() else {
        return;
    };
    let mut program = Program::new(script, command);
    program.command.arg(script).envs(more.iter().copied());
    program.run();
}

/// A tool of the system; `None`, said aloud with the package that has it, where it is not.
pub fn tool(name: &str, package: &str) -> Option<Command> {
    let mut found = Command::new(name);
    found
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if found_runs(&mut found) || Path::new(name).is_file() {
        return Some(Command::new(name));
    }
    skipped(&format!("{name} is not there: apt-get install {package}"));
    None
}

fn found_runs(command: &mut Command) -> bool {
    // HAProxy knows no `--version` and says so by its exit code; that it starts is enough.
    command.stdin(Stdio::null()).status().is_ok()
}

/// What curl prints for a call of the echo worker.
#[track_caller]
pub fn curl(target: &Target, more: &[&str]) -> Option<String> {
    let mut command = tool("curl", "curl")?;
    command
        .args(["-sS", "--max-time", "30", "--noproxy", "*"])
        .args(more);
    command
        .arg("-H")
        .arg(format!("authorization: {}", target.world.bearer));
    command
        .arg("-H")
        .arg(format!("function-id: {}", target.world.function));
    command.arg(format!("http://{}/curl", target.address));
    Some(crate::support::cli::run(&mut command))
}
