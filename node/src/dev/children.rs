//! The running processes: started on a leash, ended on request, never restarted unasked.
//!
//! ```text
//! stopped ──start──▶ running ──stop (SIGTERM), kill (SIGKILL), or by itself──▶ stopped
//! ```
//!
//! Each process is in a process group of its own, so that Ctrl-C reaches `pontoon dev` alone, which
//! then ends the others in order; and each has a pipe as standard input, so that the kernel ends
//! them when `pontoon dev` itself is killed.

use super::Error;
use crate::tasks::{self, Kind};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

/// How long a stopped process may take: a node drains within its grace.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// How long a start waits for a process that may be just ending: an end by SIGKILL takes
/// milliseconds, and a mistaken start of a running process costs its user no more than this.
const ENDING_WITHIN: Duration = Duration::from_secs(1);

/// How everything is ended after Ctrl-C: asked, told a second time, which means at once, then killed.
/// A process gets so long after each signal: clean ends take milliseconds, and nobody's calls are
/// waited for, because their callers are the user's own.
const END_STEPS: [(Signal, Duration); 3] = [
    (Signal::TERM, Duration::from_secs(1)),
    (Signal::TERM, Duration::from_secs(4)),
    (Signal::KILL, Duration::from_secs(10)),
];

/// Deaths that nobody has read yet: more than there are processes.
const DEATHS_MAX: usize = 1024;

/// What a process is started with.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: String,
    /// Without `--exit-with-stdin`, which a process started by hand must not have.
    pub(super) arguments: Vec<String>,
    pub(super) log: PathBuf,
}

/// A process that ended without having been asked to.
#[derive(Debug)]
pub(super) struct Death {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) how: String,
    pub(super) log: PathBuf,
}

/// The processes by name.
#[derive(Clone)]
pub(super) struct Children {
    program: PathBuf,
    processes: Arc<Mutex<BTreeMap<String, Process>>>,
    deaths: mpsc::Sender<Death>,
}

struct Process {
    spec: Spec,
    running: Option<Running>,
}

#[derive(Clone)]
struct Running {
    pid: u32,
    /// Set before a process is asked to end, so that its end is no news.
    asked: Arc<std::sync::atomic::AtomicBool>,
    signals: mpsc::Sender<Signal>,
    ended: watch::Receiver<Option<String>>,
}

impl Children {
    /// No processes yet, all of one program; the receiver hears of unexpected deaths.
    pub(super) fn new(program: PathBuf) -> (Self, mpsc::Receiver<Death>) {
        let (deaths, heard) = mpsc::channel(DEATHS_MAX);
        let children = Self {
            program,
            processes: Arc::default(),
            deaths,
        };
        (children, heard)
    }

    /// Adds a process and starts it.
    pub(super) fn add(&self, spec: Spec) -> Result<u32, Error> {
        let name = spec.name.clone();
        self.lock().insert(
            name.clone(),
            Process {
                spec,
                running: None,
            },
        );
        self.start(&name)
    }

    /// Waits until a process that is just ending has ended, [`ENDING_WITHIN`] at most.
    ///
    /// Whoever pastes `kill -9 PID` and then asks for a new start is faster than the kernel, which
    /// first ends every thread of the process, and lets the ones go that wait for the disk.
    pub(super) async fn settle(&self, name: &str) {
        let running = find(&mut self.lock(), name)
            .ok()
            .and_then(|process| process.alive());
        if let Some(running) = running {
            let mut ended = running.ended;
            // Either way the start that follows finds out how things are.
            let _ = tokio::time::timeout(ENDING_WITHIN, ended.wait_for(Option::is_some)).await;
        }
    }

    /// Starts a process that does not run.
    pub(super) fn start(&self, name: &str) -> Result<u32, Error> {
        let mut processes = self.lock();
        let process = find(&mut processes, name)?;
        if let Some(running) = process.alive() {
            return Err(Error::new(format!(
                "{name} runs already, as process {}",
                running.pid
            )));
        }
        let running = spawn(&self.program, &process.spec, self.deaths.clone())?;
        let pid = running.pid;
        process.running = Some(running);
        Ok(pid)
    }

    /// Sends a signal to a running process and waits for its end; says how it ended.
    pub(super) async fn end(&self, name: &str, signal: Signal) -> Result<String, Error> {
        let running = {
            let mut processes = self.lock();
            let process = find(&mut processes, name)?;
            process
                .alive()
                .ok_or_else(|| Error::new(format!("{name} does not run")))?
        };
        running.signal(signal).await;
        let mut ended = running.ended;
        let how = tokio::time::timeout(STOP_WITHIN, ended.wait_for(Option::is_some)).await;
        match how {
            Ok(how) => Ok(how.ok().and_then(|how| how.clone()).unwrap_or_default()),
            Err(_) => Err(Error::new(format!(
                "{name} (process {}) is still leaving after {STOP_WITHIN:?}, because it lets its calls \
                 or sessions finish; `pontoon dev kill {name}` ends it at once",
                running.pid
            ))),
        }
    }

