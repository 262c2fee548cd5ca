//! Pictures of a run, as SVG: what happened in each second, and how long it took.

use crate::history::{History, Hit, Op, Outcome};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Width and height of a picture, and its margins: left for the numbers, below for the seconds.
const SIZE: (f64, f64) = (1_000.0, 220.0);
const MARGIN: (f64, f64) = (60.0, 24.0);

/// A group got another leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elected {
    /// When it was seen, microseconds since the workload began.
    pub at: u64,
    /// Which.
    pub group: String,
    /// Its new term.
    pub term: u64,
}

/// The frame of a picture: its axis of time, the faults in it, and the elections.
struct Frame {
    svg: String,
    seconds: f64,
}

impl Frame {
    fn new(title: &str, until: u64, hits: &[Hit], elected: &[Elected]) -> Self {
        let (width, height) = SIZE;
        let mut frame = Self {
            svg: String::new(),
            seconds: (until as f64 / 1e6).max(1.0),
        };
        frame.put(format_args!(
            r#"<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">"#
        ));
        let floor = height - MARGIN.1;
        for hit in hits {
            let (from, to) = (frame.x(hit.at), frame.x(hit.until.max(hit.at + 50_000)));
            let wide = (to - from).max(1.5);
            frame.put(format_args!(
                r#"<rect class="fault" x="{from:.1}" y="0" width="{wide:.1}" height="{floor}"><title>{}</title></rect>"#,
                super::escaped(&hit.what)
            ));
        }
        for elected in elected {
            let x = frame.x(elected.at);
            frame.put(format_args!(
                r#"<path class="leader" d="M{x:.1} {floor}l-4 8h8z"><title>{}: term {}</title></path>"#,
                super::escaped(&elected.group),
                elected.term
            ));
        }
        let every = step(frame.seconds / 10.0);
        let marks = (frame.seconds / every) as usize;
        for mark in 0..=marks {
            let second = mark as f64 * every;
            let x = frame.x((second * 1e6) as u64);
            let y = height - 4.0;
            frame.put(format_args!(
                r#"<text x="{x:.1}" y="{y}">{second:.0} s</text>"#
            ));
        }
        frame
    }

    fn x(&self, at: u64) -> f64 {
        MARGIN.0 + (SIZE.0 - MARGIN.0) * (at as f64 / 1e6 / self.seconds).min(1.0)
    }

    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.svg.write_fmt(what);
    }

    fn end(mut self) -> String {
        self.svg.push_str("</svg></figure>");
        self.svg
    }
}

/// The round number (1, 2 or 5 times a power of ten) at or above this.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(0.1).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(least)
}

/// Operations per second by their outcome, stacked.
pub(super) fn throughput(history: &History, elected: &[Elected]) -> String {
    let until = end(history);
    let mut frame = Frame::new("operations per second", until, &history.hits, elected);
    let every = step(frame.seconds / 300.0).max(1.0);
    let mut bins: BTreeMap<u64, [f64; 3]> = BTreeMap::new();
    for op in &history.ops {
        let bin = (op.end as f64 / 1e6 / every) as u64;
        let kind = match &op.outcome {
            Outcome::Ok { .. } => 0,
            Outcome::Failed { .. } => 1,
            Outcome::Unknown { .. } => 2,
        };
        bins.entry(bin).or_default()[kind] += 1.0 / every;
    }
    let most = bins.values().map(|bin| bin.iter().sum::<f64>());
    let most = step(most.fold(1.0, f64::max));
    let floor = SIZE.1 - MARGIN.1;
    let wide = (SIZE.0 - MARGIN.0) * every / frame.seconds;
    for (bin, counts) in bins {
        let x = frame.x((bin as f64 * every * 1e6) as u64);
        let mut y = floor;
        for (class, count) in ["ok", "failed", "unknown"].into_iter().zip(counts) {
            if count > 0.0 {
                let high = floor * count / most;
                y -= high;
                frame.put(format_args!(
                    r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{wide:.2}" height="{high:.1}"/>"#
                ));
            }
        }
    }
    frame.put(format_args!(r#"<text x="0" y="12">{most:.0}/s</text>"#));
    frame.end()
}

/// The median and the 99th percentile of each second, on a logarithmic axis from 0.1 ms to 100 s.
pub(super) fn latency(
    title: &str,
    history: &History,
    elected: &[Elected],
    which: impl Fn(&Op) -> bool,
) -> String {
    let until = end(history);
    let mut frame = Frame::new(title, until, &history.hits, elected);
    let every = step(frame.seconds / 150.0).max(1.0);
    let mut bins: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.ok() && which(op)) {
        let bin = (op.end as f64 / 1e6 / every) as u64;
        bins.entry(bin).or_default().push(op.end - op.start);
    }
    let floor = SIZE.1 - MARGIN.1;
    let y = |micros: f64| floor - floor * ((micros.max(100.0) / 100.0).log10() / 6.0).min(1.0);
    for (words, micros) in [
        ("1 ms", 1e3),
        ("10 ms", 1e4),
        ("0.1 s", 1e5),
        ("1 s", 1e6),
        ("10 s", 1e7),
    ] {
        let y = y(micros);
        let (from, to) = (MARGIN.0, SIZE.0);
        frame.put(format_args!(
            r#"<path class="grid" d="M{from} {y:.1}H{to}"/><text x="0" y="{:.1}">{words}</text>"#,
            y + 4.0
        ));
    }
    for (class, share) in [("p50", 50), ("p99", 99)] {
        let mut path = String::new();
        for (bin, took) in &mut bins {
            took.sort_unstable();
            let at = took[(took.len() * share / 100).min(took.len() - 1)];
            let x = frame.x(((*bin as f64 + 0.5) * every * 1e6) as u64);
            let verb = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{x:.1} {:.1}", y(at as f64));
        }
        frame.put(format_args!(r#"<path class="{class}" d="{path}"/>"#));
    }
    frame.end()
}

fn end(history: &History) -> u64 {
    history.ops.iter().map(|op| op.end).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        for (least, round) in [
            (0.3, 0.5),
            (1.0, 1.0),
            (1.1, 2.0),
            (3.0, 5.0),
            (60.0, 100.0),
        ] {
            assert!(
                (step(least) - round).abs() < 1e-9,
                "{least}: {}",
                step(least)
            );
        }
    }
}
