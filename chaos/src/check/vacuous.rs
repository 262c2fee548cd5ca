//! A run in which nothing happened shows nothing: the counters must say that each fault was there, and
//! that there was work enough inside it.

use super::{Verdict, refuse};
use crate::history::{History, Kind};
use crate::scenario::Expect;

/// What was counted besides the history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Nodes killed.
    pub node_kills: usize,
    /// Workers killed.
    pub worker_kills: usize,
}

/// Checks it.
pub fn vacuous(history: &History, counted: Counted, expect: &Expect) -> Verdict {
    let mut wrong = Vec::new();
    let mut fewest = usize::MAX;
    for (number, hit) in history.hits.iter().enumerate() {
        if hit.evidence.is_empty() {
            wrong.push(format!("nothing shows that this happened: {}", hit.what));
        }
        // A kill that is never undone, or at once, lasts until the next fault.
        let next = history.hits.get(number + 1).map_or(u64::MAX, |hit| hit.at);
        let until = hit.until.max(next.min(hit.at + 5_000_000));
        let inside = history.ops.iter();
        let inside = inside.filter(|op| op.start < until && op.end > hit.at);
        let inside = inside.count();
        fewest = fewest.min(inside);
        if inside < expect.ops_in_fault {
            wrong.push(format!(
                "{inside} operations, not {}, were inside: {}",
                expect.ops_in_fault, hit.what
            ));
        }
    }
    let hurt = history.ops.iter().filter(|op| !op.ok()).count();
    let counts = [
        ("opens", history.count(Kind::Open), expect.opens),
        ("resumes", history.count(Kind::Resume), expect.resumes),
        ("node kills", counted.node_kills, expect.node_kills),
        ("worker kills", counted.worker_kills, expect.worker_kills),
        ("operations that did not succeed", hurt, expect.hurt),
    ];
    let mut figures = Vec::new();
    for (what, count, least) in counts {
        figures.push(format!("{count} {what}"));
        if count < least {
            wrong.push(format!("{count} {what}, at least {least} were wanted"));
        }
    }
    refuse(&wrong)?;
    if !history.hits.is_empty() {
        figures.push(format!(
            "{} faults, with {fewest} operations or more inside each",
            history.hits.len()
        ));
    }
    Ok(figures.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::example::{history, ok, op};
    use super::*;

    #[test]
    fn a_run_without_work_or_without_its_fault_is_refused() {
        let expect = Expect {
            ops_in_fault: 1,
            ..Expect::default()
        };
        let check = |history: &History| vacuous(history, Counted::default(), &expect);
        let inside = op("s", Kind::Open, 150, ok("w/1", 1));
        let good = history(vec![inside.clone()]);
        assert!(check(&good).is_ok());
        let mut unseen = good.clone();
        unseen.hits[0].evidence.clear();
        assert!(check(&unseen).is_err());
        let before = history(vec![op("s", Kind::Open, 50, ok("w/1", 1))]);
        assert!(check(&before).is_err());
        assert!(check(&history(Vec::new())).is_err());
        let kills = Expect {
            node_kills: 1,
            ..expect
        };
        assert!(vacuous(&good, Counted::default(), &kills).is_err());
    }
}