    /// The process id, while it runs.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        Some(self.lock().get(name)?.alive()?.pid)
    }

    /// How a process ended, if it has.
    pub(super) fn ended(&self, name: &str) -> Option<String> {
        let processes = self.lock();
        let running = processes.get(name)?.running.as_ref()?;
        running.ended.borrow().clone()
    }

    /// Ends everything: asks, waits, then kills. Returns when nothing is left.
    pub(super) async fn end_all(&self) {
        let alive: Vec<Running> = self.lock().values().filter_map(Process::alive).collect();
        for (signal, within) in END_STEPS {
            for running in &alive {
                running.signal(signal).await;
            }
            let all_ended = async {
                for running in &alive {
                    // An error means that its task is gone, and so is the process.
                    let _ = running.ended.clone().wait_for(Option::is_some).await;
                }
            };
            if tokio::time::timeout(within, all_ended).await.is_ok() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Process>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    fn alive(&self) -> Option<Running> {
        let running = self.running.as_ref()?;
        running.ended.borrow().is_none().then(|| running.clone())
    }
}

impl Running {
    async fn signal(&self, signal: Signal) {
        self.asked.store(true, std::sync::atomic::Ordering::SeqCst);
        // The task is gone only when the process is.
        let _ = self.signals.send(signal).await;
    }
}

fn find<'a>(
    processes: &'a mut BTreeMap<String, Process>,
    name: &str,
) -> Result<&'a mut Process, Error> {
    if processes.contains_key(name) {
        return processes
            .get_mut(name)
            .ok_or_else(|| Error::new("unknown name"));
    }
    let names: Vec<_> = processes.keys().map(String::as_str).collect();
    Err(Error::new(format!(
        "there is no {name}; there are {}",
        names.join(", ")
    )))
}

fn spawn(program: &PathBuf, spec: &Spec, deaths: mpsc::Sender<Death>) -> Result<Running, Error> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .map_err(|error| Error::file("open", &spec.log, &error))?;
    let errors = log
        .try_clone()
        .map_err(|error| Error::file("open", &spec.log, &error))?;
    let mut child = Command::new(program)
        .args(&spec.arguments)
        .arg("--exit-with-stdin")
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Error::new(format!("cannot start {}: {error}", spec.name)))?;
    let pid = child.id().unwrap_or_default();
    let (signals, mut wanted) = mpsc::channel(4);
    let (tell, ended) = watch::channel(None);
    let running = Running {
        pid,
        asked: Arc::default(),
        signals,
        ended,
    };
    let (asked, name, log) = (running.asked.clone(), spec.name.clone(), spec.log.clone());
    let watch = async move {
        // Held until the end: its other side is the child's leash.
        let _leash = child.stdin.take();
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                // Not reaped yet, so the number is still this process's.
                Some(signal) = wanted.recv() => deliver(pid, signal),
            }
        };
        let how = describe(status);
        tell.send_replace(Some(how.clone()));
        if !asked.load(std::sync::atomic::Ordering::SeqCst) {
            // Full or closed: nobody reads any more.
            let _ = deaths.try_send(Death {
                name,
                pid,
                how,
                log,
            });
        }
    };
    drop(tasks::spawn(Kind::Worker, "child process", watch));
    Ok(running)
}

fn deliver(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It fails only when the process has just ended, which is what was wanted.
        let _ = kill_process(pid, signal);
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown end".to_owned(),
        },
        Err(error) => format!("an unknown end ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &tempfile::TempDir, name: &str, script: &str) -> Spec {
        Spec {
            name: name.to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned(), "sh".to_owned()],
            log: folder.path().join("log"),
        }
    }

    #[tokio::test]
    async fn an_unexpected_death_is_reported_and_not_undone() {
        let folder = tempfile::tempdir().unwrap();
        let (children, mut deaths) = Children::new("/bin/sh".into());
        let pid = children.add(shell(&folder, "a", "exit 3")).unwrap();
        let death = deaths.recv().await.unwrap();
        assert_eq!(
            (death.name.as_str(), death.pid, death.how.as_str()),
            ("a", pid, "exit code 3")
        );
        assert_eq!(children.pid("a"), None);
        assert_eq!(children.ended("a").as_deref(), Some("exit code 3"));
    }

    #[tokio::test]
    async fn stop_kill_and_start_act_on_one_process_and_a_wish_is_no_news() {
        let folder = tempfile::tempdir().unwrap();
        let (children, mut deaths) = Children::new("/bin/sh".into());
        let first = children.add(shell(&folder, "a", "read line")).unwrap();
        assert!(
            children
                .start("a")
                .unwrap_err()
                .to_string()
                .contains("runs already")
        );
        assert_eq!(children.end("a", Signal::KILL).await.unwrap(), "signal 9");
        assert!(children.end("a", Signal::TERM).await.is_err());
        assert_ne!(children.start("a").unwrap(), first);
        assert_eq!(children.end("a", Signal::TERM).await.unwrap(), "signal 15");
        let error = children.start("b").unwrap_err().to_string();
        assert!(error.contains("no b; there are a"), "{error}");
        assert!(deaths.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_wish_is_killed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (children, _deaths) = Children::new("/bin/sh".into());
        children
            .add(shell(
                &folder,
                "a",
                "trap '' TERM; while :; do read line || sleep 1; done",
            ))
            .unwrap();
        children.add(shell(&folder, "b", "read line")).unwrap();
        children.end_all().await;
        assert_eq!((children.pid("a"), children.pid("b")), (None, None));
    }
}
