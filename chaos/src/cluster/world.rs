//! Nodes of several regions, workers and their sidecars: real processes, with emulated links between
//! them.
//!
//! Everything is on loopback. A node listens on ports of its own and advertises those of the
//! [`Emulator`]; clients of a region have ports of their own for every node. Admin and ops ports are
//! reached directly: whoever judges is not hurt by the faults. [`super::found`] starts the nodes.

use super::certificates::Certificates;
use super::debs::{self, Deb};
use super::folder::Folder;
use super::found::{self, Ground};
use super::pontoon::{Token, start_with, timed};
use super::process::Process;
use super::spaces::{self, Spaces};
use super::{Error, wait_for};
use crate::fault::disk::Disk;
use crate::fault::names::Names;
use crate::fault::time::Clocks;
use crate::link::Site;
use crate::link::emulator::Emulator;
use crate::net::{self, Ports, local};
use crate::seed::Seed;
use pontoon_proto::admin as pb;
use pontoon_proto::admin::admin_client::AdminClient;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Regions by name, with their nodes and workers.
    pub regions: Vec<(String, usize, usize)>,
    /// Round trips between regions, by number.
    pub round_trips: Vec<(usize, usize, Duration)>,
    /// The round trip inside a region.
    pub local: Duration,
    /// Sessions of one worker.
    pub slots: u32,
    /// How long a session that is entered nowhere is held.
    pub window: Duration,
    /// More of every node's configuration.
    pub tables: String,
    /// More lines of its table `[cluster]`.
    pub cluster: String,
    /// What the links' chances follow from.
    pub seed: Seed,
    /// The size of each node's own disk, MiB; the machine's when it is missing.
    pub disk_mib: Option<u64>,
    /// Whether nodes have wall clocks that can be set.
    pub clocks: bool,
    /// Whether nodes and sidecars find each other by names.
    pub names: bool,
    /// Whether nodes have certificates.
    pub tls: bool,
    /// Whether the power of nodes' disks can be cut.
    pub power: bool,
    /// Whether these say that they are synced, and keep nothing.
    pub skip_fsync: bool,
    /// Whether each node, and each sidecar with its worker, has a network namespace.
    pub apart: bool,
}

/// All of it, running.
#[derive(Debug)]
pub struct World {
    /// Nodes, region by region.
    pub nodes: Vec<Node>,
    /// Workers with their sidecars, region by region.
    pub workers: Vec<Worker>,
    /// The names of the regions.
    pub regions: Vec<String>,
    /// What is between them.
    pub emulator: Emulator,
    /// What clients call.
    pub function: Function,
    /// What is asked for names, if anybody asks.
    pub names: Option<Names>,
    /// The nodes' certificates, if they have any.
    pub certificates: Option<Certificates>,
    /// The namespaces of nodes and sidecars, if they have any.
    pub spaces: Option<Spaces>,
    program: PathBuf,
    environments: Environments,
    // Ends when dropped.
    _links: JoinSet<()>,
    /// Those of the nodes, if they have their own. Dropped after the processes that write into them.
    pub disks: Vec<Disk>,
    // Dropped last: the processes write into it.
    folder: Folder,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// `us-east-1`.
    pub name: String,
    /// Its region.
    pub region: usize,
    /// It runs, ran, or is paused.
    pub process: Process,
    /// For clients of each region.
    pub clients: Vec<u16>,
    /// Where it listens for clients, without the emulator.
    pub client: SocketAddr,
    /// Where it listens for sidecars, without the emulator.
    pub own_worker: SocketAddr,
    /// Where it listens for operators.
    pub admin_at: SocketAddr,
    pub(super) admin: AdminClient<InterceptedService<Channel, Token>>,
    pub(super) ops: SocketAddr,
    /// What sidecars dial.
    pub(super) worker: String,
}

/// A worker and its sidecar.
#[derive(Debug)]
pub struct Worker {
    /// `us-east-1`.
    pub name: String,
    /// Its region.
    pub region: usize,
    /// How often it was started: a part of the name that it answers with.
    pub life: u32,
    /// The worker.
    pub process: Process,
    /// The sidecar.
    pub sidecar: Process,
    port: u16,
}

