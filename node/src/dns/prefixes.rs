//! Which region a client's address belongs to: a table of prefixes, the longest one wins.
//!
//! The scope that goes with an answer says for which other addresses it is good (RFC 7871 7.2.1). An
//! answer for 10.2.0.0/16 out of a table of 10.0.0.0/8 and 10.1.0.0/16 must not be called good for
//! 10.0.0.0/8: a cache would give it to 10.1.0.1, too. So the scope is the widest block around the client
//! in which no other entry of the table begins.
//!
//! Pure.

use std::net::IpAddr;
use std::str::FromStr;

/// The most entries. Each is looked at for each answer: 4,096 cost about 10 us.
pub const PREFIXES_MAX: usize = 4_096;

/// An address of one family as a number whose first bit is the highest one, so that prefixes of both
/// families are compared alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    six: bool,
    bits: u128,
    length: u8,
}

impl Prefix {
    /// The first `length` bits of an address; all of them at most.
    pub fn of(address: IpAddr, length: u8) -> Self {
        let (six, bits, most) = match address.to_canonical() {
            IpAddr::V4(four) => (false, u128::from(four.to_bits()) << 96, 32),
            IpAddr::V6(six) => (true, six.to_bits(), 128),
        };
        let length = length.min(most);
        Self {
            six,
            bits: bits & mask(length),
            length,
        }
    }

    /// How many bits the two have in common; none across families.
    fn common(self, other: Self) -> Option<u8> {
        let same = (self.bits ^ other.bits).leading_zeros() as u8;
        (self.six == other.six).then(|| same.min(self.length).min(other.length))
    }

    /// Whether the two begin at the same address.
    pub(super) fn same_bits(self, other: Self) -> bool {
        self.bits == other.bits
    }

    /// Whether all of `other` is inside.
    fn holds(self, other: Self) -> bool {
        self.common(other) == Some(self.length)
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl FromStr for Prefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "is no prefix like 10.1.0.0/16 or 2001:db8::/32";
        let (address, length) = text.split_once('/').ok_or(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong)?;
        let length: u8 = length.parse().map_err(|_| wrong)?;
        let prefix = Self::of(address, length);
        if prefix.length != length {
            return Err("is longer than an address");
        }
        if !prefix.same_bits(Self::of(address, u8::MAX)) {
            return Err("has bits behind its prefix: write the first address");
        }
        Ok(prefix)
    }
}

/// Where a client is by the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// A region's name; none where no entry matches.
    pub region: Option<&'a str>,
    /// How many bits of the client's address this is good for.
    pub scope: u8,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(Vec<(Prefix, String)>);

impl Prefixes {
    /// These prefixes with their regions.
    pub fn new(entries: Vec<(Prefix, String)>) -> Self {
        Self(entries)
    }

    /// The region of a client that is known by a prefix of its address.
    pub fn find(&self, client: Prefix) -> Found<'_> {
        let holding = self.0.iter().filter(|(prefix, _)| prefix.holds(client));
        let best = holding.max_by_key(|(prefix, _)| prefix.length);
        let region = best.map(|(_, region)| region.as_str());
        let length = best.map_or(0, |(prefix, _)| prefix.length);
        let others = self
            .0
            .iter()
            .filter(|(prefix, other)| prefix.length > length && Some(other.as_str()) != region);
        let scope = others.filter_map(|(prefix, _)| {
            let common = prefix.common(client)?;
            match common == client.length {
                // Some of the client's block is in that entry, and only a longer prefix can say more.
                true => Some(prefix.length),
                false => Some(common + 1),
            }
        });
        Found {
            region,
            scope: scope.fold(length, u8::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(entries: &[(&str, &str)]) -> Prefixes {
        let entries = entries.iter();
        Prefixes::new(
            entries
                .map(|(prefix, region)| (prefix.parse().unwrap(), (*region).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn the_longest_prefix_wins_and_the_scope_keeps_clear_of_the_others() {
        let table = table(&[
            ("10.0.0.0/8", "eu"),
            ("10.1.0.0/16", "us"),
            ("10.1.2.0/24", "us"),
            ("2001:db8::/32", "ap"),
            ("2001:db8:8000::/33", "eu"),
        ]);
        for (client, region, scope) in [
            ("10.1.0.0/24", Some("us"), 16),
            // The same region inside: the answer is the same all over the /16.
            ("10.1.2.0/24", Some("us"), 24),
            ("10.1.9.0/24", Some("us"), 16),
            // 10.0.0.0/16 and 10.1.0.0/16 differ in the sixteenth bit.
            ("10.0.3.0/24", Some("eu"), 16),
            ("10.2.0.0/16", Some("eu"), 15),
            ("10.128.0.0/16", Some("eu"), 9),
            // Too short: some of it is in other entries.
            ("10.0.0.0/12", Some("eu"), 24),
            ("0.0.0.0/0", None, 24),
            ("11.0.0.0/24", None, 8),
            ("192.0.2.0/24", None, 1),
            ("2001:db8::/56", Some("ap"), 33),
            ("2001:db8:8000::/56", Some("eu"), 33),
            ("2001:db9::/32", None, 32),
            ("::/0", None, 33),
        ] {
            let found = table.find(client.parse().unwrap());
            assert_eq!(found, Found { region, scope }, "{client}");
        }
        let mapped = Prefix::of("::ffff:10.1.2.3".parse().unwrap(), 128);
        assert_eq!(table.find(mapped).region, Some("us"), "a listener on [::]");
        let none = Prefixes::default();
        let empty = none.find("10.0.0.0/24".parse().unwrap());
        assert_eq!((empty.region, empty.scope), (None, 0));
    }

    #[test]
    fn prefixes_that_are_none_say_what_is_wrong() {
        for (text, why) in [
            ("10.1.0.0", "no prefix"),
            ("eu.example/16", "no prefix"),
            ("10.1.0.0/-1", "no prefix"),
            ("10.1.0.0/33", "longer"),
            ("2001:db8::/129", "longer"),
            ("10.1.0.1/16", "behind its prefix"),
        ] {
            let error = text.parse::<Prefix>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    proptest! {
        /// What a scope promises: every address inside gets the same answer.
        #[test]
        fn an_answer_is_right_for_all_of_its_scope(
            entries in proptest::collection::vec((any::<u32>(), 0u8..=32, 0u8..3), 0..12),
            client in any::<u32>(),
            length in 0u8..=32,
            other in any::<u32>(),
        ) {
            let four = |bits: u32, length| Prefix::of(IpAddr::V4(bits.into()), length);
            let entries = entries.iter().map(|(bits, length, region)| {
                // Few distinct bits, so that entries lie inside each other.
                (four(bits & 0xC300_0000, *length), format!("r{region}"))
            });
            let mut entries: Vec<(Prefix, String)> = entries.collect();
            // A configuration has each prefix once.
            entries.sort();
            entries.dedup_by_key(|(prefix, _)| *prefix);
            let table = Prefixes::new(entries);
            let client = client & 0xC3FF_0000;
            let found = table.find(four(client, length));
            if found.scope <= length {
                let inside = mask(found.scope) >> 96;
                let other = (client & inside as u32) | (other & !(inside as u32));
                prop_assert_eq!(table.find(four(other, 32)).region, found.region);
            }
        }
    }
}
