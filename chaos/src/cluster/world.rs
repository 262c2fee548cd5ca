//! Nodes of several regions, workers and their sidecars: real processes, with emulated links between
//! them.
//!
//! Everything is on loopback. A node listens on ports of its own and advertises those of the
//! [`Emulator`]; clients of a region have ports of their own for every node. Admin and ops ports are
//! reached directly: whoever judges is not hurt by the faults.

use super::folder::Folder;
use super::pontoon::{Token, config_of, hex, start, timed};
use super::process::Process;
use super::{Error, channel, random, wait_for};
use crate::link::emulator::Emulator;
use crate::link::{Links, Site};
use crate::net::{self, Ports, local};
use crate::seed::Seed;
use pontoon_proto::admin as pb;
use pontoon_proto::admin::admin_client::AdminClient;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
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
    program: PathBuf,
    // Ends when dropped.
    _links: JoinSet<()>,
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
    admin: AdminClient<InterceptedService<Channel, Token>>,
    ops: u16,
    worker: u16,
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
        let emulator = Emulator::new(links(plan), plan.seed.clone());
        let mut tasks = JoinSet::new();
        let nodes = nodes(&folder, program, plan, &emulator, &mut tasks).await?;
        let mut world = Self {
            nodes,
            workers: Vec::new(),
            regions: plan.regions.iter().map(|(name, ..)| name.clone()).collect(),
            emulator,
            function: Function::default(),
            program: program.to_owned(),
            _links: tasks,
            folder,
        };
        world.settled(0).await?;
        world.serve(plan).await?;
        let workers = world.workers.len();
        world.settled(workers).await?;
        Ok(world)
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
                    process: self.worker(&name, 1, port)?,
                    sidecar: self.sidecar(&name, region, port, plan.slots)?,
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

    fn worker(&self, name: &str, life: u32, port: u16) -> Result<Process, Error> {
        let listen = local(port).to_string();
        let (log, name) = (format!("worker-{name}"), format!("{name}/{life}"));
        let arguments = ["demo-worker", "--exit-with-stdin", "--listen", &listen];
        let arguments = arguments.into_iter().chain(["--name", &name]);
        Process::start(&log, self.folder.path(), &self.program, arguments)
    }

    fn sidecar(&self, name: &str, region: usize, port: u16, slots: u32) -> Result<Process, Error> {
        // Its own region's nodes, and one of each other region: the list that it learns has the rest.
        let mut seen = BTreeSet::new();
        let nodes = self.nodes.iter().filter(|node| {
            let first = seen.insert(node.region);
            node.region == region || first
        });
        let nodes = nodes.map(|node| local(node.worker).to_string());
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
        .concat()
        .into_iter();
        let arguments = ["sidecar", "--exit-with-stdin"]
            .into_iter()
            .chain(arguments);
        let log = format!("sidecar-{name}");
        Process::start(&log, self.folder.path(), &self.program, arguments)
    }

    /// Starts a node again that has ended.
    pub fn restart_node(&mut self, node: usize) -> Result<(), Error> {
        let name = self.nodes[node].name.clone();
        self.nodes[node].process = start(&self.folder, &self.program, &name)?;
        let pid = self.nodes[node].process.pid();
        self.emulator.runs(pid, Site::Node(node));
        Ok(())
    }

    /// Starts a worker again that has ended: a fresh one, which remembers nothing.
    pub fn restart_worker(&mut self, worker: usize) -> Result<(), Error> {
        let (name, port) = (self.workers[worker].name.clone(), self.workers[worker].port);
        let life = self.workers[worker].life + 1;
        self.workers[worker].process = self.worker(&name, life, port)?;
        self.workers[worker].life = life;
        Ok(())
    }

    /// Starts a sidecar again that has ended.
    pub fn restart_sidecar(&mut self, worker: usize, slots: u32) -> Result<(), Error> {
        let old = &self.workers[worker];
        let sidecar = self.sidecar(&old.name.clone(), old.region, old.port, slots)?;
        self.emulator.runs(sidecar.pid(), Site::Sidecar(worker));
        self.workers[worker].sidecar = sidecar;
        Ok(())
    }

    /// Waits until every node that runs is connected to all of its groups, they agree on leaders, and so
    /// many workers are ready, each attached at two nodes.
    pub async fn settled(&mut self, workers: usize) -> Result<(), Error> {
        let running: Vec<usize> = (0..self.nodes.len())
            .filter(|node| !self.nodes[*node].process.ended())
            .collect();
        let look = async || {
            let mut leaders = BTreeSet::new();
            for node in &running {
                let mut known = BTreeSet::new();
                for group in self.groups(*node).await? {
                    known.insert(group.name.clone());
                    if !group.connected || group.leader.is_empty() {
                        let name = &self.nodes[*node].name;
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
            for worker in self.list_workers(running[0]).await? {
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

fn links(plan: &Plan) -> Links {
    let mut links = Links::default();
    let (mut node, mut sidecar) = (0, 0);
    for (region, (_, nodes, workers)) in plan.regions.iter().enumerate() {
        links.apart(region, region, plan.local);
        links.place(Site::Clients(region), region);
        for _ in 0..*nodes {
            links.place(Site::Node(node), region);
            node += 1;
        }
        for _ in 0..*workers {
            links.place(Site::Sidecar(sidecar), region);
            sidecar += 1;
        }
    }
    for (one, other, round_trip) in &plan.round_trips {
        links.apart(*one, *other, *round_trip);
    }
    links
}

/// Starts the nodes, and the emulator in front of each.
async fn nodes(
    folder: &Folder,
    program: &Path,
    plan: &Plan,
    emulator: &Emulator,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<Node>, Error> {
    let mut ports = Ports::default();
    let (join_token, admin_token) = (hex(&random::<16>()?), hex(&random::<16>()?));
    let path = folder.path().join("join-token");
    std::fs::write(&path, &join_token).map_err(|error| Error::file("write", &path, &error))?;
    let digest = hex(&Sha256::digest(&admin_token));
    let token = format!("Bearer {admin_token}").parse();
    let token = token.map_err(|_| Error("a token of hex digits is no header value".to_owned()))?;
    let token = Token(token);
    let mut members = Vec::new();
    for (region, (name, nodes, _)) in plan.regions.iter().enumerate() {
        for number in 1..=*nodes {
            members.push((format!("{name}-{number}"), region, ports.take()?));
        }
    }
    let list: String = members
        .iter()
        .map(|(name, region, peer)| {
            let (region, peer) = (&plan.regions[*region].0, local(*peer));
            format!(
                "\n[[cluster.members]]\nname = \"{name}\"\nregion = \"{region}\"\npeer = \"{peer}\"\n"
            )
        })
        .collect();
    let mut started = Vec::new();
    for (number, (name, region, peer)) in members.iter().enumerate() {
        let take = |ports: &mut Ports| ports.take();
        let (own_peer, own_worker, own_client) =
            (take(&mut ports)?, take(&mut ports)?, take(&mut ports)?);
        let (worker, admin, ops) = (take(&mut ports)?, take(&mut ports)?, take(&mut ports)?);
        let tls = ports.take()?;
        let site = Site::Node(number);
        emulator.listen(*peer, None, site, own_peer, tasks).await?;
        emulator
            .listen(worker, None, site, own_worker, tasks)
            .await?;
        let mut clients = Vec::new();
        for from in 0..plan.regions.len() {
            let port = ports.take()?;
            let from = Some(Site::Clients(from));
            emulator.listen(port, from, site, own_client, tasks).await?;
            clients.push(port);
        }
        let config = format!(
            "name = \"{name}\"\nregion = \"{}\"\ndata_dir = {:?}\n\n\
             [cluster]\nname = \"chaos\"\njoin_token_file = {path:?}\n\
             admin_token_sha256 = \"{digest}\"\n{}\n{list}\n\
             [listen]\nclient = \"{}\"\nclient_tls = \"{}\"\nworker = \"{}\"\npeer = \"{}\"\n\
             admin = \"{}\"\nops = \"{}\"\n\n\
             [advertise]\nworker = \"{}\"\npeer = \"{}\"\n\n{}",
            plan.regions[*region].0,
            folder.path().join(name),
            plan.cluster,
            local(own_client),
            local(tls),
            local(own_worker),
            local(own_peer),
            local(admin),
            local(ops),
            local(worker),
            local(*peer),
            plan.tables,
        );
        let file = config_of(folder, name);
        std::fs::write(&file, config).map_err(|error| Error::file("write", &file, &error))?;
        let process = start(folder, program, name)?;
        emulator.runs(process.pid(), site);
        started.push(Node {
            name: name.clone(),
            region: *region,
            process,
            clients,
            admin: AdminClient::with_interceptor(channel(admin)?, token.clone())
                .max_decoding_message_size(64 << 20),
            ops,
            worker,
        });
    }
    Ok(started)
}
