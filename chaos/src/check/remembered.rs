//! The worker remembers: a session's sum holds all that was acknowledged, and nothing that was not asked
//! for.

use super::{Verdict, refuse};
use crate::history::{History, Kind, Outcome};

/// Checks it.
pub fn remembered(history: &History) -> Verdict {
    let (mut wrong, mut sums) = (Vec::new(), 0);
    let ops = history.ops.iter().filter(|op| op.kind != Kind::Release);
    for op in ops {
        let Outcome::Ok { sum, .. } = op.outcome else {
            continue;
        };
        sums += 1;
        if !(op.least..=op.most).contains(&sum) {
            wrong.push(format!(
                "{}: the sum is {sum}, not {} to {}",
                op.session, op.least, op.most
            ));
        }
    }
    refuse(&wrong)?;
    Ok(format!("{sums} sums are right"))
}

#[cfg(test)]
mod tests {
    use super::super::example::{history, ok, op};
    use super::*;

    #[test]
    fn a_forgotten_and_a_foreign_sum_are_refused() {
        for (sum, good) in [(4, false), (5, true), (7, true), (8, false)] {
            let mut call = op("s", Kind::Call, 0, ok("w/1", sum));
            (call.least, call.most) = (5, 7);
            assert_eq!(remembered(&history(vec![call])).is_ok(), good, "{sum}");
        }
    }
}
