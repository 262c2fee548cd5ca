//! Choices that a seed decides: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014), because it is five lines, and its numbers are the same on every machine.

/// A source of choices.
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// From a number that people can repeat.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another source, for one of several tasks whose order is not fixed.
    pub fn fork(&self, number: u64) -> Self {
        let mut fork = Self(self.0 ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        fork.number();
        fork
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when there is none. The bias of the remainder is below 2^-32 for the
    /// small bounds that are asked for.
    pub fn below(&mut self, bound: usize) -> usize {
        match bound {
            0 => 0,
            bound => (self.number() % bound as u64) as usize,
        }
    }

    /// A number in 0..1.
    pub fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_its_forks_differ() {
        let numbers = |mut seed: Seed| (0..8).map(|_| seed.number()).collect::<Vec<_>>();
        assert_eq!(numbers(Seed::new(7)), numbers(Seed::new(7)));
        assert_ne!(numbers(Seed::new(7).fork(1)), numbers(Seed::new(7).fork(2)));
        assert!((0..1_000).all(|_| Seed::new(3).below(5) < 5));
    }
}
