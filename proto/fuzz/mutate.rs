//! Seeded mutations for the driver without coverage: everything follows from one number.

/// A small generator of random numbers (SplitMix64): good enough to choose mutations by.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0 when that is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

/// The longest input. Above the longest head of a CONNECT, which is the largest bound of a parser.
pub(crate) const INPUT_MAX: usize = 20 * 1024;

/// Bytes at which parsers decide.
const SHARP: &[u8] = b"\0\t\n\r \"%+,-./0:;=?@AZ_az{}~\x7f\x80\xc3\xff";

/// A new input from those in the pool: a copy, sometimes of two, with one to eight changes.
pub(crate) fn mutant(random: &mut Random, pool: &[Vec<u8>], words: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.pick(pool).cloned().unwrap_or_default();
    for _ in 0..=random.below(8) {
        change(random, &mut input, pool, words);
    }
    input.truncate(INPUT_MAX);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, pool: &[Vec<u8>], words: &[Vec<u8>]) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(24)).min(input.len());
    match random.below(12) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = *random.pick(SHARP).unwrap_or(&0),
        2 if at < input.len() => input[at] = random.next() as u8,
        3 => input.insert(at, *random.pick(SHARP).unwrap_or(&0)),
        4 => drop(input.drain(at..end)),
        5 => input.truncate(at),
        6 => {
            let piece = input[at..end].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, piece);
        }
        7 => input[at..end].iter_mut().for_each(|b| {
            *b = if b.is_ascii_lowercase() {
                b.to_ascii_uppercase()
            } else {
                b.to_ascii_lowercase()
            };
        }),
        8 => {
            let other = random.pick(pool).cloned().unwrap_or_default();
            let from = random.below(other.len() + 1);
            input.splice(at.., other[from..].iter().copied());
        }
        9 if random.below(64) == 0 => {
            // Rare, because long inputs are slow: this one looks for bounds.
            let piece = input[at..end].repeat(random.below(2048));
            input.splice(at..at, piece);
        }
        10 => {
            let word = random.pick(words).cloned().unwrap_or_default();
            input.splice(at..end, word);
        }
        _ => {
            let word = random.pick(words).cloned().unwrap_or_default();
            input.splice(at..at, word);
        }
    }
}

/// Reads a list of words in libFuzzer's form: one quoted word a line, `\xAB`, `\\` and `\"` inside.
pub(crate) fn words(text: &str) -> Vec<Vec<u8>> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"'))
        .map(|quoted| {
            let mut word = Vec::new();
            let mut rest = quoted;
            while let Some(next) = rest.chars().next() {
                let hex = rest.strip_prefix("\\x").and_then(|rest| rest.get(..2));
                if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    word.push(byte);
                    rest = &rest[4..];
                    continue;
                }
                rest = rest.strip_prefix('\\').unwrap_or(rest);
                let length = rest.chars().next().unwrap_or(next).len_utf8();
                word.extend_from_slice(&rest.as_bytes()[..length.min(rest.len())]);
                rest = rest.get(length..).unwrap_or_default();
            }
            word
        })
        .collect()
}
