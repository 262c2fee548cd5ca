//! What a proxied call costs: CPU time, latency, throughput of a stream, memory of a connection.
//!
//! The worker answers with what it is sent ([`crate::part`]), so nearly all that is measured is carriage.
//! [`systems`] starts what calls go through, [`load`] calls. Systems take turns in each round.

mod figures;
pub(super) mod load;
pub(super) mod systems;

use super::numbers::{median, percentile};
use super::report::{self, Goal};
use super::{Common, Other};
use crate::clock;
use crate::cluster::Error;
use crate::cluster::proxies::Proxy;
use load::Caller;
use serde::Serialize;
use std::time::Duration;
use systems::{Place, System, Way};

/// Calls per second of the paced load.
const RATE: f64 = 2_000.0;

/// The loads under which latency is measured.
const ONE_BY_ONE: &str = "one at a time";
const PACED: &str = "2,000/s";

/// Ways with one hop more, whose latency alone is measured.
const LONGER: [Way; 2] = [Way::LongChain, Way::PontoonRelayed];

/// The message of a streamed call.
const STREAMED: usize = 64 << 10;

/// What is to be measured.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// CPU time per unary call (P-1).
    Cost,
    /// Added latency (P-2).
    Latency,
    /// A stream of 64 KiB messages both ways (P-3).
    Stream,
    /// Memory per connection (P-4).
    Memory,
}

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',',
          default_values_t = [Part::Cost, Part::Latency, Part::Stream, Part::Memory])]
    pub only: Vec<Part>,
    /// How often each is measured; the figure is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: u32,
    /// Bytes of the messages of unary calls, one figure for each.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 1_024, 65_536],
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub bytes: Vec<u32>,
    /// Unary calls at once, one figure for each.
    #[arg(long, value_delimiter = ',', default_values_t = [32, 256],
          value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub streams: Vec<u32>,
    /// The connections that they share.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub connections: u32,
    /// How long each is measured in each round.
    #[arg(long, default_value_t = 1_000, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub span_ms: u64,
    /// Connections whose memory is measured; all of this process's and the node's open files must
    /// be more than twice as many.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..=8_000))]
    pub idle: u32,
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
    /// How often each row was measured.
    pub rounds: u32,
    /// How long each time.
    pub span_ms: u64,
    /// Connections of the unary load.
    pub connections: u32,
    /// P-1.
    pub cost: Vec<Cost>,
    /// P-2.
    pub latency: Vec<Latency>,
    /// P-3.
    pub stream: Vec<Stream>,
    /// P-4.
    pub memory: Vec<Memory>,
    /// What is to be reached.
    pub goals: Vec<Goal>,
}

/// CPU time per unary call.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// What is between client and worker.
    pub system: &'static str,
    /// Of the message, each way.
    pub bytes: u32,
    /// Calls at once.
    pub streams: u32,
    /// Answered calls per second.
    pub per_second: f64,
    /// Of the process that has the client's connection.
    pub cpu_us: f64,
    /// Of the process behind it: the sidecar, or the copy.
    pub second_us: f64,
}

/// Latency of a call of 16 bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// What is between client and worker.
    pub system: &'static str,
    /// One at a time, or so many per second.
    pub load: &'static str,
    /// Half of them were faster.
    pub p50_us: f64,
    /// All but 1 % were faster.
    pub p99_us: f64,
}

/// One stream of 64 KiB messages both ways.
#[derive(Clone, Debug, Serialize)]
pub struct Stream {
    /// What is between client and worker.
    pub system: &'static str,
    /// Megabytes per second, each way.
    pub mb_per_second: f64,
    /// CPU time of all that is between, per megabyte and way.
    pub cpu_us_per_mb: f64,
}

/// Memory of connections.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Who holds them.
    pub system: &'static str,
    /// How many.
    pub connections: u32,
    /// KiB of each before its first call.
    pub idle_kib: f64,
    /// KiB of each after one call; with a session and a tunnel, if it is ours.
    pub called_kib: f64,
}

