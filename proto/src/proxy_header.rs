//! The header in front of a connection with which a load balancer says who is behind it: the PROXY
//! protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`, contract C-LSN-5).
//!
//! [`parse`] is a function of the bytes that have come so far. It looks at no more than [`LENGTH_MAX`]
//! of them, so whoever reads for it needs no larger buffer. Left out: what TLVs say, and their
//! checksum; a balancer whose memory is broken is no case that a header can save.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, its line end included (section 2.1: "a 108-byte buffer is always
/// enough to store all the line and a trailing zero").
pub const V1_LENGTH_MAX: usize = 107;

/// The longest that is taken: version 2's fixed part, the largest address block (two paths of local
/// sockets), and 4 KiB of TLVs. Balancers send some 100 bytes of TLVs, more where they pass on a
/// client's certificate's name.
pub const LENGTH_MAX: usize = V2_FIXED + V2_LOCAL_SOCKETS + 4096;

/// What every header of version 1 begins with.
const V1_BEGIN: &[u8] = b"PROXY ";

/// What every header of version 2 begins with; chosen so that no other protocol does.
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length (section 2.2).
const V2_FIXED: usize = 16;

/// The sizes of version 2's address blocks.
const V2_INET: usize = 12;
const V2_INET6: usize = 36;
const V2_LOCAL_SOCKETS: usize = 216;

/// Who is behind the balancer, and whom they dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client dialed.
    pub destination: SocketAddr,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header, possibly.
    NeedsMore,
    /// A header.
    Complete {
        /// How many bytes it has; what follows is the connection's.
        length: usize,
        /// Whom the balancer speaks for. `None` where it speaks for itself (LOCAL, as health checks
        /// do) or does not know (UNKNOWN, UNSPEC), and for clients that did not come by TCP: then
        /// the socket's own addresses count.
        addresses: Option<Addresses>,
    },
    /// No header.
    Malformed(Malformed),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They begin as no version does.
    #[error("no PROXY header")]
    Absent,
    /// Version 1's line does not end where it must.
    #[error("a PROXY line without an end")]
    Endless,
    /// Version 1's line has other words than it must, or an address or port that is none.
    #[error("a malformed PROXY line")]
    Line,
    /// Version 2 with a version, command, family or transport that is not assigned.
    #[error("a PROXY header of an unknown kind")]
    Kind,
    /// Version 2 with an address block that is too short, or longer than [`LENGTH_MAX`] allows.
    #[error("a PROXY header of a wrong length")]
    Length,
}

/// Reads a header from the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let parsed = if begins(bytes, V1_BEGIN) {
        v1(bytes)
    } else if begins(bytes, V2_BEGIN) {
        v2(bytes)
    } else {
        Err(Malformed::Absent)
    };
    match parsed {
        Ok(None) => Parsed::NeedsMore,
        Ok(Some((length, addresses))) => Parsed::Complete { length, addresses },
        Err(why) => Parsed::Malformed(why),
    }
}

/// Whether these are enough bytes to tell that a header is meant, of either version.
pub fn is_announced(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_BEGIN) || bytes.starts_with(V2_BEGIN)
}

/// Whether `bytes` agree with `text` as far as both go.
fn begins(bytes: &[u8], text: &[u8]) -> bool {
    bytes.iter().zip(text).all(|(byte, wanted)| byte == wanted)
}

/// The length of a whole header and its addresses; `None` while bytes are missing.
type Header = Option<(usize, Option<Addresses>)>;

fn v1(bytes: &[u8]) -> Result<Header, Malformed> {
    let most = &bytes[..bytes.len().min(V1_LENGTH_MAX)];
    let Some(end) = most.windows(2).position(|two| two == b"\r\n") else {
        return match most.len() == V1_LENGTH_MAX {
            true => Err(Malformed::Endless),
            false => Ok(None),
        };
    };
    let line = most.get(V1_BEGIN.len()..end).ok_or(Malformed::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed::Line)?;
    let length = end + 2;
    // Behind UNKNOWN anything may stand, and nothing of it counts.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Some((length, None)));
    }
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or(Malformed::Line);
    let family = word()?;
    let (from, to) = (word()?, word()?);
    let (from_port, to_port) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(Malformed::Line);
    }
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from).ok(),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::from).ok(),
        _ => None,
    };
    let (from, to) = (address(from), address(to));
    let (Some(from), Some(to)) = (from, to) else {
        return Err(Malformed::Line);
    };
    let addresses = Addresses {
        source: SocketAddr::new(from, from_port),
        destination: SocketAddr::new(to, to_port),
    };
    Ok(Some((length, Some(addresses))))
}

