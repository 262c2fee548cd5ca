//! The nemesis: what is done to a cluster, and how it is undone.

use super::load::Lives;
use super::net::Net;
use super::node::{Crash, Machine, NODE_LOST_AFTER};
use super::operator::Theme;
use super::random::Random;
use super::watch::Watch;
use super::world::{World, spawn};
use pontoon_proto::id::NodeId;
use pontoon_raft::catalog::Catalog;
use pontoon_raft::clock::{self, Instant};
use pontoon_raft::directory::Directory;
use pontoon_raft::group::Group;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Everything that a run hurts.
pub(super) struct Nemesis {
    pub(super) world: Arc<World>,
    pub(super) watch: Arc<Watch>,
    pub(super) net: Arc<Net>,
    pub(super) lives: Lives,
    pub(super) random: Random,
    pub(super) machines: Vec<Machine>,
    /// What comes back by itself, and when.
    later: Vec<(Instant, usize, Undo)>,
    /// What this run does besides, at most once.
    pub(super) theme: Theme,
    /// The node whose disk is damaged, until all is healed.
    damaged: Option<usize>,
    /// The nodes with sessions that died, and when.
    carried: BTreeMap<usize, Instant>,
    /// Leaders whose clocks are ten minutes ahead.
    fast: BTreeSet<usize>,
    /// The catalog's leader that stands still, and its term.
    planner: Option<(usize, u64)>,
    ahead: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Undo {
    Start,
    Thaw,
    Mend,
    Disk,
}

impl Nemesis {
    pub(super) fn new(
        world: Arc<World>,
        watch: Arc<Watch>,
        net: Arc<Net>,
        lives: Lives,
        machines: Vec<Machine>,
    ) -> Nemesis {
        let random = world.random.fork();
        let theme = Theme::draw(&random, &machines);
        Nemesis {
            random,
            world,
            watch,
            net,
            lives,
            machines,
            later: Vec::new(),
            theme,
            damaged: None,
            carried: BTreeMap::new(),
            fast: BTreeSet::new(),
            planner: None,
            ahead: Duration::ZERO,
        }
    }

    /// Starts all nodes for the first time, at times one long after another and in bad weather, which ends
    /// by itself.
    pub(super) async fn found(&mut self) {
        let rough = self.random.chance(500);
        if rough {
            self.storm();
        }
        for at in 0..self.machines.len() {
            if rough {
                let most = Duration::from_millis(600);
                tokio::time::sleep(self.random.between(Duration::ZERO, most)).await;
            }
            self.start(at).await;
        }
        if rough {
            let net = self.net.clone();
            spawn(async move {
                tokio::time::sleep(Duration::from_secs(4)).await;
                net.calm();
            });
        }
    }

    /// Hurts the cluster for so long.
    pub(super) async fn rage(&mut self, span: Duration) {
        let end = clock::now() + span;
        while clock::now() < end && !self.world.failed() {
            self.undo(clock::now()).await;
            self.harm().await;
            if self.is_busy() && self.random.chance(600) {
                let at = self.random.below(self.machines.len());
                self.act_out(at).await;
            }
            let (least, most) = (Duration::from_millis(100), Duration::from_millis(900));
            tokio::time::sleep(self.random.between(least, most)).await;
        }
    }

    async fn undo(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.later = later;
        let due: Vec<(Instant, usize, Undo)> = due;
        for (_, at, undo) in due {
            match undo {
                Undo::Start => self.start(at).await,
                Undo::Thaw => self.thaw(at),
                Undo::Mend => self.net.mend(),
                Undo::Disk => {
                    let platter = &self.machines[at].platter;
                    platter.slow(Duration::ZERO);
                    platter.limit(None);
                    platter.fail(false);
                    let failed = self.machines[at]
                        .life
                        .as_ref()
                        .is_some_and(|life| life.cluster.storage_failure().is_some());
                    if failed {
                        self.world.count("storage failures");
                        self.crash(at, Crash::Kill).await;
                        self.start(at).await;
                    }
                }
            }
        }
    }

    fn thaw(&mut self, at: usize) {
        let planner = self.planner.take_if(|(planner, _)| *planner == at);
        if let Some(life) = &self.machines[at].life {
            if let Some((_, term)) = planner
                && self.others(at).any(|other| other.status().term > term)
            {
                self.world.count("H-30");
            }
            life.host.freeze(false);
            self.net.set_mute(self.machines[at].number, false);
        }
    }

