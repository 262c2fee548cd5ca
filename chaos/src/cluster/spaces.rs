//! Network namespaces: each node, and each sidecar with its worker, has a kernel's network of its own, with one
//! cable to a bridge that only this run has.
//!
//! ```text
//! node a-1: 10.77.1.1 ──┐
//! node b-1: 10.77.1.2 ──┤ bridge: 10.77.0.254, and 10.77.3.N, where the emulator stands for node N
//! sidecar 1: 10.77.2.1 ─┘
//! ```
//!
//! All of it is inside a namespace that the command made when it began (`crate::cli`), so it is gone when the
//! last process of the run is, however that ended. A cable that is unplugged loses what is sent, and neither end is
//! told: what stands is half-open, as when a machine loses its power or a switch its mind.

use super::Error;
use super::process::{Process, run};
use crate::link::Site;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use tokio::process::Command;

/// The bridge.
const BRIDGE: &str = "pontoon";

/// The run's own address there.
pub(super) const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// The namespaces of a run.
#[derive(Debug)]
pub struct Spaces(BTreeMap<Site, Process>);

/// Where a site is.
pub(super) fn address(site: Site) -> Ipv4Addr {
    match site {
        Site::Node(node) => Ipv4Addr::new(10, 77, 1, node as u8 + 1),
        Site::Sidecar(sidecar) => Ipv4Addr::new(10, 77, 2, sidecar as u8 + 1),
        Site::Clients(_) => OWN,
    }
}

/// Where the emulator stands for a node.
pub(super) fn face(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 3, node as u8 + 1)
}

/// The near end of a site's cable.
fn cable(site: Site) -> String {
    match site {
        Site::Node(node) => format!("n{node}"),
        Site::Sidecar(sidecar) => format!("s{sidecar}"),
        Site::Clients(region) => format!("c{region}"),
    }
}

async fn ip(words: &str) -> Result<(), Error> {
    run(Command::new("ip").args(words.split(' '))).await
}

impl Spaces {
    /// Makes the bridge, and a namespace for each of these sites.
    pub(super) async fn make(folder: &Path, sites: &[Site]) -> Result<Self, Error> {
        ip("link set lo up").await?;
        ip(&format!("link add name {BRIDGE} type bridge")).await?;
        ip(&format!("addr add {OWN}/16 dev {BRIDGE}")).await?;
        ip(&format!("link set {BRIDGE} up")).await?;
        let mut spaces = BTreeMap::new();
        for site in sites {
            if let Site::Node(node) = site {
                ip(&format!("addr add {}/16 dev {BRIDGE}", face(*node))).await?;
            }
            spaces.insert(*site, space(folder, *site).await?);
        }
        Ok(Self(spaces))
    }

    /// Whose they are.
    pub fn sites(&self) -> impl Iterator<Item = Site> + '_ {
        self.0.keys().copied()
    }

    /// What a process of a site is started by.
    pub(super) fn enter(&self, site: Site) -> Vec<String> {
        let space = self.0.get(&site);
        let entered = space.map(|space| format!("--net=/proc/{}/ns/net", space.pid()));
        let words = entered.map(|net| vec!["nsenter".to_owned(), net, "--".to_owned()]);
        words.unwrap_or_default()
    }

    /// Unplugs a site's cable, or plugs it in again.
    pub async fn plug(&self, site: Site, plugged: bool) -> Result<(), Error> {
        let state = if plugged { "up" } else { "down" };
        ip(&format!("link set {} {state}", cable(site))).await
    }

    /// Whether its cable is plugged in, as the kernel says.
    pub async fn is_plugged(&self, site: Site) -> Result<bool, Error> {
        let words = ["-oneline", "link", "show", "up", "dev", &cable(site)];
        let shown = Command::new("ip").args(words).output().await;
        let shown = shown.map_err(|error| Error(error.to_string()))?;
        Ok(!shown.stdout.is_empty())
    }
}

/// A namespace that lasts as long as the process that it returns.
async fn space(folder: &Path, site: Site) -> Result<Process, Error> {
    let (near, name) = (cable(site), format!("network-{}", cable(site)));
    let words = [
        "--net",
        "sh",
        "-c",
        "ip link set lo up && echo up && exec cat",
    ];
    let space = Process::start(&name, folder, Path::new("unshare"), words)?;
    super::wait_for("a network namespace", async || {
        match space.log().contains("up") {
            true => Ok(()),
            false => Err(Error(space.log())),
        }
    })
    .await?;
    let pid = space.pid();
    ip(&format!(
        "link add name {near} type veth peer name eth0 netns {pid}"
    ))
    .await?;
    ip(&format!("link set {near} master {BRIDGE} up")).await?;
    let inside = format!("--net=/proc/{pid}/ns/net");
    for words in [
        format!("ip addr add {}/16 dev eth0", address(site)),
        "ip link set eth0 up".to_owned(),
    ] {
        run(Command::new("nsenter").arg(&inside).args(words.split(' '))).await?;
    }
    Ok(space)
}
