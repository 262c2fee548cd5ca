//! A session is never answered by two workers, or by two lives of one.

use super::{Verdict, refuse};
use crate::history::{History, Outcome};
use std::collections::BTreeSet;

/// Checks it.
pub fn one_worker(history: &History) -> Verdict {
    let (mut wrong, mut sessions) = (Vec::new(), 0);
    for (session, ops) in history.sessions() {
        let workers = ops.iter().filter_map(|op| match &op.outcome {
            Outcome::Ok { worker, .. } if !worker.is_empty() => Some(worker.as_str()),
            _ => None,
        });
        let workers: BTreeSet<&str> = workers.collect();
        sessions += usize::from(!workers.is_empty());
        if workers.len() > 1 {
            wrong.push(format!("{session} was answered by {workers:?}"));
        }
    }
    refuse(&wrong)?;
    Ok(format!("{sessions} sessions, one worker each"))
}

#[cfg(test)]
mod tests {
    use super::super::example::{history, ok, op};
    use super::*;
    use crate::history::Kind;

    #[test]
    fn a_session_with_two_lives_of_a_worker_is_refused() {
        let open = op("s", Kind::Open, 0, ok("w/1", 1));
        let good = history(vec![open.clone(), op("s", Kind::Resume, 20, ok("w/1", 2))]);
        assert!(one_worker(&good).is_ok());
        let bad = history(vec![open, op("s", Kind::Resume, 20, ok("w/2", 1))]);
        assert!(one_worker(&bad).unwrap_err().contains("w/2"));
    }
}
