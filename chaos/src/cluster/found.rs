//! A cluster's first start: addresses, names, configurations, and the emulator in front of each node.
//!
//! Each node has an address of loopback of its own there, and all have the same ports: so a name that
//! leads to another node's address leads to another node.

use super::certificates::{Certificates, GOOD};
use super::folder::Folder;
use super::pontoon::{Token, config_of, hex};
use super::process::Process;
use super::spaces::{self, Spaces};
use super::world::{Node, Plan};
use super::{Error, channel_to, random};
use crate::fault::names::{self, Names};
use crate::link::emulator::Emulator;
use crate::link::{Links, Site};
use crate::net::{Ports, local};
use pontoon_proto::admin::admin_client::AdminClient;
use sha2::{Digest as _, Sha256};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// The name of the cluster.
pub(super) const CLUSTER: &str = "chaos";

/// Where others find a node: behind the emulator.
pub(super) fn address(node: usize, apart: bool) -> Ipv4Addr {
    match apart {
        true => spaces::face(node),
        false => Ipv4Addr::new(127, 1, 0, node as u8 + 1),
    }
}

/// A namespace for each node and each sidecar, where that is wanted.
pub(super) async fn separate(plan: &Plan, folder: &Path) -> Result<Option<Spaces>, Error> {
    if !plan.apart {
        return Ok(None);
    }
    let count = |of: fn(&(String, usize, usize)) -> usize| plan.regions.iter().map(of).sum();
    let (nodes, sidecars): (usize, usize) = (count(|region| region.1), count(|region| region.2));
    let sites = (0..nodes).map(Site::Node);
    let sites = sites.chain((0..sidecars).map(Site::Sidecar));
    let sites: Vec<Site> = sites.collect();
    Spaces::make(folder, &sites).await.map(Some)
}

/// The names of all nodes with their regions, in their order.
fn members(plan: &Plan) -> Vec<(String, usize)> {
    let regions = plan.regions.iter().enumerate();
    let nodes = regions.flat_map(|(region, (name, nodes, _))| {
        (1..=*nodes).map(move |number| (format!("{name}-{number}"), region))
    });
    nodes.collect()
}

/// What nodes and sidecars ask for each other's names, if they do.
pub(super) async fn serve_names(plan: &Plan) -> Result<Option<Names>, Error> {
    let hosts = members(plan).into_iter().enumerate();
    let hosts = hosts.map(|(number, (name, _))| (name, address(number, plan.apart)));
    let at = if plan.apart {
        spaces::OWN
    } else {
        Ipv4Addr::LOCALHOST
    };
    match plan.names {
        true => Names::serve(hosts.collect(), at).await.map(Some),
        false => Ok(None),
    }
}

/// The certificates of all nodes, if they have any.
pub(super) fn certify(plan: &Plan, folder: &Path) -> Result<Option<Certificates>, Error> {
    if !plan.tls {
        return Ok(None);
    }
    let made = Certificates::new(folder, CLUSTER)?;
    for (number, (name, _)) in members(plan).iter().enumerate() {
        made.issue(name, IpAddr::V4(address(number, plan.apart)), GOOD)?;
    }
    Ok(Some(made))
}

/// What is between all sites.
pub(super) fn links(plan: &Plan) -> Links {
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

/// What all nodes of a cluster share.
pub(super) struct Ground<'a> {
    pub(super) plan: &'a Plan,
    pub(super) folder: &'a Folder,
    pub(super) emulator: &'a Emulator,
    pub(super) names: Option<&'a Names>,
    pub(super) certificates: Option<&'a Certificates>,
}

/// Where a node listens: behind the emulator, but for admin and ops.
struct Listens {
    peer: u16,
    worker: u16,
    client: u16,
    client_tls: u16,
    admin: u16,
    ops: u16,
}

