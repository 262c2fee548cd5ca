//! A Python gRPC server that knows nothing of Pontoon, attached through `pontoon sidecar`.

use super::cluster::{Cluster, PONTOON};
use super::process::Process;
use super::{python, wait};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a worker may take from its start to its place in the directory.
const ATTACHED_WITHIN: Duration = Duration::from_secs(30);

/// A function of a tenant's own, with one version and a worker key.
pub struct Function {
    pub tenant: String,
    pub function: String,
    pub version: String,
    pub worker_key: String,
    /// `Bearer` and a client key.
    pub bearer: String,
    /// The client key's id.
    pub key_id: String,
}

impl Function {
    /// Makes all of it by the command line. `policy` is for `version create`.
    #[track_caller]
    pub fn create(cluster: &Cluster, name: &str, policy: &[&str]) -> Function {
        let tenant = id(&cluster.ask(&["tenant", "create", name]));
        let function = id(&cluster.ask(&["function", "create", name, "--tenant", &tenant]));
        let mut arguments = vec!["version", "create", "--function", &function];
        arguments.extend_from_slice(policy);
        let version = id(&cluster.ask(&arguments));
        let key = |more: &[&str]| {
            let mut arguments = vec!["key", "create", "--tenant", &tenant];
            arguments.extend_from_slice(more);
            cluster.ask(&arguments)
        };
        let worker = key(&["--kind", "worker", "--version", &version]);
        let client = key(&["--kind", "client", "--subject", "tester"]);
        Function {
            worker_key: text(&worker, "secret"),
            bearer: format!("Bearer {}", text(&client, "secret")),
            key_id: id(&client["key"]),
            tenant,
            function,
            version,
        }
    }

    /// What a call of it says.
    pub fn keys<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut keys = vec![
            ("authorization", self.bearer.as_str()),
            ("function-id", self.function.as_str()),
            ("function-version-id", self.version.as_str()),
        ];
        keys.extend_from_slice(more);
        keys
    }
}

/// The `id` of a created thing.
#[track_caller]
pub fn id(created: &Value) -> String {
    text(created, "id")
}

/// A text field.
#[track_caller]
pub fn text(value: &Value, field: &str) -> String {
    match value[field].as_str() {
        Some(text) => text.to_owned(),
        None => panic!("no {field} in {value}"),
    }
}

/// A worker process.
pub struct Worker {
    process: Process,
    /// Where it listens.
    pub address: String,
}

impl Worker {
    /// Starts the server and waits until it listens; `None` where there is no Python.
    pub fn start(name: &str, folder: &Path) -> Option<Worker> {
        Self::start_at(name, folder, "0")
    }

    /// As [`Worker::start`], at a port that a worker before it had.
    pub fn start_at(name: &str, folder: &Path, port: &str) -> Option<Worker> {
        let python = python::interpreter()?;
        let script = python::scripts().join("echo_worker.py");
        let mut command = Command::new(python);
        let process = Process::start(name, folder, command.arg(script).args([name, port]));
        let address = wait::until(Duration::from_secs(20), "the worker listens", || {
            let output = process.output();
            let line = output.lines().find(|line| line.contains("listening"))?;
            let line: Value = serde_json::from_str(line).ok()?;
            Some(text(&line, "address"))
        });
        Some(Worker { process, address })
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until it said an event that begins so; the event.
    #[track_caller]
    pub fn says(&self, what: &str) -> Value {
        wait::until(Duration::from_secs(10), what, || {
            let output = self.process.output();
            let line = output.lines().find(|line| line.contains(what))?;
            serde_json::from_str(line).ok()
        })
    }
}

/// A sidecar process.
pub struct Sidecar {
    process: Process,
}

impl Sidecar {
    /// What `pontoon sidecar` is started with; the key comes by the environment.
    pub fn command(
        cluster: &Cluster,
        name: &str,
        region: &str,
        worker: &str,
        key: &str,
    ) -> Command {
        let mut command = Command::new(PONTOON);
        command
            .args([
                "sidecar", "--name", name, "--region", region, "--worker", worker,
            ])
            .arg("--exit-with-stdin")
            .env("PONTOON_WORKER_KEY", key);
        let nodes = &cluster.ready().nodes;
        let own = nodes.iter().filter(|node| node.region == region);
        let others = nodes.iter().filter(|node| node.region != region);
        for node in own.chain(others) {
            command.args(["--node", &node.worker]);
        }
        command
    }

    /// Starts it, and waits until the directory has its worker ready at two nodes.
    #[track_caller]
    pub fn attach(
        cluster: &Cluster,
        function: &Function,
        name: &str,
        region: &str,
        worker: &Worker,
    ) -> Sidecar {
        let mut command =
            Self::command(cluster, name, region, &worker.address, &function.worker_key);
        let folder: PathBuf = cluster.data().join("logs");
        let process = Process::start(&format!("{name}-sidecar"), &folder, &mut command);
        let sidecar = Sidecar { process };
        wait::until(
            ATTACHED_WITHIN,
            "the worker is attached at two nodes",
            || {
                let worker = find(cluster, name)?;
                let nodes = worker["attached_at"].as_array()?.len();
                (worker["state"] == "ready" && nodes >= 2).then_some(())
            },
        );
        sidecar
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// The worker of this name that the directory has, if any.
#[track_caller]
pub fn find(cluster: &Cluster, name: &str) -> Option<Value> {
    let workers = cluster.ask(&["worker", "list"]);
    let all = workers.as_array().expect("a list");
    all.iter().find(|worker| worker["name"] == name).cloned()
}
