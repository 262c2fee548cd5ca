//! How many answers by UDP a source gets.
//!
//! Whoever sends questions in somebody else's name makes this node send its answers there. So answers to
//! one prefix, an IPv4 /24 or an IPv6 /56, are counted by a bucket that fills; beyond it every second
//! question gets an answer that is no longer than the question and says that TCP works, which a victim
//! doesn't notice and a real client follows, and the others get nothing.
//!
//! Pure: time comes in as a span since any fixed moment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// How many prefixes are remembered; about 48 bytes each, 800 kB in all. Those that find no room share
/// one bucket: a flood from everywhere costs strangers their answers by UDP, and nobody memory.
const PREFIXES_MAX: usize = 16_384;

/// How often buckets that are full again are thrown away, when there is no room: it takes a
/// millisecond.
const SWEEP: Duration = Duration::from_secs(1);

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Answer,
    Cut,
    Drop,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// What is left, at that time.
    left: f64,
    at: Duration,
    cut: bool,
}

/// The buckets of all sources.
#[derive(Debug)]
pub(super) struct Limiter {
    per_second: f64,
    buckets: BTreeMap<u64, Bucket>,
    others: Bucket,
    swept: Duration,
}

impl Limiter {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            buckets: BTreeMap::new(),
            others: Bucket {
                left: per_second,
                at: Duration::ZERO,
                cut: false,
            },
            swept: Duration::ZERO,
        }
    }

    /// Takes one answer out of the bucket of this source.
    pub(super) fn judge(&mut self, now: Duration, source: IpAddr) -> Verdict {
        let (key, per_second) = (key(source), self.per_second);
        if self.buckets.len() >= PREFIXES_MAX
            && !self.buckets.contains_key(&key)
            && now >= self.swept + SWEEP
        {
            self.swept = now;
            let full = |bucket: &Bucket| bucket.level(now, per_second) >= per_second;
            self.buckets.retain(|_, bucket| !full(bucket));
        }
        let room = self.buckets.len() < PREFIXES_MAX;
        let bucket = match self.buckets.entry(key) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) if room => new.insert(Bucket {
                left: per_second,
                at: now,
                cut: false,
            }),
            std::collections::btree_map::Entry::Vacant(_) => &mut self.others,
        };
        bucket.take(now, per_second)
    }
}

impl Bucket {
    fn level(&self, now: Duration, per_second: f64) -> f64 {
        let came = now.saturating_sub(self.at).as_secs_f64() * per_second;
        (self.left + came).min(per_second)
    }

    fn take(&mut self, now: Duration, per_second: f64) -> Verdict {
        (self.left, self.at) = (self.level(now, per_second), now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Verdict::Answer;
        }
        self.cut = !self.cut;
        match self.cut {
            true => Verdict::Cut,
            false => Verdict::Drop,
        }
    }
}

/// The source's prefix as a number; the highest bit tells the families apart.
pub(super) fn key(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(four) => 1 << 63 | u64::from(four.to_bits() >> 8),
        IpAddr::V6(six) => (six.to_bits() >> 72) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const S: Duration = Duration::from_secs(1);

    fn many(limiter: &mut Limiter, now: Duration, source: &str, times: u32) -> [u32; 3] {
        let mut counts = [0; 3];
        for _ in 0..times {
            let verdict = limiter.judge(now, source.parse().unwrap());
            counts[verdict as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_prefix_has_its_rate_and_no_other_one_is_held_up() {
        let mut limiter = Limiter::new(10);
        assert_eq!(many(&mut limiter, S, "192.0.2.1", 30), [10, 10, 10]);
        assert_eq!(many(&mut limiter, S, "192.0.2.200", 4), [0, 2, 2]);
        assert_eq!(many(&mut limiter, S, "::ffff:192.0.2.9", 2), [0, 1, 1]);
        assert_eq!(many(&mut limiter, S, "192.0.3.1", 5), [5, 0, 0]);
        assert_eq!(many(&mut limiter, S, "2001:db8:0:1::1", 11), [10, 1, 0]);
        assert_eq!(many(&mut limiter, S, "2001:db8:0:2::1", 1), [0, 0, 1]);
        assert_eq!(many(&mut limiter, S, "2001:db8:0:100::1", 1), [1, 0, 0]);
        let later = S + S / 2;
        assert_eq!(many(&mut limiter, later, "192.0.2.1", 6), [5, 1, 0]);
        assert_eq!(many(&mut limiter, 99 * S, "192.0.2.1", 11)[0], 10);
    }

    #[test]
    fn the_memory_of_prefixes_is_bounded_and_strangers_share_a_bucket() {
        let mut limiter = Limiter::new(2);
        for number in 0..PREFIXES_MAX as u32 {
            limiter.judge(S, Ipv4Addr::from(number << 8).into());
        }
        assert_eq!(limiter.buckets.len(), PREFIXES_MAX);
        let strangers = ["250.0.0.1", "250.0.1.1", "250.0.2.1"];
        let verdicts = strangers.map(|one| limiter.judge(S, one.parse().unwrap()));
        assert_eq!(verdicts, [Verdict::Answer, Verdict::Answer, Verdict::Cut]);
        assert_eq!(
            many(&mut limiter, S, "0.0.1.1", 1),
            [1, 0, 0],
            "it is known"
        );
        assert_eq!(many(&mut limiter, 3 * S, "250.0.3.1", 1), [1, 0, 0]);
        assert_eq!(limiter.buckets.len(), 1, "the others were full again");
    }
}
