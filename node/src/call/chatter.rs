//! Keeps calls that came to no session from filling the log.
//!
//! A call of a session is one line, always. What is refused, answered here or given up before that
//! costs its sender next to nothing, so a flood of it gets a few lines a second and then one that says
//! how many more there were; all of it is counted on `/metrics`.

use super::counters::Counters;
use crate::clock;
use crate::tasks::{self, Kind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Lines of one kind in a [`SPAN`], not counting the one that says how many more there were.
///
/// Enough to see who does it. A flood of one kind then writes 4 lines of about 400 bytes a second,
/// 140 MB a day.
const LINES: u32 = 3;

/// The time in which so many lines may be written, and after which the rest is summed up.
const SPAN: Duration = Duration::from_secs(1);

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Written,
    /// It is the first that counts for a sum, which is due after a [`SPAN`].
    BeginsSum,
    Summed,
}

/// The lines of one kind.
#[derive(Debug, Default)]
struct Bound {
    since: Option<Instant>,
    written: u32,
    summed: u64,
}

impl Bound {
    fn line(&mut self, now: Instant) -> Line {
        if self.since.is_none_or(|since| now >= since + SPAN) {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written < LINES {
            self.written += 1;
            return Line::Written;
        }
        self.summed += 1;
        match self.summed {
            1 => Line::BeginsSum,
            _ => Line::Summed,
        }
    }

    fn sum(&mut self) -> u64 {
        std::mem::take(&mut self.summed)
    }
}

/// The bounds of a node's log, one for each way in which a call can end without a session.
#[derive(Debug, Default)]
pub struct Chatter(Mutex<BTreeMap<&'static str, Bound>>);

impl Chatter {
    /// Whether a call that ended so may have its own line; if not, it is in a sum that follows.
    pub(super) fn may_say(self: &Arc<Self>, ending: &'static str, counters: &Counters) -> bool {
        let line = self.lock().entry(ending).or_default().line(clock::now());
        if line == Line::Written {
            return true;
        }
        counters.calls_unlogged.up();
        if line == Line::BeginsSum {
            let chatter = Arc::clone(self);
            tasks::spawn(Kind::Worker, "call log sum", async move {
                tokio::time::sleep(SPAN).await;
                let calls = chatter.lock().entry(ending).or_default().sum();
                tracing::info!(ending, calls, "more calls that came to no session");
            });
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Bound>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_a_few_lines_a_second_and_one_sum() {
        let mut bound = Bound::default();
        let began = clock::now();
        let mut lines = Vec::new();
        for millis in 0..3000 {
            let now = began + Duration::from_millis(millis);
            // The sum is taken a span after it began.
            if millis == 1003 || millis == 2003 {
                assert_eq!(bound.sum(), 997);
            }
            lines.push(bound.line(now));
        }
        let count = |wanted| lines.iter().filter(|line| **line == wanted).count();
        assert_eq!(count(Line::Written), 9);
        assert_eq!(count(Line::BeginsSum), 3);
        assert_eq!(bound.sum(), 997);
    }

    #[test]
    fn few_calls_have_each_their_line() {
        let mut bound = Bound::default();
        let began = clock::now();
        for turn in 0..100 {
            let now = began + SPAN / LINES * turn + Duration::from_millis(u64::from(turn));
            assert_eq!(bound.line(now), Line::Written);
        }
        assert_eq!(bound.sum(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn kinds_are_bounded_apart_and_what_has_no_line_is_counted() {
        let chatter = Arc::new(Chatter::default());
        let counters = Counters::default();
        let mut said = 0;
        for _ in 0..50 {
            said += u32::from(chatter.may_say("one", &counters));
        }
        assert_eq!(said, LINES);
        assert!(chatter.may_say("other", &counters));
        assert_eq!(counters.calls_unlogged.get(), u64::from(50 - LINES));
        tokio::time::sleep(2 * SPAN).await;
        assert_eq!(chatter.lock()["one"].summed, 0, "it was said");
        assert!(chatter.may_say("one", &counters));
    }
}
