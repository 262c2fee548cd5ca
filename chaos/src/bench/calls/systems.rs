//! What calls go through: nothing, the floors, other proxies, ours.

use super::load::{Caller, Endpoint};
use crate::bench::Common;
use crate::cluster::folder::Folder;
use crate::cluster::pontoon::{self, Pontoon, Setup};
use crate::cluster::process::Process;
use crate::cluster::proxies::Proxy;
use crate::cluster::{Error, wait_for};
use crate::net::{self, Ports};
use http::{HeaderMap, HeaderValue};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The sessions of one worker: one for each connection of any measurement.
const SLOTS: u32 = 16_384;

/// Nothing of ours closes a connection in the midst of a measurement.
const PATIENT: &str = "[limits]\nidle_ms = 3600000\n";

/// What can be between a client and the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Way {
    /// Nothing.
    Direct,
    /// The floor of a sidecar.
    Copy,
    /// The floor of a node.
    Forward,
    /// The same two hops as ours: forwarder, then copy.
    Chain,
    /// The same with one more copy.
    LongChain,
    /// Another proxy.
    Other(Proxy),
    /// A node and a sidecar.
    Pontoon,
    /// The same, with clients that come over TLS.
    PontoonTls,
    /// A node whose tunnels are relayed by another one, and a sidecar.
    PontoonRelayed,
}

impl Way {
    pub(in crate::bench) fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Copy => "tcp copy",
            Way::Forward => "forwarder",
            Way::Chain => "forwarder + tcp copy",
            Way::LongChain => "forwarder + 2 copies",
            Way::Other(Proxy::Haproxy) => "haproxy",
            Way::Other(Proxy::Nginx) => "nginx",
            Way::Other(Proxy::Envoy) => "envoy",
            Way::Pontoon => "pontoon",
            Way::PontoonTls => "pontoon, TLS",
            Way::PontoonRelayed => "pontoon, relayed",
        }
    }
}

/// Where programs and data are.
pub(in crate::bench) struct Place {
    home: PathBuf,
    pontoon: PathBuf,
    own: PathBuf,
    /// How many spare tunnels a sidecar offers each node.
    pub(in crate::bench) spares: u32,
}

/// One way to a worker of its own.
pub(in crate::bench) struct System {
    pub(in crate::bench) way: Way,
    pub(in crate::bench) endpoint: Endpoint,
    worker: Process,
    hops: Vec<Process>,
    pub(in crate::bench) cluster: Option<Pontoon>,
    // Dropped last: the processes write into it.
    _folder: Folder,
}

/// A process that only reads.
pub(in crate::bench) struct Sink {
    pub(in crate::bench) process: Process,
    pub(in crate::bench) port: u16,
    // Dropped last: the process writes into it.
    _folder: Folder,
}

impl Place {
    pub(in crate::bench) fn new(common: &Common) -> Result<Self, Error> {
        Ok(Self {
            home: common.home()?,
            pontoon: pontoon::program(common.pontoon.clone())?,
            own: std::env::current_exe().map_err(|error| Error(error.to_string()))?,
            spares: 0,
        })
    }

    /// Starts a process of ours that listens on the first of these ports.
    fn part(&self, name: &str, folder: &Folder, ports: &[u16]) -> Result<Process, Error> {
        let addresses = ports.iter().map(|port| net::local(*port).to_string());
        let words = ["part".to_owned(), name.to_owned()].into_iter();
        Process::start(name, folder.path(), &self.own, words.chain(addresses))
    }

    /// Starts a process that only reads.
    pub(in crate::bench) fn sink(&self) -> Result<Sink, Error> {
        let folder = Folder::inside(&self.home)?;
        let port = Ports::default().take()?;
        Ok(Sink {
            process: self.part("sink", &folder, &[port])?,
            port,
            _folder: folder,
        })
    }

