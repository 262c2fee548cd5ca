//! The hand that hurts a world, heals it, and writes down what it did.

use super::Planned;
use super::disk;
use super::names::Names;
use super::target::{Target, Who};
use crate::bench::floods::flood;
use crate::cluster::Error;
use crate::cluster::process::Process;
use crate::cluster::world::World;
use crate::history::{Hit, Lost, Recorder};
use crate::link::Site;
use crate::scenario::{Harm, Survive};
use crate::seed::Seed;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// A worker that is silent for so long may be given up, and its sessions with it: the least time that
/// a node or sidecar waits before it does, 10 s, with a margin for slow machines.
const GIVEN_UP: u64 = 8_000;

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
    planned: Planned,
    who: Vec<Who>,
    pairs: Vec<(Site, Site)>,
    /// What was counted before: see [`counted`].
    before: u64,
    // Ends when dropped.
    flood: JoinSet<()>,
    taken: Arc<AtomicU64>,
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
            who = target.sites(world, &mut self.seed, &[]).await?;
        }
        if let Some(target) = &planned.to {
            to = target.sites(world, &mut self.seed, &who).await?;
        }
        let names: Vec<String> = who.iter().map(|who| world.called(*who)).collect();
        let hit = Hit {
            at: self.record.now(),
            until: u64::MAX,
            what: format!("{} ({})", planned.words(), names.join(", ")),
            evidence: String::new(),
        };
        let mut done = Done {
            hit: self.hits.len(),
            planned: planned.clone(),
            pairs: pairs(&who, &to),
            who,
            before: counted(world, planned.fault.harm),
            flood: JoinSet::new(),
            taken: Arc::default(),
        };
        self.hits.push(hit);
        self.hits[done.hit].evidence = self.inflict(world, &mut done).await?;
        Ok(done)
    }

    /// Does it; what shows that it is done, if that is known at once.
    async fn inflict(&mut self, world: &mut World, done: &mut Done) -> Result<String, Error> {
        let fault = &done.planned.fault;
        Ok(match fault.harm {
            Harm::Kill | Harm::Pause | Harm::Stop => {
                let lasts = fault.for_ms.unwrap_or(u64::MAX);
                for who in &done.who {
                    self.signal(world, *who, fault.harm, lasts);
                }
                self.evidence(world, &done.who, fault.harm).await
            }
            Harm::Cut | Harm::CutOneWay | Harm::Link => {
                change(world, done);
                match fault.harm {
                    Harm::Link => format!("{} links changed", done.pairs.len() * 2),
                    _ => String::new(),
                }
            }
            Harm::HalfOpen => {
                let pairs = done.pairs.iter();
                let open = pairs.map(|(from, to)| world.emulator.half_open(*from, *to, true));
                match open.sum::<usize>() {
                    0 => String::new(),
                    open => format!("{open} connections lose their bytes"),
                }
            }
            Harm::Unplug => plug(world, &done.who, false).await?,
            Harm::RollingRestart => self.roll(world).await?,
            Harm::FillDisk => each(world, &done.who, |world, node| {
                disk::fill(&world.data(node))
            })?,
            Harm::Damage | Harm::LoseDisk | Harm::Power => {
                if fault.harm == Harm::Power {
                    each(world, &done.who, |world, node| {
                        disk::write_unsynced(&world.data(node)).map(|()| String::new())
                    })?;
                }
                for who in &done.who {
                    self.signal(world, *who, Harm::Kill, u64::MAX);
                }
                // Nothing is written any more once they have ended.
                match &*self.evidence(world, &done.who, Harm::Kill).await {
                    "" => String::new(),
                    _ => self.unplugged(world, done).await?,
                }
            }
            Harm::Clock => each(world, &done.who, |world, node| {
                world.set_clock(node, fault.by_s)
            })?,
            Harm::Names => {
                for node in nodes(&done.who)? {
                    world.answer(node, fault.answer)?;
                }
                String::new()
            }
            Harm::Expire => {
                let mut said = String::new();
                for node in nodes(&done.who)? {
                    said = world.expire(node).await?;
                }
                said
            }
            Harm::Flood => {
                let Some(flood) = fault.flood else {
                    return Ok(String::new());
                };
                for node in nodes(&done.who)? {
                    let port = world.nodes[node].client;
                    let taken = Arc::clone(&done.taken);
                    done.flood.spawn(async move {
                        // One that can't begin shows nothing at its end.
                        if let Ok(begun) = flood::start(flood, port, &taken).await {
                            begun.join_all().await;
                        }
                    });
                }
                String::new()
            }
            Harm::Remove => {
                let mut said = Vec::new();
                for node in nodes(&done.who)? {
                    said.push(world.remove(node).await?);
                }
                said.join("; ")
            }
            Harm::Survive => match done.planned.target {
                Some(Target::Region(region)) => world.move_voters(region, fault.survive).await?,
                _ => String::new(),
            },
        })
    }

    /// What becomes of the disk of whoever was killed.
    async fn unplugged(&mut self, world: &World, done: &Done) -> Result<String, Error> {
        let mut said = Vec::new();
        for node in nodes(&done.who)? {
            let data = world.data(node);
            said.push(match done.planned.fault.harm {
                Harm::Damage => disk::flip(&data, &mut self.seed)?,
                Harm::LoseDisk => disk::lose(&data)?,
                _ => match world.disks.get(node) {
                    Some(disk) => disk.cut().await?,
                    None => String::new(),
                },
            });
        }
        Ok(said.join("; "))
    }

    /// Undoes it.
    pub async fn heal(&mut self, world: &mut World, done: Done) -> Result<(), Error> {
        let harm = done.planned.fault.harm;
        for who in &done.who {
            match (harm, who) {
                (
                    Harm::Kill | Harm::Stop | Harm::Damage | Harm::LoseDisk | Harm::Power,
                    Who::At(Site::Node(node)),
                ) => world.restart_node(*node)?,
                // A node whose disk was full acknowledges nothing more until it is started again.
                (Harm::FillDisk, Who::At(Site::Node(node))) => {
                    disk::empty(&world.data(*node))?;
                    world.nodes[*node].process.end();
                    world.restart_node(*node)?;
                }
                // A new machine of the old name.
                (Harm::Remove, Who::At(Site::Node(node))) => {
                    disk::lose(&world.data(*node))?;
                    world.restart_node(*node)?;
                }
                (Harm::Clock, Who::At(Site::Node(node))) => {
                    world.set_clock(*node, 0)?;
                }
                (Harm::Names, Who::At(Site::Node(node))) => world.answer(*node, None)?,
                (Harm::Expire, Who::At(Site::Node(node))) => world.renew(*node).await?,
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
        if harm == Harm::Unplug {
            plug(world, &done.who, true).await?;
        }
        if let (Harm::Survive, Some(Target::Region(region))) = (harm, &done.planned.target) {
            let back = match done.planned.fault.survive {
                Survive::Zone => Survive::Region,
                Survive::Region => Survive::Zone,
            };
            world.move_voters(*region, back).await?;
        }
        world.emulator.change(|links| {
            for (from, to) in &done.pairs {
                links.heal(*from, *to);
                links.heal(*to, *from);
            }
        });
        self.seen(world, &done);
        self.hits[done.hit].until = self.record.now();
        Ok(())
    }

    /// Writes down what only its end can show.
    fn seen(&mut self, world: &World, done: &Done) {
        let (harm, count) = (
            done.planned.fault.harm,
            counted(world, done.planned.fault.harm),
        );
        let count = count - done.before;
        let taken = done.taken.load(Ordering::Relaxed);
        let said = match harm {
            Harm::Cut | Harm::CutOneWay if count > 0 => format!("{count} chunks and dials waited"),
            Harm::Names if count > 0 => format!("{count} questions were answered so"),
            Harm::Flood if taken > 0 => {
                let nodes = nodes(&done.who).unwrap_or_default().into_iter();
                let peaks = nodes.filter_map(|node| world.nodes[node].process.memory_peak());
                let peak = peaks.max().unwrap_or(0) >> 20;
                format!("{taken} writes taken; memory was {peak} MiB at most")
            }
            _ => return,
        };
        self.hits[done.hit].evidence = said;
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

/// What is counted all the time, and shows that a fault was there.
fn counted(world: &World, harm: Harm) -> u64 {
    match harm {
        Harm::Cut | Harm::CutOneWay => world.emulator.counters().held.load(Ordering::Relaxed),
        Harm::Names => world.names.as_ref().map_or(0, Names::wronged),
        _ => 0,
    }
}

/// Unplugs the cables of these, or plugs them in again; says what the kernel shows of it.
async fn plug(world: &World, who: &[Who], plugged: bool) -> Result<String, Error> {
    let spaces = world.spaces.as_ref();
    let missing = "unplug: nodes share this machine's network (it needs root, and no --loopback)";
    let spaces = spaces.ok_or_else(|| Error(missing.into()))?;
    let (mut standing, mut sites) = (0, 0);
    for who in who {
        if let Who::At(site @ (Site::Node(_) | Site::Sidecar(_))) = who {
            standing += world.emulator.standing(*site);
            spaces.plug(*site, plugged).await?;
            sites += usize::from(spaces.is_plugged(*site).await? == plugged);
        }
    }
    match standing * sites {
        0 => Ok(String::new()),
        _ => Ok(format!(
            "{sites} cables are out, with {standing} connections in them"
        )),
    }
}

/// Changes the links of a fault.
fn change(world: &World, done: &Done) {
    let fault = &done.planned.fault;
    world.emulator.change(|links| {
        for (from, to) in &done.pairs {
            let mut change = |from, to| {
                links.change(from, to, |link| match fault.link {
                    Some(wanted) => *link = wanted,
                    None => link.cut = true,
                });
            };
            change(*from, *to);
            if fault.harm != Harm::CutOneWay {
                change(*to, *from);
            }
        }
    });
}

/// The nodes among those who are hurt; all of them must be nodes.
fn nodes(who: &[Who]) -> Result<Vec<usize>, Error> {
    let nodes = who.iter().map(|who| match who {
        Who::At(Site::Node(node)) => Ok(*node),
        _ => Err(Error("this is done to nodes only".into())),
    });
    nodes.collect()
}

/// Does something to each node, and says what came of it.
fn each(
    world: &World,
    who: &[Who],
    mut harm: impl FnMut(&World, usize) -> Result<String, Error>,
) -> Result<String, Error> {
    let said = nodes(who)?.into_iter().map(|node| harm(world, node));
    Ok(said.collect::<Result<Vec<_>, Error>>()?.join("; "))
}

impl World {
    pub(super) fn process(&mut self, who: Who) -> Option<&mut Process> {
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
