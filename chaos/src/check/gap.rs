//! How long faults are seen by clients.

use super::Verdict;
use crate::history::{History, Kind};

/// What one fault cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Which.
    pub what: String,
    /// The longest time of a session that lived on, from the begin of the first operation that did not
    /// succeed until the end of the next that did, microseconds.
    pub gap: u64,
    /// From the fault's begin to the end of the last operation that did not succeed, microseconds.
    pub recovery: u64,
    /// Operations that did not succeed.
    pub hurt: usize,
}

/// The gaps of each fault: a gap belongs to the last fault that began before it ended.
pub fn gaps(history: &History) -> Vec<Gaps> {
    let mut gaps: Vec<Gaps> = history
        .hits
        .iter()
        .map(|hit| Gaps {
            what: hit.what.clone(),
            ..Gaps::default()
        })
        .collect();
    let fault = |at: u64| history.hits.iter().rposition(|hit| hit.at <= at);
    for op in history.ops.iter().filter(|op| !op.ok()) {
        // What a session's end says is no outage.
        if op.not_found() {
            continue;
        }
        if let Some(number) = fault(op.end) {
            gaps[number].hurt += 1;
            let since = op.end - history.hits[number].at;
            gaps[number].recovery = gaps[number].recovery.max(since);
        }
    }
    for ops in history.sessions().values() {
        let mut began = None;
        for op in ops.iter().filter(|op| op.kind != Kind::Release) {
            match (op.ok(), began) {
                (true, Some(from)) => {
                    if let Some(number) = fault(op.end) {
                        gaps[number].gap = gaps[number].gap.max(op.end - from);
                    }
                    began = None;
                }
                (false, None) if !op.not_found() => began = Some(op.start),
                _ => {}
            }
        }
    }
    gaps
}

/// Checks the bounds, in milliseconds.
pub fn gap(gaps: &[Gaps], gap_ms: Option<u64>, recovery_ms: Option<u64>) -> Verdict {
    let longest = gaps.iter().map(|gaps| gaps.gap).max().unwrap_or(0) / 1_000;
    let recovery = gaps.iter().map(|gaps| gaps.recovery).max().unwrap_or(0) / 1_000;
    let figures = format!("longest gap of a session {longest} ms, last failure {recovery} ms");
    let over = |value: u64, bound: Option<u64>| bound.is_some_and(|bound| value > bound);
    match over(longest, gap_ms) || over(recovery, recovery_ms) {
        true => Err(figures),
        false => Ok(figures),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{failed, history, ok, op};
    use super::*;

    #[test]
    fn a_gap_lasts_from_the_first_failure_to_the_next_answer() {
        let history = history(vec![
            op("s", Kind::Open, 0, ok("w/1", 1)),
            op("s", Kind::Call, 110_000, failed(14)),
            op("s", Kind::Resume, 150_000, failed(14)),
            op("s", Kind::Resume, 170_000, ok("w/1", 2)),
        ]);
        let found = gaps(&history);
        assert_eq!(
            (found[0].gap, found[0].recovery, found[0].hurt),
            (60_010, 149_910, 2)
        );
        assert!(gap(&found, Some(60), None).is_ok());
        assert!(gap(&found, Some(59), None).is_err());
        assert!(gap(&found, None, Some(148)).is_err());
    }
}
