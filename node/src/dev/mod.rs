//! A whole cluster on this machine, as real processes on loopback.
//!
//! [`plan`] says which processes there are and what each is told; [`ports`] finds listeners for
//! them; [`folder`] and [`saved`] are what stays on disk; [`children`] starts and ends processes;
//! [`setup`] makes the demo's tenant, function and keys and knows when the first call will succeed;
//! [`ready`] and [`screen`] tell the user; [`control`] takes `pontoon dev stop|start|kill NAME`.
//!
//! Nothing is restarted behind the user's back: a process that dies is reported, and stays dead
//! until `pontoon dev start` is asked for.

pub mod leash;

mod children;
mod control;
mod folder;
mod plan;
mod ports;
mod ready;
mod saved;
mod screen;
mod setup;

use crate::net::UnixListener;
use crate::tasks::{self, Kind};
use children::{Children, Spec};
use control::{Request, Verb};
use folder::Folder;
use plan::{Layout, Node, Size, Worker};
use saved::Saved;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How many lines of a dead process's log are shown.
const TAIL_LINES: usize = 8;

/// What `pontoon dev` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    act: Option<Act>,
    /// Nodes in each of the three regions [default: 1, or the data folder's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5))]
    nodes_per_region: Option<u32>,
    /// Workers in each region, each with its sidecar [default: 1, or the data folder's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20))]
    workers_per_region: Option<u32>,
    /// Sessions that a worker takes at a time [default: 8, or the data folder's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16384))]
    slots: Option<u32>,
    /// Keep everything here, and find it again at the next start [default: a temporary folder]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Write what scripts need to know here, as JSON, once everything answers
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// `default`: the well-known ports for the first node; `auto`: free ones for all
    #[arg(long, value_enum, default_value_t = PortChoice::Default)]
    ports: PortChoice,
    /// Make a CA and certificates in the data folder, and use TLS between nodes, for sidecars and for
    /// the admin API
    #[arg(long)]
    tls: bool,
    /// End when standard input closes, as it does when a parent process dies
    #[arg(long)]
    exit_with_stdin: bool,
}

/// Which ports the first node gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PortChoice {
    /// 10080, 10081, 10083, 10085 and 10086.
    Default,
    /// Free ones.
    Auto,
}

/// What to do with a running cluster.
#[derive(Clone, Debug, clap::Subcommand)]
enum Act {
    /// Stop a node, worker or sidecar of the running cluster (SIGTERM)
    Stop(On),
    /// Start it again
    Start(On),
    /// Kill it (SIGKILL)
    Kill(On),
}

/// Which process, of which cluster.
#[derive(Clone, Debug, clap::Args)]
struct On {
    /// us-east-1, us-east-worker-1, us-east-sidecar-1, ...
    name: String,
    /// The cluster's data folder [default: the cluster that was started last]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

/// Why it did not work, in one line for the user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn file(verb: &str, path: &Path, error: &std::io::Error) -> Self {
        Self(format!("cannot {verb} {}: {error}", path.display()))
    }
}

/// Runs a cluster until Ctrl-C, SIGTERM or (when asked for) the end of standard input; or acts on
/// the one that runs.
pub async fn run(options: Options) -> Result<(), Error> {
    let (verb, on) = match options.act {
        None => return up(options).await,
        Some(Act::Stop(on)) => (Verb::Stop, on),
        Some(Act::Start(on)) => (Verb::Start, on),
        Some(Act::Kill(on)) => (Verb::Kill, on),
    };
    let socket = folder::find_socket(on.data_dir.as_deref())?;
    let request = Request {
        verb,
        name: on.name,
    };
    println!("{}", control::ask(&socket, &request).await?);
    Ok(())
}

/// A cluster that is being run.
struct Dev {
    layout: Layout,
    nodes: Vec<Node>,
    workers: Vec<Worker>,
    saved: Saved,
    children: Children,
    ready_file: Option<PathBuf>,
    ready_turn: Mutex<()>,
    node_ids: BTreeMap<String, u64>,
}

async fn up(options: Options) -> Result<(), Error> {
    let folder = Folder::open(options.data_dir.as_deref())?;
    let socket = folder.socket()?;
    let outcome = run_in(&folder, &socket, options).await;
    match &outcome {
        Err(Failure::AfterStart(_)) if folder.temporary => {
            // What happened is in there; the user is told where.
            let logs = folder.layout.root.join("logs");
            progress(&format!("the logs stay in {}", logs.display()));
        }
        _ => folder.leave(&socket),
    }
    outcome.map_err(|failure| match failure {
        Failure::BeforeStart(error) | Failure::AfterStart(error) => error,
    })
}

