//! The load balancers that may say who is behind them (C-LSN-5).

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses, `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The address as a number of 128 bits; those of IPv4 as IPv6 maps them (RFC 4291 2.5.5.2), so
    /// that a listener on `[::]` knows its callers, too.
    network: u128,
    mask: u128,
}

/// The addresses from which a PROXY header is taken, and demanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Vec<Range>);

impl Proxies {
    /// These and no others.
    pub fn new(ranges: Vec<Range>) -> Self {
        Self(ranges)
    }

    /// Whether a connection from this address begins with a PROXY header.
    pub fn include(&self, peer: IpAddr) -> bool {
        let peer = number(peer);
        self.0
            .iter()
            .any(|range| peer & range.mask == range.network)
    }
}

impl FromStr for Range {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| "is no address, and no range like 10.0.0.0/8")?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits.map(str::parse::<u32>) {
            None => most,
            Some(Ok(bits)) if bits <= most => bits,
            Some(_) => return Err("has a prefix that is too long, or no number"),
        };
        let mask = u128::MAX.checked_shl(most - bits).unwrap_or(0);
        // The prefix that maps IPv4 into IPv6 always counts.
        let mask = match most {
            32 => mask | (u128::MAX << 32),
            _ => mask,
        };
        let network = number(address);
        if network & !mask != 0 {
            return Err("has bits behind its prefix: write the range's first address");
        }
        Ok(Self { network, mask })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped().to_bits(),
        IpAddr::V6(six) => Ipv6Addr::to_bits(six),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn included(ranges: &[&str], peer: &str) -> bool {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Proxies::new(ranges).include(peer.parse().unwrap())
    }

    #[test]
    fn c_lsn_5_only_listed_addresses_may_send_a_header() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.6/31", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "2001:db9::", "2001:db9::"),
            ("::1", "::1", "::2"),
        ] {
            assert!(included(&[range], inside), "{range} {inside}");
            let wanted = range == "::/0";
            assert_eq!(included(&[range], outside), wanted, "{range} {outside}");
        }
        assert!(!included(&[], "127.0.0.1"));
        assert!(included(&["10.0.0.0/8", "::1"], "::1"));
    }

    #[test]
    fn c_lsn_5_ranges_that_are_none_say_what_is_wrong() {
        for (text, why) in [
            ("10.0.0.1/8", "behind its prefix"),
            ("10.0.0.0/33", "too long"),
            ("10.0.0.0/", "no number"),
            ("10.0.0/8", "no address"),
            ("balancer.example", "no address"),
            ("2001:db8::/129", "too long"),
        ] {
            let error = text.parse::<Range>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
