//! The command around the runs: many seeds, what they covered, and how to replay one that failed.

use super::hazards::HAZARDS;
use super::{Bug, Verdict, run};
use crate::clock;
use crate::cluster::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// How often each thing must happen in 1,000 runs, so that none of them is an idle one.
pub(super) const FLOORS: &[(&str, u64)] = &[
    ("leader changes", 5_000),
    ("power cuts", 1_000),
    ("crashes with loss", 500),
    ("kills", 500),
    ("pauses", 500),
    ("isolations", 300),
    ("one-way cuts", 500),
    ("bridges", 100),
    ("storms", 500),
    ("clock jumps", 500),
    ("sick disks", 500),
    ("storage failures", 50),
    ("damages", 100),
    ("membership changes", 500),
    ("snapshots installed", 500),
    ("terms of nodes that are alone", 50),
    ("streams broken", 300),
    ("duplicates delivered", 5_000),
    ("messages lost", 10_000),
    ("sessions acknowledged", 9_000),
    ("opens that nobody was told of", 300),
    ("untold sessions given up", 500),
    ("resumes", 5_000),
    ("ends acknowledged", 3_000),
    ("ends by expiry", 200),
    ("outcomes unknown", 1_000),
    ("linearizable reads", 10_000),
    ("tunnels opened", 5_000),
    ("tunnels refused", 500),
    ("slots evicted", 30),
    ("tickets shown again", 1_000),
    ("ends acted on", 10_000),
    ("removals", 20),
    ("recoveries", 5),
];

/// How many of the seeds that came to a hazard are named.
const NAMED: usize = 3;

/// Runs the control plane in one thread, hurts it, and checks what must hold.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// How many seeds to run; without it and with `--seed`, that one, and its trace is printed.
    #[arg(long)]
    pub seeds: Option<u64>,
    /// The first seed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Plants a defect, which the checks must notice.
    #[arg(long, value_enum)]
    pub bug: Option<Bug>,
    /// With one seed: also what its nodes log, as a filter says (`openraft=debug,pontoon_raft=info`).
    #[arg(long)]
    pub log: Option<String>,
    /// How many runs at a time.
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
}

/// All runs together.
#[derive(Default, Debug)]
struct Sum {
    runs: u64,
    cover: BTreeMap<&'static str, u64>,
    /// The seeds in which each thing happened.
    seeds: BTreeMap<&'static str, BTreeSet<u64>>,
    spans: Vec<Duration>,
    failed: BTreeMap<u64, String>,
}

/// Runs what the options say; what to print.
///
/// # Errors
/// When a run failed, or all together did too little.
pub fn command(options: &Options) -> Result<String, Error> {
    if let (Some(seed), None) = (options.seed, options.seeds) {
        let verdict = match &options.log {
            None => one(seed, options.bug)?,
            Some(filter) => {
                tracing::subscriber::with_default(logs(filter), || one(seed, options.bug))?
            }
        };
        let mut text = verdict.trace;
        for (what, count) in &verdict.cover {
            writeln!(text, "{count:>9} {what}").ok();
        }
        return match verdict.failure {
            None => Ok(text),
            Some(why) => {
                print!("{text}");
                Err(Error(format!("seed {seed}: {why}")))
            }
        };
    }
    let first = options.seed.unwrap_or(1);
    let sum = many(first..first + options.seeds.unwrap_or(200), options)?;
    report(&sum, options)
}

/// The nodes' own log, on the standard error, with the run's time.
fn logs(filter: &str) -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_timer(Age::default())
        .finish()
}

/// The time of the run, as its trace has it: all of its time passes after the first line.
#[derive(Default)]
struct Age(OnceLock<clock::Instant>);

impl FormatTime for Age {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        let now = clock::now();
        let age = now.saturating_duration_since(*self.0.get_or_init(|| now));
        write!(out, "{:>12}", age.as_micros())
    }
}