/// Whether a failed start left logs to read.
enum Failure {
    BeforeStart(Error),
    AfterStart(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::BeforeStart(error)
    }
}

async fn run_in(folder: &Folder, socket: &Path, options: Options) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Error::new(format!("cannot find this program's file: {error}")))?;
    let mut layout = folder.layout.clone();
    layout.tls = options.tls;
    let mut saved = match Saved::load(&layout)? {
        Some(saved) => saved,
        None => Saved::new(Size {
            nodes_per_region: options.nodes_per_region.unwrap_or(1),
            workers_per_region: options.workers_per_region.unwrap_or(1),
            slots: options.slots.unwrap_or(8),
        }),
    };
    saved.size = saved.resized(
        options.nodes_per_region,
        options.workers_per_region,
        options.slots,
    )?;
    let auto = options.ports == PortChoice::Auto;
    let (nodes, workers) = ports::choose(saved.size, auto, &saved).await?;
    saved.remember_ports(&nodes, &workers);
    saved.store(&layout)?;
    write_files(&layout, &nodes, &workers, &saved, &program)?;
    let listener = control::listen(socket)?;
    let (children, mut deaths) = Children::new(program.clone());
    let mut dev = Dev {
        layout,
        nodes,
        workers,
        saved,
        children: children.clone(),
        ready_file: options.ready_file,
        ready_turn: Mutex::new(()),
        node_ids: BTreeMap::new(),
    };
    let mut told = std::pin::pin!(leash::told_to_end(options.exit_with_stdin));
    let started = tokio::select! {
        started = dev.start(folder, socket) => started.map(|()| true),
        _ = &mut told => Ok(false),
    };
    if let Ok(true) = started {
        println!("{}", screen::screen(&dev.ready(), &dev.layout, &program));
        let dev = Arc::new(dev);
        tokio::select! {
            _ = &mut told => {}
            () = answer(listener, dev) => {}
            () = report(&mut deaths) => {}
        }
    }
    progress("ending every process");
    children.end_all().await;
    started.map(drop).map_err(Failure::AfterStart)
}

/// Everything that the processes read, before any of them starts.
fn write_files(
    layout: &Layout,
    nodes: &[Node],
    workers: &[Worker],
    saved: &Saved,
    program: &Path,
) -> Result<(), Error> {
    use sha2::Digest as _;
    saved::write_private(&layout.join_token(), &saved.join_token)?;
    if layout.tls {
        let names = nodes.iter().map(|node| node.name.clone());
        crate::cert::for_development(&layout.certificates(), plan::CLUSTER, names)
            .map_err(|error| Error::new(error.to_string()))?;
    }
    let hash = plan::hex(&sha2::Sha256::digest(saved.admin_token.as_bytes()));
    let script = |name: &str, arguments: &[String]| {
        saved::write(
            &layout.script(name),
            &plan::script(program, arguments),
            0o700,
        )
    };
    for node in nodes {
        let text = plan::config(layout, node, nodes, &hash)
            .map_err(|error| Error::new(format!("cannot write a configuration: {error}")))?;
        saved::write_private(&layout.config(&node.name), &text)?;
        script(&node.name, &plan::node_arguments(layout, node))?;
    }
    for worker in workers {
        script(&worker.name, &plan::worker_arguments(worker))?;
        script(
            &worker.sidecar,
            &plan::sidecar_arguments(layout, worker, nodes),
        )?;
    }
    Ok(())
}