    /// The catalog as the other nodes that run have it.
    pub(super) fn others(&self, at: usize) -> impl Iterator<Item = &Group<Catalog>> {
        let each = self.machines.iter().enumerate();
        let others = each.filter(move |(other, _)| *other != at);
        others.filter_map(|(_, machine)| Some(machine.life.as_ref()?.cluster.catalog()))
    }

    pub(super) fn soon(&mut self, at: usize, most: u64, undo: Undo) {
        let span = Duration::from_millis(100 + self.random.below(most as usize) as u64);
        self.later.push((clock::now() + span, at, undo));
    }

    pub(super) async fn crash(&mut self, at: usize, how: Crash) {
        let machine = &mut self.machines[at];
        self.world
            .tell(format_args!("{} goes: {how:?}", machine.number));
        let number = machine.number;
        let carries = machine.life.as_ref().is_some_and(|life| {
            let regions = life.cluster.regions();
            let mut states = regions.iter().map(|(_, group)| group.state());
            states.any(|state| state.entered_at(number).next().is_some())
        });
        if carries {
            self.carried.insert(at, clock::now());
        }
        self.lives.all().remove(&machine.number);
        if machine.crash(how).await {
            self.world.count("crashes with loss");
        }
    }

    /// Starts a node that is down, or lets it be tried again.
    pub(super) async fn start(&mut self, at: usize) {
        if self.machines[at].life.is_some() {
            return;
        }
        let others: Vec<_> = self.lives.all().values().cloned().collect();
        let others: Vec<_> = others.into_iter().map(|life| life.cluster).collect();
        let machine = &mut self.machines[at];
        match machine.up(&others).await {
            Ok(()) => {
                self.world.tell(format_args!("{} is up", machine.number));
                let over_its_log = machine.starts_over_its_log();
                if let Some(life) = machine.life.clone() {
                    self.lives.all().insert(machine.number, life);
                }
                if over_its_log {
                    self.world.count("H-18");
                }
                let died = self.carried.remove(&at);
                if died.is_some_and(|died| clock::now() < died + NODE_LOST_AFTER) {
                    self.world.count("H-8");
                }
                let down = self.machines.iter().any(|machine| machine.life.is_none());
                if self.damaged == Some(at) && down {
                    self.world.count("H-33");
                }
            }
            Err(why) => {
                self.world
                    .tell(format_args!("{} can't start: {why}", machine.number));
                self.world.count("starts failed");
                self.soon(at, 1000, Undo::Start);
            }
        }
    }

    /// Does one bad thing.
    async fn harm(&mut self) {
        let at = self.random.below(self.machines.len());
        let up = self.machines[at].life.is_some();
        match self.random.below(14) {
            0 if up => {
                self.crash(at, Crash::Kill).await;
                self.world.count("kills");
                self.soon(at, 4000, Undo::Start);
            }
            1 | 2 if up => {
                self.crash(at, Crash::Power).await;
                self.world.count("power cuts");
                self.soon(at, 3000, Undo::Start);
            }
            3 if up => self.freeze(at),
            4 => self.isolate(at, true, true),
            5 => self.isolate(at, true, false),
            6 => self.isolate(at, false, true),
            7 => self.split(),
            8 => self.storm(),
            9 => {
                let by = Duration::from_millis(20 + self.random.below(400) as u64);
                self.net.clog(self.machines[at].number, by);
                self.told("clogs", at);
                self.soon(at, 3000, Undo::Mend);
            }
            10 => self.sicken(at),
            11 if up => {
                let back = self.fast.first().copied();
                let back = back.filter(|_| self.random.chance(500));
                self.jump(back.unwrap_or(at));
            }
            12 if up => self.act_out(at).await,
            13 => {
                self.net.calm();
                self.told("calms", at);
            }
            _ => {}
        }
    }

    pub(super) fn told(&self, what: &'static str, at: usize) {
        self.world.count(what);
        self.world
            .tell(format_args!("{what} {}", self.machines[at].number));
    }

    pub(super) fn all_up(&self) -> bool {
        self.machines.iter().all(|machine| machine.life.is_some())
    }

    fn freeze(&mut self, at: usize) {
        if let Some(life) = &self.machines[at].life {
            let catalog = life.cluster.catalog();
            if catalog.leads() {
                self.planner = Some((at, catalog.status().term));
            }
            life.host.freeze(true);
            self.net.set_mute(self.machines[at].number, true);
            self.told("pauses", at);
            self.soon(at, 5000, Undo::Thaw);
        }
    }

