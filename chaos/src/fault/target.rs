//! Targets: from what a scenario writes to who that is at the moment of the fault.
//!
//! ```text
//! node NAME           one node                worker NAME     one worker
//! nodes REGION        all nodes of a region   sidecar NAME    one sidecar
//! leader GROUP        the node that leads     clients REGION  the clients of a region
//! attached NAME N     the Nth node at which the worker is attached
//! region REGION       all that is in it       all nodes
//! any node, any worker, any sidecar, any region: drawn; the far end of a link is never the near one
//! ```

use crate::cluster::Error;
use crate::cluster::world::World;
use crate::link::Site;
use crate::scenario::Scenario;
use crate::seed::Seed;
use std::time::Duration;

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Node(usize),
    Nodes(usize),
    Worker(usize),
    Sidecar(usize),
    Clients(usize),
    Region(usize),
    Leader(String),
    Attached(usize, usize),
    AllNodes,
    AnyNode,
    AnyWorker,
    AnySidecar,
    AnyRegion,
}

impl Target {
    pub(super) fn parse(text: &str, scenario: &Scenario) -> Result<Self, Error> {
        let node = |name: &str| {
            let names = scenario.node_names();
            let found = names.iter().position(|node| node == name);
            found.ok_or_else(|| Error(format!("there is no node {name}")))
        };
        let worker = |name: &str| {
            let (region, number) = name.rsplit_once('-').unwrap_or((name, ""));
            let number = number.parse::<usize>().ok();
            let per = scenario.topology.workers;
            let number = number.filter(|number| (1..=per).contains(number));
            let region = scenario.region(region)?;
            let number = number.ok_or_else(|| Error(format!("there is no worker {name}")))?;
            Ok::<_, Error>(region * per + number - 1)
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(match words[..] {
            ["node", name] => Self::Node(node(name)?),
            ["nodes", name] => Self::Nodes(scenario.region(name)?),
            ["worker", name] => Self::Worker(worker(name)?),
            ["sidecar", name] => Self::Sidecar(worker(name)?),
            ["clients", name] => Self::Clients(scenario.region(name)?),
            ["region", name] => Self::Region(scenario.region(name)?),
            ["leader", "catalog"] => Self::Leader("catalog".to_owned()),
            ["leader", name] => {
                scenario.region(name)?;
                Self::Leader(name.to_owned())
            }
            ["attached", name, number] => {
                let number = number.parse();
                let number = number.map_err(|_| Error(format!("{text}: a number is missing")))?;
                Self::Attached(worker(name)?, number)
            }
            ["all", "nodes"] => Self::AllNodes,
            ["any", "node"] => Self::AnyNode,
            ["any", "worker"] => Self::AnyWorker,
            ["any", "sidecar"] => Self::AnySidecar,
            ["any", "region"] => Self::AnyRegion,
            _ => return Err(Error(format!("`{text}` is no target"))),
        })
    }

    /// Who that is at this moment; whoever is drawn is none of `others`.
    pub(super) async fn sites(
        &self,
        world: &mut World,
        seed: &mut Seed,
        others: &[Who],
    ) -> Result<Vec<Who>, Error> {
        let mut draw = |count: usize, who: &dyn Fn(usize) -> Vec<Who>| {
            let mut free: Vec<Vec<Who>> = (0..count).map(who).collect();
            free.retain(|drawn| !drawn.iter().any(|drawn| others.contains(drawn)));
            match free.len() {
                0 => Vec::new(),
                count => free.swap_remove(seed.below(count)),
            }
        };
        Ok(match self {
            Self::Node(node) => vec![Who::At(Site::Node(*node))],
            Self::Worker(worker) => vec![Who::Worker(*worker)],
            Self::Sidecar(sidecar) => vec![Who::At(Site::Sidecar(*sidecar))],
            Self::Clients(region) => vec![Who::At(Site::Clients(*region))],
            Self::Nodes(region) => nodes(world, Some(*region)),
            Self::AllNodes => nodes(world, None),
            Self::Region(region) => all_of(world, *region),
            Self::Leader(group) => {
                let leader = world.leader(group).await;
                let leader = leader.ok_or_else(|| Error(format!("{group} has no leader")))?;
                vec![Who::At(Site::Node(leader))]
            }
            Self::Attached(worker, number) => {
                let name = world.workers[*worker].name.clone();
                let worker = world.worker_of(&name).await?;
                let at = worker.attached_at.get(*number);
                let at = at.and_then(|at| world.node(at.split('/').next().unwrap_or(at)));
                let at = at.ok_or_else(|| Error(format!("{name} is at no node {number}")))?;
                vec![Who::At(Site::Node(at))]
            }
            Self::AnyNode => draw(world.nodes.len(), &|at| vec![Who::At(Site::Node(at))]),
            Self::AnyWorker => draw(world.workers.len(), &|at| vec![Who::Worker(at)]),
            Self::AnySidecar => draw(world.workers.len(), &|at| vec![Who::At(Site::Sidecar(at))]),
            Self::AnyRegion => draw(world.regions.len(), &|region| all_of(world, region)),
        })
    }
}

impl World {
    /// A worker as the first node says that answers: one that has just started may not yet.
    async fn worker_of(&mut self, name: &str) -> Result<pontoon_proto::admin::Worker, Error> {
        let mut missing = Error(format!("no node knows the worker {name}"));
        for _ in 0..100 {
            for node in 0..self.nodes.len() {
                if self.nodes[node].process.ended() {
                    continue;
                }
                match self.list_workers(node).await {
                    Ok(workers) => {
                        let mut workers = workers.into_iter();
                        if let Some(worker) = workers.find(|worker| worker.name == name) {
                            return Ok(worker);
                        }
                    }
                    Err(error) => missing = error,
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(missing)
    }
}

fn nodes(world: &World, region: Option<usize>) -> Vec<Who> {
    let sites = world.emulator.links().sites(region).into_iter();
    let nodes = sites.filter(|site| matches!(site, Site::Node(_)));
    nodes.map(Who::At).collect()
}

fn all_of(world: &World, region: usize) -> Vec<Who> {
    let sites = world.emulator.links().sites(Some(region));
    sites.into_iter().map(Who::At).collect()
}

/// One that is hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    At(Site),
    Worker(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_that_exist() {
        let text = "about = \"x\"\n[topology]\nregions = [\"a\", \"b\"]\nworkers = 2\n\
                    [workload]\nmode = \"hold\"\nclients = 2\nrun_ms = 10\n";
        let scenario = Scenario::parse(text, &[]).unwrap();
        let parse = |text: &str| Target::parse(text, &scenario);
        assert_eq!(parse("node b-1"), Ok(Target::Node(1)));
        assert_eq!(parse("worker b-2"), Ok(Target::Worker(3)));
        assert_eq!(parse("attached a-1 1"), Ok(Target::Attached(0, 1)));
        for wrong in [
            "node b-2",
            "worker a-3",
            "leader c",
            "everybody",
            "node",
            "",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
