//! What DNS has said, and for how long it counts.
//!
//! DNS fails more often than the machines that it names. So the last good answer counts until there is a
//! newer one; an answer without records takes it back only when it is confirmed, because a server that has
//! lost its zone also says that there is nothing.
//!
//! Pure: time comes in as a span since any fixed moment.

use std::collections::BTreeMap;
use std::time::Duration;

/// Within these bounds an answer counts for as long as its records say. Not shorter, so that nobody asks
/// for every dial; not longer, so that a region that was taken away is left alone within a minute.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long after a failure, or an answer without records, the question is put again.
const AGAIN: Duration = Duration::from_secs(1);

/// How many answers without records in a row take back the last good one.
const EMPTY_COUNTS: u32 = 3;

/// How many names are remembered. Names come from configurations and the catalog; when the table is
/// full, it starts anew.
const NAMES_MAX: usize = 1_024;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// Records, at least one, and how long they count.
    Records(Vec<T>, Duration),
    /// There is no such name, or it has no such records.
    Nothing,
    /// Nobody answered, or the server failed.
    Failed,
}

struct Entry<T> {
    records: Vec<T>,
    fresh_until: Duration,
    nothing: u32,
}

/// The names that were asked for.
pub(super) struct Known<T>(BTreeMap<String, Entry<T>>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Clone> Known<T> {
    /// What counts for this name, if it is not yet time to ask again.
    pub(super) fn fresh(&self, name: &str, now: Duration) -> Option<Vec<T>> {
        let entry = self.0.get(name)?;
        (now < entry.fresh_until && !entry.records.is_empty()).then(|| entry.records.clone())
    }

    /// Takes an answer in, and says what counts now; empty if nothing does. `jitter` is in 0..1 and
    /// spreads those who ask over the last tenth of the time.
    pub(super) fn learn(
        &mut self,
        name: &str,
        answer: Answer<T>,
        now: Duration,
        jitter: f64,
    ) -> Vec<T> {
        if self.0.len() >= NAMES_MAX && !self.0.contains_key(name) {
            self.0.clear();
        }
        let entry = self.0.entry(name.to_owned()).or_insert_with(|| Entry {
            records: Vec::new(),
            fresh_until: now,
            nothing: 0,
        });
        let asked_again = now >= entry.fresh_until;
        let counts = match answer {
            Answer::Records(records, ttl) => {
                (entry.records, entry.nothing) = (records, 0);
                ttl.clamp(TTL.0, TTL.1).mul_f64(0.9 + jitter / 10.0)
            }
            Answer::Nothing => {
                entry.nothing += u32::from(asked_again);
                if entry.nothing >= EMPTY_COUNTS {
                    entry.records.clear();
                }
                AGAIN
            }
            Answer::Failed => AGAIN,
        };
        entry.fresh_until = now + counts;
        entry.records.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn after(known: &mut Known<u8>, answer: Answer<u8>, now: Duration) -> Vec<u8> {
        known.learn("n", answer, now, 1.0)
    }

    #[test]
    fn s_10_the_last_good_answer_counts_while_dns_fails() {
        let mut known = Known::default();
        assert_eq!(after(&mut known, Answer::Records(vec![1], 5 * S), S), [1]);
        assert_eq!(known.fresh("n", 5 * S), Some(vec![1]));
        assert_eq!(known.fresh("n", 6 * S), None);
        for second in 6..600 {
            assert_eq!(after(&mut known, Answer::Failed, second * S), [1]);
        }
        assert_eq!(after(&mut known, Answer::Records(vec![2], S), 600 * S), [2]);
    }

    #[test]
    fn s_10_an_answer_without_records_counts_when_it_is_confirmed() {
        let mut known = Known::default();
        after(&mut known, Answer::Records(vec![1], S), S);
        assert_eq!(after(&mut known, Answer::Nothing, 2 * S), [1]);
        // The same answer to somebody who asked at the same time confirms nothing.
        assert_eq!(after(&mut known, Answer::Nothing, 2 * S), [1]);
        assert_eq!(after(&mut known, Answer::Nothing, 3 * S), [1]);
        assert_eq!(after(&mut known, Answer::Failed, 4 * S), [1]);
        assert_eq!(after(&mut known, Answer::Nothing, 5 * S), Vec::<u8>::new());
        assert_eq!(known.fresh("n", 5 * S), None, "and it is asked for again");
        assert_eq!(after(&mut known, Answer::Records(vec![3], S), 6 * S), [3]);
        assert_eq!(after(&mut known, Answer::Nothing, 8 * S), [3]);
    }

    #[test]
    fn answers_count_for_a_second_at_least_and_a_minute_at_most() {
        let mut known = Known::default();
        after(&mut known, Answer::Records(vec![1], Duration::ZERO), S);
        assert!(known.fresh("n", S + S / 2).is_some());
        after(&mut known, Answer::Records(vec![1], 86_400 * S), 10 * S);
        assert!(known.fresh("n", 69 * S).is_some());
        assert!(known.fresh("n", 70 * S).is_none());
    }
}
