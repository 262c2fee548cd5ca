//! How records look on disk and inside forwarded proposals: framed, versioned, checksummed.
//!
//! A frame is a fixed header and a body. The header says what the record is, so that a vote never
//! decodes as an entry nor a directory's command as a catalog's; the checksum covers header and
//! body, so that a flipped bit anywhere is noticed. Bodies of our own types are bincode with fixed
//! integers, a limit, and no trailing bytes; bincode is positional, so types that go through here
//! only ever grow at their end, under a new frame version. Every version keeps the header as it is,
//! so that an older build tells a newer record, whose checksum is right, from a damaged one.
//!
//! ```text
//! 0   magic "PTN"        3
//! 3   version            1
//! 4   role               1   what the record is
//! 5   machine            1   whose it is; 0 when it belongs to no state machine
//! 6   zero               2
//! 8   index              8   log index or chunk number, little endian as all that follow
//! 16  length of the body 4
//! 20  crc32c             4   of bytes 0..20 and the body
//! 24  body
//! ```

use bincode::Options;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// The bytes before a body.
pub const HEADER: usize = 24;

/// The largest body: an entry holds at most 512 KiB of commands, a snapshot chunk 512 KiB.
pub const BODY_MAX: usize = 2 * 1024 * 1024;

/// How every record of ours begins.
pub const MAGIC: [u8; 3] = *b"PTN";

/// The newest format that this build writes and reads.
pub const VERSION: u8 = 1;

/// What a record is. The numbers are part of the disk format: add, never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// The data folder's owner.
    Identity = 1,
    /// The last vote of a group.
    Vote = 2,
    /// A log id: how far a log was committed or purged.
    Mark = 3,
    /// One log entry.
    Entry = 4,
    /// The commands of one entry, with their stamp.
    Batch = 5,
    /// One forwarded command.
    Command = 6,
    /// The answer to one command.
    Reply = 7,
    /// What a snapshot holds.
    SnapshotMeta = 8,
    /// A piece of a snapshot.
    SnapshotChunk = 9,
    /// The end of a snapshot: how many bytes the pieces must have.
    SnapshotEnd = 10,
    /// How far a group's log is, and the checksum over it.
    Tip = 12,
    /// The tips of all groups, as they lie beside the engine.
    Durable = 13,
}

/// Why bytes are not the record that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// The bytes end before the record does.
    #[error("it ends after {0} bytes")]
    Truncated(usize),
    /// More bytes than the record.
    #[error("{0} bytes follow it")]
    Trailing(usize),
    /// Not a record of ours.
    #[error("it doesn't begin like a record")]
    Magic,
    /// Whole, but written by a newer build.
    #[error("its format version {0} is unknown to this build")]
    Version(u8),
    /// A record of something else.
    #[error("it is a record of kind {found:?}, not {wanted:?}")]
    Kind {
        /// (role, machine) as read.
        found: (u8, u8),
        /// (role, machine) as expected.
        wanted: (u8, u8),
    },
    /// A record of another place in the log.
    #[error("it says index {found}, not {wanted}")]
    Index {
        /// As read.
        found: u64,
        /// As expected.
        wanted: u64,
    },
    /// Bits changed since it was written.
    #[error("its checksum does not match")]
    Checksum,
    /// Longer than anything that is ever written.
    #[error("its length of {0} bytes is beyond the limit")]
    TooLong(usize),
    /// The checksum is right, the body is not.
    #[error("its body does not decode: {0}")]
    Body(String),
}

/// Frames a body. Fails when the body is longer than [`BODY_MAX`].
pub fn frame(role: Role, machine: u8, index: u64, body: &[u8]) -> Result<Bytes, Corrupt> {
    if body.len() > BODY_MAX {
        return Err(Corrupt::TooLong(body.len()));
    }
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, role as u8, machine, 0, 0]);
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&out), body);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(body);
    Ok(out.into())
}

/// A frame's header, checked as far as it goes without the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record says it is.
    pub role: u8,
    /// Whose it says it is.
    pub machine: u8,
    /// Log index or chunk number.
    pub index: u64,
    /// Bytes of the body.
    pub len: usize,
    version: u8,
    sum: u32,
    partial: u32,
}

impl Header {
    /// Reads a header from the first [`HEADER`] bytes.
    pub fn read(bytes: &[u8]) -> Result<Header, Corrupt> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(Corrupt::Truncated(bytes.len()));
        };
        if header[..3] != MAGIC {
            return Err(Corrupt::Magic);
        }
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let len = word(16) as usize;
        if len > BODY_MAX {
            return Err(Corrupt::TooLong(len));
        }
        Ok(Header {
            role: header[4],
            machine: header[5],
            index: u64::from(word(8)) | u64::from(word(12)) << 32,
            len,
            version: header[3],
            sum: word(20),
            partial: crc32c::crc32c(&header[..20]),
        })
    }

    /// The checksum of the whole record, as the header has it.
    pub fn sum(&self) -> u32 {
        self.sum
    }

    /// Checks a body against the header, and then whether this build knows the version.
    pub fn check(&self, body: &[u8]) -> Result<(), Corrupt> {
        if body.len() < self.len {
            return Err(Corrupt::Truncated(HEADER + body.len()));
        }
        if body.len() > self.len {
            return Err(Corrupt::Trailing(body.len() - self.len));
        }
        if crc32c::crc32c_append(self.partial, body) != self.sum {
            return Err(Corrupt::Checksum);
        }
        if self.version != VERSION {
            return Err(Corrupt::Version(self.version));
        }
        Ok(())
    }

    fn expect(&self, role: Role, machine: u8) -> Result<(), Corrupt> {
        let (found, wanted) = ((self.role, self.machine), (role as u8, machine));
        if found == wanted {
            Ok(())
        } else {
            Err(Corrupt::Kind { found, wanted })
        }
    }
}

