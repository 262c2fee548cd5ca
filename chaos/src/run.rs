//! `pontoon-chaos run SCENARIO`: real processes, real faults, and a verdict for each promise.
//!
//! ```text
//! start the world -> clients work, the hand hurts and heals -> all is well again -> each client resumes
//! once more and releases -> the checkers judge
//! ```

use crate::check::{self, Counted, Resources, Verdict};
use crate::clock;
use crate::cluster::pontoon::program;
use crate::cluster::process::Process;
use crate::cluster::world::{self, Balance, Plan, World};
use crate::cluster::{Error, folder};
use crate::fault::hand::{Done, Hand};
use crate::fault::{self, Planned};
use crate::history::{History, Kind, Recorder};
use crate::report::{Elected, Leaders, Report as Page};
use crate::scenario::{Mode, Scenario};
use crate::seed::Seed;
use crate::workload::Clients;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The scenario: a file, or the name of one in chaos/scenarios.
    pub scenario: PathBuf,
    /// Another seed than the scenario's.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Another value for a key: `workload.count=200`.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Where the history is written, as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Where the report is written, as one page of HTML [default: in the folder for temporary files]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Leaves all nodes in this machine's network, also where each could have its own.
    #[arg(long)]
    pub loopback: bool,
    /// The `pontoon` binary [default: the one beside this one].
    #[arg(long, value_name = "PATH")]
    pub pontoon: Option<PathBuf>,
    /// Whether this process is alone in a network of its own, so that it can divide it.
    #[arg(skip)]
    pub apart: bool,
}

/// Gets what comes from the net, before this process leaves it.
pub async fn prepare(options: &Options) -> Result<(), Error> {
    let scenario = Scenario::read(&file(&options.scenario), &options.set)?;
    let home = folder::home()?;
    world::prepare(
        &home,
        scenario.topology.clocks,
        scenario.topology.skip_fsync,
    )
    .await
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each promise with its verdict.
    pub verdicts: Vec<(&'static str, Verdict)>,
    /// All of it for people.
    pub text: String,
}

impl Report {
    /// Whether every promise was kept.
    pub fn kept(&self) -> bool {
        self.verdicts.iter().all(|(_, verdict)| verdict.is_ok())
    }
}

/// Runs a scenario; the error is its summary when a promise was broken.
pub async fn run(options: &Options) -> Result<String, Error> {
    let report = report(options).await?;
    match report.kept() {
        true => Ok(report.text),
        false => Err(Error(format!("a promise was broken\n{}", report.text))),
    }
}

/// Runs a scenario, and says what came of it.
pub async fn report(options: &Options) -> Result<Report, Error> {
    let path = file(&options.scenario);
    let mut scenario = Scenario::read(&path, &options.set)?;
    scenario.seed = options.seed.unwrap_or(scenario.seed);
    let faults = fault::plan(&scenario)?;
    let program = program(options.pontoon.clone())?;
    let began = clock::now();
    let apart = options.apart && !options.loopback;
    eprintln!(
        "{}",
        match apart {
            true => "each node has a network namespace; the emulator is between them",
            false => "loopback: nodes share this network; the emulator is between them",
        }
    );
    let plan = of(&scenario, apart)?;
    let mut world = World::start(&folder::home()?, &program, &plan).await?;
    eprintln!("the cluster works after {:.1?}", began.elapsed());
    let ran = Ran::new(&scenario, &faults, &mut world).await?;
    if let Some(path) = &options.history {
        ran.history.write(path)?;
    }
    let mut text = ran.text(&scenario);
    let replay = replay(options, scenario.seed);
    if scenario.chances().next().is_some() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", ledger(&path, &scenario, &ran.verdicts).await);
    }
    let page = options
        .report
        .clone()
        .unwrap_or_else(|| place(&path, scenario.seed));
    ran.page(&scenario, &replay).write(&page)?;
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "\nseed {}, {:.0} s in all; report: {}\nagain: {replay}",
        scenario.seed,
        began.elapsed().as_secs_f64(),
        page.display()
    );
    Ok(Report {
        verdicts: ran.verdicts,
        text,
    })
}

fn file(given: &PathBuf) -> PathBuf {
    let known = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let known = known.join(given).with_extension("toml");
    match given.is_file() || !known.is_file() {
        true => given.clone(),
        false => known,
    }
}

/// Where the report goes when nobody says.
fn place(scenario: &Path, seed: u64) -> PathBuf {
    let name = scenario.file_stem().unwrap_or_default().to_string_lossy();
    std::env::temp_dir().join(format!("pontoon-chaos-{name}-{seed}.html"))
}

