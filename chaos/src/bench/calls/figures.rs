//! The figures as text, and as goals that are reached or not.

use super::{Figures, Latency, Memory, Stream};
use crate::bench::report::{self, Goal};

/// One ratio that is to be reached.
fn at_most(id: &'static str, what: String, value: f64, most: f64, reach: &'static str) -> Goal {
    Goal {
        id,
        what,
        value,
        reach,
        met: value <= most,
    }
}

impl Figures {
    /// The ratios whose two sides were measured.
    pub(super) fn goals(&self) -> Vec<Goal> {
        let mut goals = self.of_cost();
        goals.extend(self.of_latency());
        goals.extend(self.of_stream());
        goals.extend(self.of_memory());
        goals
    }

    fn of_cost(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for ours in self.cost.iter().filter(|row| row.system == "pontoon") {
            let load = format!("{} B, {} streams", ours.bytes, ours.streams);
            let same = |name: &str| {
                let mut rows = self.cost.iter();
                let found = rows.find(|row| {
                    row.system == name && row.bytes == ours.bytes && row.streams == ours.streams
                });
                found.map(|row| row.cpu_us).filter(|cost| *cost > 0.0)
            };
            for (name, most, reach) in [
                ("forwarder", 1.25, "<= 1.25"),
                ("nginx", 0.9, "<= 0.90"),
                ("envoy", 0.6, "<= 0.60"),
            ] {
                if let Some(theirs) = same(name) {
                    let what = format!("CPU of the node, of {name}'s, {load}");
                    goals.push(at_most("P-1", what, ours.cpu_us / theirs, most, reach));
                }
            }
            if let Some(theirs) = same("haproxy") {
                let (most, reach) = match ours.bytes < 65_536 {
                    true => (1.0, "aim 1.00"),
                    false => (0.6, "aim 0.60"),
                };
                let what = format!("CPU of the node, of haproxy's, {load}");
                goals.push(at_most("P-1", what, ours.cpu_us / theirs, most, reach));
            }
            if let Some(theirs) = same("tcp copy") {
                let what = format!("CPU of the sidecar, of the tcp copy's, {load}");
                goals.push(at_most(
                    "P-1",
                    what,
                    ours.second_us / theirs,
                    1.2,
                    "<= 1.20",
                ));
            }
        }
        goals
    }

    fn of_latency(&self) -> Vec<Goal> {
        let find = |name: &str, load: &str| -> Option<&Latency> {
            let mut rows = self.latency.iter();
            rows.find(|row| row.system == name && row.load == load)
        };
        let mut goals = Vec::new();
        for (ours, floor, called) in self.latency.iter().filter_map(|row| match row.system {
            "pontoon" => Some((row, "forwarder + tcp copy", "the chain's")),
            "pontoon, relayed" => Some((row, "forwarder + 2 copies", "the longer chain's")),
            _ => None,
        }) {
            if let Some(chain) = find(floor, ours.load) {
                let of = |part: &str| format!("{part} of {called}, {}", ours.load);
                let (p50, p99) = (ours.p50_us / chain.p50_us, ours.p99_us / chain.p99_us);
                goals.push(at_most("P-2", of("p50"), p50, 1.3, "<= 1.30"));
                goals.push(at_most("P-2", of("p99"), p99, 2.0, "<= 2.00"));
            }
            let relayed = ours.system != "pontoon";
            if let Some(direct) = find("direct", ours.load).filter(|_| !relayed) {
                let added = (ours.p50_us - direct.p50_us) / 1e3;
                let what = format!("p50 added, ms, {}", ours.load);
                goals.push(at_most("P-2", what, added, 0.2, "aim 0.20"));
            }
        }
        goals
    }

    fn of_stream(&self) -> Vec<Goal> {
        let find = |name: &str| -> Option<&Stream> {
            let mut rows = self.stream.iter();
            rows.find(|row| row.system == name)
        };
        let Some(ours) = find("pontoon") else {
            return Vec::new();
        };
        let least = [
            ("forwarder + tcp copy", "the chain", 0.9, ">= 0.90"),
            ("direct", "direct", 0.76, "aim 0.76"),
        ];
        let goals = least
            .into_iter()
            .filter_map(|(name, called, least, reach)| {
                let value = ours.mb_per_second / find(name)?.mb_per_second;
                Some(Goal {
                    id: "P-3",
                    what: format!("MB/s, of {called}"),
                    value,
                    reach,
                    met: value >= least,
                })
            });
        goals.collect()
    }

