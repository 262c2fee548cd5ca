//! The records of a catalog, as they are written and read again.
//!
//! The format in the settings says what follows the first part, so that a catalog in which no entry
//! of a newer format was applied is written as older builds write it, and read by them.

use super::command::{LIMITS_FORMAT, ROUTES_FORMAT, SHARES_FORMAT};
use super::{Catalog, Indexes, Records};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeTuple as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A catalog without its indexes.
pub(super) struct Image(Records);

/// Whether limits follow the first part.
fn has_limits(records: &Records) -> bool {
    records.settings.format >= LIMITS_FORMAT
}

/// Whether weights and regions of versions follow the limits.
fn has_routes(records: &Records) -> bool {
    records.settings.format >= ROUTES_FORMAT
}

/// Whether the guests of functions follow the routes.
fn has_shares(records: &Records) -> bool {
    records.settings.format >= SHARES_FORMAT
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
        let records = &self.0;
        if !has_limits(records) {
            return records.serialize(to);
        }
        let (routes, shares) = (has_routes(records), has_shares(records));
        let count = match (routes, shares) {
            (false, _) => 2,
            (true, false) => 4,
            (true, true) => 5,
        };
        let mut parts = to.serialize_tuple(count)?;
        parts.serialize_element(records)?;
        parts.serialize_element(&records.limits)?;
        if routes {
            parts.serialize_element(&records.weights)?;
            parts.serialize_element(&records.spills)?;
        }
        if shares {
            parts.serialize_element(&records.shares)?;
        }
        parts.end()
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Image, D::Error> {
        from.deserialize_tuple(5, Parts)
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
        let mut records: Records = parts.next_element()?.ok_or_else(missing)?;
        if has_limits(&records) {
            records.limits = parts.next_element()?.ok_or_else(missing)?;
        }
        if has_routes(&records) {
            records.weights = parts.next_element()?.ok_or_else(missing)?;
            records.spills = parts.next_element()?.ok_or_else(missing)?;
        }
        if has_shares(&records) {
            records.shares = parts.next_element()?.ok_or_else(missing)?;
        }
        Ok(Image(records))
    }
}
