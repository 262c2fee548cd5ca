//! All of a run's randomness, from its seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A stream of numbers (SplitMix64). Drawing takes no `&mut`, so that tasks can share it.
#[derive(Debug)]
pub(super) struct Random(AtomicU64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(AtomicU64::new(
            seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5851_f42d_4c95_7f2d,
        ))
    }

    /// Another stream, which no longer depends on who draws from this one.
    pub(super) fn fork(&self) -> Random {
        Random::new(self.next())
    }

    pub(super) fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below this one, which is not 0.
    pub(super) fn below(&self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True this often out of a thousand.
    pub(super) fn chance(&self, permille: usize) -> bool {
        self.below(1000) < permille
    }

    pub(super) fn between(&self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_micros() as u64;
        from + Duration::from_micros(self.next() % (span + 1))
    }

    pub(super) fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        (!from.is_empty()).then(|| &from[self.below(from.len())])
    }

    pub(super) fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes());
        bytes
    }
}
