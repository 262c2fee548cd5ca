//! Faults: what is planned, and the hand that does it.
//!
//! A target is one of:
//!
//! ```text
//! node NAME           one node                worker NAME     one worker
//! nodes REGION        all nodes of a region   sidecar NAME    one sidecar
//! leader GROUP        the node that leads     clients REGION  the clients of a region
//! attached NAME N     the Nth node at which the worker is attached
//! region REGION       all that is in it       any node, any worker, any sidecar
//! ```

use crate::cluster::Error;
use crate::cluster::world::World;
use crate::history::{Hit, Lost, Recorder};
use crate::link::Site;
use crate::scenario::{Fault, Harm, Scenario};
use crate::seed::Seed;
use rustix::process::Signal;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A worker that is silent for so long may be given up, and its sessions with it: the least time that
/// a node or sidecar waits before it does, 10 s, with a margin for slow machines.
const GIVEN_UP: u64 = 8_000;

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Node(usize),
    Nodes(usize),
    Worker(usize),
    Sidecar(usize),
    Clients(usize),
    Region(usize),
    Leader(String),
    Attached(usize, usize),
    AnyNode,
    AnyWorker,
    AnySidecar,
}

/// A fault whose names exist.
#[derive(Clone, Debug)]
pub struct Planned {
    fault: Fault,
    target: Option<Target>,
    to: Option<Target>,
}

/// All faults in the order of their begins: those of the schedule, and those of the nemesis, which
/// follow from the seed.
pub fn plan(scenario: &Scenario) -> Result<Vec<Planned>, Error> {
    let mut faults = scenario.fault.clone();
    if let Some(nemesis) = &scenario.nemesis {
        let mut seed = Seed::new(scenario.seed).fork(u64::MAX);
        let mut at_ms = nemesis.from_ms;
        while at_ms < nemesis.until_ms {
            let chance = &nemesis.harms[seed.below(nemesis.harms.len())];
            faults.push(Fault {
                at_ms,
                for_ms: Some(nemesis.for_ms),
                harm: chance.harm,
                target: chance.target.clone(),
                to: chance.to.clone(),
                link: chance.link,
            });
            at_ms += nemesis.every_ms;
        }
    }
    faults.sort_by_key(|fault| fault.at_ms);
    let planned = faults
        .into_iter()
        .map(|fault| Planned::new(fault, scenario));
    planned.collect()
}

impl Planned {
    fn new(fault: Fault, scenario: &Scenario) -> Result<Self, Error> {
        let named = |error: Error| Error(format!("a fault at {} ms: {error}", fault.at_ms));
        let target = match fault.harm {
            Harm::RollingRestart => None,
            _ => Some(Target::parse(&fault.target, scenario).map_err(named)?),
        };
        let to = match fault.harm {
            Harm::Cut | Harm::CutOneWay | Harm::HalfOpen | Harm::Link => {
                Some(Target::parse(&fault.to, scenario).map_err(named)?)
            }
            _ => None,
        };
        if fault.harm == Harm::Link && fault.link.is_none() {
            return Err(named(Error("`link` says what the link becomes".into())));
        }
        Ok(Self { fault, target, to })
    }

    /// When it begins.
    pub fn at(&self) -> Duration {
        Duration::from_millis(self.fault.at_ms)
    }

    /// After how long it is undone.
    pub fn lasts(&self) -> Option<Duration> {
        self.fault.for_ms.map(Duration::from_millis)
    }

    fn words(&self) -> String {
        let to = match self.fault.to.as_str() {
            "" => String::new(),
            to => format!(" -> {to}"),
        };
        let harm = format!("{:?}", self.fault.harm).to_lowercase();
        format!("{harm} {}{to}", self.fault.target)
    }
}

impl Target {
    fn parse(text: &str, scenario: &Scenario) -> Result<Self, Error> {
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
            ["any", "node"] => Self::AnyNode,
            ["any", "worker"] => Self::AnyWorker,
            ["any", "sidecar"] => Self::AnySidecar,
            _ => return Err(Error(format!("`{text}` is no target"))),
        })
    }

    /// Who that is at this moment.
    async fn sites(&self, world: &mut World, seed: &mut Seed) -> Result<Vec<Who>, Error> {
        Ok(match self {
            Self::Node(node) => vec![Who::At(Site::Node(*node))],
            Self::Worker(worker) => vec![Who::Worker(*worker)],
            Self::Sidecar(sidecar) => vec![Who::At(Site::Sidecar(*sidecar))],
            Self::Clients(region) => vec![Who::At(Site::Clients(*region))],
            Self::Nodes(region) => {
                let sites = world.emulator.links().sites(Some(*region)).into_iter();
                let nodes = sites.filter(|site| matches!(site, Site::Node(_)));
                nodes.map(Who::At).collect()
            }
            Self::Region(region) => {
                let sites = world.emulator.links().sites(Some(*region));
                sites.into_iter().map(Who::At).collect()
            }
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
            Self::AnyNode => vec![Who::At(Site::Node(seed.below(world.nodes.len())))],
            Self::AnyWorker => vec![Who::Worker(seed.below(world.workers.len()))],
            Self::AnySidecar => vec![Who::At(Site::Sidecar(seed.below(world.workers.len())))],
        })
    }
}

