//! A scenario: what there is, what clients do, what goes wrong, and what must be true of it.
//!
//! `chaos/scenarios/*.toml`. A key that does not exist is an error that names it, and so is a name that
//! nothing has.

use crate::bench::floods::Flood;
use crate::cluster::Error;
use crate::fault::names::Answer;
use crate::link::Link;
use serde::Deserialize;
use std::path::Path;

/// A scenario, as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// What every choice follows from.
    #[serde(default)]
    pub seed: u64,
    /// What there is.
    pub topology: Topology,
    /// What clients do.
    pub workload: Workload,
    /// What goes wrong, and when.
    #[serde(default)]
    pub fault: Vec<Fault>,
    /// What goes wrong by chance.
    pub nemesis: Option<Nemesis>,
    /// The same beside it, so that two faults overlap: the weather between processes, for instance.
    pub weather: Option<Nemesis>,
    /// What must be true, besides what always must.
    #[serde(default)]
    pub expect: Expect,
}

/// What there is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Its regions.
    pub regions: Vec<String>,
    /// Nodes of each region.
    #[serde(default = "one")]
    pub nodes: usize,
    /// Workers of each region, each with a sidecar.
    #[serde(default = "one")]
    pub workers: usize,
    /// Round trips between regions.
    #[serde(default)]
    pub round_trip: Vec<RoundTrip>,
    /// The round trip inside a region, milliseconds.
    #[serde(default)]
    pub local_ms: u64,
    /// Sessions of one worker.
    #[serde(default = "slots")]
    pub slots: u32,
    /// How long a session is held that is entered nowhere, milliseconds.
    #[serde(default = "window")]
    pub window_ms: u64,
    /// Silence after which a node is lost, milliseconds.
    #[serde(default = "node_lost_after")]
    pub node_lost_after_ms: u64,
    /// The size of each node's own disk, MiB; the machine's when it is missing.
    pub disk_mib: Option<u64>,
    /// Whether nodes have wall clocks that can be set.
    #[serde(default)]
    pub clocks: bool,
    /// Whether nodes and sidecars find each other by names, through a DNS server of the run.
    #[serde(default)]
    pub names: bool,
    /// Whether nodes have certificates, and all but clients come over TLS.
    #[serde(default)]
    pub tls: bool,
    /// Whether each node has a disk whose power can be cut, of `disk_mib`.
    #[serde(default)]
    pub power: bool,
    /// Plants a defect: nodes' disks say that they are synced, and keep nothing.
    #[serde(default)]
    pub skip_fsync: bool,
}

/// A round trip between two regions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundTrip {
    /// The two.
    pub between: [String; 2],
    /// Milliseconds, there and back.
    pub ms: u64,
}

/// How clients behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Sessions come and go: open, some calls, streams and resumes anywhere, release.
    Churn,
    /// Each client has one session for all of the time.
    Hold,
    /// Each session is resumed at the farthest node as soon as the head of its first answer is there.
    Race,
}

/// What clients do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// How they behave.
    pub mode: Mode,
    /// How many there are.
    pub clients: usize,
    /// How long they go on, milliseconds; a race ends with its count.
    #[serde(default)]
    pub run_ms: u64,
    /// How many sessions a race has in all.
    #[serde(default)]
    pub count: u64,
    /// Between two operations of a client, milliseconds.
    #[serde(default)]
    pub pause_ms: u64,
    /// Where sessions are opened; any node when it is missing.
    pub entry: Option<String>,
    /// The share of operations that are streams.
    #[serde(default)]
    pub streams: f64,
    /// The share that resume at any node.
    #[serde(default)]
    pub resumes: f64,
    /// The most operations of a session that comes and goes.
    #[serde(default = "calls")]
    pub calls_max: usize,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// SIGKILL; undone by a new start.
    Kill,
    /// SIGSTOP; undone by SIGCONT.
    Pause,
    /// SIGTERM; undone by a new start.
    Stop,
    /// Nothing passes between the two, either way.
    Cut,
    /// Nothing passes from the first to the second.
    CutOneWay,
    /// The connections that stand between the two lose their bytes, and nobody hears of it.
    HalfOpen,
    /// The links between the two become what `link` says.
    Link,
    /// The cable of its network namespace is unplugged: what is sent is lost, and nobody is told; undone by
    /// plugging it in. Needs root.
    Unplug,
    /// All the room on the disk is taken; undone by giving it back and a new start. Needs
    /// `topology.disk_mib`.
    FillDisk,
    /// SIGKILL, and a bit of the log is flipped; undone by a new start.
    Damage,
    /// The wall clock jumps by `by_s`; undone by setting it right. Needs `topology.clocks`.
    Clock,
    /// Every node is stopped and started again, one after the other, each once the last works again.
    RollingRestart,
    /// SIGKILL, and what was not synced is lost; undone by a new start. Needs `topology.power`.
    Power,
    /// SIGKILL, and the data is gone; undone by a new start, as another member.
    LoseDisk,
    /// Questions for the names of these nodes are answered as `answer` says. Needs `topology.names`.
    Names,
    /// The certificates expire; undone by good ones. Needs `topology.tls`.
    Expire,
    /// Hostile clients do what `flood` says.
    Flood,
    /// The node is removed from the cluster; undone by a new one of its name.
    Remove,
    /// What the region's group outlives becomes `survive`, and its voters move; undone by the other.
    Survive,
}

