//! Three nodes of ours: one region, so that its group has a voter on each, with LAN timing.

use super::directory::{Directory, Place};
use super::folder::Folder;
use super::process::Process;
use super::{Error, NODES, channel, random, wait_for};
use crate::net::{self, Ports, local};
use pontoon_proto::admin as pb;
use pontoon_proto::admin::admin_client::AdminClient;
use pontoon_proto::id::RegionId;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// The only region.
const REGION: &str = "home";

/// How long one question may take: hashes of a full directory take seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Three nodes.
#[derive(Debug)]
pub struct Pontoon {
    nodes: Vec<Node>,
    program: PathBuf,
    relayed: bool,
    spares: u32,
    // Dropped last: the nodes write into it.
    folder: Folder,
}

#[derive(Debug)]
struct Node {
    name: String,
    process: Process,
    peer: u16,
    client: u16,
    client_tls: u16,
    worker: u16,
    ops: u16,
    admin: AdminClient<InterceptedService<Channel, Token>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Token(pub(crate) MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = self.0.clone();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// What the group of the region looks like while nothing is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The index of the node that leads.
    pub leader: usize,
    /// Its term.
    pub term: u64,
    /// The term of the catalog's leader.
    pub catalog_term: u64,
}

/// The `pontoon` binary: the one that is given, or the one beside this process's own, where cargo puts
/// it.
pub fn program(given: Option<PathBuf>) -> Result<PathBuf, Error> {
    if let Some(given) = given {
        return Ok(given);
    }
    let home = super::folder::home()?;
    let beside = home.with_file_name("pontoon");
    match beside.is_file() {
        true => Ok(beside),
        false => Err(Error(format!(
            "{} is not there: build the workspace first (cargo build --release --workspace), or say \
             where it is with --pontoon",
            beside.display()
        ))),
    }
}

/// What is not as it is by default.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Further tables of the configuration, which all nodes share.
    pub tables: String,
    /// Sidecars know the second node's worker port as the first one's, and are attached to the others
    /// only: each tunnel to the first node is relayed by the second.
    pub relayed: bool,
    /// How many spare tunnels a sidecar offers each node.
    pub spares: u32,
}

/// A function with one worker.
#[derive(Debug)]
pub struct Served {
    /// The worker's sidecar.
    pub sidecar: Process,
    /// A client's key.
    pub key: String,
    /// The function's id.
    pub function: String,
    /// Its version's.
    pub version: String,
}

impl Pontoon {
    /// Starts three nodes below `home` and waits until their groups work.
    pub async fn start(home: &Path, program: &Path) -> Result<Self, Error> {
        Self::start_with(home, program, &Setup::default()).await
    }

    /// The same, set up in another way.
    pub async fn start_with(home: &Path, program: &Path, setup: &Setup) -> Result<Self, Error> {
        let folder = Folder::inside(home)?;
        let mut ports = Ports::default();
        let (join_token, admin_token) = (hex(&random::<16>()?), hex(&random::<16>()?));
        let path = folder.path().join("join-token");
        std::fs::write(&path, &join_token).map_err(|error| Error::file("write", &path, &error))?;
        let names: Vec<String> = (1..=NODES).map(|number| format!("home-{number}")).collect();
        let peers = names.iter().map(|_| ports.take());
        let peers = peers.collect::<Result<Vec<u16>, Error>>()?;
        let members: String = names
            .iter()
            .zip(&peers)
            .map(|(name, peer)| {
                format!(
                    "\n[[cluster.members]]\nname = \"{name}\"\nregion = \"{REGION}\"\npeer = \"{}\"\n",
                    local(*peer)
                )
            })
            .collect();
        let digest = hex(&Sha256::digest(&admin_token));
        let token: MetadataValue<Ascii> = format!("Bearer {admin_token}")
            .parse()
            .map_err(|_| Error("a token of hex digits is no header value".to_owned()))?;
        let workers = names.iter().map(|_| ports.take());
        let workers = workers.collect::<Result<Vec<u16>, Error>>()?;
        let mut nodes = Vec::new();
        for (index, (name, peer)) in names.into_iter().zip(peers).enumerate() {
            let (client, client_tls, worker) = (ports.take()?, ports.take()?, workers[index]);
            let dialed = if setup.relayed && index == 0 {
                workers[1]
            } else {
                worker
            };
            let (admin, ops) = (ports.take()?, ports.take()?);
            let config = format!(
                "name = \"{name}\"\nregion = \"{REGION}\"\ndata_dir = {:?}\n\n\
                 [cluster]\nname = \"bench\"\njoin_token_file = {path:?}\n\
                 admin_token_sha256 = \"{digest}\"\ntiming = \"lan\"\n{members}\n\
                 [listen]\nclient = \"{}\"\nclient_tls = \"{}\"\nworker = \"{}\"\npeer = \"{}\"\n\
                 admin = \"{}\"\nops = \"{}\"\n\n[advertise]\nworker = \"{}\"\n\n{}",
                folder.path().join(&name),
                local(client),
                local(client_tls),
                local(worker),
                local(peer),
                local(admin),
                local(ops),
                local(dialed),
                setup.tables,
            );
            let file = config_of(&folder, &name);
            std::fs::write(&file, config).map_err(|error| Error::file("write", &file, &error))?;
            nodes.push(Node {
                process: start(&folder, program, &name)?,
                name,
                peer,
                client,
                client_tls,
                worker,
                ops,
                admin: AdminClient::with_interceptor(channel(admin)?, Token(token.clone()))
                    .max_decoding_message_size(64 << 20),
            });
        }
        let mut cluster = Self {
            nodes,
            program: program.to_owned(),
            relayed: setup.relayed,
            spares: setup.spares,
            folder,
        };
        cluster.settled().await?;
        Ok(cluster)
    }

