//! Nodes: how they come, announce themselves, and go.

use super::command::{Admission, Effect, FirstVoter, LIVES_FORMAT, Node, Region, Reply, Standing};
use super::{Catalog, Outcome, valid};
use pontoon_proto::id::{NodeBoot, NodeId, RegionId};
use std::sync::Arc;

/// Who does what no operator asked for.
pub(super) const CLUSTER: &str = "cluster";

/// How many boots one life of a node may have. A node that lost its data folder lost the count of its
/// boots too: the next life begins above all that the lives before it can have used.
const BOOTS_PER_LIFE: u64 = 1 << 32;

/// The boot that comes before the first one of a life, which counts from 1.
pub fn boot_before(life: u32) -> u64 {
    u64::from(life.saturating_sub(1)) * BOOTS_PER_LIFE
}

impl Catalog {
    /// Gives a node with a fresh data folder its number and its life; asked again by the same
    /// folder, the answer is the same.
    ///
    /// A name that is known comes back in its next life: whatever its earlier folder had promised, as
    /// a voter or as an entry node, is over. A first member whose first life nobody has written down
    /// yet had one all the same. A new region is born with its first node as its only voter; more are
    /// promoted as they come.
    pub(super) fn admit_node(
        &mut self,
        index: u64,
        admission: Admission,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Reply> {
        let Admission {
            folder,
            founder,
            founders,
            region,
            survive,
            mut node,
        } = admission;
        if node.format < self.format() {
            return Err(Reply::Refused(format!(
                "this build reads entries up to format {}, and the cluster writes format {}: start \
                 a newer build",
                node.format,
                self.format()
            )));
        }
        node_texts(&node)?;
        valid::label("a region's name", &region)?;
        let known = self.node_by_name(&node.name).cloned();
        if let Some(known) = &known {
            if self
                .region(known.region)
                .is_none_or(|home| home.name != region)
            {
                let home = self.region(known.region);
                let home = home.map_or_else(|| known.region.to_string(), |home| home.name.clone());
                return Err(Reply::Conflict(format!(
                    "node {} belongs to region {home}, not to {region}: correct its region, or give \
                     it a name of its own",
                    node.name
                )));
            }
            if known.folder == folder {
                return Ok(admitted(known));
            }
        }
        let born = self.region_by_name(&region).map(|region| region.number);
        // One that was removed comes back under its number in a further life: in one that it had before,
        // it might be a member that had voted.
        let lived = founder.map_or(0, |number| match self.node(number) {
            Some(removed) if self.format() >= LIVES_FORMAT => removed.life,
            _ => 1,
        });
        let number = match &known {
            Some(known) => known.at.node,
            None => founder.unwrap_or_else(|| self.next_number(founders)),
        };
        node.life = match &known {
            Some(known) => known.life + 1,
            None => 1 + lived,
        };
        node.at = NodeBoot {
            node: number,
            boot: boot_before(node.life),
        };
        node.folder = folder;
        node.standing = Standing::Member;
        node.region = match born {
            Some(number) => number,
            None => {
                let first = FirstVoter {
                    node: number,
                    life: node.life,
                };
                let number = self.next_region()?;
                let region = Region::new(number, &region, survive, vec![first]);
                self.add_region(index, region, effects)?;
                number
            }
        };
        let what = format!("admit node {} ({number}), life {}", node.name, node.life);
        self.log(index, CLUSTER, what);
        let reply = admitted(&node);
        self.insert_node(node, effects);
        Ok(reply)
    }

    /// A node announces itself: new, in a later boot, or under other addresses. Its name, region,
    /// folder and life stay what they are.
    pub(super) fn put_node(&mut self, mut node: Node, effects: &mut Vec<Effect>) -> Outcome {
        let id = node.at.node;
        valid::ensure(id.0 >= 1, || {
            "a node's number must be at least 1".to_owned()
        })?;
        super::region::number_in_range(node.region)?;
        node_texts(&node)?;
        node.standing = Standing::Member;
        if let Some(known) = self.node(id) {
            if known.standing == Standing::Removed {
                return Err(Reply::Refused(format!(
                    "node {} was removed from the cluster: to use this machine again, give it an \
                     empty data folder",
                    known.name
                )));
            }
            if node.at.boot < known.at.boot
                || (node.life, node.folder) != (known.life, known.folder)
            {
                return Err(Reply::Stale);
            }
            node.standing = known.standing;
            if **known == node {
                return Ok(());
            }
            if (&known.name, known.region) != (&node.name, node.region) {
                let place = format!("{} of region {}", known.name, known.region);
                return Err(Reply::Conflict(format!("node {id} is {place}")));
            }
            if node.at.boot == known.at.boot && known.peer != node.peer {
                return Err(Reply::Conflict(format!(
                    "node {} runs at {} with the same data: two processes use copies of one data \
                     folder; stop one of them, and give it an empty folder and a name of its own",
                    known.name, known.peer
                )));
            }
        } else if let Some(other) = self.node_by_name(&node.name) {
            return Err(Reply::Conflict(format!(
                "the name is taken by node {}",
                other.at.node
            )));
        }
        self.insert_node(node, effects);
        Ok(())
    }

    /// Marks a silent node dead, or alive again.
    ///
    /// Dead nodes are of one region at a time: when more fall silent, the network is a likelier cause
    /// than that many machines, and what moved would have to move back.
    pub(super) fn mark_node(
        &mut self,
        index: u64,
        id: NodeId,
        dead: bool,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let known = self.known(id)?.clone();
        let standing = match (known.standing, dead) {
            (Standing::Removed, _) => return Ok(()),
            (_, true) => Standing::Dead,
            (_, false) => Standing::Member,
        };
        if standing == known.standing {
            return Ok(());
        }
        if let Some(other) = self
            .nodes()
            .find(|one| one.standing == Standing::Dead && one.region != known.region)
            && dead
        {
            return Err(Reply::Refused(format!(
                "node {} of region {} is dead already: only nodes of one region are given up at a \
                 time; remove one by hand if it will not come back",
                other.name, other.region
            )));
        }
        let what = if dead { "dead" } else { "alive" };
        self.log(index, CLUSTER, format!("mark node {} {what}", known.name));
        self.insert_node(
            Node {
                standing,
                ..Node::clone(&known)
            },
            effects,
        );
        Ok(())
    }

    /// Takes a node out for good. Its number is never used again, its name may be.
    pub(super) fn remove_node(
        &mut self,
        index: u64,
        id: NodeId,
        actor: &str,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let known = self.known(id)?.clone();
        if known.standing == Standing::Removed {
            return Ok(());
        }
        let others = self
            .members()
            .filter(|one| one.at.node != id && one.standing == Standing::Member);
        if others.count() == 0 {
            return Err(Reply::Refused(format!(
                "node {} is the last one alive: a cluster without nodes holds nothing",
                known.name
            )));
        }
        self.log(index, actor, format!("remove node {} ({id})", known.name));
        self.indexes.node_by_name.remove(&known.name);
        let removed = Node {
            standing: Standing::Removed,
            ..Node::clone(&known)
        };
        self.records.nodes.insert(id, Arc::new(removed));
        effects.push(Effect::NodeChanged(id));
        Ok(())
    }

    /// All nodes that were not removed, by number.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes()
            .filter(|node| node.standing != Standing::Removed)
    }

