//! Typed ids: a request id can't be passed where a worker id is wanted.
//!
//! All are cheap to copy, ordered (the state machines iterate in this order) and print the way
//! people paste them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A random id of these 16 random bytes (UUID version 4).
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(random).into_uuid())
            }

            /// The id in 16 bytes, as it goes over the wire.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// Reads 16 bytes from the wire; `None` when there are more or fewer.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            /// Hyphenated, `urn:uuid:`, braces or 32 hex digits (contract C-RID-2).
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::try_parse(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// The public name of a session (`nvcf-reqid`) and its only key: a UUIDv8 that names its home
    /// region, so that every node knows which group to ask.
    RequestId
);
uuid_id!(
    /// The account that a caller acts for (`nvcf-ncaid`).
    TenantId
);
uuid_id!(
    /// What is invoked.
    FunctionId
);
uuid_id!(
    /// One immutable revision of a function.
    VersionId
);
uuid_id!(
    /// One life of a worker: minted by its sidecar at each start and whenever the worker restarted.
    WorkerId
);
uuid_id!(
    /// The public name of a key; not a secret.
    KeyId
);

impl RequestId {
    /// Mints an id: 12 bits of region number and 110 bits of randomness (RFC 9562 5.8).
    ///
    /// `random` fills the whole UUID first; version, variant and region then overwrite 18 bits.
    pub fn mint(region: RegionId, random: [u8; 16]) -> Self {
        let mut bytes = random;
        let number = region.0;
        bytes[6] = 0x80 | ((number >> 8) as u8 & 0x0f);
        bytes[7] = number as u8;
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Self(Uuid::from_bytes(bytes))
    }

    /// The home region, or `None` when this is not an id that we mint (another UUID version or
    /// variant, or region 0): such an id is refused without asking anybody.
    pub fn region(self) -> Option<RegionId> {
        let bytes = self.0.as_bytes();
        let minted = bytes[6] >> 4 == 8 && bytes[8] >> 6 == 0b10;
        let number = u16::from_be_bytes([bytes[6] & 0x0f, bytes[7]]);
        (minted && number != 0).then_some(RegionId(number))
    }
}

/// The number of a region, 1..=4095; never reused. Part of every request id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegionId(pub u16);

impl RegionId {
    /// The largest region number: request ids have 12 bits for it.
    pub const MAX: RegionId = RegionId(0x0fff);
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a node, 1 and up; given by the catalog and kept in the node's data folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of a node: what it did in an earlier boot no longer counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeBoot {
    /// Which node.
    pub node: NodeId,
    /// Raised at every start of the node.
    pub boot: u64,
}

impl fmt::Display for NodeBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.boot)
    }
}

/// Which replicated state: the catalog, or the directory of one region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum GroupId {
    /// The cluster-wide group.
    Catalog,
    /// The group of one region.
    Region(RegionId),
}

impl GroupId {
    /// The number on the wire: 0 for the catalog, else the region's.
    pub fn number(self) -> u16 {
        match self {
            GroupId::Catalog => 0,
            GroupId::Region(region) => region.0,
        }
    }

    /// The reverse of [`GroupId::number`]; `None` above 4095.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(GroupId::Catalog),
            1..=0x0fff => Some(GroupId::Region(RegionId(number as u16))),
            _ => None,
        }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupId::Catalog => f.write_str("catalog"),
            GroupId::Region(region) => write!(f, "region {region}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_id_names_its_region_whatever_the_randomness() {
        for number in [1, 2, 255, 256, 4095] {
            for random in [[0; 16], [0xff; 16], [0x5a; 16]] {
                let id = RequestId::mint(RegionId(number), random);
                assert_eq!(id.region(), Some(RegionId(number)));
                assert_eq!(id.0.get_version_num(), 8);
                assert_eq!(id.0.get_variant(), uuid::Variant::RFC4122);
                assert_eq!(id.to_string().parse::<RequestId>().unwrap(), id);
            }
        }
    }

    #[test]
    fn a_uuid_of_another_kind_is_not_ours() {
        for text in [
            "00000000-0000-0000-0000-000000000000",
            "67e55044-10b1-426f-9247-bb680e5fe0c8",
            "00000000-0000-8000-8000-000000000000",
            "00000000-0000-8001-c000-000000000000",
        ] {
            assert_eq!(text.parse::<RequestId>().unwrap().region(), None, "{text}");
        }
    }

    #[test]
    fn c_rid_2_all_spellings_name_the_same_session() {
        let id = RequestId::mint(RegionId(3), [7; 16]);
        for text in [
            id.0.hyphenated().to_string(),
            id.0.simple().to_string(),
            id.0.urn().to_string(),
            id.0.braced().to_string(),
            id.0.simple().to_string().to_uppercase(),
        ] {
            assert_eq!(text.parse::<RequestId>().unwrap(), id, "{text}");
        }
        assert!("".parse::<RequestId>().is_err());
        assert!("not-an-id".parse::<RequestId>().is_err());
    }
}