/// One fault.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When, milliseconds after the workload's begin; a nemesis says that itself.
    #[serde(default)]
    pub at_ms: u64,
    /// Until it is undone, milliseconds; without it never, or as the nemesis says.
    pub for_ms: Option<u64>,
    /// What.
    pub harm: Harm,
    /// To whom: see [`crate::fault::target`].
    #[serde(default)]
    pub target: String,
    /// The other side of a link.
    #[serde(default)]
    pub to: String,
    /// What the link becomes.
    pub link: Option<Link>,
    /// By how much a clock jumps, seconds.
    #[serde(default)]
    pub by_s: i64,
    /// What names are answered with.
    pub answer: Option<Answer>,
    /// What hostile clients do.
    pub flood: Option<Flood>,
    /// What a region's group outlives.
    #[serde(default)]
    pub survive: Survive,
}

/// What a region's group outlives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Survive {
    /// A machine: its voters are at home.
    #[default]
    Zone,
    /// A region: they are spread.
    Region,
}

/// Faults by chance, one at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nemesis {
    /// The first comes then, milliseconds.
    pub from_ms: u64,
    /// None begins later, milliseconds.
    pub until_ms: u64,
    /// Between the begins of two, milliseconds.
    pub every_ms: u64,
    /// Until one is undone that does not say so itself, milliseconds.
    pub for_ms: u64,
    /// What may be done; one that is named twice comes twice as often.
    pub harms: Vec<Fault>,
}

/// What must be true.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The longest time in which a session that lives on has no answer, milliseconds.
    pub gap_ms: Option<u64>,
    /// From a fault's begin until the last failure of an operation before the next one, milliseconds.
    pub recovery_ms: Option<u64>,
    /// At least so many sessions are opened.
    pub opens: usize,
    /// At least so many are resumed.
    pub resumes: usize,
    /// At least so many workers are killed.
    pub worker_kills: usize,
    /// At least so many nodes are killed.
    pub node_kills: usize,
    /// At least so many sessions end with their worker, and their clients are told.
    pub lost: usize,
    /// At least so many operations overlap each fault.
    pub ops_in_fault: usize,
    /// At least so many operations do not succeed: else the fault hurt nobody.
    pub hurt: usize,
    /// Each of these texts is in a line of a node's log.
    pub logged: Vec<String>,
    /// No node ever holds more memory, MiB.
    pub peak_mib: Option<u64>,
    /// The memory of all processes grows by no more, MiB.
    pub memory_mib: Option<u64>,
    /// The descriptors of all processes grow by no more.
    pub descriptors: Option<u64>,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            gap_ms: None,
            recovery_ms: None,
            opens: 1,
            resumes: 0,
            worker_kills: 0,
            node_kills: 0,
            lost: 0,
            ops_in_fault: 5,
            hurt: 0,
            logged: Vec::new(),
            peak_mib: None,
            memory_mib: None,
            descriptors: None,
        }
    }
}

fn one() -> usize {
    1
}

fn slots() -> u32 {
    256
}

fn window() -> u64 {
    120_000
}

fn node_lost_after() -> u64 {
    5_000
}

fn calls() -> usize {
    6
}

