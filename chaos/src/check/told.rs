//! When a worker is lost, the clients of its sessions are told that these are over.

use super::Verdict;
use crate::history::History;

/// Checks that at least so many sessions ended with their worker, and that their clients heard so.
pub fn told(history: &History, wanted: usize) -> Verdict {
    let sessions = history.sessions();
    let told = sessions.values().filter(|ops| {
        let mut ended = ops.iter().filter(|op| op.not_found());
        ended.any(|op| history.excused(ops, op.end))
    });
    let told = told.count();
    let figures = format!("{told} sessions ended with their worker, at least {wanted} should");
    match told >= wanted {
        true => Ok(figures),
        false => Err(figures),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{failed, history, ok, op};
    use super::*;
    use crate::history::{Kind, Lost};

    #[test]
    fn a_lost_worker_of_whom_nobody_heard_is_refused() {
        let mut history = history(vec![op("s", Kind::Open, 0, ok("w/1", 1))]);
        history.lost.push(Lost {
            worker: "w/1".to_owned(),
            from: 10,
        });
        assert!(told(&history, 1).is_err());
        history.ops.push(op("s", Kind::Resume, 40, failed(5)));
        assert!(told(&history, 1).is_ok());
    }
}
