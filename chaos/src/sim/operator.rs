//! What an operator does to a cluster that is being hurt: nodes are removed and come back empty, what regions
//! outlive is changed, and a region that is cut off is recovered elsewhere.

use super::faults::{Nemesis, Undo};
use super::node::{Crash, Machine};
use super::random::Random;
use pontoon_proto::id::RegionId;
use pontoon_raft::catalog::command::{Command, Reply, Survive};
use pontoon_raft::cluster::Cluster;
use pontoon_raft::directory::Directory;
use pontoon_raft::group::Group;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long an operator waits for an answer.
const WITHIN: Duration = Duration::from_millis(1500);

/// How long a node that was removed is waited for, until nobody counts on it.
const LEAVING: Duration = Duration::from_secs(6);

/// What a run does besides. One of them, because placement promises to bear one lost disk, and a region
/// whose group is small or was recovered promises less than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// A disk is damaged or lost, once.
    Damage,
    /// A node is removed, and an empty one of its name joins, once; which, once it was asked for.
    Remove(Option<usize>),
    /// A region outlives the loss of a zone, then that of a region, and so on.
    Survive,
    /// A region that outlives the loss of a zone only is cut off whole, and recovered elsewhere.
    Recover(Recovery),
    /// It was done.
    Over,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    /// The region is to outlive less.
    Shrink,
    /// Its voters are to be at home, and it is cut off.
    CutOff,
    /// Its group goes on from a replica outside.
    Seed,
}

impl Theme {
    pub(super) fn draw(random: &Random, machines: &[Machine]) -> Theme {
        let first = &machines[0].region;
        let apart = machines.iter().any(|machine| machine.region != *first);
        match random.below(8) {
            0 | 1 => Theme::Remove(None),
            2 => Theme::Survive,
            3 | 4 if apart => Theme::Recover(Recovery::Shrink),
            _ => Theme::Damage,
        }
    }
}