/// A decimal number without a sign or zeros in front.
fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    match text.parse() {
        Ok(port) if plain && !padded => Ok(port),
        _ => Err(Malformed::Line),
    }
}

fn v2(bytes: &[u8]) -> Result<Header, Malformed> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = *fixed;
    let speaks_for_itself = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Kind),
    };
    let block = match family {
        // LOCAL: the family is ignored, whatever it is.
        _ if speaks_for_itself => 0,
        0x00 => 0,
        0x11 | 0x12 => V2_INET,
        0x21 | 0x22 => V2_INET6,
        0x31 | 0x32 => V2_LOCAL_SOCKETS,
        _ => return Err(Malformed::Kind),
    };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_FIXED + rest;
    if rest < block || length > LENGTH_MAX {
        return Err(Malformed::Length);
    }
    let Some(rest) = bytes.get(V2_FIXED..length) else {
        return Ok(None);
    };
    // Datagrams and local sockets don't come here; a balancer that says so speaks of something else.
    let addresses = match family {
        _ if speaks_for_itself => None,
        0x11 => inet(rest),
        0x21 => inet6(rest),
        _ => None,
    };
    Ok(Some((length, addresses)))
}

fn inet(rest: &[u8]) -> Option<Addresses> {
    let [a, b, c, d, e, f, g, h, ports @ ..] = *rest.first_chunk::<V2_INET>()?;
    Some(pair(
        Ipv4Addr::new(a, b, c, d).into(),
        Ipv4Addr::new(e, f, g, h).into(),
        ports,
    ))
}

fn inet6(rest: &[u8]) -> Option<Addresses> {
    let (from, rest) = rest.split_first_chunk::<16>()?;
    let (to, rest) = rest.split_first_chunk::<16>()?;
    Some(pair(
        Ipv6Addr::from(*from).into(),
        Ipv6Addr::from(*to).into(),
        *rest.first_chunk()?,
    ))
}

