//! A Python gRPC server that knows nothing of Pontoon, attached through `pontoon sidecar`.

use super::cluster::{Cluster, PONTOON};
use super::process::Process;
use super::{python, wait};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a worker may take from its start to its place in the directory.
const ATTACHED_WITHIN: Duration = Duration::from_secs(30);

/// A function of a tenant's own, with one version and a worker key.
#[derive(Clone)]
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
        let client = ["--kind", "client", "--subject", "tester"];
        let client = key(cluster, &tenant, &client);
        let (version, worker_key) = version(cluster, &tenant, &function, policy);
        Function {
            worker_key,
            bearer: format!("Bearer {}", text(&client, "secret")),
            key_id: id(&client["key"]),
            tenant,
            function,
            version,
        }
    }

    /// Another version of the same function.
    #[track_caller]
    pub fn another(&self, cluster: &Cluster, policy: &[&str]) -> Function {
        let (version, worker_key) = version(cluster, &self.tenant, &self.function, policy);
        Function {
            version,
            worker_key,
            ..self.clone()
        }
    }

    /// Another function of the same tenant.
    #[track_caller]
    pub fn beside(&self, cluster: &Cluster, name: &str, policy: &[&str]) -> Function {
        let create = ["function", "create", name, "--tenant", &self.tenant];
        let function = id(&cluster.ask(&create));
        let (version, worker_key) = version(cluster, &self.tenant, &function, policy);
        Function {
            function,
            version,
            worker_key,
            ..self.clone()
        }
    }

    /// The same function as another tenant calls it, once it is shared with that one.
    #[track_caller]
    pub fn guest(&self, cluster: &Cluster, name: &str) -> Function {
        let tenant = id(&cluster.ask(&["tenant", "create", name]));
        let client = ["--kind", "client", "--subject", name];
        let client = key(cluster, &tenant, &client);
        Function {
            tenant,
            bearer: format!("Bearer {}", text(&client, "secret")),
            key_id: id(&client["key"]),
            ..self.clone()
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

    /// What a call of any of its versions says.
    pub fn keys_of_any<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut keys = self.keys(more);
        keys.retain(|(name, _)| *name != "function-version-id");
        keys
    }
}

/// Makes a version and a key for its workers; the version's id and the key.
#[track_caller]
fn version(cluster: &Cluster, tenant: &str, function: &str, policy: &[&str]) -> (String, String) {
    let mut arguments = vec!["version", "create", "--function", function];
    arguments.extend_from_slice(policy);
    let version = id(&cluster.ask(&arguments));
    let worker = key(
        cluster,
        tenant,
        &["--kind", "worker", "--version", &version],
    );
    (version, text(&worker, "secret"))
}

#[track_caller]
fn key(cluster: &Cluster, tenant: &str, more: &[&str]) -> Value {
    let mut arguments = vec!["key", "create", "--tenant", tenant];
    arguments.extend_from_slice(more);
    cluster.ask(&arguments)
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
        command.arg(script).args([name, port]);
        Some(Self::run(name, folder, &mut command))
    }

    /// Starts a server that prints a JSON line with its address when it listens.
    #[track_caller]
    pub fn run(name: &str, folder: &Path, command: &mut Command) -> Worker {
        let process = Process::start(name, folder, command);
        let address = wait::until(Duration::from_secs(20), "the worker listens", || {
            let output = process.output();
            let line = output.lines().find(|line| line.contains("listening"))?;
            let line: Value = serde_json::from_str(line).ok()?;
            Some(text(&line, "address"))
        });
        Worker { process, address }
    }

    /// Starts a demo worker, whose model `sum` counts per session and says who it is.
    #[track_caller]
    pub fn demo(name: &str, folder: &Path) -> Worker {
        let mut command = Command::new(PONTOON);
        command.args(["demo-worker", "--exit-with-stdin", "--print-address"]);
        command.args(["--listen", "127.0.0.1:0", "--name", name]);
        let process = Process::start(name, folder, &mut command);
        let address = wait::until(Duration::from_secs(20), "the worker listens", || {
            let output = process.output();
            let mut lines = output.lines();
            let address = lines.find(|line| line.parse::<SocketAddr>().is_ok());
            address.map(str::to_owned)
        });
        Worker { process, address }
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
    /// One that knows only these addresses.
    pub fn knowing(nodes: &[&str], name: &str, region: &str, worker: &str, key: &str) -> Command {
        let mut command = Command::new(PONTOON);
        command
            .args(["sidecar", "--name", name, "--region", region])
            .args(["--worker", worker, "--nodes", &nodes.join(",")])
            .arg("--exit-with-stdin")
            .env("PONTOON_WORKER_KEY", key);
        command
    }

    /// What `pontoon sidecar` is started with; the key comes by the environment.
    pub fn command(
        cluster: &Cluster,
        name: &str,
        region: &str,
        worker: &str,
        key: &str,
    ) -> Command {
        let nodes = &cluster.ready().nodes;
        let own = nodes.iter().filter(|node| node.region == region);
        let others = nodes.iter().filter(|node| node.region != region);
        let all: Vec<&str> = own.chain(others).map(|node| &*node.worker).collect();
        Self::knowing(&all, name, region, worker, key)
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
        Self::attach_with(cluster, function, name, region, worker, &[])
    }

    /// As [`Sidecar::attach`], with more arguments.
    #[track_caller]
    pub fn attach_with(
        cluster: &Cluster,
        function: &Function,
        name: &str,
        region: &str,
        worker: &Worker,
        more: &[&str],
    ) -> Sidecar {
        let mut command =
            Self::command(cluster, name, region, &worker.address, &function.worker_key);
        command.args(more);
        let folder: PathBuf = cluster.data().join("logs");
        let process = Process::start(&format!("{name}-sidecar"), &folder, &mut command);
        let sidecar = Sidecar { process };
        attached(cluster, name, 2);
        sidecar
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Waits until a worker is ready and attached at so many nodes; their names.
#[track_caller]
pub fn attached(cluster: &Cluster, name: &str, nodes: usize) -> Vec<String> {
    wait::until(ATTACHED_WITHIN, "the worker is attached", || {
        let worker = find(cluster, name)?;
        let at = worker["attached_at"].as_array()?;
        let names = at.iter().filter_map(|at| Some(at.as_str()?.to_owned()));
        let names: Vec<String> = names.collect();
        (worker["state"] == "ready" && at.len() >= nodes).then_some(names)
    })
}

/// The worker of this name that the directory has, if any.
#[track_caller]
pub fn find(cluster: &Cluster, name: &str) -> Option<Value> {
    let workers = cluster.ask(&["worker", "list"]);
    let all = workers.as_array().expect("a list");
    all.iter().find(|worker| worker["name"] == name).cloned()
}