/// Reads a frame that must be exactly this record; returns its index and body.
pub fn unframe(role: Role, machine: u8, record: &Bytes) -> Result<(u64, Bytes), Corrupt> {
    let header = Header::read(record)?;
    header.check(&record[HEADER..])?;
    header.expect(role, machine)?;
    Ok((header.index, record.slice(HEADER..)))
}

/// As [`unframe`], for a record whose index is known.
pub fn unframe_at(role: Role, machine: u8, index: u64, record: &Bytes) -> Result<Bytes, Corrupt> {
    let (found, body) = unframe(role, machine, record)?;
    if found == index {
        Ok(body)
    } else {
        Err(Corrupt::Index {
            found,
            wanted: index,
        })
    }
}

/// Encodes a value of ours. Fails when it is longer than [`BODY_MAX`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Corrupt> {
    options(BODY_MAX as u64)
        .serialize(value)
        .map_err(|error| Corrupt::Body(error.to_string()))
}

/// Decodes what [`encode`] wrote, and nothing more.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Corrupt> {
    options(BODY_MAX as u64)
        .deserialize(body)
        .map_err(|error| Corrupt::Body(error.to_string()))
}

/// The longest state. At 250 bytes for each of a million sessions, a directory has 250 MB; the limit is
/// four times that.
pub const STATE_MAX: u64 = 1024 * 1024 * 1024;

/// Writes a whole state, piece by piece as it is encoded; the writer sees to [`STATE_MAX`].
pub fn write_state<T: Serialize>(state: &T, to: impl Write) -> io::Result<()> {
    // A limit here would make the library walk the state twice, to know its length beforehand.
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .serialize_into(to, state)
        .map_err(|error| state_error(*error))
}

/// Reads what [`write_state`] wrote; the caller checks that nothing follows.
pub fn read_state<T: DeserializeOwned>(from: impl Read) -> io::Result<T> {
    options(STATE_MAX)
        .deserialize_from(from)
        .map_err(|error| state_error(*error))
}

fn state_error(kind: bincode::ErrorKind) -> io::Error {
    match kind {
        bincode::ErrorKind::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

fn options(limit: u64) -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(limit)
        .reject_trailing_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        number: u32,
        text: String,
    }

    const GOLDEN: [u8; 33] = [
        0x50, 0x54, 0x4e, 0x01, 0x06, 0x02, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x09, 0x00, 0x00, 0x00, 0x17, 0x90, 0x6c, 0xf1, b'n', b'i', b'n', b'e', b'b', b'y',
        b't', b'e', b's',
    ];

    #[test]
    fn a_frame_is_byte_for_byte_what_it_was() {
        let record = frame(Role::Command, 2, 7, b"ninebytes").unwrap();
        assert_eq!(record[..], GOLDEN, "{record:02x?}");
        assert_eq!(
            unframe(Role::Command, 2, &Bytes::from_static(&GOLDEN)).unwrap(),
            (7, Bytes::from_static(b"ninebytes"))
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..GOLDEN.len() * 8 {
            let mut bytes = GOLDEN.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                unframe(Role::Command, 2, &bytes.into()).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_newer_record_is_told_from_a_damaged_one() {
        let mut newer = GOLDEN.to_vec();
        newer[3] = 2;
        let damaged = unframe(Role::Command, 2, &newer.clone().into());
        assert_eq!(damaged, Err(Corrupt::Checksum));
        let sum = crc32c::crc32c_append(crc32c::crc32c(&newer[..20]), &newer[HEADER..]);
        newer[20..24].copy_from_slice(&sum.to_le_bytes());
        let future = unframe(Role::Command, 2, &newer.into());
        assert_eq!(future, Err(Corrupt::Version(2)));
    }

    #[test]
    fn every_shorter_and_longer_record_is_refused() {
        for len in 0..GOLDEN.len() {
            let cut = Bytes::copy_from_slice(&GOLDEN[..len]);
            assert!(matches!(
                unframe(Role::Command, 2, &cut),
                Err(Corrupt::Truncated(_))
            ));
        }
        let mut long = GOLDEN.to_vec();
        long.push(0);
        assert_eq!(
            unframe(Role::Command, 2, &long.into()),
            Err(Corrupt::Trailing(1))
        );
    }

    #[test]
    fn a_record_of_another_kind_machine_or_place_is_refused() {
        let record = Bytes::from_static(&GOLDEN);
        assert!(matches!(
            unframe(Role::Reply, 2, &record),
            Err(Corrupt::Kind { .. })
        ));
        assert!(matches!(
            unframe(Role::Command, 1, &record),
            Err(Corrupt::Kind { .. })
        ));
        assert!(matches!(
            unframe_at(Role::Command, 2, 8, &record),
            Err(Corrupt::Index {
                found: 7,
                wanted: 8
            })
        ));
    }

    #[test]
    fn a_body_with_trailing_bytes_does_not_decode() {
        let mut body = encode(&Sample {
            number: 7,
            text: "seven".into(),
        })
        .unwrap();
        assert_eq!(decode::<Sample>(&body).unwrap().number, 7);
        body.push(0);
        assert!(decode::<Sample>(&body).is_err());
    }

    #[test]
    fn a_length_that_lies_does_not_allocate() {
        let mut body = encode(&Sample {
            number: 7,
            text: "seven".into(),
        })
        .unwrap();
        body[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode::<Sample>(&body).is_err());
    }
}
