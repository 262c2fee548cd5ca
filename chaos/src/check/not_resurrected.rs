//! An id that is over stays over: after an acknowledged release, or a NOT_FOUND, nothing answers in it.

use super::{Verdict, refuse};
use crate::history::{History, Kind};

/// Checks it.
pub fn not_resurrected(history: &History) -> Verdict {
    let (mut wrong, mut over) = (Vec::new(), 0);
    for (session, ops) in history.sessions() {
        let ends = ops
            .iter()
            .filter(|op| op.not_found() || (op.kind == Kind::Release && op.ok()));
        let Some(ended) = ends.map(|op| op.end).min() else {
            continue;
        };
        over += 1;
        let mut alive = ops
            .iter()
            .filter(|op| op.start > ended && op.ok() && op.kind != Kind::Release);
        if let Some(op) = alive.next() {
            wrong.push(format!(
                "{session} was over at {ended} us and answered at {} us",
                op.end
            ));
        }
    }
    refuse(&wrong)?;
    Ok(format!("{over} ids are over"))
}

#[cfg(test)]
mod tests {
    use super::super::example::{failed, history, ok, op};
    use super::*;

    #[test]
    fn an_answer_after_the_end_is_refused() {
        let after = op("s", Kind::Resume, 50, ok("w/1", 2));
        for end in [
            op("s", Kind::Release, 20, ok("", 0)),
            op("s", Kind::Resume, 20, failed(5)),
        ] {
            assert!(not_resurrected(&history(vec![end.clone()])).is_ok());
            assert!(not_resurrected(&history(vec![end, after.clone()])).is_err());
        }
    }
}