/// What clients call, and with which key.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// A client's key.
    pub key: String,
    /// The function's id.
    pub function: String,
    /// Its version's.
    pub version: String,
}

/// Slots and sessions of all regions, as one node's replica has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Workers that are ready.
    pub ready: usize,
    /// Slots in use.
    pub slots: u32,
    /// Sessions that have a worker.
    pub bound: usize,
    /// Sessions that wait for one.
    pub queued: usize,
    /// Some of both, for whoever looks for the reason.
    pub some: Vec<String>,
}

impl World {
    /// Starts everything below `home`, and waits until it works.
    pub async fn start(home: &Path, program: &Path, plan: &Plan) -> Result<Self, Error> {
        let folder = Folder::inside(home)?;
        let emulator = Emulator::new(found::links(plan), plan.seed.clone());
        let mut tasks = JoinSet::new();
        let environments = Environments::new(home, folder.path(), plan).await?;
        let disks = disks(folder.path(), plan).await?;
        let spaces = found::separate(plan, folder.path()).await?;
        for site in spaces.iter().flat_map(Spaces::sites) {
            emulator.is_at(spaces::address(site).into(), site);
        }
        let names = found::serve_names(plan).await?;
        let certificates = found::certify(plan, folder.path())?;
        let ground = Ground {
            plan,
            folder: &folder,
            emulator: &emulator,
            names: names.as_ref(),
            certificates: certificates.as_ref(),
        };
        let start = |node: usize, name: &str| {
            let enter = enter(spaces.as_ref(), Site::Node(node));
            start_with(&folder, program, name, &enter, &environments.of(name)?)
        };
        let nodes = ground.found(&mut tasks, start).await?;
        let mut world = Self {
            nodes,
            workers: Vec::new(),
            regions: plan.regions.iter().map(|(name, ..)| name.clone()).collect(),
            emulator,
            function: Function::default(),
            names,
            certificates,
            spaces,
            program: program.to_owned(),
            environments,
            _links: tasks,
            disks,
            folder,
        };
        let works = world.works(plan).await;
        works.map_err(|error| {
            let tails = world.nodes.iter().map(|node| node.process.tail());
            Error(format!("{error}\n{}", tails.collect::<Vec<_>>().join("\n")))
        })?;
        Ok(world)
    }

    async fn works(&mut self, plan: &Plan) -> Result<(), Error> {
        self.settled(0).await?;
        self.serve(plan).await?;
        let workers = self.workers.len();
        self.settled(workers).await?;
        for disk in &self.disks {
            disk.sync().await?;
        }
        Ok(())
    }

    /// How many lines of the nodes' logs have a text in them.
    pub fn logged(&self, text: &str) -> usize {
        let logs = self.nodes.iter().map(|node| node.process.log());
        logs.map(|log| log.lines().filter(|line| line.contains(text)).count())
            .sum()
    }

