//! A whole cluster: `pontoon dev` as a child process, found by its ready file.

use super::process::{self, Process, is_alive, send};
use super::{cli, wait};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The binary under test.
pub const PONTOON: &str = env!("CARGO_BIN_EXE_pontoon");

/// How long a cluster may take from start to ready on a busy machine of two cores.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a killed part may take until the rest has noticed and works again: node loss (5 s), an
/// election or two, and a busy machine.
pub const RECOVERED_WITHIN: Duration = Duration::from_secs(30);

/// One node, as the ready file has it.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub region: String,
    pub pid: u32,
    pub client: String,
    /// Empty without TLS.
    pub client_tls: String,
    pub worker: String,
    pub admin: String,
    pub ops: String,
}

/// One sidecar with its worker.
#[derive(Clone, Debug)]
pub struct Sidecar {
    pub region: String,
    pub pid: u32,
    pub worker_pid: u32,
    pub worker: String,
}

/// What the ready file says.
#[derive(Clone, Debug)]
pub struct Ready {
    pub nodes: Vec<Node>,
    pub sidecars: Vec<Sidecar>,
    pub tenant: String,
    pub function_id: String,
    pub function_version_id: String,
    pub api_key: String,
    pub admin_token: String,
    /// `Bearer` and the key.
    pub bearer: String,
}

impl Ready {
    /// Reads the file; `None` while it is not there.
    pub fn read(path: &Path) -> Option<Ready> {
        let text = fs::read_to_string(path).ok()?;
        let all: Value = serde_json::from_str(&text).expect("the ready file appears whole");
        let text = |value: &Value, key: &str| match value[key].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("the ready file has no {key} in {value}"),
        };
        let pid = |value: &Value, key: &str| match value[key].as_u64() {
            Some(pid) => u32::try_from(pid).expect("a pid"),
            None => panic!("the ready file has no {key} in {value}"),
        };
        let list = |value: &Value| value.as_array().cloned().expect("a list");
        let (mut nodes, mut sidecars) = (Vec::new(), Vec::new());
        for region in list(&all["regions"]) {
            for node in list(&region["nodes"]) {
                nodes.push(Node {
                    name: text(&node, "name"),
                    region: text(&region, "name"),
                    pid: pid(&node, "pid"),
                    client: text(&node, "client"),
                    client_tls: node["client_tls"].as_str().unwrap_or_default().to_owned(),
                    worker: text(&node, "worker"),
                    admin: text(&node, "admin"),
                    ops: text(&node, "ops"),
                });
            }
            for sidecar in list(&region["sidecars"]) {
                sidecars.push(Sidecar {
                    region: text(&region, "name"),
                    pid: pid(&sidecar, "pid"),
                    worker_pid: pid(&sidecar, "worker_pid"),
                    worker: text(&sidecar, "worker"),
                });
            }
        }
        let api_key = text(&all, "api_key");
        Some(Ready {
            nodes,
            sidecars,
            tenant: text(&all, "tenant"),
            function_id: text(&all, "function_id"),
            function_version_id: text(&all, "function_version_id"),
            bearer: format!("Bearer {api_key}"),
            api_key,
            admin_token: text(&all, "admin_token"),
        })
    }

    /// A node by name.
    #[track_caller]
    pub fn node(&self, name: &str) -> &Node {
        match self.nodes.iter().find(|node| node.name == name) {
            Some(node) => node,
            None => panic!("no node {name}"),
        }
    }
}

/// A running cluster. Dropping it ends every process of it.
pub struct Cluster {
    dev: Process,
    ready: Ready,
    folder: PathBuf,
}

impl Cluster {
    /// Starts a cluster with a data folder of its own.
    #[track_caller]
    pub fn start() -> Cluster {
        Self::start_in(&folder(), &["--slots", "64"])
    }

