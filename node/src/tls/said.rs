//! What was said already, so that a problem that stays is one line in the log, not one per dial.

use crate::clock;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a problem that goes on is not repeated: somebody who opens the log of the last quarter
/// of an hour finds it.
const AGAIN: Duration = Duration::from_secs(15 * 60);

/// How many subjects are remembered. Callers can be many; when the table is full it starts anew, and
/// some lines are repeated.
const SUBJECTS_MAX: usize = 1024;

/// The last problem of each subject.
#[derive(Default)]
pub(crate) struct Said(Mutex<BTreeMap<String, (String, Instant)>>);

impl Said {
    /// Whether this problem of this subject is news: it was another one before, or none, or it was
    /// said long ago.
    pub(crate) fn is_news(&self, subject: &str, problem: &str) -> bool {
        let now = clock::now();
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, at)) = table.get(subject)
            && last == problem
            && now.saturating_duration_since(*at) < AGAIN
        {
            return false;
        }
        if table.len() >= SUBJECTS_MAX && !table.contains_key(subject) {
            table.clear();
        }
        table.insert(subject.to_owned(), (problem.to_owned(), now));
        true
    }

    /// The subject is well; whether it had a problem.
    pub(crate) fn is_well_again(&self, subject: &str) -> bool {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.remove(subject).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_problem_is_news_once_and_again_when_it_changes_or_stays_for_long() {
        let said = Said::default();
        assert!(said.is_news("n2", "expired"));
        assert!(!said.is_news("n2", "expired"));
        assert!(said.is_news("n3", "expired"));
        assert!(said.is_news("n2", "unknown CA"));
        tokio::time::advance(AGAIN).await;
        assert!(said.is_news("n2", "unknown CA"));
        assert!(said.is_well_again("n2"));
        assert!(!said.is_well_again("n2"));
        assert!(said.is_news("n2", "unknown CA"));
    }
}
