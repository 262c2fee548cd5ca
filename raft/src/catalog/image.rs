//! The records of a catalog, as they are written and read again.
//!
//! The format in the settings says what follows the first part, so that a catalog in which no entry
//! of a newer format was applied is written as older builds write it, and read by them.

use super::command::{Function, Key, LIMITS_FORMAT, Limit, Limited, Node, Region, Tenant, Version};
use super::{Audit, Catalog, Indexes, Records, Settings};
use crate::machine::Clock;
use imbl::{OrdMap, Vector};
use pontoon_proto::id::{FunctionId, KeyId, NodeId, RegionId, TenantId, VersionId};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeTuple as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// A catalog without its indexes.
pub(super) struct Image(Records);

/// What every format has.
#[derive(Serialize, Deserialize)]
struct First {
    clock: Clock,
    tenants: OrdMap<TenantId, Arc<Tenant>>,
    keys: OrdMap<KeyId, Arc<Key>>,
    functions: OrdMap<FunctionId, Arc<Function>>,
    versions: OrdMap<VersionId, Arc<Version>>,
    regions: OrdMap<RegionId, Arc<Region>>,
    nodes: OrdMap<NodeId, Arc<Node>>,
    settings: Settings,
    audit: Vector<Arc<Audit>>,
}

/// What follows from [`LIMITS_FORMAT`] on.
type Second = OrdMap<Limited, Limit>;

impl First {
    fn has_limits(&self) -> bool {
        self.settings.format >= LIMITS_FORMAT
    }

    fn with(self, limits: Second) -> Records {
        let First {
            clock,
            tenants,
            keys,
            functions,
            versions,
            regions,
            nodes,
            settings,
            audit,
        } = self;
        Records {
            clock,
            tenants,
            keys,
            functions,
            versions,
            regions,
            nodes,
            settings,
            audit,
            limits,
        }
    }

    fn of(records: &Records) -> (First, Second) {
        let Records {
            clock,
            tenants,
            keys,
            functions,
            versions,
            regions,
            nodes,
            settings,
            audit,
            limits,
        } = records.clone();
        let first = First {
            clock,
            tenants,
            keys,
            functions,
            versions,
            regions,
            nodes,
            settings,
            audit,
        };
        (first, limits)
    }
}

impl From<Catalog> for Image {
    fn from(catalog: Catalog) -> Image {
        Image(catalog.records)
    }
}

impl From<Image> for Catalog {
    fn from(Image(records): Image) -> Catalog {
        let indexes = Indexes::of(&records);
        Catalog { records, indexes }
    }
}

impl Serialize for Image {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (first, limits) = First::of(&self.0);
        if !first.has_limits() {
            return first.serialize(to);
        }
        let mut parts = to.serialize_tuple(2)?;
        parts.serialize_element(&first)?;
        parts.serialize_element(&limits)?;
        parts.end()
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Image, D::Error> {
        from.deserialize_tuple(2, Parts)
    }
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = Image;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a catalog")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Image, A::Error> {
        let missing = || A::Error::custom("a part of the catalog is missing");
        let first: First = parts.next_element()?.ok_or_else(missing)?;
        let limits = match first.has_limits() {
            true => parts.next_element()?.ok_or_else(missing)?,
            false => Second::default(),
        };
        Ok(Image(first.with(limits)))
    }
}
