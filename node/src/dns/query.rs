//! Reads what a stranger asks.
//!
//! Names are read by the library; the records behind the question are walked here, because only one of
//! them matters, OPT (RFC 6891), and because of its options only one does, the client's subnet (RFC
//! 7871), whose form has to be checked more strictly than the library does.
//!
//! Pure.

use super::prefixes::Prefix;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use trust_dns_resolver::proto::op::Query;
use trust_dns_resolver::proto::rr::{Name, RecordType};
use trust_dns_resolver::proto::serialize::binary::{BinDecodable as _, BinDecoder, DecodeError};

/// The length of a message's head, RFC 1035 4.1.1.
const HEAD: usize = 12;

/// The code of the option with the client's subnet, RFC 7871 6.
pub(super) const SUBNET: u16 = 8;

/// What of a head comes back with every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: u16,
    pub(super) opcode: u8,
    pub(super) recursion_desired: bool,
}

/// A question, and what came with it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) head: Head,
    pub(super) question: Query,
    pub(super) edns: Option<Edns>,
}

/// The OPT record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edns {
    pub(super) version: u8,
    /// How much may be sent by UDP.
    pub(super) payload: u16,
    pub(super) dnssec_ok: bool,
    pub(super) subnet: Option<Subnet>,
}

/// The client on whose behalf a resolver asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    /// The option's data as they came; an answer repeats them, but for the scope.
    pub(super) data: Vec<u8>,
    /// None when the resolver keeps its client to itself, by a prefix of no length.
    pub(super) client: Option<Prefix>,
}

impl Subnet {
    /// The data of the answer's option: the scope is the fourth byte.
    pub(super) fn scoped(&self, scope: u8) -> Vec<u8> {
        let mut data = self.data.clone();
        if let Some(byte) = data.get_mut(3) {
            *byte = scope;
        }
        data
    }
}

/// Why there is no question.
#[derive(Clone, Debug)]
pub(super) enum Unread {
    /// Too short to be answered.
    Short,
    /// An answer; whoever answers answers starts a war.
    Response,
    /// Something else than a query.
    Opcode(Head),
    /// It breaks the rules; with its question, if that could be read.
    Malformed(Head, Option<Query>),
}

/// Reads a message.
pub(super) fn read(bytes: &[u8]) -> Result<Asked, Unread> {
    let Some(head_bytes) = bytes.first_chunk::<HEAD>() else {
        return Err(Unread::Short);
    };
    let word = |at: usize| u16::from_be_bytes([head_bytes[at], head_bytes[at + 1]]);
    let flags = head_bytes[2];
    let head = Head {
        id: word(0),
        opcode: flags >> 3 & 0xF,
        recursion_desired: flags & 1 == 1,
    };
    if flags & 0x80 != 0 {
        return Err(Unread::Response);
    }
    if head.opcode != 0 {
        return Err(Unread::Opcode(head));
    }
    // A query has one question, RFC 9619, and no answers.
    let [questions, answers, authorities, additionals] = [4, 6, 8, 10].map(word);
    if questions != 1 || answers != 0 {
        return Err(Unread::Malformed(head, None));
    }
    let mut decoder = BinDecoder::new(bytes).clone(HEAD as u16);
    let Ok(question) = Query::read(&mut decoder) else {
        return Err(Unread::Malformed(head, None));
    };
    match records(&mut decoder, authorities, additionals) {
        Ok(edns) => Ok(Asked {
            head,
            question,
            edns,
        }),
        Err(_) => Err(Unread::Malformed(head, Some(question))),
    }
}

/// Something that is not as the RFCs have it.
struct Broken;

impl From<DecodeError> for Broken {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

/// Walks the records behind the question. Each takes eleven bytes at least, so the counts of a head
/// can't make this long.
fn records(
    decoder: &mut BinDecoder<'_>,
    authorities: u16,
    additionals: u16,
) -> Result<Option<Edns>, Broken> {
    let mut edns = None;
    for number in 0..u32::from(authorities) + u32::from(additionals) {
        let name = Name::read(decoder)?;
        let kind = decoder.read_u16()?.unverified();
        let class = decoder.read_u16()?.unverified();
        let ttl = decoder.read_u32()?.unverified();
        let length = decoder.read_u16()?.unverified();
        let data = decoder.read_slice(usize::from(length))?.unverified();
        if RecordType::from(kind) != RecordType::OPT {
            continue;
        }
        // One at most, of the root, and among the additionals: RFC 6891 6.1.1.
        if edns.is_some() || !name.is_root() || number < u32::from(authorities) {
            return Err(Broken);
        }
        let [_, version, flags, _] = ttl.to_be_bytes();
        edns = Some(Edns {
            version,
            payload: class,
            dnssec_ok: flags & 0x80 != 0,
            // Another version may have other options.
            subnet: match version {
                0 => subnet(data)?,
                _ => None,
            },
        });
    }
    match decoder.is_empty() {
        true => Ok(edns),
        false => Err(Broken),
    }
}

/// Finds the client's subnet among the options.
fn subnet(mut options: &[u8]) -> Result<Option<Subnet>, Broken> {
    let mut found = None;
    while !options.is_empty() {
        let (head, rest) = options.split_first_chunk::<4>().ok_or(Broken)?;
        let [code, length] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_be_bytes);
        let (data, rest) = rest.split_at_checked(usize::from(length)).ok_or(Broken)?;
        options = rest;
        // Some tools leave the family out when they name nobody: that is as good as no option.
        if code == SUBNET && found.is_none() && data != [0; 4] {
            found = Some(Subnet {
                data: data.to_vec(),
                client: client(data)?,
            });
        }
    }
    Ok(found)
}

/// Reads the option's data: family, source prefix, scope, and the address as far as the prefix goes,
/// with zeros behind it (RFC 7871 6).
fn client(data: &[u8]) -> Result<Option<Prefix>, Broken> {
    let (head, address) = data.split_first_chunk::<4>().ok_or(Broken)?;
    let (family, source, scope) = (u16::from_be_bytes([head[0], head[1]]), head[2], head[3]);
    if scope != 0 || address.len() != usize::from(source).div_ceil(8) {
        return Err(Broken);
    }
    fn padded<const N: usize>(address: &[u8]) -> Result<[u8; N], Broken> {
        let mut all = [0; N];
        all.get_mut(..address.len())
            .ok_or(Broken)?
            .copy_from_slice(address);
        Ok(all)
    }
    let address: IpAddr = match family {
        1 => Ipv4Addr::from(padded::<4>(address)?).into(),
        2 => Ipv6Addr::from(padded::<16>(address)?).into(),
        _ => return Err(Broken),
    };
    // IPv4 in IPv6's clothes would be another family with another length.
    let mapped = matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
    if mapped {
        return Ok(None);
    }
    let prefix = Prefix::of(address, source);
    let whole = Prefix::of(address, u8::MAX);
    match prefix.same_bits(whole) {
        true => Ok((source > 0).then_some(prefix)),
        false => Err(Broken),
    }
}