fn one(seed: u64, bug: Option<Bug>) -> Result<Verdict, Error> {
    run(seed, bug).map_err(|error| Error(format!("seed {seed} can't run: {error}")))
}

#[expect(clippy::disallowed_methods, reason = "it measures the machine's time")]
fn many(seeds: std::ops::Range<u64>, options: &Options) -> Result<Sum, Error> {
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Sum::default());
    let lock = || {
        sum.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    let work = || -> Result<(), Error> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(());
            }
            let began = Instant::now();
            let verdict = one(seed, options.bug)?;
            let mut sum = lock();
            sum.runs += 1;
            sum.spans.push(began.elapsed());
            for (what, count) in verdict.cover {
                *sum.cover.entry(what).or_default() += count;
                sum.seeds.entry(what).or_default().insert(seed);
            }
            if let Some(why) = verdict.failure {
                eprintln!(
                    "seed {seed}: {why}\n  replay: {}",
                    replay(seed, options.bug)
                );
                sum.failed.insert(seed, why);
            }
        }
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..options.jobs.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        jobs.into_iter().try_for_each(|job| {
            job.join()
                .unwrap_or_else(|_| Err(Error("a run panicked".into())))
        })
    })?;
    Ok(sum
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// The one command that runs a seed again.
fn replay(seed: u64, bug: Option<Bug>) -> String {
    let mut text = format!("cargo run --release -p pontoon-chaos -- sim --seed {seed}");
    if let Some(bug) = bug {
        let name = clap::ValueEnum::to_possible_value(&bug).map(|name| name.get_name().to_owned());
        write!(text, " --bug {}", name.unwrap_or_default()).ok();
    }
    text
}

fn report(sum: &Sum, options: &Options) -> Result<String, Error> {
    let mut spans = sum.spans.clone();
    spans.sort_unstable();
    let at = |part: usize| {
        spans
            .get(spans.len() * part / 100)
            .copied()
            .unwrap_or_default()
    };
    let mut text = format!(
        "{} seeds, {} failed; a seed takes {:?} (median), {:?} (p95)\n",
        sum.runs,
        sum.failed.len(),
        at(50),
        at(95)
    );
    let is_hazard = |what: &str| HAZARDS.iter().any(|(id, _)| *id == what);
    for (what, count) in sum.cover.iter().filter(|(what, _)| !is_hazard(what)) {
        writeln!(text, "{count:>9} {what}").ok();
    }
    text.push_str("hazards, with the seeds that came to each:\n");
    for (id, what) in HAZARDS {
        let seeds = sum.seeds.get(id).cloned().unwrap_or_default();
        let first = seeds.iter().take(NAMED).map(u64::to_string);
        let first = first.collect::<Vec<_>>().join(", ");
        writeln!(text, "{:>9} {id:<5} {what}: {first}", seeds.len()).ok();
    }
    let mut wrong: Vec<String> = Vec::new();
    if let Some((seed, why)) = sum.failed.first_key_value() {
        wrong.push(format!(
            "seed {seed} failed: {why}\n  replay: {}",
            replay(*seed, options.bug)
        ));
    }
    // Few seeds may miss anything that is rare.
    for (what, floor) in FLOORS
        .iter()
        .filter(|_| sum.runs >= 100 && options.bug.is_none())
    {
        let count = sum.cover.get(what).copied().unwrap_or(0);
        if count * 1000 < floor * sum.runs {
            wrong.push(format!("vacuous: {count} {what} in {} seeds", sum.runs));
        }
    }
    for (id, what) in HAZARDS {
        if sum.runs >= 200 && options.bug.is_none() && !sum.seeds.contains_key(id) {
            wrong.push(format!("vacuous: no seed came to {id}: {what}"));
        }
    }
    if wrong.is_empty() {
        return Ok(text);
    }
    print!("{text}");
    Err(Error(wrong.join("\n")))
}
