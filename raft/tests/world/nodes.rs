//! A whole cluster's nodes in one process: they are founded, join, die, lose their disks.

use super::{CLUSTER, LONG, Net, Port, eventually};
use pontoon_proto::id::{GroupId, NodeBoot, NodeId, RegionId, RequestId};
use pontoon_raft::catalog::command::{self as catalog, Admission, Node, Standing, Survive};
use pontoon_raft::cluster::{Cluster, Member, Options};
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Command, Reply};
use pontoon_raft::group::{FORMAT, Group, ProposeError, Timing};
use pontoon_raft::identity::Identity;
use pontoon_raft::machine::Machine;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// How a node is called and where it is.
#[derive(Clone, Debug)]
pub struct Named {
    pub name: String,
    pub region: String,
}

pub struct Nodes {
    pub net: Arc<Net>,
    dir: TempDir,
    members: Vec<Member>,
    names: BTreeMap<u32, Named>,
    pub running: BTreeMap<u32, Cluster>,
    pub survive: Survive,
    /// Fixed timing; none: by distance.
    pub timing: Option<Timing>,
    pub dead_after: Duration,
    /// Round trips between nodes of different regions.
    pub apart: Arc<Mutex<Duration>>,
}

impl Nodes {
    /// One founder per item, in these regions; none runs yet.
    pub fn new(regions: &[&str]) -> Nodes {
        let member = |(number, region): (u32, &&str)| Member {
            node: NodeId(number),
            name: format!("node-{number}"),
            region: (*region).into(),
        };
        let members: Vec<Member> = (1..).zip(regions).map(member).collect();
        let names = members.iter().map(|member| {
            let named = Named {
                name: member.name.clone(),
                region: member.region.clone(),
            };
            (member.node.0, named)
        });
        Nodes {
            net: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            names: names.collect(),
            members,
            running: BTreeMap::new(),
            survive: Survive::Region,
            timing: Some(Timing::LAN),
            dead_after: Duration::from_secs(3600),
            apart: Arc::default(),
        }
    }

    /// All founders, running.
    pub async fn start(regions: &[&str]) -> Nodes {
        Nodes::new(regions).all_up().await
    }

    /// Starts all founders, and waits until every group works everywhere.
    pub async fn all_up(mut self) -> Nodes {
        for node in 1..=self.members.len() as u32 {
            self.up(node).await;
        }
        let mut regions: Vec<&str> = self.members.iter().map(|one| one.region.as_str()).collect();
        regions.sort_unstable();
        regions.dedup();
        self.ready(regions.len()).await;
        self
    }

    pub fn folder(&self, number: u32) -> PathBuf {
        self.dir.path().join(&self.names[&number].name)
    }

    /// A node's data folder is gone.
    pub fn lose_disk(&self, number: u32) {
        std::fs::remove_dir_all(self.folder(number)).unwrap();
    }

    /// A new node asks for its number, and starts.
    pub async fn join(&mut self, name: &str, region: &str) -> u32 {
        let named = Named {
            name: name.into(),
            region: region.into(),
        };
        let number = self.names.last_key_value().map_or(0, |(number, _)| *number) + 1;
        self.names.insert(number, named);
        self.up(number).await;
        number
    }

    /// Starts a node on what is in its folder; a fresh one is founded if it is a founder that nobody
    /// knows, else admitted by the catalog.
    pub async fn up(&mut self, number: u32) {
        let identity = Arc::new(self.identity(number).await);
        let founder = self.members.get(number as usize - 1).map(|one| one.node);
        if identity.settled().is_none() {
            match founder {
                Some(node) if self.is_new(node).await => identity.settle(node, 1).unwrap(),
                _ => {
                    let (node, life) = self.admit(number, founder, &identity).await;
                    identity.settle(node, life).unwrap()
                }
            };
        }
        let node = identity.at().node;
        assert_eq!(node.0, number, "the numbers that the tests expect");
        let cluster = Cluster::start(identity, self.options(node)).await.unwrap();
        self.net.add_cluster(node, cluster.clone());
        self.introduce(number, cluster.clone());
        self.running.insert(number, cluster);
    }

    /// What asking the other founders comes to: nobody has ever seen a node of this number.
    async fn is_new(&self, node: NodeId) -> bool {
        match self.running.values().next() {
            None => true,
            Some(other) => {
                let seen = other.catalog().state().node(node).is_some();
                let older = other.identity().greet(node, [node.0 as u8; 16]).unwrap();
                !seen && older != pontoon_raft::identity::Verdict::Other
            }
        }
    }

    async fn identity(&self, number: u32) -> Identity {
        static FOLDERS: AtomicU8 = AtomicU8::new(1);
        let founder = self.members.get(number as usize - 1).map(|one| one.node);
        let (folder, name) = (self.folder(number), &self.names[&number].name);
        let fresh = [FOLDERS.fetch_add(1, Ordering::Relaxed); 16];
        let open = || async { Identity::open(&folder, CLUSTER, name, founder, fresh).ok() };
        eventually("the data folder", open).await
    }

    async fn admit(
        &self,
        number: u32,
        founder: Option<NodeId>,
        identity: &Identity,
    ) -> (NodeId, u32) {
        let admission = Admission {
            folder: identity.folder(),
            founder,
            founders: self.members.len() as u32,
            region: self.names[&number].region.clone(),
            survive: self.survive,
            node: self.record(number, identity, RegionId(1)),
        };
        let catalog = self.running.values().next().unwrap().catalog();
        let asked = catalog.propose(catalog::Command::AdmitNode(admission), LONG);
        match asked.await.unwrap().reply {
            catalog::Reply::Admitted { node, life } => (node, life),
            other => panic!("{other:?}"),
        }
    }

