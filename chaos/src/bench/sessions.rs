//! What it takes a client to begin a session, and to take one up again.
//!
//! Each round opens a session on a fresh connection, calls once more in it, and takes it up over another
//! connection, to the same node and then to another one. The steps follow each other, so a busy moment of the
//! machine hits all of them alike.

use super::Common;
use super::calls::load::{self, Caller, Endpoint};
use super::calls::systems::{Place, System, Way};
use super::disk::{self, Disk};
use super::numbers::percentile;
use super::report::{self, Goal};
use crate::cluster::Error;
use crate::{clock, net};
use bytes::Bytes;
use http::HeaderValue;
use serde::Serialize;
use std::time::Duration;

/// How long after the end of one connection the next one calls: a client notices, and dials again.
const AWAY: Duration = Duration::from_millis(20);

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// How many sessions are opened and taken up.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub rounds: u32,
    /// How many tunnels the sidecar dials ahead for each node.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub spare_tunnels: u32,
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
    disk: Disk,
    rows: Vec<Row>,
    goals: Vec<Goal>,
}

/// One step, over all rounds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    step: Step,
    p50_us: u32,
    p99_us: u32,
}

/// What is timed: from the request to the end of the answer, on a connection that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Step {
    /// The first call of a session.
    Open,
    /// The next one on the same connection.
    Pinned,
    /// The first one of another connection, with the id, to the same node.
    Here,
    /// The same to another node.
    Elsewhere,
    /// A TCP connection to a worker port.
    Dial,
}

const STEPS: [(Step, &str); 5] = [
    (Step::Open, "a session is opened"),
    (Step::Pinned, "the next call in it"),
    (Step::Here, "taken up at the same node"),
    (Step::Elsewhere, "taken up at another node"),
    (Step::Dial, "a TCP dial"),
];

/// Measures, and prints.
pub async fn run(options: &Options) -> Result<String, Error> {
    let disk = disk::measure(&options.common.home()?)?;
    let mut place = Place::new(&options.common)?;
    place.spares = options.spare_tunnels;
    let system = place.start(Way::Pontoon).await?;
    let mut took: [Vec<u32>; STEPS.len()] = std::array::from_fn(|_| Vec::new());
    for _ in 0..options.rounds {
        for (seen, one) in took.iter_mut().zip(round(&system).await?) {
            seen.push(one);
        }
    }
    let rows: Vec<Row> = STEPS
        .iter()
        .zip(&mut took)
        .map(|((step, _), seen)| {
            seen.sort_unstable();
            Row {
                step: *step,
                p50_us: percentile(seen, 0.5),
                p99_us: percentile(seen, 0.99),
            }
        })
        .collect();
    let figures = Figures {
        date: clock::today(),
        machine: report::machine(),
        rounds: options.rounds,
        disk,
        goals: goals(&rows, disk),
        rows,
    };
    Ok(options.common.print(&figures, figures.text()))
}

/// Microseconds of each step.
async fn round(system: &System) -> Result<[u32; STEPS.len()], Error> {
    let Some(cluster) = &system.cluster else {
        return Err(Error("there is no cluster".to_owned()));
    };
    let message = load::message(16);
    let there = Endpoint {
        port: cluster.client(1),
        ..system.endpoint.clone()
    };
    let mut first = Caller::connect(&system.endpoint).await?;
    first.greet().await?;
    let (open, id) = timed(&mut first, &message).await?;
    // As long after the last call as those that follow: a process that has slept is slower.
    tokio::time::sleep(AWAY).await;
    let (pinned, _) = timed(&mut first, &message).await?;
    drop(first);
    let mut again = resumed(&system.endpoint, &id).await?;
    let (here, same) = timed(&mut again, &message).await?;
    drop(again);
    let mut elsewhere = resumed(&there, &id).await?;
    let (far, still) = timed(&mut elsewhere, &message).await?;
    if same != id || still != id {
        return Err(Error("a session was taken up under another id".to_owned()));
    }
    let began = clock::now();
    net::dial(cluster.worker(0)).await.map_err(load::broken)?;
    Ok([open, pinned, here, far, load::micros(began)])
}

