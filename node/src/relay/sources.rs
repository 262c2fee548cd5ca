//! How often a source may show tickets that other nodes refuse: each costs two nodes an exchange.
//!
//! Pure: time comes in as a span since any fixed moment. Good tickets cost nothing, so a source that
//! behaves is never held up, however many tunnels it opens.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// How many refusals in a row a source may have: a load balancer is one source for all behind it, and
/// a restart of a node makes all tickets bad that are on their way to it.
const BURST: f64 = 1000.0;

/// How many more it may have per second.
const PER_SECOND: f64 = 100.0;

/// How many sources are remembered; about 64 bytes each. More are not held up.
const SOURCES_MAX: usize = 4096;

/// The refusals of each source, as buckets that drain.
#[derive(Debug, Default)]
pub(crate) struct Sources(BTreeMap<IpAddr, (f64, Duration)>);

impl Sources {
    /// Whether a source may have another ticket judged elsewhere.
    pub(crate) fn may(&self, now: Duration, source: IpAddr) -> bool {
        let level = self.0.get(&source).map_or(0.0, |bucket| level(bucket, now));
        level <= BURST - 1.0
    }

    /// Another node has refused a ticket of this source.
    pub(crate) fn refused(&mut self, now: Duration, source: IpAddr) {
        if self.0.len() >= SOURCES_MAX && !self.0.contains_key(&source) {
            self.0.retain(|_, bucket| level(bucket, now) > 0.0);
            if self.0.len() >= SOURCES_MAX {
                return;
            }
        }
        let bucket = self.0.entry(source).or_insert((0.0, now));
        *bucket = (level(bucket, now) + 1.0, now);
    }
}

fn level(bucket: &(f64, Duration), now: Duration) -> f64 {
    let drained = now.saturating_sub(bucket.1).as_secs_f64() * PER_SECOND;
    (bucket.0 - drained).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_source_of_bad_tickets_is_held_up_and_no_other_one() {
        let (bad, good) = ([1, 1, 1, 1].into(), [2, 2, 2, 2].into());
        let mut sources = Sources::default();
        let mut judged = 0;
        while sources.may(Duration::ZERO, bad) {
            sources.refused(Duration::ZERO, bad);
            judged += 1;
        }
        assert_eq!(judged, BURST as u32);
        assert!(sources.may(Duration::ZERO, good));
        assert!(sources.may(Duration::from_millis(10), bad));
    }

    #[test]
    fn the_memory_of_sources_is_bounded() {
        let mut sources = Sources::default();
        for n in 0..2 * SOURCES_MAX as u32 {
            sources.refused(Duration::ZERO, Ipv4Addr::from(n).into());
        }
        assert_eq!(sources.0.len(), SOURCES_MAX);
        sources.refused(Duration::from_secs(1), Ipv4Addr::from(u32::MAX).into());
        assert_eq!(sources.0.len(), 1);
    }
}
