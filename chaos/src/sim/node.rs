//! One simulated node: its disk, its folder, and the process that comes and goes over them.

use super::Bug;
use super::net::{Net, Port};
use super::random::Random;
use super::sidecars::Sidecars;
use super::watch::Watch;
use super::world::{World, spawn};
use pontoon_proto::id::{NodeId, RegionId};
use pontoon_raft::catalog::command::{self as catalog, Admission, Node, Standing, Survive};
use pontoon_raft::cluster::{Cluster, Member, Options};
use pontoon_raft::group::{FORMAT, Timing};
use pontoon_raft::host::Host;
use pontoon_raft::identity::Identity;
use pontoon_raft::store::Store;
use pontoon_raft::store::memory::Platter;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: [u8; 16] = [7; 16];

/// Entries between two snapshots: few, so that logs are purged and snapshots sent in every run.
const SNAPSHOT_EVERY: u64 = 20;

/// How long a node may be silent before its sessions are taken from it.
pub(super) const NODE_LOST_AFTER: Duration = Duration::from_secs(3);

/// How long a start may take before it is given up; a founder alone waits for nobody.
const STARTING: Duration = Duration::from_secs(10);

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    /// The kernel lives on: what was written stays.
    Kill,
    /// The power goes: what was not synced is lost, from some point on.
    Power,
    /// The same, and the first batch that is lost is torn.
    Torn,
}

/// What a cluster's nodes have in common.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) world: Arc<World>,
    pub(super) watch: Arc<Watch>,
    pub(super) sidecars: Sidecars,
    pub(super) net: Arc<Net>,
    pub(super) members: Vec<Member>,
    pub(super) home: PathBuf,
}

/// A running process.
#[derive(Clone)]
pub(super) struct Life {
    /// How often its node was started.
    pub(super) number: u64,
    pub(super) host: Host,
    pub(super) cluster: Cluster,
}

impl Life {
    /// Says something to the catalog through this process, which tries for so long; the answer, if it comes
    /// while it is waited for.
    pub(super) async fn tell_catalog(
        &self,
        command: catalog::Command,
        tries: Duration,
        waits: Duration,
    ) -> Option<catalog::Reply> {
        let catalog = self.cluster.catalog().clone();
        let asked = self
            .host
            .spawn(async move { catalog.propose(command, tries).await });
        match tokio::time::timeout(waits, asked).await {
            Ok(Ok(Ok(done))) => Some(done.reply),
            _ => None,
        }
    }
}

/// One node.
pub(super) struct Machine {
    pub(super) number: NodeId,
    pub(super) region: String,
    pub(super) platter: Platter,
    random: Arc<Random>,
    site: Site,
    folders: u64,
    /// How often it was started.
    starts: u64,
    /// How often it was started over what its disk has.
    on_this_disk: u64,
    pub(super) life: Option<Life>,
}

impl Machine {
    pub(super) fn new(site: Site, number: u32, region: &str) -> Machine {
        let platter = Platter::default();
        site.watch.has_disk(NodeId(number), platter.clone());
        Machine {
            number: NodeId(number),
            region: region.into(),
            platter,
            random: Arc::new(site.world.random.fork()),
            site,
            folders: 0,
            starts: 0,
            on_this_disk: 0,
            life: None,
        }
    }

    fn folder(&self) -> PathBuf {
        self.site.home.join(self.name())
    }

    fn name(&self) -> String {
        format!("node-{}", self.number.0)
    }

    /// Starts a process over what is on the disk. `others` may be asked to take the node in.
    pub(super) async fn up(&mut self, others: &[Cluster]) -> Result<(), String> {
        let host = Host::new(self.random.next());
        self.starts += 1;
        let (store, mut steps) =
            Store::stepped(Box::new(self.platter.engine())).map_err(|error| error.to_string())?;
        let platter = self.platter.clone();
        host.spawn({
            let random = self.random.clone();
            async move {
                while steps.ready().await {
                    let least = Duration::from_micros(100 + random.below(900) as u64);
                    tokio::time::sleep(platter.pace().max(least)).await;
                    steps.step();
                }
            }
        });
        if self.site.world.bug == Some(Bug::SkipFsync) {
            self.platter.lie(true);
        }
        let started = tokio::time::timeout(STARTING, self.start(&host, store, others)).await;
        let cluster = match started {
            Ok(Ok(cluster)) => cluster,
            Ok(Err(why)) => {
                host.kill();
                // Where it lies is another folder in each run.
                return Err(why.replace(&*self.site.home.to_string_lossy(), "~"));
            }
            Err(_) => {
                host.kill();
                return Err("it takes too long".into());
            }
        };
        self.site
            .net
            .add(self.number, host.clone(), cluster.clone());
        self.on_this_disk += 1;
        let by = (self.number, self.starts);
        self.site.sidecars.runs(by, cluster.at());
        self.introduce(&host, &cluster);
        self.act(&host, &cluster);
        self.life = Some(Life {
            number: self.starts,
            host,
            cluster,
        });
        Ok(())
    }