impl Scenario {
    /// Reads a file, and sets some of its keys: `workload.count=200`.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Error::file("read", path, &error))?;
        let named = |error: Error| Error(format!("{}: {error}", path.display()));
        Self::parse(&text, sets).map_err(named)
    }

    /// Reads a text.
    pub fn parse(text: &str, sets: &[String]) -> Result<Self, Error> {
        let said = |error: toml::de::Error| Error(error.to_string().trim().replace('\n', " "));
        let mut table: toml::Table = toml::from_str(text).map_err(said)?;
        for set in sets {
            let (key, value) = set
                .split_once('=')
                .ok_or_else(|| Error(format!("--set {set}: it is KEY=VALUE")))?;
            let value: toml::Table = toml::from_str(&format!("value = {value}")).map_err(said)?;
            put(&mut table, key, value["value"].clone())?;
        }
        let scenario: Self = toml::Value::Table(table).try_into().map_err(said)?;
        scenario.valid()?;
        Ok(scenario)
    }

    fn valid(&self) -> Result<(), Error> {
        let topology = &self.topology;
        if topology.regions.is_empty() || topology.nodes == 0 || topology.regions.len() > 8 {
            return Err(Error("topology: 1 to 8 regions, each with a node".into()));
        }
        for round_trip in &topology.round_trip {
            for name in &round_trip.between {
                self.region(name)?;
            }
        }
        if self.workload.clients == 0 {
            return Err(Error("workload.clients: at least 1".into()));
        }
        let end = match self.workload.mode {
            Mode::Race => self.workload.count,
            Mode::Churn | Mode::Hold => self.workload.run_ms,
        };
        if end == 0 {
            return Err(Error(
                "workload: a race has a count, all others run_ms".to_owned(),
            ));
        }
        if let Some(entry) = &self.workload.entry
            && !self.node_names().contains(entry)
        {
            return Err(Error(format!("workload.entry: there is no node {entry}")));
        }
        for nemesis in self.chances() {
            let longest = nemesis.harms.iter().filter_map(|fault| fault.for_ms).max();
            let longest = longest.unwrap_or(nemesis.for_ms).max(nemesis.for_ms);
            if longest >= nemesis.every_ms || nemesis.harms.is_empty() {
                return Err(Error(
                    "nemesis: one fault at a time, so for_ms is below every_ms, and some harms"
                        .into(),
                ));
            }
        }
        self.equipped()
    }

    /// Whether there is what the faults need.
    fn equipped(&self) -> Result<(), Error> {
        let topology = &self.topology;
        let mut harms: Vec<Harm> = self.fault.iter().map(|fault| fault.harm).collect();
        for nemesis in self.chances() {
            harms.extend(nemesis.harms.iter().map(|fault| fault.harm));
        }
        for (harm, there, what) in [
            (
                Harm::FillDisk,
                topology.disk_mib.is_some(),
                "fill_disk: topology.disk_mib says how large disks are",
            ),
            (
                Harm::Clock,
                topology.clocks,
                "clock: topology.clocks = true gives nodes clocks to set",
            ),
            (
                Harm::Power,
                topology.power,
                "power: topology.power = true gives nodes disks that lose what is not synced",
            ),
            (
                Harm::Names,
                topology.names,
                "names: topology.names = true gives nodes names",
            ),
            (
                Harm::Expire,
                topology.tls,
                "expire: topology.tls = true gives nodes certificates",
            ),
        ] {
            if harms.contains(&harm) && !there {
                return Err(Error(what.to_owned()));
            }
        }
        Ok(())
    }

    /// What comes by chance.
    pub fn chances(&self) -> impl Iterator<Item = &Nemesis> {
        self.nemesis.iter().chain(&self.weather)
    }

    /// The number of a region.
    pub fn region(&self, name: &str) -> Result<usize, Error> {
        let mut regions = self.topology.regions.iter();
        let found = regions.position(|region| region == name);
        found.ok_or_else(|| Error(format!("there is no region {name}")))
    }

    /// The names of nodes, in their order.
    pub fn node_names(&self) -> Vec<String> {
        let numbers = 1..=self.topology.nodes;
        let regions = self.topology.regions.iter();
        regions
            .flat_map(|region| {
                let numbers = numbers.clone();
                numbers.map(move |number| format!("{region}-{number}"))
            })
            .collect()
    }
}

fn put(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), Error> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((first, rest)) => {
            let inner = table
                .entry(first)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let inner = inner.as_table_mut();
            let inner = inner.ok_or_else(|| Error(format!("--set: {first} is no table")))?;
            put(inner, rest, value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "about = \"x\"\n[topology]\nregions = [\"a\", \"b\"]\n\
                         [workload]\nmode = \"hold\"\nclients = 2\nrun_ms = 10\n";

    #[test]
    fn an_unknown_key_is_named() {
        for (more, key) in [
            ("[expect]\ngap = 3\n", "gap"),
            (
                "[[fault]]\nat_ms = 1\nharm = \"kill\"\nwho = \"x\"\n",
                "who",
            ),
            ("[nemesis]\nfaults = 3\n", "faults"),
        ] {
            let error = Scenario::parse(&format!("{SMALL}{more}"), &[]).unwrap_err();
            assert!(
                error.0.contains(&format!("unknown field `{key}`")),
                "{error}"
            );
        }
        assert!(Scenario::parse(SMALL, &[]).is_ok());
    }

    #[test]
    fn keys_are_set_from_outside_and_checked_as_well() {
        let sets = |text: &str| Scenario::parse(SMALL, &[text.to_owned()]);
        assert_eq!(sets("workload.run_ms=70").unwrap().workload.run_ms, 70);
        assert_eq!(sets("expect.opens=9").unwrap().expect.opens, 9);
        let full = "fault=[{at_ms=1,harm=\"fill_disk\",target=\"any node\"}]";
        assert!(sets(full).unwrap_err().0.contains("topology.disk_mib"));
        assert!(sets("workload.runs=1").unwrap_err().0.contains("runs"));
        let error = sets("workload.entry=\"c-1\"").unwrap_err();
        assert!(error.0.contains("c-1"), "{error}");
    }

    #[test]
    fn every_scenario_of_the_folder_is_one() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut read = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::read(&path, &[]).unwrap();
            crate::fault::plan(&scenario).unwrap();
            read += 1;
        }
        assert!(read > 5);
    }
}