impl Ground<'_> {
    /// Starts the nodes by `start`, and the emulator in front of each.
    pub(super) async fn found(
        &self,
        tasks: &mut JoinSet<()>,
        start: impl Fn(usize, &str) -> Result<Process, Error>,
    ) -> Result<Vec<Node>, Error> {
        let mut ports = Ports::default();
        let (peer, worker) = (ports.take()?, ports.take()?);
        let (join_token, admin_token) = (hex(&random::<16>()?), hex(&random::<16>()?));
        let path = self.folder.path().join("join-token");
        std::fs::write(&path, &join_token).map_err(|error| Error::file("write", &path, &error))?;
        let path = self.folder.path().join("admin-token");
        std::fs::write(&path, &admin_token).map_err(|error| Error::file("write", &path, &error))?;
        let token = format!("Bearer {admin_token}").parse();
        let token =
            token.map_err(|_| Error("a token of hex digits is no header value".to_owned()))?;
        let token = Token(token);
        let members = members(self.plan);
        let mut list = String::new();
        for (number, (name, region)) in members.iter().enumerate() {
            let (region, peer) = (
                &self.plan.regions[*region].0,
                self.dialed(number, name, peer),
            );
            list += &format!(
                "\n[[cluster.members]]\nname = \"{name}\"\nregion = \"{region}\"\npeer = \"{peer}\"\n"
            );
        }
        let digest = hex(&Sha256::digest(&admin_token));
        let mut started = Vec::new();
        for (number, (name, region)) in members.iter().enumerate() {
            let own = Listens {
                peer: ports.take()?,
                worker: ports.take()?,
                client: ports.take()?,
                client_tls: ports.take()?,
                admin: ports.take()?,
                ops: ports.take()?,
            };
            let (site, at) = (Site::Node(number), address(number, self.plan.apart));
            let here = |port| SocketAddr::from((self.listens(number), port));
            for (port, target) in [(peer, own.peer), (worker, own.worker)] {
                let (near, target) = (SocketAddr::from((at, port)), here(target));
                self.emulator
                    .listen(near, None, site, target, tasks)
                    .await?;
            }
            let mut clients = Vec::new();
            for from in 0..self.plan.regions.len() {
                let port = ports.take()?;
                let (near, from) = (local(port), Some(Site::Clients(from)));
                self.emulator
                    .listen(near, from, site, here(own.client), tasks)
                    .await?;
                clients.push(port);
            }
            let advertised = [worker, peer].map(|port| self.dialed(number, name, port));
            let head = self.head(name, &self.plan.regions[*region].0, &digest);
            let config = format!(
                "{head}{list}\n{}",
                self.tables(name, self.listens(number), &own, &advertised)
            );
            let file = config_of(self.folder, name);
            std::fs::write(&file, config).map_err(|error| Error::file("write", &file, &error))?;
            let process = start(number, name)?;
            self.emulator.runs(process.pid(), site);
            let admin = self.admin(name, here(own.admin))?;
            started.push(Node {
                name: name.clone(),
                region: *region,
                process,
                clients,
                admin: AdminClient::with_interceptor(admin, token.clone())
                    .max_decoding_message_size(64 << 20),
                admin_at: here(own.admin),
                ops: here(own.ops),
                client: here(own.client),
                own_worker: here(own.worker),
                worker: advertised[0].clone(),
            });
        }
        Ok(started)
    }

    /// What others dial to reach a node's port.
    fn dialed(&self, node: usize, name: &str, port: u16) -> String {
        match self.names {
            Some(_) => format!("{}:{port}", names::of(name)),
            None => SocketAddr::from((address(node, self.plan.apart), port)).to_string(),
        }
    }

    /// Where a node itself listens.
    fn listens(&self, node: usize) -> Ipv4Addr {
        match self.plan.apart {
            true => spaces::address(Site::Node(node)),
            false => Ipv4Addr::LOCALHOST,
        }
    }

    fn head(&self, name: &str, region: &str, digest: &str) -> String {
        let file = |name: &str| -> PathBuf { self.folder.path().join(name) };
        // Beyond loopback, which a name may be, a node wants to be told that clear text is meant.
        let beyond = self.names.is_some() || self.plan.apart;
        let insecure = beyond && (self.certificates.is_none() || self.plan.apart);
        format!(
            "insecure = {insecure}\nname = \"{name}\"\nregion = \"{region}\"\ndata_dir = {:?}\n\n\
             [cluster]\nname = \"{CLUSTER}\"\njoin_token_file = {:?}\n\
             admin_token_sha256 = \"{digest}\"\n{}\n",
            file(name),
            file("join-token"),
            self.plan.cluster,
        )
    }

    fn tables(
        &self,
        name: &str,
        at: Ipv4Addr,
        own: &Listens,
        [worker, peer]: &[String; 2],
    ) -> String {
        let dns = self.names.map(|names| {
            let server = names.at();
            format!("[dns]\nservers = [\"{server}\"]\n\n")
        });
        let tls = self.certificates.map(|made| made.table(name));
        let listens = [
            ("client", own.client),
            ("client_tls", own.client_tls),
            ("worker", own.worker),
            ("peer", own.peer),
            ("admin", own.admin),
            ("ops", own.ops),
        ];
        let listens = listens.map(|(what, port)| format!("{what} = \"{at}:{port}\"\n"));
        format!(
            "[listen]\n{}\n[advertise]\nworker = \"{worker}\"\npeer = \"{peer}\"\n\n{}{}{}",
            listens.concat(),
            dns.unwrap_or_default(),
            tls.unwrap_or_default(),
            self.plan.tables,
        )
    }

    fn admin(&self, name: &str, at: SocketAddr) -> Result<Channel, Error> {
        let Some(made) = self.certificates else {
            return channel_to(at);
        };
        let failed = |error: tonic::transport::Error| Error(error.to_string());
        let endpoint = Endpoint::from_shared(format!("https://{at}"));
        let endpoint = endpoint.and_then(|endpoint| endpoint.tls_config(made.trust(name)));
        let endpoint = endpoint.map_err(failed)?;
        Ok(endpoint
            .connect_timeout(Duration::from_secs(5))
            .connect_lazy())
    }
}