    fn known(&self, id: NodeId) -> Result<&Arc<Node>, Reply> {
        self.node(id)
            .ok_or_else(|| Reply::NotFound(format!("there is no node {id}")))
    }

    fn insert_node(&mut self, node: Node, effects: &mut Vec<Effect>) {
        let id = node.at.node;
        self.indexes.node_by_name.insert(node.name.clone(), id);
        self.records.nodes.insert(id, Arc::new(node));
        effects.push(Effect::NodeChanged(id));
    }

    fn next_number(&self, founders: u32) -> NodeId {
        let last = self.records.nodes.get_max().map_or(0, |(id, _)| id.0);
        NodeId(last.max(founders) + 1)
    }

    fn next_region(&self) -> Result<RegionId, Reply> {
        let last = self.records.regions.get_max().map_or(0, |(id, _)| id.0);
        let next = RegionId(last.saturating_add(1));
        super::region::number_in_range(next)?;
        Ok(next)
    }
}

fn admitted(node: &Node) -> Reply {
    Reply::Admitted {
        node: node.at.node,
        life: node.life,
    }
}

fn node_texts(node: &Node) -> Outcome {
    valid::name("a node's name", &node.name)?;
    for (what, address) in [
        ("client address", &node.client),
        ("worker address", &node.worker),
        ("peer address", &node.peer),
        ("admin address", &node.admin),
        ("ops address", &node.ops),
    ] {
        valid::text(what, address)?;
    }
    Ok(())
}