    /// The processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.nodes.iter().map(|node| &node.process)
    }

    /// Where a node's clients come in clear text.
    pub fn client(&self, node: usize) -> u16 {
        self.nodes[node].client
    }

    /// Where a node's clients come over TLS, if the configuration has a certificate for them.
    pub fn client_tls(&self, node: usize) -> u16 {
        self.nodes[node].client_tls
    }

    /// Makes a function, and starts a sidecar for its worker at this port of this machine.
    pub async fn serve(&self, worker: u16, slots: u32) -> Result<Served, Error> {
        let mut admin = self.admin(0);
        let tenant = timed(pb::CreateTenantRequest {
            name: "bench".to_owned(),
            id: String::new(),
        });
        let tenant_id = admin.create_tenant(tenant).await?.into_inner().id;
        let function = timed(pb::CreateFunctionRequest {
            tenant_id: tenant_id.clone(),
            name: "echo".to_owned(),
            id: String::new(),
        });
        let function = admin.create_function(function).await?.into_inner().id;
        let version = timed(pb::CreateVersionRequest {
            function_id: function.clone(),
            id: String::new(),
            policy: Some(pb::VersionPolicy {
                slots,
                ..Default::default()
            }),
        });
        let version = admin.create_version(version).await?.into_inner().id;
        let key = async |kind: &str, version_id: &str| {
            let request = timed(pb::CreateKeyRequest {
                kind: kind.to_owned(),
                tenant_id: tenant_id.clone(),
                subject: "bench".to_owned(),
                version_id: version_id.to_owned(),
                ..Default::default()
            });
            let reply = self.admin(0).create_key(request).await?;
            Ok::<_, Error>(reply.into_inner().secret)
        };
        let (client_key, worker_key) = (key("client", "").await?, key("worker", &version).await?);
        let file = self.folder.path().join("worker-key");
        std::fs::write(&file, worker_key).map_err(|error| Error::file("write", &file, &error))?;
        let attached = self.nodes.iter().skip(usize::from(self.relayed));
        let nodes = attached.map(|node| local(node.worker).to_string());
        let nodes = nodes.collect::<Vec<_>>().join(",");
        let (worker, slots) = (local(worker).to_string(), slots.to_string());
        let spares = self.spares.to_string();
        let file = file.display().to_string();
        let sidecar = Process::start(
            "sidecar",
            self.folder.path(),
            &self.program,
            [
                "sidecar",
                "--exit-with-stdin",
                "--worker",
                &worker,
                "--nodes",
                &nodes,
                "--region",
                REGION,
                "--slots",
                &slots,
                "--spare-tunnels",
                &spares,
                "--health",
                "tcp",
                "--worker-key-file",
                &file,
            ],
        )?;
        Ok(Served {
            sidecar,
            key: client_key,
            function,
            version,
        })
    }

    /// The page of a node's metrics.
    pub async fn metrics(&self, node: usize) -> Result<String, Error> {
        net::get(local(self.nodes[node].ops), "/metrics").await
    }

    /// Where a node's sidecars dial.
    pub fn worker(&self, node: usize) -> u16 {
        self.nodes[node].worker
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].process.kill();
    }

    /// Starts a node again that was killed.
    pub fn restart(&mut self, node: usize) -> Result<(), Error> {
        let name = self.nodes[node].name.clone();
        self.nodes[node].process = start(&self.folder, &self.program, &name)?;
        Ok(())
    }

    /// How the directory of the region is reached through one node; each has a connection of its own.
    pub async fn directory(&self, node: usize) -> Result<Directory, Error> {
        let request = timed(pb::GetClusterRequest {});
        let cluster = self.admin(0).get_cluster(request).await?.into_inner();
        let region = cluster.regions.iter().find(|region| region.name == REGION);
        let region = region.ok_or_else(|| Error(format!("there is no region {REGION}")))?;
        let number = u16::try_from(region.number);
        let place = Place {
            cluster: unhex(&cluster.id)?,
            region: RegionId(number.map_err(|_| Error("a region's number is too large".into()))?),
            generation: region.generation,
        };
        Ok(Directory::new(channel(self.nodes[node].peer)?, place))
    }

    /// Waits until the catalog and the region have one leader on whom all nodes agree, three voters,
    /// and every node counts itself connected.
    pub async fn settled(&mut self) -> Result<Settled, Error> {
        for node in &mut self.nodes {
            node.process.alive()?;
        }
        let look = async || {
            let mut seen = BTreeSet::new();
            for node in 0..NODES {
                for group in self.groups(node, false).await? {
                    let here = &self.nodes[node].name;
                    if group.voters.len() != NODES || !group.connected {
                        return Err(Error(format!(
                            "{here} sees {} voters of {} (connected: {})",
                            group.voters.len(),
                            group.name,
                            group.connected
                        )));
                    }
                    seen.insert((group.number, group.term, group.leader));
                }
            }
            let seen: Vec<_> = seen.into_iter().collect();
            let [(0, catalog_term, _), (_, term, leader)] = &seen[..] else {
                return Err(Error(format!("the nodes do not agree: {seen:?}")));
            };
            let leader = self.nodes.iter().position(|node| node.name == *leader);
            let leader = leader.ok_or_else(|| Error("the region has no leader".to_owned()))?;
            Ok(Settled {
                leader,
                term: *term,
                catalog_term: *catalog_term,
            })
        };
        let waited = wait_for("the start of the cluster", look).await;
        waited.map_err(|error| {
            let tails = self.processes().map(Process::tail);
            Error(format!("{error}\n{}", tails.collect::<Vec<_>>().join("\n")))
        })
    }

    /// The ids of all sessions that a node's own replica has, at most so many.
    pub async fn sessions(&self, node: usize, limit: u32) -> Result<BTreeSet<String>, Error> {
        let request = pb::ListSessionsRequest {
            region: REGION.to_owned(),
            limit,
        };
        let list = self.admin(node).list_sessions(timed(request)).await?;
        let sessions = list.into_inner().sessions.into_iter();
        Ok(sessions.map(|session| session.request_id).collect())
    }

    /// Waits until all nodes have applied the same and have the same state; returns its hash.
    pub async fn agree(&self) -> Result<String, Error> {
        wait_for("equality of all replicas", async || {
            let mut seen = BTreeSet::new();
            for node in 0..NODES {
                let groups = self.groups(node, true).await?.into_iter();
                let groups = groups.filter(|group| group.name == REGION);
                seen.extend(groups.map(|group| (group.applied, group.state_hash)));
            }
            match seen.into_iter().collect::<Vec<_>>().as_mut_slice() {
                [(_, hash)] if !hash.is_empty() => Ok(std::mem::take(hash)),
                others => Err(Error(format!("{others:?}"))),
            }
        })
        .await
    }

    /// How many entries the region's log has so far.
    pub async fn entries(&self) -> Result<u64, Error> {
        let groups = self.groups(0, false).await?;
        let group = groups.into_iter().find(|group| group.name == REGION);
        Ok(group.map_or(0, |group| group.last_log))
    }

    async fn groups(&self, node: usize, with_hash: bool) -> Result<Vec<pb::Group>, Error> {
        let request = timed(pb::ListGroupsRequest { with_hash });
        let list = self.admin(node).list_groups(request).await?;
        Ok(list.into_inner().groups)
    }

    fn admin(&self, node: usize) -> AdminClient<InterceptedService<Channel, Token>> {
        self.nodes[node].admin.clone()
    }
}