    /// Where everything writes its log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn serve(&mut self, plan: &Plan) -> Result<(), Error> {
        let mut admin = self.nodes[0].admin.clone();
        let tenant = timed(pb::CreateTenantRequest {
            name: "chaos".to_owned(),
            id: String::new(),
        });
        let tenant_id = admin.create_tenant(tenant).await?.into_inner().id;
        let function = timed(pb::CreateFunctionRequest {
            tenant_id: tenant_id.clone(),
            name: "demo".to_owned(),
            id: String::new(),
        });
        let function = admin.create_function(function).await?.into_inner().id;
        let window = plan.window.as_millis() as u64;
        let version = timed(pb::CreateVersionRequest {
            function_id: function.clone(),
            id: String::new(),
            policy: Some(pb::VersionPolicy {
                slots: plan.slots,
                window_ms: Some(window),
                window_max_ms: Some(window.max(300_000)),
                ..Default::default()
            }),
        });
        let version = admin.create_version(version).await?.into_inner().id;
        let mut key = async |kind: &str, version_id: &str| {
            let request = timed(pb::CreateKeyRequest {
                kind: kind.to_owned(),
                tenant_id: tenant_id.clone(),
                subject: "chaos".to_owned(),
                version_id: version_id.to_owned(),
                ..Default::default()
            });
            let reply = admin.create_key(request).await?;
            Ok::<_, Error>(reply.into_inner().secret)
        };
        let (client, worker) = (key("client", "").await?, key("worker", &version).await?);
        let file = self.folder.path().join("worker-key");
        std::fs::write(&file, worker).map_err(|error| Error::file("write", &file, &error))?;
        self.function = Function {
            key: client,
            function,
            version,
        };
        let mut ports = Ports::default();
        for (region, (name, _, workers)) in plan.regions.iter().enumerate() {
            for number in 1..=*workers {
                let (name, port) = (format!("{name}-{number}"), ports.take()?);
                let worker = Worker {
                    process: self.worker(self.workers.len(), &name, 1, port)?,
                    sidecar: self.sidecar(self.workers.len(), &name, region, port, plan.slots)?,
                    name,
                    region,
                    life: 1,
                    port,
                };
                let site = Site::Sidecar(self.workers.len());
                self.emulator.runs(worker.sidecar.pid(), site);
                self.workers.push(worker);
            }
        }
        Ok(())
    }

    fn worker(&self, number: usize, name: &str, life: u32, port: u16) -> Result<Process, Error> {
        let listen = local(port).to_string();
        let (log, name) = (format!("worker-{name}"), format!("{name}/{life}"));
        let arguments = ["demo-worker", "--exit-with-stdin", "--listen", &listen];
        let arguments = arguments.into_iter().chain(["--name", &name]);
        let by = enter(self.spaces.as_ref(), Site::Sidecar(number));
        let folder = self.folder.path();
        Process::start_with(&log, folder, (&by, &self.program), arguments, &[])
    }

    fn sidecar(
        &self,
        number: usize,
        name: &str,
        region: usize,
        port: u16,
        slots: u32,
    ) -> Result<Process, Error> {
        // Its own region's nodes, and one of each other region: the list that it learns has the rest.
        let mut seen = BTreeSet::new();
        let nodes = self.nodes.iter().filter(|node| {
            let first = seen.insert(node.region);
            node.region == region || first
        });
        let nodes = nodes.map(|node| node.worker.clone());
        let nodes = nodes.collect::<Vec<_>>().join(",");
        let (worker, slots) = (local(port).to_string(), slots.to_string());
        let on_end = format!("http://{worker}/session-ended");
        let key = self.folder.path().join("worker-key");
        let key = key.display().to_string();
        let arguments = [
            ["--worker", &worker],
            ["--nodes", &nodes],
            ["--region", &self.regions[region]],
            ["--slots", &slots],
            ["--name", name],
            ["--on-end", &on_end],
            ["--worker-key-file", &key],
        ]
        .concat();
        let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        if let Some(names) = &self.names {
            arguments.extend(["--dns".to_owned(), names.at().to_string()]);
        }
        if let Some(made) = &self.certificates {
            arguments.extend(["--ca-file".to_owned(), made.file().display().to_string()]);
        }
        let first = ["sidecar", "--exit-with-stdin"].map(str::to_owned);
        let arguments = first.into_iter().chain(arguments);
        let (log, folder) = (format!("sidecar-{name}"), self.folder.path());
        let by = enter(self.spaces.as_ref(), Site::Sidecar(number));
        Process::start_with(&log, folder, (&by, &self.program), arguments, &[])
    }

    /// Starts a node again that has ended.
    pub fn restart_node(&mut self, node: usize) -> Result<(), Error> {
        let name = self.nodes[node].name.clone();
        let environment = self.environments.of(&name)?;
        let enter = enter(self.spaces.as_ref(), Site::Node(node));
        let started = start_with(&self.folder, &self.program, &name, &enter, &environment);
        self.nodes[node].process = started?;
        let pid = self.nodes[node].process.pid();
        self.emulator.runs(pid, Site::Node(node));
        Ok(())
    }

    /// A node's admin API.
    pub(crate) fn admin(&self, node: usize) -> AdminClient<InterceptedService<Channel, Token>> {
        self.nodes[node].admin.clone()
    }

    /// Where others find a node.
    pub fn address(&self, node: usize) -> IpAddr {
        IpAddr::V4(found::address(node, self.spaces.is_some()))
    }

    /// Where a node keeps its data.
    pub fn data(&self, node: usize) -> PathBuf {
        self.folder.path().join(&self.nodes[node].name)
    }

    /// Sets a node's wall clock so many seconds before or after the right time; says so when the node has
    /// a clock that can be set.
    pub fn set_clock(&self, node: usize, seconds: i64) -> Result<String, Error> {
        let node = &self.nodes[node];
        let clocks = self.environments.clocks.as_ref();
        let clocks = clocks.ok_or_else(|| Error("the nodes have the machine's clock".into()))?;
        clocks.set(&node.name, seconds)?;
        match clocks.is_in(node.process.pid()) {
            true => Ok(format!("its clock is {seconds:+} s")),
            false => Ok(String::new()),
        }
    }

    /// Starts a worker again that has ended: a fresh one, which remembers nothing.
    pub fn restart_worker(&mut self, worker: usize) -> Result<(), Error> {
        let (name, port) = (self.workers[worker].name.clone(), self.workers[worker].port);
        let life = self.workers[worker].life + 1;
        self.workers[worker].process = self.worker(worker, &name, life, port)?;
        self.workers[worker].life = life;
        Ok(())
    }

    /// Starts a sidecar again that has ended.
    pub fn restart_sidecar(&mut self, worker: usize, slots: u32) -> Result<(), Error> {
        let old = &self.workers[worker];
        let sidecar = self.sidecar(worker, &old.name.clone(), old.region, old.port, slots)?;
        self.emulator.runs(sidecar.pid(), Site::Sidecar(worker));
        self.workers[worker].sidecar = sidecar;
        Ok(())
    }

    /// Waits until every node runs and is connected to all of its groups, they agree on leaders, and so
    /// many workers are ready, each attached at two nodes.
    pub async fn settled(&mut self, workers: usize) -> Result<(), Error> {
        for node in &mut self.nodes {
            node.process.alive()?;
        }
        let look = async || {
            let mut leaders = BTreeSet::new();
            for node in 0..self.nodes.len() {
                let mut known = BTreeSet::new();
                for group in self.groups(node).await? {
                    known.insert(group.name.clone());
                    if !group.connected || group.leader.is_empty() {
                        let name = &self.nodes[node].name;
                        return Err(Error(format!("{name} is not connected to {}", group.name)));
                    }
                    leaders.insert((group.name, group.leader));
                }
                if known.len() <= self.regions.len() {
                    return Err(Error(format!("a node has only {known:?}")));
                }
            }
            if leaders.len() != self.regions.len() + 1 {
                return Err(Error(format!("the nodes do not agree: {leaders:?}")));
            }
            let mut ready = 0;
            for worker in self.list_workers(0).await? {
                let well = worker.state == "ready" && worker.attached_at.len() >= 2;
                ready += usize::from(well);
            }
            match ready == workers {
                true => Ok(()),
                false => Err(Error(format!("{ready} of {workers} workers are ready"))),
            }
        };
        wait_for("a cluster that works", look).await
    }

    /// The groups of a node.
    pub async fn groups(&self, node: usize) -> Result<Vec<pb::Group>, Error> {
        let request = timed(pb::ListGroupsRequest { with_hash: false });
        let list = self.nodes[node].admin.clone().list_groups(request).await?;
        Ok(list.into_inner().groups)
    }

    /// The node that leads a group, as others know.
    pub async fn leader(&mut self, group: &str) -> Option<usize> {
        for node in 0..self.nodes.len() {
            if self.nodes[node].process.ended() {
                continue;
            }
            let groups = self.groups(node).await.unwrap_or_default();
            let found = groups.into_iter().find(|found| found.name == group);
            let leader = found.and_then(|found| self.node(&found.leader));
            if leader.is_some() {
                return leader;
            }
        }
        None
    }

    /// The number of a node.
    pub fn node(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Workers of all regions, as one node's replica has them.
    pub async fn list_workers(&self, node: usize) -> Result<Vec<pb::Worker>, Error> {
        let mut all = Vec::new();
        for region in &self.regions {
            let request = timed(pb::ListWorkersRequest {
                region: region.clone(),
            });
            let mut admin = self.nodes[node].admin.clone();
            all.extend(admin.list_workers(request).await?.into_inner().workers);
        }
        Ok(all)
    }

    /// The ops addresses of all nodes; a node that is started again has its own again.
    pub fn ops(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.ops).collect()
    }

    /// The sum of some metrics over all nodes that run.
    pub async fn metrics(&self, names: &[&str]) -> u64 {
        let mut sum = 0.0;
        for node in &self.nodes {
            // A node that does not answer has nothing open.
            let page = net::get(node.ops, "/metrics").await.unwrap_or_default();
            for line in page.lines() {
                let (name, value) = line.rsplit_once(' ').unwrap_or((line, ""));
                if names.contains(&name) {
                    sum += value.parse::<f64>().unwrap_or_default();
                }
            }
        }
        sum as u64
    }

    /// Slots and sessions, as one node's replica has them.
    pub async fn balance(&self, node: usize) -> Result<Balance, Error> {
        let mut balance = Balance::default();
        for worker in self.list_workers(node).await? {
            balance.ready += usize::from(worker.state == "ready");
            balance.slots += worker.slots_used;
        }
        for region in &self.regions {
            let request = timed(pb::ListSessionsRequest {
                region: region.clone(),
                limit: 100_000,
            });
            let mut admin = self.nodes[node].admin.clone();
            for session in admin.list_sessions(request).await?.into_inner().sessions {
                if balance.some.len() < 3 {
                    let id = &session.request_id;
                    let at = session.entered_at.join(", ");
                    balance
                        .some
                        .push(format!("{id} ({}, entered at [{at}])", session.state));
                }
                match session.worker_id.is_empty() {
                    true => balance.queued += 1,
                    false => balance.bound += 1,
                }
            }
        }
        Ok(balance)
    }
}

