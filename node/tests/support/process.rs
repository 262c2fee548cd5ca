//! A child process with its logs in files; it ends with its owner, and its owner's process.

use super::wait;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// How long a process may take to end after it was asked to, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(10);

/// A running child. Dropping it ends it: its stdin closes, it is killed, and it is waited for.
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with a pipe as its stdin, and both outputs in `folder/name.log`.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Process {
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).expect("a log file");
        let child = command
            .stdin(Stdio::piped())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} could not be started: {error}"));
        Process {
            name: name.to_owned(),
            pid: child.id(),
            child: Mutex::new(child),
            log,
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// Writes a line to its stdin.
    pub fn write_line(&self, line: &str) {
        let mut child = self.child.lock().expect("no test panicked with it");
        let stdin = child.stdin.as_mut().expect("stdin is still open");
        writeln!(stdin, "{line}").expect("the process reads");
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().expect("no test panicked with it");
        child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&self, bound: Duration) -> ExitStatus {
        wait::until(bound, &format!("{} should end", self.name), || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", tail(&self.log));
        }
        let Ok(child) = self.child.get_mut() else {
            return;
        };
        drop(child.stdin.take());
        if matches!(child.try_wait(), Ok(None)) {
            send(self.pid, Signal::INT);
        }
        let ended = wait::within(END_WITHIN, || child.try_wait().ok().flatten());
        if ended.is_none() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Sends a signal to a process that may have ended.
pub fn send(pid: u32, signal: Signal) {
    kill_process(as_pid(pid), signal).ok();
}

/// Whether a process is there, and not just waiting for its parent to notice its end.
pub fn is_alive(pid: u32) -> bool {
    test_kill_process(as_pid(pid)).is_ok() && state(pid).is_some_and(|(_, state, _)| state != 'Z')
}

fn as_pid(pid: u32) -> Pid {
    let raw = i32::try_from(pid).expect("a pid");
    Pid::from_raw(raw).expect("a pid is not zero")
}

/// One process in one life: pids come again, start times don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The process id.
    pub pid: u32,
    /// Clock ticks since the machine's start.
    pub started: u64,
}

impl Life {
    /// Whether this very process is still there.
    pub fn goes_on(self) -> bool {
        state(self.pid).is_some_and(|(_, state, started)| state != 'Z' && started == self.started)
    }
}

/// All children of a process, and theirs.
pub fn descendants(pid: u32) -> Vec<Life> {
    let mut children: BTreeMap<u32, Vec<Life>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some((parent, _, started)) = state(pid) {
            children
                .entry(parent)
                .or_default()
                .push(Life { pid, started });
        }
    }
    let mut found = Vec::new();
    let mut next = vec![pid];
    while let Some(parent) = next.pop() {
        for life in children.get(&parent).into_iter().flatten() {
            found.push(*life);
            next.push(life.pid);
        }
    }
    found
}

/// Parent, state letter and start time of a process (proc(5), `/proc/PID/stat`).
fn state(pid: u32) -> Option<(u32, char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((
        fields.get(1)?.parse().ok()?,
        fields.first()?.chars().next()?,
        fields.get(19)?.parse().ok()?,
    ))
}

/// The last lines of a log, for the output of a failed test.
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(25);
    format!("---- {}\n{}", log.display(), lines[from..].join("\n"))
}
