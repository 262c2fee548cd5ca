//! The records alone, in key order: what snapshots and the state hash are made of.
//!
//! Each map is written as a sequence, and a record that knows its own key is not written with it again:
//! a bound session takes 183 bytes. Reading inserts record by record, so that no copy of the whole is
//! ever made, and refuses keys that don't rise: there is one way to write a state.

use super::index::Indexes;
use super::session::Session;
use super::worker::Worker;
use super::{Directory, Life, Tomb, dense};
use crate::group::FORMAT;
use crate::machine::Clock;
use imbl::OrdMap;
use pontoon_proto::id::{NodeId, RegionId, RequestId, WorkerId};
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A directory without its indexes.
#[derive(Serialize, Deserialize)]
pub(super) struct Image {
    pub(super) region: RegionId,
    pub(super) clock: Clock,
    pub(super) bindings: u64,
    pub(super) arrivals: u64,
    #[serde(with = "records")]
    pub(super) sessions: OrdMap<RequestId, Arc<Session>>,
    #[serde(with = "records")]
    pub(super) workers: OrdMap<WorkerId, Arc<Worker>>,
    #[serde(with = "records")]
    pub(super) lives: OrdMap<NodeId, Life>,
    #[serde(with = "records")]
    pub(super) tombs: OrdMap<RequestId, Tomb>,
    #[serde(with = "records")]
    pub(super) lost: OrdMap<WorkerId, Clock>,
}

impl From<Directory> for Image {
    fn from(from: Directory) -> Image {
        let Directory {
            region,
            clock,
            bindings,
            arrivals,
            sessions,
            workers,
            lives,
            tombs,
            lost,
            indexes: _,
            format: _,
        } = from;
        Image {
            region,
            clock,
            bindings,
            arrivals,
            sessions,
            workers,
            lives,
            tombs,
            lost,
        }
    }
}

impl From<Image> for Directory {
    fn from(from: Image) -> Directory {
        let indexes = Indexes::of(&from);
        let Image {
            region,
            clock,
            bindings,
            arrivals,
            sessions,
            workers,
            lives,
            tombs,
            lost,
        } = from;
        Directory {
            region,
            clock,
            bindings,
            arrivals,
            sessions,
            workers,
            lives,
            tombs,
            lost,
            indexes,
            format: FORMAT,
        }
    }
}

/// How an item of a map is written.
trait Item<K>: Clone {
    type Written<'a>: Serialize
    where
        Self: 'a,
        K: 'a;
    type Read: DeserializeOwned;

    fn written<'a>(key: &'a K, value: &'a Self) -> Self::Written<'a>;
    fn item(read: Self::Read) -> (K, Self);
}

impl Item<RequestId> for Arc<Session> {
    type Written<'a> = &'a Session;
    type Read = Session;

    fn written<'a>(_: &'a RequestId, value: &'a Self) -> &'a Session {
        value
    }

    fn item(read: Session) -> (RequestId, Self) {
        (read.id, Arc::new(read))
    }
}

impl Item<WorkerId> for Arc<Worker> {
    type Written<'a> = &'a Worker;
    type Read = Worker;

    fn written<'a>(_: &'a WorkerId, value: &'a Self) -> &'a Worker {
        value
    }

    fn item(read: Worker) -> (WorkerId, Self) {
        (read.id, Arc::new(read))
    }
}

/// Values that don't know their keys are written with them.
macro_rules! pairs {
    ($($key:ty => $value:ty),*) => {$(
        impl Item<$key> for $value {
            type Written<'a> = (&'a $key, &'a $value);
            type Read = ($key, $value);

            fn written<'a>(key: &'a $key, value: &'a Self) -> Self::Written<'a> {
                (key, value)
            }

            fn item(read: Self::Read) -> ($key, Self) {
                read
            }
        }
    )*};
}

pairs!(NodeId => Life, RequestId => Tomb, WorkerId => Clock);

/// Maps as sequences of their items.
mod records {
    use super::*;

    pub(super) fn serialize<K, V, S>(map: &OrdMap<K, V>, to: S) -> Result<S::Ok, S::Error>
    where
        K: Ord,
        V: Item<K>,
        S: Serializer,
    {
        let mut items = to.serialize_seq(Some(map.len()))?;
        for (key, value) in map {
            items.serialize_element(&V::written(key, value))?;
        }
        items.end()
    }

    pub(super) fn deserialize<'de, K, V, D>(from: D) -> Result<OrdMap<K, V>, D::Error>
    where
        K: Ord + Clone,
        V: Item<K>,
        D: Deserializer<'de>,
    {
        from.deserialize_seq(Rising(PhantomData))
    }

    struct Rising<K, V>(PhantomData<(K, V)>);

    impl<'de, K: Ord + Clone, V: Item<K>> Visitor<'de> for Rising<K, V> {
        type Value = OrdMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("records in key order")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut map = dense::Builder::new();
            let mut last: Option<K> = None;
            while let Some(read) = items.next_element::<V::Read>()? {
                let (key, value) = V::item(read);
                if last.as_ref().is_some_and(|last| *last >= key) {
                    return Err(A::Error::custom("records are out of order"));
                }
                last = Some(key.clone());
                map.push(key, value);
            }
            Ok(map.finish())
        }
    }
}
