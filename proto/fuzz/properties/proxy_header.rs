//! PROXY headers (C-LSN-5): bounded, judged as early as they can be and never taken back, and what is
//! read of the one-line form is read again from what was read.

use super::decisions;
use pontoon_proto::proxy_header::{
    Addresses, LENGTH_MAX, Malformed, Parsed, V1_LENGTH_MAX, is_announced, parse,
};

pub(super) fn check(bytes: &[u8]) -> u64 {
    let parsed = parse(bytes);
    match parsed {
        Parsed::Complete { length, addresses } => {
            assert!(length <= bytes.len() && length <= LENGTH_MAX);
            assert!(is_announced(bytes));
            assert_eq!(parse(&bytes[..length]), parsed, "what follows changed it");
            for end in cuts(length) {
                let part = parse(&bytes[..end]);
                assert_eq!(part, Parsed::NeedsMore, "judged too early, at {end}");
            }
            if let Some(addresses) = addresses {
                printed(addresses);
            }
        }
        Parsed::NeedsMore => {
            assert!(bytes.len() < LENGTH_MAX, "more is wanted without a bound");
            for end in cuts(bytes.len()) {
                assert_eq!(parse(&bytes[..end]), Parsed::NeedsMore);
            }
        }
        Parsed::Malformed(_) => {
            let more = [bytes, b"\r\n more"].concat();
            assert_eq!(parse(&more), parsed, "more bytes made it good");
        }
    }
    decisions(&[
        kind(parsed),
        bytes.len() / 8,
        usize::from(is_announced(bytes)),
    ])
}

/// Where to cut: everywhere in a short text, and near both ends of a long one.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |end| *end < 128 || length - end < 32)
}

/// The addresses in the form of version 1 are the same addresses.
fn printed(addresses: Addresses) {
    let Addresses {
        source,
        destination,
    } = addresses;
    assert_eq!(source.is_ipv4(), destination.is_ipv4(), "two families");
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let line = format!(
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    );
    assert!(line.len() <= V1_LENGTH_MAX);
    let whole = Parsed::Complete {
        length: line.len(),
        addresses: Some(addresses),
    };
    assert_eq!(parse(line.as_bytes()), whole);
}

fn kind(parsed: Parsed) -> usize {
    match parsed {
        Parsed::NeedsMore => 0,
        Parsed::Complete { addresses, .. } => match addresses {
            None => 1,
            Some(addresses) if addresses.source.is_ipv4() => 2,
            Some(_) => 3,
        },
        Parsed::Malformed(why) => match why {
            Malformed::Absent => 4,
            Malformed::Endless => 5,
            Malformed::Line => 6,
            Malformed::Kind => 7,
            Malformed::Length => 8,
        },
    }
}