    pub(super) fn isolate(&mut self, at: usize, out: bool, into: bool) {
        let node = self.machines[at].number;
        let others: Vec<NodeId> = self.numbers().filter(|other| *other != node).collect();
        for other in others {
            if out {
                self.net.cut(node, other);
            }
            if into {
                self.net.cut(other, node);
            }
        }
        self.told(
            if out && into {
                "isolations"
            } else {
                "one-way cuts"
            },
            at,
        );
        self.soon(at, 5000, Undo::Mend);
    }

    /// Two sides; at times one node still reaches both.
    fn split(&mut self) {
        let nodes: Vec<NodeId> = self.numbers().collect();
        let side: Vec<bool> = nodes.iter().map(|_| self.random.chance(500)).collect();
        let bridge = self
            .random
            .chance(400)
            .then(|| self.random.below(nodes.len()));
        for (one, from) in nodes.iter().enumerate() {
            for (other, to) in nodes.iter().enumerate() {
                let across = side[one] != side[other];
                if across && bridge != Some(one) && bridge != Some(other) {
                    self.net.cut(*from, *to);
                }
            }
        }
        self.told(
            if bridge.is_some() {
                "bridges"
            } else {
                "splits"
            },
            0,
        );
        self.soon(0, 5000, Undo::Mend);
    }

    fn storm(&mut self) {
        let most = Duration::from_millis(self.random.below(120) as u64);
        let base = Duration::from_micros(200 + self.random.below(20_000) as u64);
        let (loss, twice) = (self.random.below(150), self.random.below(200));
        self.net.storm(loss, twice, base, most);
        self.told("storms", 0);
    }

    fn sicken(&mut self, at: usize) {
        let platter = &self.machines[at].platter;
        match self.random.below(4) {
            0 => platter.fail(true),
            1 => platter.limit(Some(self.random.below(20_000))),
            _ => platter.slow(Duration::from_millis(10 + self.random.below(500) as u64)),
        }
        self.told("sick disks", at);
        self.soon(at, 2500, Undo::Disk);
    }

    /// The clock for stamps jumps, ahead or back to where it was.
    fn jump(&mut self, at: usize) {
        let Some(life) = &self.machines[at].life else {
            return;
        };
        let ahead = [0, 1, 600][self.random.below(3)];
        let leads = |(_, group): &(_, Group<Directory>)| group.leads();
        if ahead == 600 && life.cluster.regions().iter().any(leads) {
            self.fast.insert(at);
        } else if ahead == 0 && self.fast.remove(&at) {
            self.world.count("H-16");
        }
        self.watch.jumped();
        life.host.set_ahead(Duration::from_secs(ahead));
        self.told("clock jumps", at);
    }

    /// Every stamp is far too late: a bug that is planted.
    pub(super) fn race(&mut self) {
        self.ahead += Duration::from_secs(1);
        for machine in &self.machines {
            if let Some(life) = &machine.life {
                life.host.set_ahead(self.ahead);
            }
        }
    }

    /// What was durable is damaged or gone.
    pub(super) async fn damage(&mut self, at: usize) {
        self.damaged = Some(at);
        self.watch.damaged();
        self.crash(at, Crash::Torn).await;
        let group = self.random.below(2) as u16;
        let random = &self.random;
        let platter = self.machines[at].platter.clone();
        match self.random.below(4) {
            0 => {
                let nth = random.below(platter.count(group).max(1));
                platter.flip(group, nth, &mut |end| random.below(end));
                self.world.count("bit flips");
            }
            1 => {
                platter.lose(group, random.below(platter.count(group).max(1)));
                self.world.count("values lost");
            }
            2 => {
                self.machines[at].lose_disk();
                self.world.count("disks lost");
            }
            _ => self.world.count("torn writes"),
        }
        self.told("damages", at);
        self.soon(at, 2000, Undo::Start);
    }

    fn numbers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.machines.iter().map(|machine| machine.number)
    }

    /// Undoes everything.
    pub(super) async fn heal(&mut self) {
        self.net.mend();
        self.net.calm();
        self.later.clear();
        self.damaged = None;
        for at in 0..self.machines.len() {
            self.thaw(at);
            self.later.push((clock::now(), at, Undo::Disk));
            self.later.push((clock::now(), at, Undo::Start));
        }
        self.undo(clock::now()).await;
        self.world.tell(format_args!("healed"));
    }

    /// Starts what could not be started, and again what has stopped because of its disk.
    pub(super) async fn retry(&mut self) {
        self.follow_up().await;
        for at in 0..self.machines.len() {
            let life = self.machines[at].life.as_ref();
            if life.is_some_and(|life| life.cluster.storage_failure().is_some()) {
                self.later.push((clock::now(), at, Undo::Disk));
            }
        }
        self.undo(clock::now()).await;
    }
}
