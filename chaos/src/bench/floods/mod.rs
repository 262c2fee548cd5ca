//! What a flood of hostile clients costs somebody else's calls (S-9).
//!
//! A client calls at a steady rate through a node while others flood the same port. In turn with that
//! the same flood goes to a process that only reads: the machine is shared, so what remains is what
//! the node itself does with the flood.

pub(crate) mod flood;

use super::Common;
use super::calls::load;
use super::calls::systems::{Place, System, Way};
use super::numbers::{median, percentile};
use super::report::{self, Goal};
use crate::clock;
use crate::cluster::Error;
use crate::net;
pub use flood::Flood;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// Calls per second of the client that is measured.
const RATE: f64 = 500.0;

/// Its connections.
const CONNECTIONS: usize = 4;

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The floods.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [
        Flood::RapidReset, Flood::Continuation, Flood::Settings, Flood::Ping, Flood::Headers,
        Flood::SlowHead, Flood::Idle,
    ])]
    pub only: Vec<Flood>,
    /// How often each is measured; the figure is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: u32,
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
struct Figures {
    date: String,
    machine: String,
    rounds: u32,
    span_ms: u64,
    rows: Vec<Row>,
    goals: Vec<Goal>,
}

/// One flood; medians over the rounds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    flood: Flood,
    /// Of the calls while the flood goes to the sink.
    control_p99_us: f64,
    /// Of the calls while it goes to the node.
    p99_us: f64,
    /// By how much the node's memory had grown at the end of the last round.
    grown_mib: f64,
}

/// Measures, and prints.
pub async fn run(options: &Options) -> Result<String, Error> {
    let place = Place::new(&options.common)?;
    let system = place.start(Way::Pontoon).await?;
    let mut sink = place.sink()?;
    let mut rows = Vec::new();
    for flood in &options.only {
        eprintln!("{flood:?}");
        rows.push(row(options, &system, sink.port, *flood).await?);
    }
    sink.process.alive()?;
    let goals = rows.iter().map(|row| {
        let value = row.p99_us / row.control_p99_us;
        Goal {
            id: "S-9",
            what: format!("another's p99, of the control's, {:?}", row.flood),
            value,
            reach: "<= 1.50",
            met: value <= 1.5,
        }
    });
    let figures = Figures {
        date: clock::today(),
        machine: report::machine(),
        rounds: options.rounds,
        span_ms: options.span_ms,
        goals: goals.collect(),
        rows,
    };
    Ok(options.common.print(&figures, figures.text()))
}

async fn row(options: &Options, system: &System, sink: u16, flood: Flood) -> Result<Row, Error> {
    let span = Duration::from_millis(options.span_ms);
    let message = load::message(16);
    let before = system.memory();
    let mut seen = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for (seen, port) in seen.iter_mut().zip([sink, system.endpoint.port]) {
            // The client is there first: a flood of connections must not cut one that stands.
            let mut callers = system.callers(CONNECTIONS).await?;
            for caller in &mut callers {
                caller.call(&message).await?;
            }
            let mut attackers = flood::start(flood, net::local(port), &Arc::default()).await?;
            let took = load::paced(&callers, RATE, &message, span).await?;
            attackers.shutdown().await;
            seen.push(f64::from(percentile(&took, 0.99)));
        }
    }
    let grown = system.memory().saturating_sub(before) as f64 / f64::from(1 << 20);
    let [control, flooded] = seen.map(median);
    Ok(Row {
        flood,
        control_p99_us: control,
        p99_us: flooded,
        grown_mib: grown,
    })
}

impl Figures {
    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                vec![
                    format!("{:?}", row.flood),
                    format!("{:.2}", row.control_p99_us / 1e3),
                    format!("{:.2}", row.p99_us / 1e3),
                    format!("{:.1}", row.grown_mib),
                ]
            })
            .collect();
        let heads = [
            "flood",
            "at a sink, p99 ms",
            "at the node, p99 ms",
            "grown MiB",
        ];
        format!(
            "{}, {}; median of {} x {} ms; {RATE:.0} calls/s\n\n{}\n{}",
            self.date,
            self.machine,
            self.rounds,
            self.span_ms,
            report::table(&heads, &rows),
            report::goals(&self.goals),
        )
    }
}
