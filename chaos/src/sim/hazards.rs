//! The interleavings that naive designs of this system get wrong, and which of them a run came to.
//!
//! Their numbers are those of `ARCHITECTURE.md`. A run that comes to one counts it ([`World::count`]), and the
//! summary says how many seeds did, and which were the first. To come to one is not to pass it: what must
//! hold then is what the checks are for.

use super::net::Net;
use super::node::Life;
use super::watch::Watch;
use super::world::World;
use pontoon_proto::id::{GroupId, NodeId, RegionId};
use pontoon_raft::clock::{self, Instant};
use pontoon_raft::directory::Directory;
use pontoon_raft::group::Group;
use std::collections::BTreeMap;
use std::time::Duration;

/// Each hazard that a simulated control plane can come to, and what counts as that.
pub(super) const HAZARDS: &[(&str, &str)] = &[
    ("H-1", "a worker was attached at nodes of two regions"),
    (
        "H-3",
        "nodes began a region's group from catalogs of different age",
    ),
    (
        "H-4",
        "a session that had lost its slot to another asked for it again",
    ),
    (
        "H-5",
        "a node that ran was declared lost, with sessions entered at it",
    ),
    (
        "H-6",
        "a node heard its leader, was not heard by it, and stopped to count",
    ),
    (
        "H-7",
        "somebody used what was created a moment ago, at a node that lagged",
    ),
    (
        "H-8",
        "a node with sessions died and was back before it was missed",
    ),
    ("H-9", "an Enter was said again after its answer was lost"),
    (
        "H-10",
        "a node that stood still was declared lost, with sessions entered at it, and woke",
    ),
    (
        "H-11",
        "a resume was answered between the end of its window and that of the margin",
    ),
    ("H-12", "a copy of an open came after its cancel"),
    (
        "H-13",
        "an open of unknown outcome was cancelled, and one in the next region bound",
    ),
    ("H-14", "a node died for which opens waited"),
    ("H-15", "a node died between an open and its first tunnel"),
    (
        "H-16",
        "the clock of a leader jumped ten minutes ahead and back",
    ),
    (
        "H-17",
        "one snapshot brought a binding and an end that its node had not seen",
    ),
    ("H-18", "a node started over the log that it had"),
    (
        "H-19",
        "a resume came to a node that had not seen the end which another had answered",
    ),
    (
        "H-20",
        "the replica of an isolated node named a dead worker for a session",
    ),
    (
        "H-21",
        "a worker came back that was lost, or was detached late from where it is attached",
    ),
    ("H-22", "a worker died with a session that had a tunnel"),
    ("H-23", "a region was recovered while its old side lived on"),
    (
        "H-25",
        "a used ticket was shown to the next life of its issuer",
    ),
    (
        "H-26",
        "an open found no slot in its region, and one in the next",
    ),
    ("H-27", "a worker whose dials were blocked was set aside"),
    (
        "H-28",
        "what a region outlives changed while sessions opened",
    ),
    (
        "H-29",
        "a leader without a quorum was followed by a replica beside it",
    ),
    (
        "H-30",
        "the node that moves voters stood still and woke under another leader",
    ),
    ("H-32", "a session that nobody had entered expired"),
    (
        "H-33",
        "a damaged node came back while another one was down",
    ),
];

/// How long a node is remembered to have stood still.
const WOKEN: Duration = Duration::from_secs(5);

/// How one process was seen last.
struct Last {
    /// Which life of its node.
    life: u64,
    boot: u64,
    /// Sessions were entered at it.
    carried: bool,
    /// When it was last seen to stand still.
    frozen: Option<Instant>,
}

/// Looks at all processes, again and again, for what none of the other parts would notice.
#[derive(Default)]
pub(super) struct Lookout {
    last: BTreeMap<NodeId, Last>,
    /// How many nodes and regions a catalog knew when a region's group began over it.
    began: BTreeMap<RegionId, BTreeMap<NodeId, (usize, usize)>>,
}

impl Lookout {
    pub(super) fn look(
        &mut self,
        world: &World,
        watch: &Watch,
        net: &Net,
        lives: &BTreeMap<NodeId, Life>,
    ) {
        for (node, life) in lives {
            self.begins(world, *node, life);
            self.missed(world, *node, life);
            let alone = net.isolated(*node).is_some();
            for (_, group) in life.cluster.regions() {
                half_heard(world, net, *node, &group);
                beside(world, *node, &group, lives);
                if alone && watch.names_dead(&group.state()) {
                    world.count("H-20");
                }
            }
        }
    }

    /// H-3.
    fn begins(&mut self, world: &World, node: NodeId, life: &Life) {
        for (region, _) in life.cluster.regions() {
            let began = self.began.entry(region).or_default();
            if began.contains_key(&node) {
                continue;
            }
            let catalog = life.cluster.catalog().state();
            let age = (catalog.nodes().count(), catalog.all_regions().count());
            if began.values().any(|other| *other != age) {
                world.count("H-3");
            }
            began.insert(node, age);
        }
    }

    /// H-5 and H-10: the process lives, and its boot is over.
    fn missed(&mut self, world: &World, node: NodeId, life: &Life) {
        let now = clock::now();
        let at = life.cluster.at();
        let last = self.last.get(&node);
        let last = last.filter(|last| last.life == life.number);
        let carried_before = last.is_some_and(|last| last.carried);
        // Its replica shows nothing of a boot that is over, a moment before the process takes the next one.
        let carries = |(_, group): &(_, Group<Directory>)| {
            let state = group.state();
            state.entered_at(node).next().is_some() || (carried_before && state.boot_over(at))
        };
        let stood = life.host.frozen().then_some(now);
        let seen = Last {
            life: life.number,
            boot: at.boot,
            carried: life.cluster.regions().iter().any(carries),
            frozen: stood.or(last.and_then(|last| last.frozen)),
        };
        if carried_before && last.is_some_and(|last| last.boot < at.boot) {
            let since = seen.frozen.map(|at| now.saturating_duration_since(at));
            let woken = since.is_some_and(|since| since < WOKEN);
            world.count(if woken { "H-10" } else { "H-5" });
        }
        self.last.insert(node, seen);
    }
}

/// H-6.
fn half_heard(world: &World, net: &Net, node: NodeId, group: &Group<Directory>) {
    let Some(leader) = group.status().leader else {
        return;
    };
    if net.is_cut(node, leader) && !net.is_cut(leader, node) && !group.connected() {
        world.count("H-6");
    }
}

/// H-29.
fn beside(world: &World, node: NodeId, group: &Group<Directory>, lives: &BTreeMap<NodeId, Life>) {
    let leader = group.status().leader.filter(|leader| *leader != node);
    let Some(leader) = leader.and_then(|leader| lives.get(&leader)) else {
        return;
    };
    let GroupId::Region(region) = group.id() else {
        return;
    };
    let Some(led) = leader.cluster.region(region) else {
        return;
    };
    let same = led.generation() == group.generation() && led.leads();
    if same && !led.connected() && !group.connected() {
        world.count("H-29");
    }
}