impl Dev {
    /// Brings everything up, in order, and returns when the very first call will succeed.
    async fn start(&mut self, folder: &Folder, socket: &Path) -> Result<(), Error> {
        let began = crate::clock::now();
        for node in &self.nodes {
            self.spawn(&node.name, plan::node_arguments(&self.layout, node))?;
        }
        progress(&format!(
            "{} nodes started; they elect leaders",
            self.nodes.len()
        ));
        for node in &self.nodes {
            setup::ready(node, || self.alive()).await?;
        }
        progress("every node is ready; creating the demo's tenant, function and keys");
        let admins = setup::Admins::new(&self.layout, &self.nodes, &self.saved.admin_token)?;
        admins.prepare(&mut self.saved).await?;
        self.saved.store(&self.layout)?;
        let worker_key = self.saved.worker_key.clone().unwrap_or_default();
        saved::write_private(&self.layout.worker_key(), &worker_key)?;
        self.node_ids = admins.node_ids().await?;
        let earlier = admins.known_workers().await?;
        for worker in &self.workers {
            self.spawn(&worker.name, plan::worker_arguments(worker))?;
        }
        for worker in &self.workers {
            let address = worker.address.to_string();
            setup::listening(&worker.name, &address, || self.alive()).await?;
            let arguments = plan::sidecar_arguments(&self.layout, worker, &self.nodes);
            self.spawn(&worker.sidecar, arguments)?;
        }
        progress(&format!(
            "{} workers and sidecars started; they attach",
            self.workers.len()
        ));
        let workers = self.workers.len();
        admins
            .all_know(&self.saved, workers, &earlier, || self.alive())
            .await?;
        let key = self.saved.client_key.clone().unwrap_or_default();
        for node in &self.nodes {
            setup::serves_calls(node, &self.saved, &key).await?;
        }
        folder.announce(socket)?;
        self.write_ready_file()?;
        progress(&format!(
            "up after {:.1} s\n",
            began.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn spawn(&self, name: &str, arguments: Vec<String>) -> Result<(), Error> {
        let spec = Spec {
            name: name.to_owned(),
            arguments,
            log: self.layout.log(name),
        };
        self.children.add(spec).map(drop)
    }

    /// An error when some process has ended: while all come up, that is a failure of the start.
    fn alive(&self) -> Result<(), Error> {
        let workers = self
            .workers
            .iter()
            .flat_map(|worker| [&worker.name, &worker.sidecar]);
        for name in self.nodes.iter().map(|node| &node.name).chain(workers) {
            if let Some(how) = self.children.ended(name) {
                let log = self.layout.log(name);
                return Err(Error::new(format!(
                    "{name} ended with {how}; the end of {}:\n{}",
                    log.display(),
                    tail(&log)
                )));
            }
        }
        Ok(())
    }

    fn ready(&self) -> ready::Ready {
        ready::ready(
            &self.layout,
            &self.nodes,
            &self.workers,
            &self.saved,
            |name| self.node_ids.get(name).copied().unwrap_or_default(),
            |name| self.children.pid(name).unwrap_or_default(),
        )
    }

    fn write_ready_file(&self) -> Result<(), Error> {
        let Some(path) = &self.ready_file else {
            return Ok(());
        };
        // Wishes run side by side: one at a time here, so that the last one written is the newest.
        let _turn = self
            .ready_turn
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let text = serde_json::to_string_pretty(&self.ready())
            .map_err(|error| Error::new(error.to_string()))?;
        saved::write_private(path, &(text + "\n"))
    }

    /// Does what was asked for by `pontoon dev stop|start|kill`; the ready file follows.
    async fn act(&self, request: Request) -> Result<String, Error> {
        let Request { verb, name } = request;
        let text = match verb {
            Verb::Stop => {
                let how = self
                    .children
                    .end(&name, rustix::process::Signal::TERM)
                    .await?;
                format!("{name} has stopped ({how})")
            }
            Verb::Kill => {
                let how = self
                    .children
                    .end(&name, rustix::process::Signal::KILL)
                    .await?;
                format!("{name} is dead ({how})")
            }
            Verb::Start => {
                self.children.settle(&name).await;
                let pid = self.children.start(&name)?;
                let gone = || match self.children.ended(&name) {
                    None => Ok(()),
                    Some(how) => {
                        let log = self.layout.log(&name);
                        Err(Error::new(format!(
                            "{name} ended with {how}; {}",
                            tail(&log)
                        )))
                    }
                };
                if let Some(node) = self.nodes.iter().find(|node| node.name == name) {
                    setup::ready(node, gone).await?;
                } else if let Some(worker) = self.workers.iter().find(|worker| worker.name == name)
                {
                    setup::listening(&name, &worker.address.to_string(), gone).await?;
                }
                format!("{name} runs as process {pid}")
            }
        };
        self.write_ready_file()?;
        eprintln!("pontoon dev: {text}");
        Ok(text)
    }
}

/// Serves `pontoon dev stop|start|kill`, each on its own, for ever.
async fn answer(listener: UnixListener, dev: Arc<Dev>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let dev = dev.clone();
                let one = control::serve(stream, async move |request| dev.act(request).await);
                drop(tasks::spawn(Kind::Worker, "dev control", one));
            }
            Err(error) => {
                eprintln!("pontoon dev: the control socket failed: {error}");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

/// Tells of each process that ended by itself, for ever.
async fn report(deaths: &mut tokio::sync::mpsc::Receiver<children::Death>) {
    while let Some(death) = deaths.recv().await {
        eprintln!(
            "pontoon dev: {} (process {}) ended: {}; its log is {}; `pontoon dev start {}` starts it again",
            death.name,
            death.pid,
            death.how,
            death.log.display(),
            death.name
        );
    }
}

fn progress(text: &str) {
    eprintln!("pontoon dev: {text}");
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