/// One that is hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    At(Site),
    Worker(usize),
}

/// The hand that hurts, and what it did.
#[derive(Debug)]
pub struct Hand {
    seed: Seed,
    slots: u32,
    record: Recorder,
    /// What happened so far.
    pub hits: Vec<Hit>,
    /// Workers whose sessions may be gone.
    pub lost: Vec<Lost>,
    /// Nodes killed.
    pub node_kills: usize,
    /// Workers killed.
    pub worker_kills: usize,
}

/// What is to be undone.
#[derive(Debug)]
pub struct Done {
    hit: usize,
    harm: Harm,
    who: Vec<Who>,
    pairs: Vec<(Site, Site)>,
    held: u64,
}

impl Hand {
    /// One that has done nothing yet.
    pub fn new(seed: Seed, slots: u32, record: Recorder) -> Self {
        Self {
            seed,
            slots,
            record,
            hits: Vec::new(),
            lost: Vec::new(),
            node_kills: 0,
            worker_kills: 0,
        }
    }

    /// Does it.
    pub async fn hurt(&mut self, world: &mut World, planned: &Planned) -> Result<Done, Error> {
        let (mut who, mut to) = (Vec::new(), Vec::new());
        if let Some(target) = &planned.target {
            who = target.sites(world, &mut self.seed).await?;
        }
        if let Some(target) = &planned.to {
            to = target.sites(world, &mut self.seed).await?;
        }
        let names: Vec<String> = who.iter().map(|who| world.called(*who)).collect();
        let mut hit = Hit {
            at: self.record.now(),
            until: u64::MAX,
            what: format!("{} ({})", planned.words(), names.join(", ")),
            evidence: String::new(),
        };
        let pairs = pairs(&who, &to);
        let harm = planned.fault.harm;
        let held = world.emulator.counters().held.load(Ordering::Relaxed);
        match harm {
            Harm::Kill | Harm::Pause | Harm::Stop => {
                let lasts = planned.fault.for_ms.unwrap_or(u64::MAX);
                for who in &who {
                    self.signal(world, *who, harm, lasts);
                }
                hit.evidence = self.evidence(world, &who, harm).await;
            }
            Harm::Cut | Harm::CutOneWay | Harm::Link => world.emulator.change(|links| {
                for (from, to) in &pairs {
                    let mut change = |from, to| {
                        links.change(from, to, |link| match planned.fault.link {
                            Some(wanted) => *link = wanted,
                            None => link.cut = true,
                        });
                    };
                    change(*from, *to);
                    if harm != Harm::CutOneWay {
                        change(*to, *from);
                    }
                }
            }),
            Harm::HalfOpen => {
                let mut open = 0;
                for (from, to) in &pairs {
                    open += world.emulator.half_open(*from, *to, true);
                }
                if open > 0 {
                    hit.evidence = format!("{open} connections lose their bytes");
                }
            }
            Harm::RollingRestart => hit.evidence = self.roll(world).await?,
        }
        if harm == Harm::Link {
            hit.evidence = format!("{} links changed", pairs.len() * 2);
        }
        self.hits.push(hit);
        Ok(Done {
            hit: self.hits.len() - 1,
            harm,
            who,
            pairs,
            held,
        })
    }

    /// Undoes it.
    pub fn heal(&mut self, world: &mut World, done: &Done) -> Result<(), Error> {
        for who in &done.who {
            match (done.harm, who) {
                (Harm::Kill | Harm::Stop, Who::At(Site::Node(node))) => {
                    world.restart_node(*node)?
                }
                (Harm::Kill | Harm::Stop, Who::At(Site::Sidecar(worker))) => {
                    world.restart_sidecar(*worker, self.slots)?;
                }
                (Harm::Kill | Harm::Stop, Who::Worker(worker)) => world.restart_worker(*worker)?,
                (Harm::Pause, who) => {
                    if let Some(process) = world.process(*who) {
                        process.signal(Signal::CONT);
                    }
                }
                _ => {}
            }
        }
        world.emulator.change(|links| {
            for (from, to) in &done.pairs {
                links.heal(*from, *to);
                links.heal(*to, *from);
            }
        });
        self.seen(world, done);
        self.hits[done.hit].until = self.record.now();
        Ok(())
    }

    /// Writes down whether a cut held anything.
    pub fn seen(&mut self, world: &World, done: &Done) {
        let held = world.emulator.counters().held.load(Ordering::Relaxed) - done.held;
        if matches!(done.harm, Harm::Cut | Harm::CutOneWay) && held > 0 {
            self.hits[done.hit].evidence = format!("{held} chunks and dials waited");
        }
    }