    async fn start(
        &mut self,
        host: &Host,
        store: Store,
        others: &[Cluster],
    ) -> Result<Cluster, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let founder = self.number.0 as usize <= self.site.members.len();
        let founder = founder.then_some(self.number);
        let mut fresh = [self.number.0 as u8; 16];
        fresh[..8].copy_from_slice(&self.folders.to_le_bytes());
        let opened = Identity::open(&self.folder(), CLUSTER, &self.name(), founder, fresh);
        let identity = Arc::new(opened.map_err(|error| text(&error))?);
        if identity.settled().is_none() {
            let (node, life) = match founder {
                Some(node) if self.folders == 0 => (node, 1),
                _ => self.admit(&identity, founder, others).await?,
            };
            identity.settle(node, life).map_err(|error| text(&error))?;
        }
        let options = self.options(host);
        let starting = host.spawn(Cluster::start_over(
            identity,
            options,
            store,
            SNAPSHOT_EVERY,
        ));
        match starting.await {
            Ok(Ok(cluster)) => Ok(cluster),
            Ok(Err(error)) => Err(text(&error)),
            Err(_) => Err("it died".into()),
        }
    }

    fn options(&self, host: &Host) -> Options {
        Options {
            data_dir: self.folder(),
            members: self.site.members.clone(),
            cluster_id: CLUSTER,
            timing: Some(Timing {
                heartbeat: Duration::from_millis(100),
                election_min: Duration::from_millis(300),
                election_max: Duration::from_millis(500),
            }),
            survive: Survive::Region,
            node_lost_after: NODE_LOST_AFTER,
            node_dead_after: Duration::from_secs(8),
            transport: Arc::new(Port {
                from: self.number,
                life: self.starts,
                host: host.clone(),
                net: self.site.net.clone(),
            }),
            distance: Arc::new(|_| Some(Duration::from_millis(1))),
        }
    }

    /// Asks the catalog, through any of the others, to take a fresh folder in.
    async fn admit(
        &self,
        identity: &Identity,
        founder: Option<NodeId>,
        others: &[Cluster],
    ) -> Result<(NodeId, u32), String> {
        let admission = Admission {
            folder: identity.folder(),
            founder,
            founders: self.site.members.len() as u32,
            region: self.region.clone(),
            survive: Survive::Region,
            node: record(identity, RegionId(1)),
        };
        let other = self
            .random
            .pick(others)
            .ok_or("nobody takes it in")?
            .clone();
        // A client of that node: it waits for the answer for as long as it likes.
        let asked = spawn(async move {
            let command = catalog::Command::AdmitNode(admission);
            other.catalog().propose(command, STARTING / 2).await
        });
        match asked.await {
            Ok(Ok(done)) => match done.reply {
                catalog::Reply::Admitted { node, life } if node == self.number => Ok((node, life)),
                other => Err(format!("{other:?}")),
            },
            _ => Err("the catalog does not answer".into()),
        }
    }

    /// Writes the node into the catalog, as a real one does at each start.
    fn introduce(&self, host: &Host, cluster: &Cluster) {
        let (cluster, region) = (cluster.clone(), self.region.clone());
        host.spawn(async move {
            loop {
                let known = cluster.catalog().state();
                if let Some(region) = known.region_by_name(&region) {
                    let node = record(cluster.identity(), region.number);
                    let command = catalog::Command::PutNode(node);
                    let put = cluster.catalog().propose(command, STARTING).await;
                    if put.is_ok_and(|put| put.reply == catalog::Reply::Done) {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// Acts on what happens in the directories, once it runs them.
    fn act(&self, host: &Host, cluster: &Cluster) {
        let (cluster, sidecars) = (cluster.clone(), self.site.sidecars.clone());
        let (by, own) = ((self.number, self.starts), host.clone());
        host.spawn(async move {
            let mut known = BTreeSet::new();
            loop {
                for (region, group) in cluster.regions() {
                    if known.insert(region) {
                        own.spawn(sidecars.clone().act(by, group));
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }

    /// The process ends where it is. Answers whether something that it had written is lost.
    pub(super) async fn crash(&mut self, how: Crash) -> bool {
        self.site.net.remove(self.number);
        self.site.sidecars.died(self.number);
        self.site.net.set_mute(self.number, how != Crash::Kill);
        let Some(life) = self.life.take() else {
            return false;
        };
        life.host.kill();
        drop(life);
        let random = self.random.clone();
        let lost = match how {
            Crash::Kill => self.platter.cut(&mut |end| end - 1),
            Crash::Power => self.platter.cut(&mut |end| random.below(end)),
            Crash::Torn => self.platter.cut_and_tear(&mut |end| random.below(end)),
        };
        // Until all of its tasks are gone, and with them its lock on the folder.
        tokio::time::sleep(Duration::from_millis(1)).await;
        lost
    }

    /// The disk is replaced by an empty one. The process must be down.
    pub(super) fn lose_disk(&mut self) {
        std::fs::remove_dir_all(self.folder()).ok();
        self.platter = Platter::default();
        self.site.watch.has_disk(self.number, self.platter.clone());
        self.folders += 1;
        self.on_this_disk = 0;
    }

    /// Whether the process that runs is not the first one over its disk.
    pub(super) fn starts_over_its_log(&self) -> bool {
        self.on_this_disk > 1
    }
}

fn record(identity: &Identity, region: RegionId) -> Node {
    let text = || "127.0.0.1:1".to_owned();
    Node {
        at: identity.at(),
        name: identity.name(),
        region,
        client: text(),
        worker: text(),
        peer: text(),
        admin: text(),
        ops: text(),
        folder: identity.folder(),
        life: identity.settled().map_or(0, |(_, life)| life),
        format: FORMAT,
        standing: Standing::Member,
    }
}