/// The row of `docs/chaos-ledger.md` for a run with faults by chance.
async fn ledger(path: &Path, scenario: &Scenario, verdicts: &[(&str, Verdict)]) -> String {
    let mut git = tokio::process::Command::new("git");
    git.args(["rev-parse", "--short", "HEAD"]);
    let commit = git.current_dir(env!("CARGO_MANIFEST_DIR")).output().await;
    let commit = commit.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let broken = verdicts.iter().filter(|(_, verdict)| verdict.is_err());
    let broken: Vec<&str> = broken.map(|(promise, _)| *promise).collect();
    format!(
        "for the ledger: | {} | `{}` | `run {}`, seed {} | {} | {} |",
        clock::today(),
        commit.unwrap_or_default(),
        path.file_stem().unwrap_or_default().to_string_lossy(),
        scenario.seed,
        scenario.workload.run_ms / 60_000,
        if broken.is_empty() {
            "none".to_owned()
        } else {
            broken.join(", ")
        }
    )
}

fn replay(options: &Options, seed: u64) -> String {
    let mut words = format!(
        "pontoon-chaos run {} --seed {seed}",
        options.scenario.display()
    );
    for set in &options.set {
        let _ = write!(words, " --set '{set}'");
    }
    words
}

fn of(scenario: &Scenario, apart: bool) -> Result<Plan, Error> {
    let topology = &scenario.topology;
    let regions = topology.regions.iter();
    let mut round_trips = Vec::new();
    for round_trip in &topology.round_trip {
        let [one, other] = &round_trip.between;
        let (one, other) = (scenario.region(one)?, scenario.region(other)?);
        round_trips.push((one, other, Duration::from_millis(round_trip.ms)));
    }
    Ok(Plan {
        regions: regions
            .map(|name| (name.clone(), topology.nodes, topology.workers))
            .collect(),
        round_trips,
        local: Duration::from_millis(topology.local_ms),
        slots: topology.slots,
        window: Duration::from_millis(topology.window_ms),
        tables: String::new(),
        cluster: format!("node_lost_after_ms = {}", topology.node_lost_after_ms),
        seed: Seed::new(scenario.seed),
        disk_mib: topology.disk_mib,
        clocks: topology.clocks,
        names: topology.names,
        tls: topology.tls,
        power: topology.power,
        skip_fsync: topology.skip_fsync,
        apart,
    })
}

struct Ran {
    history: History,
    verdicts: Vec<(&'static str, Verdict)>,
    gaps: Vec<check::Gaps>,
    elected: Vec<Elected>,
    recovered: Duration,
}

impl Ran {
    async fn new(
        scenario: &Scenario,
        faults: &[Planned],
        world: &mut World,
    ) -> Result<Self, Error> {
        let (seed, workers) = (Seed::new(scenario.seed), world.workers.len());
        let before = warm(scenario, world, &seed).await?;
        let record = Recorder::default();
        let leaders = Leaders::watch(world.ops(), &record);
        let mut clients = Clients::start(world, &scenario.workload, &seed, &record);
        let mut hand = Hand::new(seed.fork(3), scenario.topology.slots, record.clone());
        let hurt = async {
            let done = schedule(scenario, faults, world, &mut hand, &record).await?;
            for done in done {
                hand.heal(world, done).await?;
            }
            Ok::<_, Error>(())
        };
        hurt.await?;
        let healed = clock::now();
        if scenario.workload.mode == Mode::Race {
            clients.ended().await;
        }
        let settled = world.settled(workers).await;
        let recovered = healed.elapsed();
        clients.finish().await;
        let elected = leaders.stop();
        let end = record.now();
        let mut history = History {
            ops: record.take(),
            hits: hand.hits,
            lost: hand.lost,
            window: scenario.topology.window_ms * 1_000,
        };
        for hit in &mut history.hits {
            hit.until = hit.until.min(end);
        }
        // Nobody can release a session whose id was never heard: it is held until its window ends.
        let unheard = history.ops.iter();
        let unheard = unheard
            .filter(|op| op.kind == Kind::Open && !op.ok())
            .count();
        let balance = balanced(world, workers, unheard).await;
        let after = rest(world, before).await;
        let counted = Counted {
            node_kills: hand.node_kills,
            worker_kills: hand.worker_kills,
        };
        let told = |text: &String| (text.clone(), world.logged(text));
        let told: Vec<(String, usize)> = scenario.expect.logged.iter().map(told).collect();
        let nodes = world.nodes.iter().map(|node| &node.process);
        let peak = nodes.filter_map(Process::memory_peak).max();
        let gaps = check::gaps(&history);
        let expect = &scenario.expect;
        let verdicts = vec![
            ("not vacuous", check::vacuous(&history, counted, expect)),
            ("one worker per session", check::one_worker(&history)),
            ("workers remember", check::remembered(&history)),
            ("no acknowledged session lost", check::not_lost(&history)),
            ("no wrong NOT_FOUND", check::not_found(&history)),
            ("no id resurrected", check::not_resurrected(&history)),
            ("an order for each session", check::linear(&history)),
            ("clients are told", check::told(&history, expect.lost)),
            ("gaps", check::gap(&gaps, expect.gap_ms, expect.recovery_ms)),
            (
                "all is well again",
                settled
                    .map(|()| format!("{recovered:.1?} after the last healing"))
                    .map_err(|error| error.0),
            ),
            ("slots equal sessions", balance),
            (
                "resources come back",
                check::resources(before, after, expect.memory_mib, expect.descriptors),
            ),
            ("memory is bounded", check::peak(peak, expect.peak_mib)),
            ("nodes say why", check::logged(&told)),
        ];
        Ok(Self {
            history,
            verdicts,
            gaps,
            elected,
            recovered,
        })
    }