/// Ignores syncs; of the package of that name.
const EATMYDATA: Deb = Deb {
    package: "libeatmydata1",
    binary: "usr/lib/x86_64-linux-gnu/libeatmydata.so",
};

/// What nodes are started with, besides their configuration.
#[derive(Debug)]
struct Environments {
    clocks: Option<Clocks>,
    unsynced: Option<PathBuf>,
}

impl Environments {
    async fn new(home: &Path, folder: &Path, plan: &Plan) -> Result<Self, Error> {
        Ok(Self {
            clocks: match plan.clocks {
                true => Some(Clocks::find(home, folder).await?),
                false => None,
            },
            unsynced: match plan.skip_fsync {
                true => Some(debs::binary(home, EATMYDATA).await?),
                false => None,
            },
        })
    }

    fn of(&self, node: &str) -> Result<Vec<(&'static str, String)>, Error> {
        match (&self.clocks, &self.unsynced) {
            (Some(clocks), _) => clocks.environment(node),
            (None, Some(library)) => Ok(vec![("LD_PRELOAD", library.display().to_string())]),
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// Gets the libraries that nodes may be started with.
pub async fn prepare(home: &Path, clocks: bool, skip_fsync: bool) -> Result<(), Error> {
    if clocks {
        Clocks::find(home, home).await?;
    }
    if skip_fsync {
        debs::binary(home, EATMYDATA).await?;
    }
    Ok(())
}

/// What a process of a site is started by.
fn enter(spaces: Option<&Spaces>, site: Site) -> Vec<String> {
    spaces.map(|spaces| spaces.enter(site)).unwrap_or_default()
}

/// A disk for each node, if they have their own.
async fn disks(folder: &Path, plan: &Plan) -> Result<Vec<Disk>, Error> {
    let mut disks = Vec::new();
    for (name, nodes, _) in &plan.regions {
        for number in 1..=*nodes {
            let at = folder.join(format!("{name}-{number}"));
            match (plan.power, plan.disk_mib) {
                (true, mib) => {
                    disks.push(Disk::image(&at, mib.unwrap_or(256), plan.skip_fsync).await?)
                }
                (false, Some(mib)) => disks.push(Disk::small(&at, mib).await?),
                (false, None) => {}
            }
        }
    }
    Ok(disks)
}