impl Nemesis {
    /// Whether an operator is in the middle of something that takes several steps.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.theme, Theme::Recover(_))
    }

    /// Goes on with the theme of this run.
    pub(super) async fn act_out(&mut self, at: usize) {
        match self.theme {
            Theme::Damage if self.all_up() => {
                self.theme = Theme::Over;
                self.damage(at).await;
            }
            Theme::Remove(None) if self.all_up() => self.remove(at).await,
            Theme::Remove(Some(at)) => self.remove(at).await,
            Theme::Survive => {
                let survive = [Survive::Zone, Survive::Region][self.random.below(2)];
                let region = self.home(at);
                self.outlives(region, survive).await;
            }
            Theme::Recover(step) => self.recover(step).await,
            Theme::Damage | Theme::Remove(None) | Theme::Over => {}
        }
    }

    /// Finishes what was asked for without an answer: it may have been done.
    pub(super) async fn follow_up(&mut self) {
        if let Theme::Remove(Some(at)) = self.theme {
            self.remove(at).await;
        }
    }

    /// A region's group as one node runs it.
    fn group(&self, at: usize, region: RegionId) -> Option<Group<Directory>> {
        self.machines[at].life.as_ref()?.cluster.region(region)
    }

    fn home(&self, at: usize) -> Option<RegionId> {
        let catalog = self.machines[at].life.as_ref()?.cluster.catalog().state();
        let region = catalog.region_by_name(&self.machines[at].region)?;
        Some(region.number)
    }

    /// Says something to the catalog, through any node that is not one of these.
    async fn say(&self, but: &BTreeSet<usize>, command: Command) -> Option<Reply> {
        let running = self.machines.iter().enumerate();
        let running = running.filter(|(at, _)| !but.contains(at));
        let running: Vec<_> = running
            .filter_map(|(_, machine)| machine.life.clone())
            .collect();
        let through = self.random.pick(&running)?;
        through.tell_catalog(command, WITHIN, WITHIN).await
    }

    /// A node is removed; once nobody counts on it, or it has waited for long enough, its disk is emptied
    /// and it joins again.
    async fn remove(&mut self, at: usize) {
        let node = self.machines[at].number;
        let actor = "sim".to_owned();
        // Of two nodes that are left, one votes.
        let catalog = self.others(at).next().map(Group::state);
        let regions = catalog.iter().flat_map(|catalog| catalog.all_regions());
        regions.for_each(|region| self.watch.may_be_small(region.number));
        self.theme = Theme::Remove(Some(at));
        let command = Command::RemoveNode { node, actor };
        if self.say(&BTreeSet::from([at]), command).await != Some(Reply::Done) {
            return;
        }
        self.theme = Theme::Over;
        self.told("removals", at);
        let leaves = async {
            while self.machines[at]
                .life
                .as_ref()
                .is_some_and(|life| needed(&life.cluster))
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(LEAVING, leaves).await.is_ok() {
            self.world.count("removals that nobody waited for");
        }
        // Who waited for too long leaves with a vote that counts: that is a lost disk.
        self.watch.damaged();
        self.crash(at, Crash::Kill).await;
        self.machines[at].lose_disk();
        self.soon(at, 2000, Undo::Start);
    }

    /// Says what a region outlives from now on; whether it was heard.
    async fn outlives(&mut self, region: Option<RegionId>, survive: Survive) -> bool {
        let Some(region) = region else { return false };
        self.watch.may_be_small(region);
        let command = Command::SetSurvive {
            region,
            survive,
            actor: "sim".into(),
        };
        let heard = self.say(&BTreeSet::new(), command).await == Some(Reply::Done);
        if heard {
            self.world.count("H-28");
            self.world
                .tell(format_args!("{region:?} is to outlive a {survive:?}"));
        }
        heard
    }

    /// The next step of a recovery of the first node's region.
    async fn recover(&mut self, step: Recovery) {
        let name = self.machines[0].region.clone();
        let inside = (0..self.machines.len()).filter(|at| self.machines[*at].region == name);
        let inside: BTreeSet<usize> = inside.collect();
        let Some(region) = self.home(0) else { return };
        match step {
            Recovery::Shrink => {
                if self.outlives(Some(region), Survive::Zone).await {
                    self.theme = Theme::Recover(Recovery::CutOff);
                }
            }
            Recovery::CutOff => {
                if self.votes_at_home(region, &inside) {
                    self.world.count("regions cut off");
                    self.world.tell(format_args!("{inside:?} are cut off"));
                    self.cut_off(&inside);
                    self.theme = Theme::Recover(Recovery::Seed);
                }
            }
            Recovery::Seed => {
                // Some of it may have been mended since.
                self.cut_off(&inside);
                self.seed(region, &inside).await;
            }
        }
    }

    /// Whether all voters of a region are in it, as far as they know themselves.
    fn votes_at_home(&self, region: RegionId, inside: &BTreeSet<usize>) -> bool {
        let numbers: BTreeSet<_> = inside.iter().map(|at| self.machines[*at].number).collect();
        inside.iter().any(|at| {
            let leader = self
                .group(*at, region)
                .filter(|group| group.leads() && group.connected());
            leader.is_some_and(|group| {
                let voters = group.status().voters;
                voters.iter().all(|voter| numbers.contains(voter))
            })
        })
    }

    /// Cuts these nodes off from all others, until the next mending.
    fn cut_off(&mut self, inside: &BTreeSet<usize>) {
        for (one, other) in (0..self.machines.len())
            .flat_map(|one| inside.iter().map(move |other| (one, *other)))
            .filter(|(one, _)| !inside.contains(one))
        {
            let ends = [one, other].map(|at| self.machines[at].number);
            self.net.cut(ends[0], ends[1]);
            self.net.cut(ends[1], ends[0]);
        }
    }

    /// The operator gives the old side up.
    async fn seed(&mut self, region: RegionId, inside: &BTreeSet<usize>) {
        let outside: Vec<usize> = (0..self.machines.len())
            .filter(|at| !inside.contains(at) && self.machines[*at].life.is_some())
            .collect();
        let Some(seed) = self.random.pick(&outside).copied() else {
            return;
        };
        let Some(group) = self.group(seed, region) else {
            return;
        };
        // As the admin API has it: what works is not recovered.
        if group.connected() {
            return;
        }
        // A run recovers once. What was asked for and not answered may have been done.
        let generation = 2;
        if group.generation() == generation {
            self.theme = Theme::Over;
            return;
        }
        self.watch.recovers(region, generation);
        let command = Command::RecoverRegion {
            region,
            generation,
            seed: self.machines[seed].number,
            actor: "sim".into(),
        };
        if self.say(inside, command).await != Some(Reply::Done) {
            return;
        }
        self.theme = Theme::Over;
        self.told("recoveries", seed);
        let lives_on = inside.iter().any(|at| {
            let group = self.group(*at, region);
            group.is_some_and(|group| group.leads() && group.generation() < generation)
        });
        if lives_on {
            self.world.count("H-23");
        }
    }
}

/// Whether some group counts on a node that was removed.
fn needed(cluster: &Cluster) -> bool {
    let regions = cluster.regions();
    cluster.catalog().needs_me() || regions.iter().any(|(_, group)| group.needs_me())
}
