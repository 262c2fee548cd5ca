//! The table itself is judged: every check is green through a proxy that breaks nothing, and red through
//! its twin; and what a twin breaks, it breaks for its own row.

use crate::table::{Row, Wires, can_be_judged, rows, sections};
use crate::target::{Checked, Target, Wire, run};
use crate::twin::{Twin, in_front};
use futures::StreamExt;
use futures::stream;
use std::time::Duration;

/// The most that one check may take through a twin: above the slowest, that of an idle connection.
const WITHIN: Duration = Duration::from_secs(90);

/// Twins run side by side, so many at once; each is a proxy and a handful of connections.
const AT_ONCE: usize = 8;

async fn bounded(row: &Row, target: Target) -> Checked {
    let check = tokio::time::timeout(WITHIN, (row.check)(target)).await;
    check.unwrap_or_else(|_| Err(format!("not done within {WITHIN:?}")))
}

/// Makes the target before anything runs beside it: its start blocks.
fn begin() {
    Target::shared(Wire::H2);
}

/// What is wrong with a row's own twin, if anything.
async fn judge(row: &'static Row) -> Vec<String> {
    let target = Target::shared(row.wire());
    if !can_be_judged(row, &target) {
        return Vec::new();
    }
    if let Twin::Elsewhere(why) = row.twin {
        return if why.is_empty() {
            vec![format!("{} has no twin and no reason", row.id)]
        } else {
            Vec::new()
        };
    }
    let mut wrong = Vec::new();
    let control = in_front(&target, Twin::None).await;
    if let Err(error) = bounded(row, control).await {
        wrong.push(format!(
            "{} is red through a proxy that breaks nothing: {error}",
            row.id
        ));
        return wrong;
    }
    let twin = in_front(&target, row.twin).await;
    if bounded(row, twin).await.is_ok() {
        wrong.push(format!("{} stays green through its twin", row.id));
    }
    wrong
}

#[track_caller]
fn judge_all(rows: Vec<&'static Row>) {
    begin();
    let wrong = run(stream::iter(rows)
        .map(judge)
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>());
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Sections of what a plain HTTP/2 client sees.
const OVER_H2: &[&str] = &[
    "keys",
    "ids",
    "answers",
    "faults",
    "sessions",
    "forwarding",
    "pressure",
    "listener",
    "health",
];

fn section_rows(over_h2: bool) -> Vec<&'static Row> {
    let all = sections().into_iter();
    let wanted = all.filter(|(name, _)| OVER_H2.contains(name) == over_h2);
    wanted.flat_map(|(_, rows)| rows).collect()
}

#[test]
fn every_check_turns_red_through_its_twin_and_stays_green_through_a_good_proxy() {
    judge_all(section_rows(true));
}

/// Rows that share what a twin breaks: (twin, also red, why).
const SHARED: &[(&str, &str, &str)] = &[
    (
        "C-PIN-1/subject",
        "*",
        "one id in all answers hides every session",
    ),
    (
        "C-RID-1",
        "C-RID-2",
        "garbage in the header has a cookie beside it",
    ),
    (
        "C-ERR-2",
        "C-ERR-1",
        "one status, 401, is the rendering of both",
    ),
    (
        "C-ERR-2",
        "C-ERR-1/forms",
        "its example is a fault of the same status",
    ),
    (
        "C-ERR-5",
        "C-ERR-6",
        "one status, 404, is the rendering of both",
    ),
    (
        "C-ERR-6",
        "C-ERR-5",
        "one status, 404, is the rendering of both",
    ),
    (
        "C-ERR-1/forms",
        "*",
        "every fault says that it is not to be kept",
    ),
    ("C-KEY-1", "C-KEY-2", "the same refusal is its example"),
    (
        "C-RID-3",
        "C-RID-2",
        "a stranger's id stands for every id that is not found",
    ),
    (
        "C-RID-4",
        "*",
        "without the header no row of this section has anything to say",
    ),
    ("C-RID-2", "C-RID-1", "one spelling stands for all"),
    ("C-PIN-4", "C-ABS-1", "both are about the same header"),
    ("C-PIN-4", "C-ABS-2", "both are about the same header"),
    ("C-PIN-4", "C-ABS-3", "both are about the same header"),
    (
        "C-PIN-4",
        "C-PIN-3",
        "a session is ended by the same header",
    ),
    ("C-ABS-1", "C-PIN-4", "both are about the same header"),
    (
        "C-ABS-3",
        "*",
        "without the header no session is resumed or ended",
    ),
    (
        "C-PIN-1",
        "*",
        "a shared connection mixes every row's sessions up",
    ),
    ("C-PIN-2", "*", "without pins every row sees new sessions"),
    ("C-PIN-1/never", "*", "an id that nobody has, in every call"),
    ("C-RSM-1", "*", "no resumed session has its id"),
    ("C-RSM-2", "*", "no session resumes"),
    (
        "C-RSP-2",
        "*",
        "every call on a connection of its own has other sessions",
    ),
];

fn shares(twin: &str, other: &str) -> bool {
    let listed =
        |(own, also, _): &(&str, &str, &str)| *own == twin && (*also == "*" || *also == other);
    SHARED.iter().any(listed)
}

#[test]
fn what_a_twin_breaks_it_breaks_for_its_own_row_only() {
    begin();
    // Sections whose checks are quick: what is left are pairs of rows, not minutes.
    let quick = ["keys", "ids", "answers", "sessions"];
    let mut pairs: Vec<(&'static Row, &'static Row)> = Vec::new();
    for (_, rows) in sections()
        .into_iter()
        .filter(|(name, _)| quick.contains(name))
    {
        for row in rows {
            let others = rows
                .iter()
                .filter(|other| other.id != row.id && !shares(row.id, other.id));
            pairs.extend(others.map(|other| (row, other)));
        }
    }
    let judged = stream::iter(pairs).map(|(row, other)| async move {
        let target = Target::shared(other.wire());
        if !can_be_judged(other, &target) || row.wire() != other.wire() {
            return None;
        }
        let twin = in_front(&target, row.twin).await;
        let error = bounded(other, twin).await.err()?;
        Some(format!(
            "the twin of {} breaks {} too: {error}",
            row.id, other.id
        ))
    });
    let wrong: Vec<_> = run(judged.buffer_unordered(AT_ONCE).collect());
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_check_over_http_1_1_turns_red_through_its_twin_too() {
    judge_all(section_rows(false));
}

#[test]
fn what_holds_over_http_2_holds_over_http_1_1() {
    begin();
    let both = rows().into_iter().filter(|row| row.wires == Wires::Both);
    let judged = stream::iter(both).map(|row| async move {
        let target = Target::shared(Wire::H1);
        if !can_be_judged(row, &target) {
            return None;
        }
        let error = bounded(row, target).await.err()?;
        Some(format!("{}: {error}", row.id))
    });
    let wrong: Vec<_> = run(judged.buffer_unordered(AT_ONCE).collect());
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