/// Measures, and prints.
pub async fn run(options: &Options) -> Result<String, Error> {
    let place = Place::new(&options.common)?;
    let wants = |part| options.only.contains(&part);
    let mut figures = Figures {
        date: clock::today(),
        machine: report::machine(),
        rounds: options.rounds,
        span_ms: options.span_ms,
        connections: options.connections,
        cost: Vec::new(),
        latency: Vec::new(),
        stream: Vec::new(),
        memory: Vec::new(),
        goals: Vec::new(),
    };
    if wants(Part::Cost) || wants(Part::Latency) || wants(Part::Stream) {
        let mut systems = Vec::new();
        for way in ways(&options.common) {
            eprintln!("starting {}", way.name());
            systems.push(place.start(way).await?);
        }
        if wants(Part::Cost) {
            figures.cost = cost(options, &systems).await?;
        }
        if wants(Part::Latency) {
            figures.latency = latency(options, &systems).await?;
        }
        if wants(Part::Stream) {
            figures.stream = stream(options, &systems).await?;
        }
    }
    if wants(Part::Memory) {
        figures.memory = memory(options, &place).await?;
    }
    figures.goals = figures.goals();
    Ok(options.common.print(&figures, figures.text()))
}

/// The other proxies that are wanted.
fn others(common: &Common) -> impl Iterator<Item = Way> {
    let all = [
        (Other::Haproxy, Proxy::Haproxy),
        (Other::Nginx, Proxy::Nginx),
        (Other::Envoy, Proxy::Envoy),
    ];
    let wanted = all.into_iter().filter(|(other, _)| common.wants(*other));
    wanted.map(|(_, proxy)| Way::Other(proxy))
}

fn ways(common: &Common) -> Vec<Way> {
    let floors = [
        Way::Direct,
        Way::Copy,
        Way::Forward,
        Way::Chain,
        Way::LongChain,
    ];
    let floors = floors.into_iter().chain(others(common));
    floors.chain([Way::Pontoon, Way::PontoonRelayed]).collect()
}

/// P-1.
async fn cost(options: &Options, systems: &[System]) -> Result<Vec<Cost>, Error> {
    let through = |system: &&System| {
        let otherwise = Way::Direct == system.way || LONGER.contains(&system.way);
        !otherwise && system.way != Way::Chain
    };
    let systems: Vec<&System> = systems.iter().filter(through).collect();
    let mut rows = Vec::new();
    for bytes in &options.bytes {
        for streams in &options.streams {
            eprintln!("cost: {bytes} B, {streams} streams");
            let mut seen: Vec<Vec<Cost>> = systems.iter().map(|_| Vec::new()).collect();
            for _ in 0..options.rounds {
                for (system, seen) in systems.iter().zip(&mut seen) {
                    seen.push(cost_once(options, system, *bytes, *streams).await?);
                }
            }
            rows.extend(seen.iter().map(|seen| Cost {
                per_second: median(seen.iter().map(|one| one.per_second)),
                cpu_us: median(seen.iter().map(|one| one.cpu_us)),
                second_us: median(seen.iter().map(|one| one.second_us)),
                ..seen[0].clone()
            }));
        }
    }
    Ok(rows)
}

async fn cost_once(
    options: &Options,
    system: &System,
    bytes: u32,
    streams: u32,
) -> Result<Cost, Error> {
    let span = Duration::from_millis(options.span_ms);
    let callers = system.callers(options.connections as usize).await?;
    let message = load::message(bytes as usize);
    let counted = load::busy(&callers, streams as usize, &message, span, || system.cpu()).await?;
    let per_call = |hop: usize| {
        let (before, after) = (counted.before.get(hop), counted.after.get(hop));
        let used = after
            .zip(before)
            .map(|(after, before)| after.saturating_sub(*before));
        used.unwrap_or_default().as_secs_f64() * 1e6 / (counted.calls as f64).max(1.0)
    };
    Ok(Cost {
        system: system.way.name(),
        bytes,
        streams,
        per_second: counted.calls as f64 / span.as_secs_f64(),
        cpu_us: per_call(0),
        second_us: per_call(1),
    })
}