fn pair(from: IpAddr, to: IpAddr, [a, b, c, d]: [u8; 4]) -> Addresses {
    Addresses {
        source: SocketAddr::new(from, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(to, u16::from_be_bytes([c, d])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complete(source: &str, destination: &str, length: usize) -> Parsed {
        Parsed::Complete {
            length,
            addresses: Some(Addresses {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
            }),
        }
    }

    fn nobody(length: usize) -> Parsed {
        Parsed::Complete {
            length,
            addresses: None,
        }
    }

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = V2_BEGIN.to_vec();
        bytes.extend([command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    /// A well-formed header of either version, with the addresses it carries.
    fn written(version: u8, from: SocketAddr, to: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let digit = if from.is_ipv4() { 4 } else { 6 };
        if version == 1 {
            let (a, b) = (from.ip(), to.ip());
            let (p, q) = (from.port(), to.port());
            return format!("PROXY TCP{digit} {a} {b} {p} {q}\r\n").into_bytes();
        }
        let mut rest = octets(from.ip());
        rest.extend(octets(to.ip()));
        rest.extend(from.port().to_be_bytes());
        rest.extend(to.port().to_be_bytes());
        rest.extend(tlvs);
        header(0x21, if digit == 4 { 0x11 } else { 0x21 }, &rest)
    }

    #[test]
    fn c_lsn_5_lines_of_version_1_say_who_is_behind_the_balancer() {
        let four = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nPRI * HTTP";
        assert_eq!(
            parse(four),
            complete("192.0.2.7:56324", "198.51.100.1:443", 45)
        );
        let six = b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n";
        assert_eq!(parse(six), complete("[2001:db8::1]:65535", "[::1]:0", 36));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), nobody(15));
        assert_eq!(parse(b"PROXY UNKNOWN ffff::1 and so on\r\nGET"), nobody(33));
    }

    #[test]
    fn c_lsn_5_lines_that_are_not_exactly_so_are_malformed() {
        for line in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 1\r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 +443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 056 443\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 56 443\r\n",
            "PROXY TCP4 ::1 ::1 56 443\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 56 443\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 56 443\r\n",
            "PROXY tcp4 192.0.2.7 198.51.100.1 56 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            let parsed = parse(line.as_bytes());
            assert_eq!(parsed, Parsed::Malformed(Malformed::Line), "{line}");
        }
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 93]].concat();
        assert_eq!(parse(&endless), Parsed::Malformed(Malformed::Endless));
        assert_eq!(parse(&endless[..106]), Parsed::NeedsMore);
        let longest = [&endless[..105], b"\r\n"].concat();
        assert_eq!(parse(&longest), nobody(107));
        assert_eq!(
            parse(b"GET / HTTP/1.1\r\n"),
            Parsed::Malformed(Malformed::Absent)
        );
    }

    #[test]
    fn c_lsn_5_a_balancer_may_speak_for_itself_or_not_know() {
        // LOCAL ignores the family; UNSPEC has no addresses; both may carry TLVs.
        assert_eq!(parse(&header(0x20, 0x00, b"")), nobody(16));
        assert_eq!(parse(&header(0x20, 0x99, &[7; 5])), nobody(21));
        assert_eq!(parse(&header(0x21, 0x00, &[4, 0, 1, 0])), nobody(20));
        // Local sockets and datagrams have no address that a TCP client could have.
        assert_eq!(parse(&header(0x21, 0x31, &[0; 216])), nobody(232));
        assert_eq!(parse(&header(0x21, 0x12, &[1; 12])), nobody(28));
    }

    #[test]
    fn c_lsn_5_kinds_that_are_not_assigned_and_wrong_lengths_are_malformed() {
        for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x21, 0x13), (0x21, 0x41)] {
            let parsed = parse(&header(command, family, &[0; 216]));
            assert_eq!(parsed, Parsed::Malformed(Malformed::Kind));
        }
        for (family, length) in [(0x11, 11), (0x21, 35), (0x31, 215), (0x00, 4313)] {
            let parsed = parse(&header(0x21, family, &vec![0; length]));
            assert_eq!(parsed, Parsed::Malformed(Malformed::Length), "{length}");
        }
        let largest = header(0x21, 0x11, &[0; 4312]);
        assert!(matches!(
            parse(&largest),
            Parsed::Complete {
                length: LENGTH_MAX,
                ..
            }
        ));
        // A length that is too long is refused before the bytes have come.
        assert_eq!(
            parse(&header(0x21, 0x11, &[0; 4313])[..16]),
            Parsed::Malformed(Malformed::Length)
        );
    }

    fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let four = any::<([u8; 4], [u8; 4], u16, u16)>()
            .prop_map(|(a, b, p, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q))));
        let six = any::<([u8; 16], [u8; 16], u16, u16)>()
            .prop_map(|(a, b, p, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q))));
        prop_oneof![four, six]
    }

    proptest! {
        #[test]
        fn c_lsn_5_what_a_balancer_writes_is_read_back_and_every_part_of_it_needs_more(
            (from, to) in addresses(),
            version in 1_u8..=2,
            tlvs in proptest::collection::vec(any::<u8>(), 0..200),
            behind in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let header = written(version, from, to, &tlvs);
            let all = [&header[..], &behind].concat();
            let wanted = Parsed::Complete {
                length: header.len(),
                addresses: Some(Addresses { source: from, destination: to }),
            };
            prop_assert_eq!(parse(&all), wanted);
            for end in 0..header.len() {
                prop_assert_eq!(parse(&all[..end]), Parsed::NeedsMore);
            }
            prop_assert!(is_announced(&all));
        }

        #[test]
        fn c_lsn_5_no_bytes_make_it_ask_for_more_than_the_longest_header(
            begin in prop_oneof![Just(V1_BEGIN), Just(V2_BEGIN), Just(&b""[..])],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
            filling in any::<u8>(),
        ) {
            let mut bytes = [begin, &rest].concat();
            let early = parse(&bytes);
            bytes.resize(LENGTH_MAX.max(bytes.len()), filling);
            let late = parse(&bytes);
            prop_assert_ne!(late, Parsed::NeedsMore);
            if early != Parsed::NeedsMore {
                prop_assert_eq!(early, late, "more bytes change no verdict");
            }
            if let Parsed::Complete { length, .. } = late {
                prop_assert!(length <= LENGTH_MAX);
            }
        }
    }
}