pub(super) fn config_of(folder: &Folder, name: &str) -> PathBuf {
    folder.path().join(format!("{name}.toml"))
}

pub(super) fn start(folder: &Folder, program: &Path, name: &str) -> Result<Process, Error> {
    start_with(folder, program, name, &[], &[])
}

/// The same, with more in its environment.
pub(super) fn start_with(
    folder: &Folder,
    program: &Path,
    name: &str,
    enter: &[String],
    environment: &[(&str, String)],
) -> Result<Process, Error> {
    let config = config_of(folder, name);
    let arguments = [
        "node".as_ref(),
        "--exit-with-stdin".as_ref(),
        "--config".as_ref(),
    ];
    let arguments: [&std::ffi::OsStr; 3] = arguments;
    let arguments = arguments.into_iter().chain([config.as_os_str()]);
    Process::start_with(
        name,
        folder.path(),
        (enter, program),
        arguments,
        environment,
    )
}

pub(crate) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<[u8; 16], Error> {
    let number = u128::from_str_radix(text, 16);
    let number = number.map_err(|_| Error(format!("{text} is no cluster id")))?;
    Ok(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_is_read_as_it_is_printed() {
        let bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
        assert_eq!(unhex(&hex(&bytes)).unwrap(), bytes);
        assert!(unhex("cluster").is_err());
    }
}