    /// Starts everything, and calls once.
    pub(in crate::bench) async fn start(&self, way: Way) -> Result<System, Error> {
        let folder = Folder::inside(&self.home)?;
        let mut ports = Ports::default();
        let worker = ports.take()?;
        let part = |name: &str, ports: &[u16]| self.part(name, &folder, ports);
        let started = part("echo", &[worker])?;
        let (mut endpoint, mut hops, mut cluster) = (plain(worker), Vec::new(), None);
        match way {
            Way::Direct => {}
            Way::Copy | Way::Forward => {
                let port = ports.take()?;
                let name = if way == Way::Copy { "copy" } else { "forward" };
                hops.push(part(name, &[port, worker])?);
                endpoint = plain(port);
            }
            Way::Chain => {
                let (near, far) = (ports.take()?, ports.take()?);
                hops.push(part("forward", &[near, far])?);
                hops.push(part("copy", &[far, worker])?);
                endpoint = plain(near);
            }
            Way::LongChain => {
                let (near, middle, far) = (ports.take()?, ports.take()?, ports.take()?);
                hops.push(part("forward", &[near, middle])?);
                hops.push(part("copy", &[middle, far])?);
                hops.push(part("copy", &[far, worker])?);
                endpoint = plain(near);
            }
            Way::Other(proxy) => {
                let port = ports.take()?;
                let started = proxy.start(&self.home, &folder, port, worker).await?;
                hops.push(started);
                endpoint = plain(port);
            }
            Way::Pontoon | Way::PontoonTls | Way::PontoonRelayed => {
                let tls = way == Way::PontoonTls;
                let (tables, trusted) = match tls {
                    true => self.certificates(folder.path()).await?,
                    false => (String::new(), None),
                };
                let setup = Setup {
                    tables: format!("{PATIENT}\n{tables}"),
                    relayed: way == Way::PontoonRelayed,
                    spares: self.spares,
                };
                let nodes = Pontoon::start_with(&self.home, &self.pontoon, &setup).await?;
                let served = nodes.serve(worker, SLOTS).await?;
                let mut headers = HeaderMap::new();
                for (name, value) in [
                    ("authorization", format!("Bearer {}", served.key)),
                    ("function-id", served.function),
                    ("function-version-id", served.version),
                ] {
                    let value = HeaderValue::from_str(&value);
                    headers.insert(name, value.map_err(|error| Error(error.to_string()))?);
                }
                let port = if tls {
                    nodes.client_tls(0)
                } else {
                    nodes.client(0)
                };
                endpoint = Endpoint {
                    port,
                    headers,
                    tls: trusted,
                };
                hops.push(served.sidecar);
                cluster = Some(nodes);
            }
        }
        let mut system = System {
            way,
            endpoint,
            worker: started,
            hops,
            cluster,
            _folder: folder,
        };
        system.answers().await?;
        if way == Way::PontoonRelayed {
            system.is_relayed().await?;
        }
        Ok(system)
    }

    /// Makes the certificates of a node; its configuration, and what its clients trust.
    async fn certificates(
        &self,
        folder: &Path,
    ) -> Result<(String, Option<Arc<ClientConfig>>), Error> {
        let (ca, node) = (folder.join("ca"), folder.join("node"));
        for (first, rest) in [
            (
                ["cert", "ca", "--cluster", "bench", "--out"],
                vec![ca.clone()],
            ),
            (
                ["cert", "node", "--name", "home-1", "--out"],
                vec![node.clone(), "--ca".into(), ca.clone()],
            ),
        ] {
            let mut command = tokio::process::Command::new(&self.pontoon);
            crate::cluster::process::run(command.args(first).args(rest)).await?;
        }
        let tables = format!(
            "[tls]\nclient_cert_file = {:?}\nclient_key_file = {:?}\n",
            node.join("node.pem"),
            node.join("node.key"),
        );
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(ca.join("ca.pem"));
        let authority = authority.map_err(|error| Error(error.to_string()))?;
        roots
            .add(authority)
            .map_err(|error| Error(error.to_string()))?;
        let mut trusted = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        trusted.alpn_protocols = vec![b"h2".to_vec()];
        Ok((tables, Some(Arc::new(trusted))))
    }
}

impl System {
    /// Waits for a call that is answered.
    async fn answers(&mut self) -> Result<(), Error> {
        let endpoint = self.endpoint.clone();
        let message = super::load::message(16);
        let first = wait_for(self.way.name(), async || {
            let call = async { Caller::connect(&endpoint).await?.call(&message).await };
            match tokio::time::timeout(Duration::from_secs(20), call).await {
                Ok(called) => called,
                Err(_) => Err(Error("no answer".to_owned())),
            }
        });
        let first = first.await;
        for process in self.hops.iter_mut().chain([&mut self.worker]) {
            process.alive()?;
        }
        first.map(|_| ())
    }

    /// Whether a tunnel of the first node is really carried by the second.
    async fn is_relayed(&self) -> Result<(), Error> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        let page = cluster.metrics(1).await?;
        let relayed = page.lines().any(|line| {
            let count = line.strip_prefix("pontoon_relays_total{result=\"ok\"} ");
            count.is_some_and(|count| count != "0")
        });
        match relayed {
            true => Ok(()),
            false => Err(Error("the tunnel of a call was not relayed".to_owned())),
        }
    }

    /// Connections to it.
    pub(in crate::bench) async fn callers(&self, number: usize) -> Result<Vec<Caller>, Error> {
        let mut callers = Vec::with_capacity(number);
        for _ in 0..number {
            callers.push(Caller::connect(&self.endpoint).await?);
        }
        Ok(callers)
    }

    /// What is between the client and the worker, the nearest to the client first.
    pub(in crate::bench) fn hops(&self) -> Vec<&Process> {
        let node = self
            .cluster
            .iter()
            .flat_map(|cluster| cluster.processes().take(1));
        node.chain(&self.hops).collect()
    }

    /// The CPU time of each of them.
    pub(in crate::bench) fn cpu(&self) -> Vec<Duration> {
        let hops = self.hops().into_iter();
        hops.map(|hop| hop.cpu().unwrap_or_default()).collect()
    }

    /// The memory of whoever holds a client's connection; the worker itself where nothing is between.
    pub(in crate::bench) fn memory(&self) -> u64 {
        let hops = self.hops();
        let first = hops.first().copied().unwrap_or(&self.worker);
        first.memory().unwrap_or_default()
    }
}

fn plain(port: u16) -> Endpoint {
    Endpoint {
        port,
        headers: HeaderMap::new(),
        tls: None,
    }
}