    fn signal(&mut self, world: &mut World, who: Who, harm: Harm, lasts: u64) {
        let from = self.record.now();
        let worker = match who {
            Who::Worker(worker) | Who::At(Site::Sidecar(worker)) => Some(worker),
            Who::At(_) => None,
        };
        if let Some(worker) = worker
            && (harm != Harm::Pause || lasts >= GIVEN_UP)
        {
            let worker = &world.workers[worker];
            let worker = format!("{}/{}", worker.name, worker.life);
            self.lost.push(Lost { worker, from });
        }
        if harm == Harm::Kill {
            self.node_kills += usize::from(matches!(who, Who::At(Site::Node(_))));
            self.worker_kills += usize::from(matches!(who, Who::Worker(_)));
        }
        if let Some(process) = world.process(who) {
            process.signal(match harm {
                Harm::Pause => Signal::STOP,
                Harm::Stop => Signal::TERM,
                _ => Signal::KILL,
            });
        }
    }

    /// What `/proc` says of those that were signalled, once it says so of all.
    async fn evidence(&mut self, world: &mut World, who: &[Who], harm: Harm) -> String {
        let hit = |world: &mut World, who: Who| {
            world.process(who).is_some_and(|process| match harm {
                Harm::Pause => process.state() == Some('T'),
                Harm::Stop => true,
                _ => process.ended(),
            })
        };
        for _ in 0..200 {
            if who.iter().all(|who| hit(world, *who)) {
                return match harm {
                    Harm::Pause => format!("{} processes are stopped", who.len()),
                    Harm::Stop => format!("{} processes were told to end", who.len()),
                    _ => format!("{} processes ended", who.len()),
                };
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        String::new()
    }

    /// Stops and starts every node, one after the other.
    async fn roll(&mut self, world: &mut World) -> Result<String, Error> {
        let workers = world.workers.len();
        for node in 0..world.nodes.len() {
            world.nodes[node].process.signal(Signal::TERM);
            let mut left = 800;
            while !world.nodes[node].process.ended() {
                left -= 1;
                if left == 0 {
                    let name = &world.nodes[node].name;
                    return Err(Error(format!("{name} did not end 40 s after SIGTERM")));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            world.restart_node(node)?;
            world.settled(workers).await?;
        }
        Ok(format!("{} nodes ended and came back", world.nodes.len()))
    }
}

impl World {
    fn process(&mut self, who: Who) -> Option<&mut crate::cluster::process::Process> {
        match who {
            Who::At(Site::Node(node)) => Some(&mut self.nodes[node].process),
            Who::At(Site::Sidecar(worker)) => Some(&mut self.workers[worker].sidecar),
            Who::Worker(worker) => Some(&mut self.workers[worker].process),
            Who::At(Site::Clients(_)) => None,
        }
    }

    fn called(&self, who: Who) -> String {
        match who {
            Who::At(Site::Node(node)) => self.nodes[node].name.clone(),
            Who::At(Site::Sidecar(worker)) => format!("sidecar of {}", self.workers[worker].name),
            Who::At(Site::Clients(region)) => format!("clients of {}", self.regions[region]),
            Who::Worker(worker) => format!("worker {}", self.workers[worker].name),
        }
    }

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

fn pairs(who: &[Who], to: &[Who]) -> Vec<(Site, Site)> {
    let mut pairs = Vec::new();
    for (from, to) in who
        .iter()
        .flat_map(|from| to.iter().map(move |to| (from, to)))
    {
        if let (Who::At(from), Who::At(to)) = (from, to)
            && from != to
        {
            pairs.push((*from, *to));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(more: &str) -> Scenario {
        let text = format!(
            "about = \"x\"\nseed = 5\n[topology]\nregions = [\"a\", \"b\"]\nworkers = 2\n\
             [workload]\nmode = \"hold\"\nclients = 2\nrun_ms = 10\n{more}"
        );
        Scenario::parse(&text, &[]).unwrap()
    }

    #[test]
    fn targets_are_those_that_exist() {
        let scenario = scenario("");
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

    #[test]
    fn a_nemesis_does_the_same_again_with_the_same_seed() {
        let nemesis = "[nemesis]\nfrom_ms = 0\nuntil_ms = 1000\nevery_ms = 100\nfor_ms = 50\n\
                       harms = [{ harm = \"kill\", target = \"any node\" }, \
                       { harm = \"pause\", target = \"any worker\" }]\n";
        let words = || {
            let planned = plan(&scenario(nemesis)).unwrap();
            planned.iter().map(Planned::words).collect::<Vec<_>>()
        };
        assert_eq!(words().len(), 10);
        assert_eq!(words(), words());
    }
}