    fn record(&self, number: u32, identity: &Identity, region: RegionId) -> Node {
        let text = || "127.0.0.1:1".to_owned();
        Node {
            at: identity.at(),
            name: self.names[&number].name.clone(),
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

    /// Writes the node into the catalog, as a real one does at each start.
    fn introduce(&self, number: u32, cluster: Cluster) {
        let region = self.names[&number].region.clone();
        let identity = cluster.identity().clone();
        let record = self.record(number, &identity, RegionId(0));
        let writing = async move {
            loop {
                let known = cluster.catalog().state();
                if let Some(region) = known.region_by_name(&region) {
                    let node = Node {
                        region: region.number,
                        at: identity.at(),
                        ..record.clone()
                    };
                    let command = catalog::Command::PutNode(node);
                    let put = cluster.catalog().propose(command, LONG).await;
                    if put.is_ok_and(|put| put.reply == catalog::Reply::Done) {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(writing);
    }

    fn options(&self, node: NodeId) -> Options {
        let regions: BTreeMap<u32, String> = self
            .names
            .iter()
            .map(|(number, named)| (*number, named.region.clone()))
            .collect();
        let apart = self.apart.clone();
        Options {
            data_dir: self.folder(node.0),
            members: self.members.clone(),
            cluster_id: CLUSTER,
            timing: self.timing,
            survive: self.survive,
            node_lost_after: Duration::from_secs(2),
            node_dead_after: self.dead_after,
            transport: Arc::new(Port {
                from: node,
                net: self.net.clone(),
            }),
            distance: Arc::new(move |to| {
                let same = regions.get(&node.0) == regions.get(&to.0);
                let far = *apart.lock().unwrap();
                Some(if same { Duration::from_millis(1) } else { far })
            }),
        }
    }

    pub async fn down(&mut self, number: u32) {
        self.net.remove(NodeId(number));
        self.running.remove(&number).unwrap().stop().await;
    }

    pub fn isolate(&self, number: u32, cut: bool) {
        for other in self.names.keys().filter(|other| **other != number) {
            self.net.cut(NodeId(number), NodeId(*other), cut);
            self.net.cut(NodeId(*other), NodeId(number), cut);
        }
    }

    pub fn group(&self, number: u32, region: u16) -> Group<Directory> {
        self.running[&number].region(RegionId(region)).unwrap()
    }

    /// Until every node runs every region and is connected to it.
    pub async fn ready(&self, regions: usize) {
        for (number, cluster) in &self.running {
            eventually(&format!("all regions at node {number}"), || async {
                let groups = cluster.regions();
                let connected = groups.iter().all(|(_, group)| group.connected());
                (groups.len() == regions && connected && cluster.catalog().connected())
                    .then_some(())
            })
            .await;
        }
    }

    /// Until a region's voters are these, as a running node sees them.
    pub async fn voters(&self, region: u16, wanted: &[u32]) {
        let wanted: Vec<NodeId> = wanted.iter().copied().map(NodeId).collect();
        let what = format!("region {region} has the voters {wanted:?}");
        eventually(&what, || async {
            let voting = |cluster: &Cluster| {
                let group = cluster.region(RegionId(region))?;
                Some(group.status().voters == wanted)
            };
            let all = self.running.values().all(|one| voting(one) == Some(true));
            all.then_some(())
        })
        .await;
    }

    /// Asks the catalog for something, through any node.
    pub async fn ask(&self, command: catalog::Command) -> catalog::Reply {
        let any = *self.running.keys().next().unwrap();
        self.ask_at(any, command).await
    }

    /// Asks the catalog for something, through this node.
    pub async fn ask_at(&self, number: u32, command: catalog::Command) -> catalog::Reply {
        let catalog = self.running[&number].catalog();
        catalog.propose(command, LONG).await.unwrap().reply
    }

    /// Leaves a mark in a region's directory that can be found again: a cancelled open. It lasts for
    /// a minute.
    pub async fn mark(&self, number: u32, region: u16, seed: u8) -> RequestId {
        let id = request(region, seed);
        let group = self.group(number, region);
        // A leader that goes leaves outcomes unknown; the same id may be cancelled again.
        let reply = eventually("a mark's outcome", || async {
            match group.propose(Command::CancelOpen { id }, LONG / 4).await {
                Err(ProposeError::Unknown) => None,
                marked => Some(marked.unwrap().reply),
            }
        })
        .await;
        assert!(matches!(reply, Reply::Done | Reply::Ended(_)), "{reply:?}");
        id
    }

    /// Whether every node finds the mark.
    pub async fn finds(&self, id: RequestId) {
        let region = id.region().unwrap();
        for (number, cluster) in &self.running {
            let group = cluster.region(region).unwrap();
            let state = group.read(LONG).await.unwrap();
            assert!(state.ended(id).is_some(), "node {number} lacks {id}");
        }
    }

    /// All replicas of a region are equal, once they have applied the same entries.
    pub async fn equal(&self, region: u16) {
        let number = RegionId(region);
        eventually("equal replicas", || async {
            let digest = |cluster: &Cluster| {
                let group = cluster.region(number)?;
                Some((group.status().applied, group.state().digest()))
            };
            let mut all = self.running.values().map(digest);
            let first = all.next()??;
            all.all(|one| one == Some(first)).then_some(())
        })
        .await;
    }
}

pub fn request(region: u16, seed: u8) -> RequestId {
    RequestId::mint(RegionId(region), [seed; 16])
}

pub fn at(node: u32, boot: u64) -> NodeBoot {
    NodeBoot {
        node: NodeId(node),
        boot,
    }
}

pub fn group_id(region: u16) -> GroupId {
    GroupId::Region(RegionId(region))
}