/// A connection that calls in a session, some time after the one before has ended.
async fn resumed(endpoint: &Endpoint, id: &HeaderValue) -> Result<Caller, Error> {
    tokio::time::sleep(AWAY).await;
    let mut caller = Caller::connect(endpoint).await?;
    caller.greet().await?;
    caller.resume(id.clone());
    Ok(caller)
}

async fn timed(caller: &mut Caller, message: &Bytes) -> Result<(u32, HeaderValue), Error> {
    let began = clock::now();
    let id = caller.call(message).await?;
    let took = load::micros(began);
    let id = id.ok_or_else(|| Error("an answer names no session".to_owned()))?;
    Ok((took, id))
}

fn goals(rows: &[Row], disk: Disk) -> Vec<Goal> {
    let find = |step: Step| rows.iter().find(|row| row.step == step);
    let ms = |us: u32| f64::from(us) / 1e3;
    let mut goals = Vec::new();
    let mut add = |id, what: &str, value: f64, most: f64, reach| {
        let what = what.to_owned();
        goals.push(Goal {
            id,
            what,
            value,
            reach,
            met: value <= most,
        });
    };
    if let Some(open) = find(Step::Open) {
        let most = 2.0 * disk.fdatasync_p50_us as f64 / 1e3 + 3.0;
        add(
            "P-6",
            "open, p50 ms",
            ms(open.p50_us),
            most,
            "<= 2 fdatasync + 3",
        );
        add("P-6", "open, p99 ms", ms(open.p99_us), 25.0, "<= 25");
    }
    if let (Some(pinned), Some(here), Some(elsewhere), Some(dial)) = (
        find(Step::Pinned),
        find(Step::Here),
        find(Step::Elsewhere),
        find(Step::Dial),
    ) {
        let added = |row: &Row| ms(row.p50_us) - ms(pinned.p50_us);
        add(
            "P-7",
            "resume here, p50 ms added",
            added(here),
            0.3,
            "<= 0.3",
        );
        let most = ms(dial.p50_us) + 2.0;
        let what = "resume elsewhere, p50 ms added";
        add("P-7", what, added(elsewhere), most, "<= a dial + 2");
    }
    goals
}

impl Figures {
    fn text(&self) -> String {
        let rows = STEPS.iter().zip(&self.rows).map(|((_, name), row)| {
            vec![
                (*name).to_owned(),
                format!("{:.3}", f64::from(row.p50_us) / 1e3),
                format!("{:.3}", f64::from(row.p99_us) / 1e3),
            ]
        });
        format!(
            "{}, {}; {} rounds; fdatasync of 4 KiB: p50 {} us, p99 {} us\n\n{}\n{}",
            self.date,
            self.machine,
            self.rounds,
            self.disk.fdatasync_p50_us,
            self.disk.fdatasync_p99_us,
            report::table(&["step", "p50 ms", "p99 ms"], &rows.collect::<Vec<_>>()),
            report::goals(&self.goals),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_resume_adds_is_taken_from_a_pinned_call() {
        let row = |step, p50_us| Row {
            step,
            p50_us,
            p99_us: 30_000,
        };
        let rows = [
            row(Step::Open, 3_300),
            row(Step::Pinned, 1_000),
            row(Step::Here, 1_200),
            row(Step::Elsewhere, 3_200),
            row(Step::Dial, 100),
        ];
        let disk = Disk {
            fdatasync_p50_us: 200,
            fdatasync_p99_us: 1,
        };
        let met: Vec<bool> = goals(&rows, disk).iter().map(|goal| goal.met).collect();
        assert_eq!(met, [true, false, true, false]);
    }
}
