//! A token bucket in whole numbers: time in, decision out.
//!
//! It may owe: what other nodes admitted is taken whether or not there is anything left, so that the
//! cluster's rate is right in the long run. In any span of time no more is taken by [`Bucket::take`]
//! after [`Bucket::wait`] said zero than the burst and what the rate gives in that span.

use pontoon_raft::catalog::command::Rate;
use std::time::Duration;

/// One token. A rate is in tokens per 1,000 seconds and time in nanoseconds, so that rate times time
/// is a whole number of parts: nothing is lost to rounding.
const TOKEN: i128 = 1_000_000_000_000;

/// A bucket of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Parts of tokens; negative when it owes.
    level: i128,
    /// When the level was right.
    at: Duration,
}

impl Bucket {
    /// As after a long pause.
    pub(super) fn full(rate: Rate, now: Duration) -> Bucket {
        let level = top(rate);
        Bucket { level, at: now }
    }

    /// Brings the level to the present, under what the rate is now. Time never runs backwards here:
    /// an earlier `now` changes nothing.
    pub(super) fn refill(&mut self, rate: Rate, now: Duration) {
        let passed = now.saturating_sub(self.at).as_nanos();
        let gained = i128::from(rate.per_1000s).saturating_mul(passed as i128);
        self.level = self.level.saturating_add(gained).min(top(rate));
        self.at = self.at.max(now);
    }

    /// How long until there is a token; zero when there is one.
    pub(super) fn wait(&self, rate: Rate) -> Duration {
        let missing = (TOKEN - self.level).max(0);
        let per_nano = i128::from(rate.per_1000s.max(1));
        let nanos = (missing + per_nano - 1) / per_nano;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes a token, be it owed.
    pub(super) fn take(&mut self) {
        self.level = self.level.saturating_sub(TOKEN);
    }

    /// Whether it is as after a long pause, so that nothing is lost when it is forgotten.
    pub(super) fn is_full(&self, rate: Rate) -> bool {
        self.level >= top(rate)
    }
}

/// The level that is never exceeded.
fn top(rate: Rate) -> i128 {
    i128::from(rate.burst) * TOKEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(per_1000s: u64, burst: u64) -> Rate {
        Rate { per_1000s, burst }
    }

    /// Takes a token if there is one.
    fn try_take(bucket: &mut Bucket, rate: Rate, now: Duration) -> bool {
        bucket.refill(rate, now);
        let there = bucket.wait(rate).is_zero();
        if there {
            bucket.take();
        }
        there
    }

    #[test]
    fn c_err_8_a_burst_is_given_at_once_and_then_one_for_one() {
        let rate = rate(2_000, 3);
        let mut bucket = Bucket::full(rate, SECOND);
        for _ in 0..3 {
            assert!(try_take(&mut bucket, rate, SECOND));
        }
        assert!(!try_take(&mut bucket, rate, SECOND));
        assert_eq!(bucket.wait(rate), SECOND / 2);
        assert!(!try_take(
            &mut bucket,
            rate,
            SECOND + SECOND / 2 - Duration::from_nanos(1)
        ));
        assert!(try_take(&mut bucket, rate, SECOND + SECOND / 2));
        assert!(!try_take(&mut bucket, rate, SECOND + SECOND / 2));
    }

    #[test]
    fn c_err_8_what_others_took_is_owed() {
        let rate = rate(1_000, 1);
        let mut bucket = Bucket::full(rate, Duration::ZERO);
        for _ in 0..3 {
            bucket.take();
        }
        assert_eq!(bucket.wait(rate), 3 * SECOND);
        bucket.refill(rate, 2 * SECOND);
        assert_eq!(bucket.wait(rate), SECOND);
    }

    #[test]
    fn c_err_8_a_raised_rate_counts_at_once_and_a_smaller_burst_too() {
        let slow = rate(1, 1);
        let mut bucket = Bucket::full(slow, Duration::ZERO);
        bucket.take();
        assert_eq!(bucket.wait(slow), 1000 * SECOND);
        assert_eq!(bucket.wait(rate(1_000_000, 1)), SECOND / 1000);
        let mut bucket = Bucket::full(rate(1, 100), Duration::ZERO);
        bucket.refill(slow, Duration::ZERO);
        assert!(bucket.is_full(slow));
        bucket.take();
        assert!(!bucket.wait(slow).is_zero());
    }

    proptest! {
        #[test]
        fn c_err_8_never_more_than_the_burst_and_what_the_rate_gives(
            per_1000s in 1..5_000_000u64,
            burst in 1..50u64,
            steps in prop::collection::vec((0..3_000_000_000u64, any::<bool>()), 1..200),
        ) {
            let rate = rate(per_1000s, burst);
            let mut now = Duration::ZERO;
            let mut bucket = Bucket::full(rate, now);
            let mut taken: Vec<Duration> = Vec::new();
            for (nanos, pause) in steps {
                if pause {
                    now += Duration::from_nanos(nanos);
                }
                if try_take(&mut bucket, rate, now) {
                    taken.push(now);
                }
            }
            // Every span that begins and ends with an admission.
            for (first, from) in taken.iter().enumerate() {
                for (count, to) in taken[first..].iter().enumerate() {
                    let gained = i128::from(per_1000s) * (*to - *from).as_nanos() as i128;
                    let most = i128::from(burst) * TOKEN + gained;
                    prop_assert!((count as i128 + 1) * TOKEN <= most);
                }
            }
        }

        #[test]
        fn c_err_8_the_wait_that_is_told_suffices_and_nothing_shorter_does(
            per_1000s in 1..5_000_000u64,
            owed in 1..20u64,
        ) {
            let rate = rate(per_1000s, 1);
            let mut bucket = Bucket::full(rate, Duration::ZERO);
            for _ in 0..owed {
                bucket.take();
            }
            let wait = bucket.wait(rate);
            let mut early = bucket.clone();
            prop_assert!(!try_take(&mut early, rate, wait - Duration::from_nanos(1)));
            prop_assert!(try_take(&mut bucket, rate, wait));
        }
    }
}
