//! What is judged: an address, and what a caller has to know about what is behind it.
//!
//! Without further ado that is a development cluster which the suite starts, with the suite's own worker
//! behind a sidecar. `PONTOON_TARGET` names any other address; `docs/conformance.md` says how.

use crate::caller::{Ask, h2};
use crate::support::cluster::{self, Cluster, PONTOON};
use crate::support::process::Process;
use crate::support::wait;
use crate::support::worker::{Function, Sidecar, find};
use crate::worker::EchoWorker;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

/// What a check found: nothing, or what is wrong.
pub type Checked = Result<(), String>;

/// How long a worker may take until it is attached.
const ATTACHED_WITHIN: Duration = Duration::from_secs(30);

/// The version of HTTP that a check speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    H2,
    H1,
}

/// Whom a check asks.
#[derive(Clone)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    pub wire: Wire,
    pub world: &'static World,
}

impl Target {
    /// The one that the environment names, or the suite's own cluster.
    pub fn shared(wire: Wire) -> Target {
        let world = World::shared();
        Target {
            address: world.address.clone(),
            wire,
            world,
        }
    }

    /// A request of the function that says all that a call has to say.
    pub fn ask(&self, method: &str, path: &str) -> Ask {
        let ask = Ask::new(method, path)
            .with("authorization", &self.world.bearer)
            .with("function-id", &self.world.function);
        match &self.world.version {
            Some(version) => ask.with("function-version-id", version),
            None => ask,
        }
    }

    /// The same of another function.
    pub fn ask_of(&self, function: &Function, method: &str, path: &str) -> Ask {
        Ask::new(method, path)
            .with("authorization", &function.bearer)
            .with("function-id", &function.function)
            .with("function-version-id", &function.version)
    }

    /// The same target at another node's address.
    pub fn at(&self, address: &str) -> Target {
        Target {
            address: address.to_owned(),
            ..self.clone()
        }
    }
}

/// What is behind the address.
pub struct World {
    pub address: String,
    pub bearer: String,
    pub key: String,
    pub function: String,
    pub version: Option<String>,
    /// What the worker notes; `None` when somebody else runs it.
    pub worker: EchoWorker,
    /// What only the suite's own cluster has.
    pub own: Option<Own>,
}

/// The suite's own cluster.
pub struct Own {
    pub cluster: &'static Cluster,
    pub main: &'static Function,
    others: Mutex<BTreeMap<&'static str, &'static Attached>>,
}

/// A function with a sidecar, if it has one.
pub struct Attached {
    pub function: Function,
    pub sidecar: Option<Process>,
    pub worker: EchoWorker,
}

/// The runtime of workers, proxies and checks.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

/// Runs a check to its end.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl World {
    /// The world of this run.
    pub fn shared() -> &'static World {
        static SHARED: OnceLock<World> = OnceLock::new();
        SHARED.get_or_init(|| match environment("PONTOON_TARGET") {
            Some(address) => World::foreign(address),
            None => World::own(),
        })
    }

    fn foreign(address: String) -> World {
        let wanted = |name: &str| environment(name).unwrap_or_else(|| panic!("{name} is not set"));
        let listen = environment("PONTOON_ECHO_LISTEN");
        let listen = listen.unwrap_or_else(|| "127.0.0.1:8001".to_owned());
        let key = wanted("PONTOON_API_KEY");
        let world = World {
            address,
            bearer: format!("Bearer {key}"),
            key,
            function: wanted("PONTOON_FUNCTION_ID"),
            version: environment("PONTOON_FUNCTION_VERSION_ID"),
            worker: listening(&listen, false),
            own: None,
        };
        run(world.answers());
        world
    }

    /// Waits until a sidecar has found the worker, and a call reaches it.
    async fn answers(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        let call = Ask::new("GET", "/first")
            .with("authorization", &self.bearer)
            .with("function-id", &self.function);
        let mut last = String::new();
        for _ in 0..120 {
            ticks.tick().await;
            let answer = match h2::Conn::open(&self.address).await {
                Ok(conn) => conn.ask(&call).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(reply) if reply.status == 200 => return,
                other => last = format!("{other:?}"),
            }
        }
        panic!(
            "no call reaches the suite's worker at {}: {last}",
            self.worker.address
        );
    }

    fn own() -> World {
        let cluster: &'static Cluster = Cluster::shared();
        let worker = listening("127.0.0.1:0", false);
        let function = Function::create(
            cluster,
            "conformance",
            &["--slots", "8000", "--wait", "20s"],
        );
        let attached = attach(cluster, "conformance", function, worker.clone(), "grpc");
        let attached: &'static Attached = Box::leak(Box::new(attached));
        let main = &attached.function;
        World {
            address: cluster.client_address("us-east").to_owned(),
            bearer: main.bearer.clone(),
            key: main.bearer.trim_start_matches("Bearer ").to_owned(),
            function: main.function.clone(),
            version: Some(main.version.clone()),
            worker,
            own: Some(Own {
                cluster,
                main,
                others: Mutex::default(),
            }),
        }
    }

    /// The suite's own cluster, for a row that needs it.
    pub fn own_cluster(&self) -> Result<&Own, String> {
        self.own
            .as_ref()
            .ok_or_else(|| "this row needs a cluster of the suite's own".to_owned())
    }
}

