//! Golden files: every kind of record that we store or send, byte for byte as some build wrote it.
//!
//! Each record lies in `raft/tests/golden/`, and every build must write these very bytes and read
//! them back. A new one is added by running the tests with `BLESS=1`; that never changes one that is
//! there. Whoever changes a format on purpose gives it a new version, and keeps reading the old file.
//!
//! A test makes one [`Golden`] for the names with its prefix, shows it all its records, and ends it.

use crate::codec::{self, Role};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;

/// All prefixes; a file with none of them belongs to nobody.
const PREFIXES: [&str; 5] = ["catalog-", "directory-", "group-", "identity-", "store-"];

/// The records of one prefix.
pub(crate) struct Golden {
    prefix: &'static str,
    names: BTreeSet<String>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn files() -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

impl Golden {
    pub(crate) fn of(prefix: &'static str) -> Golden {
        assert!(PREFIXES.contains(&prefix), "{prefix}");
        Golden {
            prefix,
            names: BTreeSet::new(),
        }
    }

    /// Checks a record against its file; returns what is in the file.
    pub(crate) fn bytes(&mut self, name: &str, record: &[u8]) -> Bytes {
        let name = format!("{}{name}.bin", self.prefix);
        let path = folder().join(&name);
        if !path.exists() {
            let blessed = std::env::var_os("BLESS").is_some();
            assert!(blessed, "{name} is missing: BLESS=1 adds it");
            std::fs::write(&path, record).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert_eq!(
            record, golden,
            "{name} is not what it was: other builds can't read this record. Give it a new version."
        );
        assert!(self.names.insert(name.clone()), "{name} is there twice");
        golden.into()
    }

    /// A value that is written and read by these functions.
    pub(crate) fn value<T: PartialEq + Debug>(
        &mut self,
        name: &str,
        value: &T,
        write: impl Fn(&T) -> Bytes,
        read: impl Fn(&Bytes) -> T,
    ) {
        let golden = self.bytes(name, &write(value));
        assert_eq!(read(&golden), *value, "{name} does not come back");
    }

    /// All variants of an enum, in order, each in a frame of its own.
    pub(crate) fn variants<T>(&mut self, name: &str, role: Role, machine: u8, values: &[T])
    where
        T: PartialEq + Debug + Serialize + DeserializeOwned,
    {
        places(values);
        for (place, value) in values.iter().enumerate() {
            let said = format!("{value:?}");
            let end = said.find(|c: char| !c.is_alphanumeric());
            let variant = &said[..end.unwrap_or(said.len())];
            self.value(
                &format!("{name}-{place:02}-{variant}"),
                value,
                |value| codec::frame(role, machine, 0, &codec::encode(value).unwrap()).unwrap(),
                |golden| {
                    let (_, body) = codec::unframe(role, machine, golden).unwrap();
                    codec::decode(&body).unwrap()
                },
            );
        }
    }

    /// Checks that no file is left over.
    pub(crate) fn end(self) {
        let mut files = files();
        files.retain(|name| name.starts_with(self.prefix));
        let left: Vec<_> = files.difference(&self.names).collect();
        assert!(left.is_empty(), "nobody reads {left:?} any more");
    }
}

/// Checks that these are all variants of an enum, each at its place: the index that the codec writes
/// first.
pub(crate) fn places<T: Debug + Serialize + DeserializeOwned>(values: &[T]) {
    for (place, value) in values.iter().enumerate() {
        let bytes = codec::encode(value).unwrap();
        assert_eq!(bytes[..4], (place as u32).to_le_bytes(), "{value:?}");
    }
    let next = (values.len() as u32).to_le_bytes();
    let error = codec::decode::<T>(&next).map(|_| ()).unwrap_err();
    let all = format!("0 <= i < {}", values.len());
    assert!(
        error.to_string().contains(&all),
        "there is a variant behind {:?} that nobody pins: {error}",
        values.last()
    );
}

#[test]
fn every_golden_file_belongs_to_somebody() {
    let is_known = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let strange: Vec<_> = files().into_iter().filter(|name| !is_known(name)).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn a_data_folder_names_its_owner_in_the_same_bytes() {
    use crate::identity::Identity;
    use pontoon_proto::id::NodeId;
    let mut golden = Golden::of("identity-");
    let dir = tempfile::tempdir().unwrap();
    let open = || Identity::open(dir.path(), [1; 16], "us-east-1", Some(NodeId(7)), [9; 16]);
    drop(open().unwrap());
    let path = dir.path().join("identity");
    let found = golden.bytes("fresh", &std::fs::read(&path).unwrap());
    std::fs::write(&path, found).unwrap();
    assert_eq!(open().unwrap().name(), "us-east-1");
    golden.end();
}