    /// The cluster that the tests of one binary share. It ends with the binary's process.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Cluster::start)
    }

    /// Starts a cluster in `folder` (data in `folder/data`) with more arguments.
    #[track_caller]
    pub fn start_in(folder: &Path, more: &[&str]) -> Cluster {
        Self::start_with(folder, more, &[])
    }

    /// As [`Cluster::start_in`], with variables for the environment of every process of it.
    #[track_caller]
    pub fn start_with(folder: &Path, more: &[&str], environment: &[(&str, &str)]) -> Cluster {
        // Ports are drawn first and bound later: two clusters that start at once can draw the same.
        static STARTING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let dev = begin_with(folder, more, environment);
        let path = folder.join("ready.json");
        let ready = wait::within(READY_WITHIN, || {
            if let Some(status) = dev.ended() {
                panic!("pontoon dev ended early, {status}:\n{}", dev.output());
            }
            Ready::read(&path)
        });
        let Some(ready) = ready else {
            print_logs(folder);
            panic!("pontoon dev was not ready within {READY_WITHIN:?}");
        };
        Cluster {
            dev,
            ready,
            folder: folder.to_path_buf(),
        }
    }

    /// What the ready file said when the cluster had started.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// What the ready file says now: processes that were started again have other ids.
    pub fn now(&self) -> Ready {
        Ready::read(&self.folder.join("ready.json")).expect("a ready cluster has its ready file")
    }

    /// Whether a node runs.
    pub fn runs(&self, name: &str) -> bool {
        let pid = self.now().node(name).pid;
        pid != 0 && is_alive(pid)
    }

    /// Where it keeps everything.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The parent of all its processes.
    pub fn dev(&self) -> &Process {
        &self.dev
    }

    /// The client address of the first node of a region.
    #[track_caller]
    pub fn client_address(&self, region: &str) -> &str {
        match self.ready.nodes.iter().find(|node| node.region == region) {
            Some(node) => &node.client,
            None => panic!("no node in {region}"),
        }
    }

    /// Kills a node with SIGKILL and waits until it is gone.
    #[track_caller]
    pub fn kill_node(&self, name: &str) {
        let pid = self.now().node(name).pid;
        send(pid, Signal::KILL);
        wait::until(Duration::from_secs(5), "a killed node is gone", || {
            (!is_alive(pid)).then_some(())
        });
    }

    /// Starts a node or sidecar again that was killed or stopped.
    #[track_caller]
    pub fn start_again(&self, name: &str) {
        let data = self.data();
        let data = data.to_str().expect("a printable path");
        cli::run(Command::new(PONTOON).args(["dev", "start", name, "--data-dir", data]));
    }

    /// `pontoon NOUN VERB ... -o json` at the first node that lives.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let admin = self.admin();
        let mut command = cli::pontoon(&admin, &self.ready.admin_token, arguments);
        if self
            .ready
            .nodes
            .iter()
            .any(|node| !node.client_tls.is_empty())
        {
            command
                .env("PONTOON_ENDPOINT", format!("https://{admin}"))
                .env("PONTOON_CA_FILE", self.ca());
        }
        cli::json(&mut command)
    }

    /// The CA of a cluster with TLS.
    pub fn ca(&self) -> PathBuf {
        self.data().join("tls/ca.pem")
    }

    /// The admin address of the first node that lives.
    #[track_caller]
    pub fn admin(&self) -> String {
        let nodes = self.now().nodes;
        let alive = nodes
            .into_iter()
            .find(|node| node.pid != 0 && is_alive(node.pid));
        alive.expect("a node that lives").admin
    }

    /// Lets a test that fails show the logs of all processes.
    pub fn witness(&self) -> Witness {
        Witness(self.folder.clone())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(&self.folder);
        }
    }
}

/// Prints the logs when the test that holds it fails.
pub struct Witness(PathBuf);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(&self.0);
        }
    }
}

/// Starts `pontoon dev` and does not wait for it. It ends with its standard input, so also when our
/// process ends without a word: statics are never dropped.
pub fn begin(folder: &Path, more: &[&str]) -> Process {
    begin_with(folder, more, &[])
}

fn begin_with(folder: &Path, more: &[&str], environment: &[(&str, &str)]) -> Process {
    fs::remove_file(folder.join("ready.json")).ok();
    let mut command = Command::new(PONTOON);
    command
        .args([
            "dev",
            "--exit-with-stdin",
            "--ports",
            "auto",
            "--ready-file",
        ])
        .arg(folder.join("ready.json"))
        .arg("--data-dir")
        .arg(folder.join("data"))
        .args(more)
        .envs(environment.iter().copied());
    Process::start("dev", folder, &mut command)
}

/// A new folder under the target folder. It stays for inspection until the next run of any test.
pub fn folder() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    if number == 0 {
        remove_old(home);
    }
    let folder = home.join(format!("cluster-{}-{number}", std::process::id()));
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&folder).expect("a folder under the target folder");
    folder
}

/// Removes what test processes left that are gone.
fn remove_old(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| {
            let rest = name.strip_prefix("cluster-")?;
            rest.split('-').next()?.parse().ok()
        });
        if pid.is_some_and(|pid| !is_alive(pid)) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn print_logs(folder: &Path) {
    let mut text = String::new();
    for folder in [folder.to_path_buf(), folder.join("data/logs")] {
        let mut logs: Vec<PathBuf> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        for log in logs {
            text.push_str(&process::tail(&log));
            text.push('\n');
        }
    }
    eprintln!("{text}");
}
