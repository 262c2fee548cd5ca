//! NOT_FOUND is only said of a session that is over: released, outlived its window, or lost with its
//! worker.

use super::{Verdict, refuse};
use crate::history::{History, Kind};

/// Checks it.
pub fn not_found(history: &History) -> Verdict {
    let (mut wrong, mut right) = (Vec::new(), 0);
    for (session, ops) in history.sessions() {
        for op in ops.iter().filter(|op| op.not_found()) {
            let released = ops
                .iter()
                .any(|other| other.kind == Kind::Release && other.start <= op.end);
            let heard = ops
                .iter()
                .filter(|other| other.ok() && other.end <= op.start);
            let heard = heard.map(|other| other.end).max();
            let expired = heard.is_some_and(|heard| op.end - heard > history.window);
            if released || expired || history.excused(&ops, op.end) {
                right += 1;
            } else {
                wrong.push(format!(
                    "{session}: {:?} at {} said NOT_FOUND at {} us",
                    op.kind, op.node, op.end
                ));
            }
        }
    }
    refuse(&wrong)?;
    Ok(format!("{right} were right, none was wrong"))
}

#[cfg(test)]
mod tests {
    use super::super::example::{failed, history, ok, op};
    use super::*;
    use crate::history::Lost;

    #[test]
    fn a_living_session_that_is_not_found_is_refused_unless_its_worker_was_lost() {
        let open = op("s", Kind::Open, 0, ok("w/1", 1));
        let gone = op("s", Kind::Resume, 500, failed(5));
        let mut bad = history(vec![open.clone(), gone.clone()]);
        assert!(not_found(&bad).is_err());
        bad.lost = vec![Lost {
            worker: "w/1".to_owned(),
            from: 900,
        }];
        assert!(not_found(&bad).is_err(), "the worker was lost later");
        bad.lost[0].from = 400;
        assert!(not_found(&bad).is_ok());
        let release = op("s", Kind::Release, 100, ok("", 0));
        assert!(not_found(&history(vec![open, release, gone])).is_ok());
    }
}
