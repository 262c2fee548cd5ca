//! A child process: its log is a file, and it ends with its owner.

use super::Error;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The unit of the CPU times in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux that we know
/// of, whatever its kernel's own tick is (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// A running child. Dropping it kills it and waits for its end: its data is thrown away anyway.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`. Both of its outputs go to `folder/name.log`; its standard input is a pipe that
    /// closes when this process ends, however it ends.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        folder: &Path,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, Error> {
        Self::start_with(name, folder, (&[], program), arguments, &[])
    }

    /// The same, with more in its environment, and by a command that becomes the program.
    pub fn start_with<A: AsRef<OsStr>>(
        name: &str,
        folder: &Path,
        (by, program): (&[String], &Path),
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, String)],
    ) -> Result<Self, Error> {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log);
        let out = out.map_err(|error| Error::file("write", &log, &error))?;
        let err = out
            .try_clone()
            .map_err(|error| Error::file("write", &log, &error))?;
        let mut command = match by {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        let child = command
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|error| Error::file("start", program, &error))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL. It is still to be waited for.
    pub fn kill(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
    }

    /// Kills it, and returns once it has ended and its files and ports are free.
    pub fn end(&mut self) {
        self.kill();
        self.child.wait().ok();
    }

    /// Sends a signal, as SIGSTOP and SIGCONT are.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // Not waited for yet, so the number is still this child's.
            rustix::process::kill_process(pid, signal).ok();
        }
    }

    /// The state that `/proc/PID/stat` says: `R`, `S`, `T` for stopped, `Z` once it has ended.
    pub fn state(&self) -> Option<char> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        text.rsplit_once(')')?.1.trim_start().chars().next()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> Option<u64> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).ok()?;
        Some(entries.count() as u64)
    }

    /// How many threads it has.
    pub fn threads(&self) -> Option<u64> {
        let entries = std::fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?;
        Some(entries.count() as u64)
    }

    /// Says so, with the end of its log, when it has ended by itself.
    pub fn alive(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Error(format!(
                "{} ended, {status}:\n{}",
                self.name,
                self.tail()
            ))),
            Err(error) => Err(Error(format!("{}: {error}", self.name))),
        }
    }

    /// The user and system time that it has taken so far; none when it has ended.
    pub fn cpu(&self) -> Option<Duration> {
        cpu_of(&Path::new("/proc").join(self.pid().to_string()))
    }

    /// The memory that it holds at present, in bytes (`VmRSS`); none when it has ended.
    pub fn memory(&self) -> Option<u64> {
        self.status("VmRSS:")
    }

    /// The most that it ever held (`VmHWM`).
    pub fn memory_peak(&self) -> Option<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> Option<u64> {
        let status = Path::new("/proc")
            .join(self.pid().to_string())
            .join("status");
        let text = std::fs::read_to_string(status).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Its log, of all of its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string())
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// utime and stime, fields 14 and 15 of `stat`; the name before them may hold spaces and brackets.
fn cpu_of(folder: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(folder.join("stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((user + system) * TICK)
}

/// Runs a command to its end, which must be a good one.
pub(crate) async fn run(command: &mut tokio::process::Command) -> Result<(), Error> {
    let words = format!("{:?}", command.as_std());
    let ended = command.kill_on_drop(true).output().await;
    let ended = ended.map_err(|error| Error(format!("cannot run {words}: {error}")))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(Error(format!("{words} failed: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_a_process_is_seen() {
        let folder = super::super::folder::Folder::inside(&std::env::temp_dir()).unwrap();
        let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; cat";
        let mut busy =
            Process::start("busy", folder.path(), Path::new("/bin/sh"), ["-c", script]).unwrap();
        let enough = |busy: &Process| busy.cpu().is_some_and(|cpu| cpu >= TICK);
        while !enough(&busy) {
            busy.alive().unwrap();
            std::thread::yield_now();
        }
        // By now it has become what it was started as.
        assert!(busy.memory().is_some_and(|bytes| bytes > 100_000));
    }
}