/// P-2.
async fn latency(options: &Options, systems: &[System]) -> Result<Vec<Latency>, Error> {
    let span = Duration::from_millis(options.span_ms);
    let message = load::message(16);
    let compared = |system: &&System| {
        let short = matches!(system.way, Way::Direct | Way::Chain | Way::Pontoon);
        short || LONGER.contains(&system.way)
    };
    let systems: Vec<&System> = systems.iter().filter(compared).collect();
    let mut rows = Vec::new();
    for load in [ONE_BY_ONE, PACED] {
        eprintln!("latency: {load}");
        let mut seen: Vec<Vec<Vec<u32>>> = systems.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            for (system, seen) in systems.iter().zip(&mut seen) {
                let mut callers = system.callers(options.connections as usize).await?;
                seen.push(match load {
                    ONE_BY_ONE => load::one_by_one(&mut callers[0], &message, span).await?,
                    _ => load::paced(&callers, RATE, &message, span).await?,
                });
            }
        }
        rows.extend(systems.iter().zip(&seen).map(|(system, seen)| {
            let part = |part| median(seen.iter().map(|took| f64::from(percentile(took, part))));
            Latency {
                system: system.way.name(),
                load,
                p50_us: part(0.5),
                p99_us: part(0.99),
            }
        }));
    }
    Ok(rows)
}

/// P-3.
async fn stream(options: &Options, systems: &[System]) -> Result<Vec<Stream>, Error> {
    let span = Duration::from_millis(options.span_ms);
    // With the five bytes that stand before it.
    let message = load::message(STREAMED - 5);
    let compared = |system: &&System| {
        let envoy = Way::Other(Proxy::Envoy);
        matches!(system.way, Way::Direct | Way::Chain | Way::Pontoon) || system.way == envoy
    };
    let systems: Vec<&System> = systems.iter().filter(compared).collect();
    eprintln!("stream");
    let mut seen: Vec<Vec<(f64, f64)>> = systems.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (system, seen) in systems.iter().zip(&mut seen) {
            let mut caller = Caller::connect(&system.endpoint).await?;
            let began = clock::now();
            let before = system.cpu();
            let bytes = caller.stream(&message, span).await?;
            let used: Duration =
                system.cpu().iter().sum::<Duration>() - before.iter().sum::<Duration>();
            let mb = bytes as f64 / 1e6;
            // The CPU time also covers the warm-up and the end.
            let all = mb * began.elapsed().as_secs_f64() / span.as_secs_f64();
            seen.push((
                mb / span.as_secs_f64(),
                used.as_secs_f64() * 1e6 / all.max(1e-6),
            ));
        }
    }
    let rows = systems.iter().zip(&seen).map(|(system, seen)| Stream {
        system: system.way.name(),
        mb_per_second: median(seen.iter().map(|one| one.0)),
        cpu_us_per_mb: median(seen.iter().map(|one| one.1)),
    });
    Ok(rows.collect())
}

/// P-4. Each is measured once, in fresh processes: what was freed before would hide what is taken.
async fn memory(options: &Options, place: &Place) -> Result<Vec<Memory>, Error> {
    let haproxy = others(&options.common).filter(|way| *way == Way::Other(Proxy::Haproxy));
    let ways = [Way::Direct].into_iter().chain(haproxy);
    let ways = ways.chain([Way::Pontoon, Way::PontoonTls]);
    let mut rows = Vec::new();
    for way in ways {
        eprintln!("memory: {}", way.name());
        let system = place.start(way).await?;
        let settled = async || {
            tokio::time::sleep(Duration::from_secs(2)).await;
            system.memory() as f64
        };
        let each = f64::from(options.idle) * 1024.0;
        let before = settled().await;
        let mut callers = system.callers(options.idle as usize).await?;
        let idle = settled().await;
        let message = load::message(16);
        for caller in &mut callers {
            caller.call(&message).await?;
        }
        let called = settled().await;
        rows.push(Memory {
            system: match way {
                Way::Direct => "bare h2 server",
                way => way.name(),
            },
            connections: options.idle,
            idle_kib: (idle - before) / each,
            called_kib: (called - before) / each,
        });
    }
    Ok(rows)
}