    fn of_memory(&self) -> Vec<Goal> {
        let find = |name: &str| -> Option<&Memory> {
            let mut rows = self.memory.iter();
            rows.find(|row| row.system == name)
        };
        let mut goals = Vec::new();
        if let (Some(ours), Some(bare)) = (find("pontoon"), find("bare h2 server")) {
            let (idle, called) = (
                ours.idle_kib / bare.idle_kib,
                ours.called_kib / bare.idle_kib,
            );
            let what =
                |which: &str| format!("KiB of {which} connection, of a bare server's idle one");
            goals.push(at_most("P-4", what("an idle"), idle, 1.15, "<= 1.15"));
            goals.push(at_most("P-4", what("a session's"), called, 2.5, "<= 2.50"));
            goals.push(at_most(
                "P-4",
                "KiB, idle".into(),
                ours.idle_kib,
                8.0,
                "aim 8",
            ));
            let what = "KiB, with session and tunnel".to_owned();
            goals.push(at_most("P-4", what, ours.called_kib, 32.0, "aim 32"));
        }
        if let Some(tls) = find("pontoon, TLS") {
            let what = "KiB, over TLS, with session and tunnel".to_owned();
            goals.push(at_most("P-4", what, tls.called_kib, 80.0, "aim 80"));
        }
        goals
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{}, {}; median of {} x {} ms; {} connections\n",
            self.date, self.machine, self.rounds, self.span_ms, self.connections
        );
        let mut add = |heads: &[&str], rows: Vec<Vec<String>>| {
            if !rows.is_empty() {
                text += "\n";
                text += &report::table(heads, &rows);
            }
        };
        let behind = |name: &str, cost: f64| match name {
            "pontoon" => format!("{cost:.1}"),
            _ => String::new(),
        };
        let rows = self.cost.iter().map(|row| {
            vec![
                row.system.to_owned(),
                row.bytes.to_string(),
                row.streams.to_string(),
                format!("{:.0}", row.per_second),
                format!("{:.1}", row.cpu_us),
                behind(row.system, row.second_us),
            ]
        });
        let heads = [
            "system",
            "bytes",
            "streams",
            "calls/s",
            "cpu us/call",
            "sidecar",
        ];
        add(&heads, rows.collect());
        let rows = self.latency.iter().map(|row| {
            vec![
                row.system.to_owned(),
                row.load.to_owned(),
                format!("{:.3}", row.p50_us / 1e3),
                format!("{:.3}", row.p99_us / 1e3),
            ]
        });
        add(&["system", "load", "p50 ms", "p99 ms"], rows.collect());
        let rows = self.stream.iter().map(|row| {
            vec![
                row.system.to_owned(),
                format!("{:.0}", row.mb_per_second),
                format!("{:.0}", row.cpu_us_per_mb),
            ]
        });
        add(&["system", "MB/s each way", "cpu us/MB"], rows.collect());
        let rows = self.memory.iter().map(|row| {
            vec![
                row.system.to_owned(),
                row.connections.to_string(),
                format!("{:.1}", row.idle_kib),
                format!("{:.1}", row.called_kib),
            ]
        });
        let heads = ["system", "connections", "idle KiB", "after a call KiB"];
        add(&heads, rows.collect());
        let goals = report::goals(&self.goals);
        match goals.is_empty() {
            true => text,
            false => text + "\n" + &goals,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cost;
    use super::*;

    fn cost(system: &'static str, streams: u32, cpu_us: f64, second_us: f64) -> Cost {
        Cost {
            system,
            bytes: 16,
            streams,
            per_second: 1.0,
            cpu_us,
            second_us,
        }
    }

    #[test]
    fn ours_is_compared_with_the_same_load_only_and_with_what_was_measured() {
        let figures = Figures {
            date: String::new(),
            machine: String::new(),
            rounds: 1,
            span_ms: 1,
            connections: 1,
            cost: vec![
                cost("tcp copy", 32, 10.0, 0.0),
                cost("forwarder", 32, 20.0, 0.0),
                cost("forwarder", 256, 1.0, 0.0),
                cost("pontoon", 32, 30.0, 11.0),
            ],
            latency: Vec::new(),
            stream: Vec::new(),
            memory: Vec::new(),
            goals: Vec::new(),
        };
        let goals = figures.goals();
        let seen: Vec<_> = goals.iter().map(|goal| (goal.value, goal.met)).collect();
        assert_eq!(seen, [(1.5, false), (1.1, true)]);
    }
}