    fn page<'a>(&'a self, scenario: &'a Scenario, again: &'a str) -> Page<'a> {
        Page {
            about: &scenario.about,
            again,
            history: &self.history,
            verdicts: &self.verdicts,
            gaps: &self.gaps,
            elected: &self.elected,
        }
    }

    fn text(&self, scenario: &Scenario) -> String {
        let mut text = format!("{}\n\n", scenario.about);
        let mut line = |words: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{words}");
        };
        for (promise, verdict) in &self.verdicts {
            match verdict {
                Ok(figures) => line(format!("kept    {promise}: {figures}")),
                Err(wrong) => line(format!("BROKEN  {promise}: {wrong}")),
            }
        }
        line(String::new());
        for (hit, gaps) in self.history.hits.iter().zip(&self.gaps).take(40) {
            line(format!(
                "{:7.1} s  {} for {:.1} s: {}; {} failures, longest gap {} ms, last failure {} ms",
                hit.at as f64 / 1e6,
                hit.what,
                hit.until.saturating_sub(hit.at) as f64 / 1e6,
                hit.evidence,
                gaps.hurt,
                gaps.gap / 1_000,
                gaps.recovery / 1_000
            ));
        }
        if self.history.hits.len() > 40 {
            line(format!("... {} faults in all", self.history.hits.len()));
        }
        for kind in Kind::ALL {
            line(latencies(&self.history, kind));
        }
        line(failures(&self.history));
        line(format!("well again {:.1?} after the end", self.recovered));
        text
    }
}

/// How long a group may be too weak to lose a voter.
const BORNE: Duration = Duration::from_secs(60);

/// How soon that is looked at again.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs the schedule; what is still to be undone is left for the caller.
async fn schedule(
    scenario: &Scenario,
    faults: &[Planned],
    world: &mut World,
    hand: &mut Hand,
    record: &Recorder,
) -> Result<Vec<Done>, Error> {
    let mut open: Vec<(Duration, Done)> = Vec::new();
    let mut kept: Vec<Done> = Vec::new();
    let mut late: VecDeque<(Duration, &Planned)> = VecDeque::new();
    let mut faults = faults.iter().peekable();
    let run = Duration::from_millis(scenario.workload.run_ms);
    loop {
        let now = Duration::from_micros(record.now());
        if let Some(due) = open.iter().position(|(until, _)| *until <= now) {
            let (_, done) = open.swap_remove(due);
            hand.heal(world, done).await?;
            continue;
        }
        // What costs a voter waits until that can be borne, and meanwhile others are healed.
        let mut due = faults.next_if(|fault| fault.at() <= now);
        let costly = due.take_if(|fault| fault.costs_a_voter());
        late.extend(costly.map(|fault| (now + BORNE, fault)));
        if due.is_none()
            && let Some((until, fault)) = late.front()
        {
            match world.weakest().await? {
                None => due = late.pop_front().map(|(_, fault)| fault),
                Some(weak) if *until <= now => {
                    let words = fault.words();
                    return Err(Error(format!(
                        "{weak} is too weak for {words} for {BORNE:?}"
                    )));
                }
                Some(_) => {}
            }
        }
        if let Some(fault) = due {
            let done = hand.hurt(world, fault).await?;
            match fault.lasts() {
                Some(lasts) => open.push((Duration::from_micros(record.now()) + lasts, done)),
                None => kept.push(done),
            }
            continue;
        }
        let next = open.iter().map(|(until, _)| *until);
        let next = next.chain(faults.peek().map(|fault| fault.at()));
        let next = next.chain(late.front().map(|_| now + AGAIN)).min();
        let next = match next {
            Some(next) => next,
            None if now < run => run,
            None => return Ok(kept),
        };
        tokio::time::sleep(next.saturating_sub(now)).await;
    }
}

