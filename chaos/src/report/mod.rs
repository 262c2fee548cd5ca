//! The report of a run: one HTML file, with nothing in it that has to be fetched.

mod chart;
mod leaders;

pub use chart::Elected;
pub use leaders::Leaders;

use crate::check::{Gaps, Verdict};
use crate::cluster::Error;
use crate::history::{History, Kind};
use std::fmt::Write as _;
use std::path::Path;

/// What is reported.
#[derive(Debug)]
pub struct Report<'a> {
    /// What the scenario is about.
    pub about: &'a str,
    /// The command that runs it again.
    pub again: &'a str,
    /// What clients and faults did.
    pub history: &'a History,
    /// Each promise with its verdict.
    pub verdicts: &'a [(&'static str, Verdict)],
    /// What each fault cost.
    pub gaps: &'a [Gaps],
    /// The elections that were seen.
    pub elected: &'a [Elected],
}

/// Dark text on light or the other way round, as the reader has it; no script.
const STYLE: &str = "
:root { color-scheme: light dark; --ok: #3b82c4; --failed: #d9534f; --unknown: #e6a23c; --fault: #d9534f26; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; margin: 1em 0; }
td, th { text-align: left; padding: .25em .6em; border-bottom: 1px solid #8884; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { background: #8882; padding: .1em .3em; border-radius: 3px; word-break: break-all; }
.kept { color: #2a9d5c; } .broken { color: var(--failed); font-weight: bold; }
figure { margin: 1.5em 0; } figcaption { font-weight: 600; } svg { width: 100%; } text { font-size: 11px; fill: #888; }
.ok { fill: var(--ok); } .failed { fill: var(--failed); } .unknown { fill: var(--unknown); }
.fault { fill: var(--fault); } .leader { fill: #8e5bd0; } .grid { stroke: #8884; }
.p50 { fill: none; stroke: var(--ok); stroke-width: 1.5; } .p99 { fill: none; stroke: var(--unknown); stroke-width: 1.5; }
";

impl Report<'_> {
    /// Writes it.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        std::fs::write(path, self.html()).map_err(|error| Error::file("write", path, &error))
    }

    fn html(&self) -> String {
        let broken = self.verdicts.iter().filter(|(_, v)| v.is_err()).count();
        let (class, verdict) = match broken {
            0 => ("kept", "Every promise was kept".to_owned()),
            1 => ("broken", "A promise was broken".to_owned()),
            many => ("broken", format!("{many} promises were broken")),
        };
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style>\
             <h1>{0}</h1><p class=\"{class}\">{verdict}.</p><p>Again: <code>{1}</code></p>",
            escaped(self.about),
            escaped(self.again)
        );
        page.push_str(&self.promises());
        page.push_str(
            "<p>Below: <span style=\"color:var(--ok)\">&#9632;</span> answered, \
             <span style=\"color:var(--failed)\">&#9632;</span> failed, \
             <span style=\"color:var(--unknown)\">&#9632;</span> unknown; a shade is a fault, \
             <span style=\"color:#8e5bd0\">&#9650;</span> a new leader (point at either for its name).</p>",
        );
        page.push_str(&chart::throughput(self.history, self.elected));
        for (title, kinds) in [
            (
                "opens: median and 99th percentile",
                [Kind::Open, Kind::Open],
            ),
            ("calls and streams", [Kind::Call, Kind::Stream]),
            ("resumes", [Kind::Resume, Kind::Resume]),
        ] {
            let which = |op: &crate::history::Op| kinds.contains(&op.kind);
            page.push_str(&chart::latency(title, self.history, self.elected, which));
        }
        page.push_str(&self.faults());
        page.push_str(&self.operations());
        page.push_str(&self.failures());
        page
    }

    fn promises(&self) -> String {
        let rows = self.verdicts.iter().map(|(promise, verdict)| {
            let (class, words) = match verdict {
                Ok(figures) => ("kept", figures),
                Err(wrong) => ("broken", wrong),
            };
            format!(
                "<tr><td class=\"{class}\">{class}</td><td>{promise}</td><td>{}</td></tr>",
                escaped(words)
            )
        });
        table("<th></th><th>promise</th><th>figures</th>", rows)
    }

    fn faults(&self) -> String {
        let rows = self.history.hits.iter().zip(self.gaps).map(|(hit, gaps)| {
            format!(
                "<tr><td class=\"n\">{:.1} s</td><td class=\"n\">{:.1} s</td><td>{}</td><td>{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{} ms</td><td class=\"n\">{} ms</td></tr>",
                hit.at as f64 / 1e6,
                hit.until.saturating_sub(hit.at) as f64 / 1e6,
                escaped(&hit.what),
                escaped(&hit.evidence),
                gaps.hurt,
                gaps.gap / 1_000,
                gaps.recovery / 1_000
            )
        });
        let heads = "<th>at</th><th>for</th><th>fault</th><th>evidence</th><th>failures</th>\
                     <th>longest gap</th><th>last failure after</th>";
        format!("<h2>Faults</h2>{}", table(heads, rows))
    }

    fn operations(&self) -> String {
        let rows = Kind::ALL.into_iter().map(|kind| {
            let (took, others) = self.history.took(kind);
            let at = |share: usize| {
                let micros = took.get(took.len() * share / 1_000).copied().unwrap_or(0);
                format!("<td class=\"n\">{:.1} ms</td>", micros as f64 / 1e3)
            };
            format!(
                "<tr><td>{kind:?}</td><td class=\"n\">{}</td><td class=\"n\">{others}</td>{}{}{}</tr>",
                took.len(),
                at(500),
                at(990),
                at(999)
            )
        });
        let heads = "<th>operation</th><th>answered</th><th>not</th><th>median</th><th>99 %</th><th>99.9 %</th>";
        format!("<h2>Operations</h2>{}", table(heads, rows))
    }

    fn failures(&self) -> String {
        let said = self.history.failures();
        let rows = said.iter().take(20).map(|(words, count)| {
            format!(
                "<tr><td class=\"n\">{count}</td><td>{}</td></tr>",
                escaped(words)
            )
        });
        format!(
            "<h2>What was said instead of an answer</h2>{}",
            table("<th></th><th></th>", rows)
        )
    }
}

fn table(heads: &str, rows: impl Iterator<Item = String>) -> String {
    let mut table = format!("<table><tr>{heads}</tr>");
    for row in rows {
        // Writing to a string does not fail.
        let _ = writeln!(table, "{row}");
    }
    table.push_str("</table>");
    table
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::example::{failed, history, ok, op};
    use crate::history::Outcome;

    #[test]
    fn a_report_shows_verdicts_faults_elections_and_the_command_and_escapes_what_was_said() {
        let mut history = history(vec![
            op("s", Kind::Open, 0, ok("w/1", 1)),
            op("s", Kind::Resume, 1_500_000, failed(14)),
        ]);
        history.ops[1].outcome = Outcome::Failed {
            code: 14,
            text: "<script>&".to_owned(),
        };
        let gaps = crate::check::gaps(&history);
        let elected = [Elected {
            at: 150,
            group: "eu".to_owned(),
            term: 7,
        }];
        let page = Report {
            about: "A test",
            again: "pontoon-chaos run x --seed 3",
            history: &history,
            verdicts: &[
                ("gaps", Ok("short".to_owned())),
                ("told", Err("nobody".to_owned())),
            ],
            gaps: &gaps,
            elected: &elected,
        }
        .html();
        for part in [
            "A promise was broken",
            "<td class=\"broken\">broken</td><td>told</td><td>nobody</td>",
            "pontoon-chaos run x --seed 3",
            "<title>kill</title>",
            "<title>eu: term 7</title>",
            "code 14: &lt;script&gt;&amp;",
            "<rect class=\"failed\"",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("<script"));
    }
}
