//! The worker as a child process: `pontoon sidecar ... -- COMMAND`.
//!
//! A child's exit is the worker's death, noticed at once; the next child is another worker. The kernel
//! kills the child when the sidecar dies: an orphan would keep its port, and sessions of a later sidecar
//! would meet its memory.

use super::Stop;
use super::options::KEY_VARIABLE;
use crate::clock;
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child as Process, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a child may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// The pause before a child that ended by itself is followed by the next one: doubled from the first to
/// the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A child that ran for so long did not fail at its start: the next pause is the shortest again.
const RAN: Duration = Duration::from_secs(10);

/// What a shell says when a command can't be run, and when there is none of that name.
const NO_COMMAND: [i32; 2] = [126, 127];

/// The worker, where it is ours to run.
pub(super) struct Child {
    command: Vec<OsString>,
    running: Option<Process>,
    /// Its process group, which others may be in.
    group: Option<Pid>,
    started: Instant,
    /// The last one exited by itself.
    failed: bool,
    pause: Duration,
}

impl Child {
    /// Nothing runs yet. Without a command nothing ever does.
    pub(super) fn new(command: &[OsString]) -> Self {
        Self {
            command: command.to_vec(),
            running: None,
            group: None,
            started: clock::now(),
            failed: false,
            pause: PAUSE.0,
        }
    }

    /// Starts the worker, if it is ours to start and does not run; after a pause when the last one exited
    /// by itself.
    ///
    /// # Errors
    ///
    /// When this machine can start no process.
    pub(super) async fn start(&mut self) -> Result<(), Stop> {
        if self.command.is_empty() || self.running.is_some() {
            return Ok(());
        }
        if self.failed {
            self.rest().await;
        }
        // This very program, also when an upgrade has put another file in its place.
        let started = Command::new("/proc/self/exe")
            .arg("leashed")
            .arg(std::process::id().to_string())
            .arg("--")
            .args(&self.command)
            // Whoever has the key may attach workers of its own.
            .env_remove(KEY_VARIABLE)
            // A signal from the terminal is for the sidecar: the worker goes last.
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let child = started.map_err(|error| Stop {
            code: 71,
            text: format!("the worker can't be started: {error}"),
        })?;
        tracing::info!(pid = child.id(), "the worker is started");
        self.group = group(&child);
        self.running = Some(child);
        self.failed = false;
        self.started = clock::now();
        Ok(())
    }

    /// Returns when the worker has exited by itself, and how; never while none of ours runs.
    ///
    /// # Errors
    ///
    /// When its command can't be run: no later start would do better.
    pub(super) async fn exited(&mut self) -> Result<String, Stop> {
        let Some(child) = &mut self.running else {
            return std::future::pending().await;
        };
        let status = child.wait().await;
        self.running = None;
        // What it has started may still have its port, and its sessions' memory.
        let _or_gone = self
            .group
            .take()
            .map(|group| kill_process_group(group, Signal::KILL));
        self.failed = true;
        match status {
            Ok(status) if status.code().is_some_and(|code| NO_COMMAND.contains(&code)) => {
                let name = self.command.first().cloned().unwrap_or_default();
                Err(Stop {
                    code: 64,
                    text: format!("the worker's command {name:?} can't be run; see above"),
                })
            }
            Ok(status) => Ok(said(status)),
            Err(error) => Ok(format!("the worker can't be waited for: {error}")),
        }
    }

    async fn rest(&mut self) {
        if self.started.elapsed() >= RAN {
            self.pause = PAUSE.0;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
    }

    /// Ends the worker and what it has started: SIGTERM, then SIGKILL.
    pub(super) async fn stop(&mut self) {
        let Some(mut child) = self.running.take() else {
            return;
        };
        let group = self.group.take();
        let send = |signal| group.map(|group| kill_process_group(group, signal));
        let _or_gone = send(Signal::TERM);
        if timeout(GRACE, child.wait()).await.is_err() {
            tracing::warn!(
                "the worker did not end within {} s of SIGTERM",
                GRACE.as_secs()
            );
        }
        // Also for those of its group that outlived it.
        let _or_gone = send(Signal::KILL);
        let _or_gone = child.wait().await;
    }
}

fn group(child: &Process) -> Option<Pid> {
    let id = i32::try_from(child.id()?).ok()?;
    Pid::from_raw(id)
}

fn said(status: ExitStatus) -> String {
    format!("the worker has exited: {status}")
}

/// Becomes a command that ends with the process that started it.
///
/// # Errors
///
/// Never returns otherwise: the command can't be run, or the parent is gone.
pub fn leashed(parent: u32, command: &[OsString]) -> (u8, String) {
    let Some((program, arguments)) = command.split_first() else {
        return (64, "a command is missing".to_owned());
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return (
            71,
            format!("the worker can't be bound to its sidecar: {error}"),
        );
    }
    // It may have died before.
    let present = rustix::process::getppid().map(Pid::as_raw_nonzero);
    if present.and_then(|pid| u32::try_from(pid.get()).ok()) != Some(parent) {
        return (71, "the sidecar is gone".to_owned());
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    let code = match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    };
    (code, format!("cannot run {program:?}: {error}"))
}