/// A little work first, so that what comes once is there before anything is measured: connections
/// between nodes, threads, buffers.
async fn warm(scenario: &Scenario, world: &World, seed: &Seed) -> Result<Resources, Error> {
    let record = Recorder::default();
    let mut workload = scenario.workload.clone();
    (workload.mode, workload.pause_ms) = (Mode::Churn, 5);
    workload.resumes = workload.resumes.max(0.2);
    let clients = Clients::start(world, &workload, &seed.fork(2), &record);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    clients.finish().await;
    if !record.take().iter().any(crate::history::Op::ok) {
        return Err(Error("no call succeeded before the first fault".into()));
    }
    Ok(rest(world, Resources::default()).await)
}

/// What nodes count of what work holds: sockets, calls, tunnels, relays.
const GAUGES: &[&str] = &[
    "nvcf_grpc_proxy_service_active_connections_total",
    "nvcf_grpc_proxy_service_active_http_requests_total",
    "nvcf_grpc_proxy_service_worker_connections_active",
    "pontoon_relays_active",
];

/// What the processes hold once it no longer falls, or is where it was before: looked at every 250 ms, and
/// done after a second without a change for the better.
async fn rest(world: &World, before: Resources) -> Resources {
    let mut least = held(world).await;
    let mut still = 0;
    while still < 4 && !(least.descriptors <= before.descriptors && least.gauges <= before.gauges) {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = held(world).await;
        let better = Resources {
            memory: least.memory.min(now.memory),
            descriptors: least.descriptors.min(now.descriptors),
            threads: least.threads.min(now.threads),
            gauges: least.gauges.min(now.gauges),
        };
        let falls = better.descriptors < least.descriptors || better.gauges < least.gauges;
        still = if falls { 0 } else { still + 1 };
        least = better;
    }
    least
}

async fn held(world: &World) -> Resources {
    let nodes = world.nodes.iter().map(|node| &node.process);
    let sidecars = world.workers.iter().map(|worker| &worker.sidecar);
    let mut sum = Resources::default();
    for process in nodes.chain(sidecars) {
        sum.memory += process.memory().unwrap_or_default();
        sum.descriptors += process.descriptors().unwrap_or_default();
        sum.threads += process.threads().unwrap_or_default();
    }
    sum.gauges = world.metrics(GAUGES).await;
    sum
}

/// Waits until slots equal sessions everywhere, for as long as expiry of what nobody released may take.
async fn balanced(world: &World, workers: usize, left: usize) -> Verdict {
    let mut verdict = Err("no node was asked".to_owned());
    for _ in 0..100 {
        let mut seen: Vec<Balance> = Vec::new();
        for node in 0..world.nodes.len() {
            match world.balance(node).await {
                Ok(balance) => seen.push(balance),
                Err(error) => {
                    verdict = Err(error.0);
                    seen.clear();
                    break;
                }
            }
        }
        if !seen.is_empty() {
            verdict = check::balance(&seen, workers, left);
        }
        if verdict.is_ok() {
            return verdict;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    verdict
}

fn latencies(history: &History, kind: Kind) -> String {
    let (took, others) = history.took(kind);
    let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or(0) as f64 / 1e3;
    let name = format!("{kind:?}").to_lowercase();
    let (median, most) = (at(50), at(99));
    format!(
        "{name:8} {:6} ok, {others:4} not; median {median:.1} ms, 99 % {most:.1} ms",
        took.len()
    )
}

/// What was said most when it did not succeed.
fn failures(history: &History) -> String {
    let said = history.failures();
    let lines = said.iter().take(8);
    let lines = lines.map(|(words, count)| format!("{count:6} x {words}"));
    lines.collect::<Vec<_>>().join("\n")
}