impl Own {
    /// A function of its own, made at its first use. `worker` says whether it has a worker, and which.
    pub fn function(
        &self,
        name: &'static str,
        policy: &[&str],
        worker: Behind,
    ) -> &'static Attached {
        tokio::task::block_in_place(|| {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = others.get(name) {
                return *found;
            }
            let function = Function::create(self.cluster, name, policy);
            let echo = listening("127.0.0.1:0", worker == Behind::OnlyH1);
            let attached = match worker {
                Behind::Nobody => Attached {
                    function,
                    sidecar: None,
                    worker: echo,
                },
                Behind::Echo => attach(self.cluster, name, function, echo, "grpc"),
                Behind::OnlyH1 => attach(self.cluster, name, function, echo, "tcp"),
            };
            let attached: &'static Attached = Box::leak(Box::new(attached));
            others.insert(name, attached);
            attached
        })
    }

    /// As [`Own::function`], but nobody else has it: for checks that break it.
    pub fn victim(&self, name: &str, policy: &[&str]) -> Attached {
        tokio::task::block_in_place(|| {
            let function = Function::create(self.cluster, name, policy);
            attach(
                self.cluster,
                name,
                function,
                listening("127.0.0.1:0", false),
                "grpc",
            )
        })
    }

    /// A key of another subject of the same tenant.
    pub fn second_key(&self) -> Result<String, String> {
        let tenant = &self.main.tenant;
        let create = ["key", "create", "--kind", "client", "--tenant", tenant];
        let made = self.admin(&[&create[..], &["--subject", "another"]].concat());
        let secret = made["secret"].as_str().map(str::to_owned);
        secret.ok_or_else(|| format!("no secret in {made}"))
    }

    /// The admin CLI.
    pub fn admin(&self, arguments: &[&str]) -> serde_json::Value {
        tokio::task::block_in_place(|| self.cluster.ask(arguments))
    }

    /// The processes of the client's node and of the worker's sidecar, for bounds on memory.
    pub fn pids(&self) -> Vec<u32> {
        let ready = self.cluster.ready();
        ready.nodes.iter().map(|node| node.pid).collect()
    }
}

/// Who is behind a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    Nobody,
    Echo,
    OnlyH1,
}

/// A worker in this process.
fn listening(address: &str, only_h1: bool) -> EchoWorker {
    let listen = EchoWorker::listen(address, only_h1);
    let started = match tokio::runtime::Handle::try_current() {
        Ok(handle) => handle.block_on(listen),
        Err(_) => run(listen),
    };
    started.expect("the echo worker listens")
}

/// Starts a sidecar beside a worker, and waits until it is attached at two nodes.
fn attach(
    cluster: &'static Cluster,
    name: &str,
    function: Function,
    worker: EchoWorker,
    health: &str,
) -> Attached {
    let key = &function.worker_key;
    let mut command = Sidecar::command(cluster, name, "us-east", &worker.address, key);
    command.args(["--health", health]);
    let folder = cluster.data().join("logs");
    let sidecar = Process::start(&format!("{name}-sidecar"), &folder, &mut command);
    wait::until(
        ATTACHED_WITHIN,
        "the echo worker is attached at two nodes",
        || {
            let found = find(cluster, name)?;
            let nodes = found["attached_at"].as_array()?.len();
            (found["state"] == "ready" && nodes >= 2).then_some(())
        },
    );
    Attached {
        function,
        sidecar: Some(sidecar),
        worker,
    }
}

/// A folder for what a test leaves.
pub fn folder() -> std::path::PathBuf {
    cluster::folder()
}

/// The binary under test.
pub const BINARY: &str = PONTOON;
