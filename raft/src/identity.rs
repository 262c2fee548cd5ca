//! Whose data folder this is: one process, one node, one cluster.
//!
//! The folder holds a lock that lives as long as the process, and a record with the cluster, the
//! node's name and number, and its boot. The boot is raised and synced at every open, before anything
//! is said to anybody, so that what an earlier life did can be told from what this one does.

use crate::codec::{self, Role};
use bytes::Bytes;
use pontoon_proto::id::{NodeBoot, NodeId};
use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What must be free to start: the engine begins with a few MiB and grows by segments of 1 MiB.
const SPACE_MIN: u64 = 64 * 1024 * 1024;

/// Why a folder can't be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it.
    #[error(
        "data folder {dir} is in use by another process: stop that node first, or give this one a \
         folder of its own"
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// It is another cluster's.
    #[error(
        "data folder {dir} belongs to another cluster: give this node an empty folder, or correct \
         its join token and list of first members"
    )]
    OtherCluster {
        /// The folder.
        dir: PathBuf,
    },
    /// It is another node's.
    #[error(
        "data folder {dir} belongs to node {found}, not to {wanted}: start that node with it, or \
         give this one a folder of its own"
    )]
    OtherNode {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wants it.
        wanted: String,
    },
    /// The disk is full.
    #[error("the disk of data folder {dir} is full ({free} MiB free, 64 MiB needed): make room")]
    NoSpace {
        /// The folder.
        dir: PathBuf,
        /// What is left.
        free: u64,
    },
    /// The record is damaged.
    #[error(
        "data folder {dir} has a damaged identity record ({why}): restore the folder from a \
         backup, or give this node an empty one"
    )]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        why: codec::Corrupt,
    },
    /// The folder can't be read or written.
    #[error("data folder {dir} can't be used: {source}")]
    Files {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    cluster: [u8; 16],
    name: String,
    node: NodeId,
    boot: u64,
}

/// A locked data folder. Dropping it lets go of the folder.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    stored: Mutex<Stored>,
    _lock: File,
}

impl Identity {
    /// Locks the folder, checks whose it is, and raises the boot. A missing or empty folder becomes
    /// this node's.
    pub fn open(
        dir: &Path,
        cluster: [u8; 16],
        name: &str,
        node: NodeId,
    ) -> Result<Identity, IdentityError> {
        let files = |source| of_files(dir, source);
        fs::create_dir_all(dir).map_err(files)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .map_err(files)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(IdentityError::InUse { dir: dir.into() });
            }
            Err(error) => return Err(files(error.into())),
        }
        let space = statvfs(dir).map_err(|error| files(error.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < SPACE_MIN {
            return Err(IdentityError::NoSpace {
                dir: dir.into(),
                free: free >> 20,
            });
        }
        let mut stored = match fs::read(dir.join("identity")) {
            Ok(record) => read(&record.into()).map_err(|why| IdentityError::Damaged {
                dir: dir.into(),
                why,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stored {
                cluster,
                name: name.into(),
                node,
                boot: 0,
            },
            Err(error) => return Err(files(error)),
        };
        if stored.cluster != cluster {
            return Err(IdentityError::OtherCluster { dir: dir.into() });
        }
        if stored.name != name || stored.node != node {
            return Err(IdentityError::OtherNode {
                dir: dir.into(),
                found: format!("{} (number {})", stored.name, stored.node),
                wanted: format!("{name} (number {node})"),
            });
        }
        stored.boot += 1;
        write(dir, &stored).map_err(files)?;
        Ok(Identity {
            dir: dir.into(),
            stored: Mutex::new(stored),
            _lock: lock,
        })
    }

    /// This node and its present boot.
    pub fn at(&self) -> NodeBoot {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        NodeBoot {
            node: stored.node,
            boot: stored.boot,
        }
    }

    /// The node's name.
    pub fn name(&self) -> String {
        self.stored
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .name
            .clone()
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Begins another life. It is on the disk when this returns. Blocks.
    pub fn raise_boot(&self) -> Result<NodeBoot, IdentityError> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = stored.clone();
        next.boot += 1;
        write(&self.dir, &next).map_err(|error| of_files(&self.dir, error))?;
        *stored = next;
        Ok(NodeBoot {
            node: stored.node,
            boot: stored.boot,
        })
    }
}

fn of_files(dir: &Path, source: io::Error) -> IdentityError {
    match source.kind() {
        io::ErrorKind::StorageFull => IdentityError::NoSpace {
            dir: dir.into(),
            free: 0,
        },
        _ => IdentityError::Files {
            dir: dir.into(),
            source,
        },
    }
}

fn read(record: &Bytes) -> Result<Stored, codec::Corrupt> {
    codec::decode(&codec::unframe(Role::Identity, 0, record)?.1)
}

fn write(dir: &Path, stored: &Stored) -> io::Result<()> {
    let body = codec::encode(stored).map_err(io::Error::other)?;
    let record = codec::frame(Role::Identity, 0, 0, &body).map_err(io::Error::other)?;
    let aside = dir.join("identity.tmp");
    let mut file = File::create(&aside)?;
    file.write_all(&record)?;
    file.sync_all()?;
    fs::rename(&aside, dir.join("identity"))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 16] = [1; 16];

    #[test]
    fn every_open_is_another_boot() {
        let dir = tempfile::tempdir().unwrap();
        for boot in [1, 2] {
            let identity = Identity::open(dir.path(), A, "us-east-1", NodeId(1)).unwrap();
            assert_eq!(
                identity.at(),
                NodeBoot {
                    node: NodeId(1),
                    boot
                }
            );
        }
        let identity = Identity::open(dir.path(), A, "us-east-1", NodeId(1)).unwrap();
        assert_eq!(identity.raise_boot().unwrap().boot, 4);
        drop(identity);
        let again = Identity::open(dir.path(), A, "us-east-1", NodeId(1)).unwrap();
        assert_eq!(again.at().boot, 5);
    }

    #[test]
    fn a_folder_has_one_process_one_cluster_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let open = |cluster, name, node| Identity::open(dir.path(), cluster, name, NodeId(node));
        let first = open(A, "us-east-1", 1).unwrap();
        assert!(matches!(
            open(A, "us-east-1", 1),
            Err(IdentityError::InUse { .. })
        ));
        drop(first);
        assert!(matches!(
            open([2; 16], "us-east-1", 1),
            Err(IdentityError::OtherCluster { .. })
        ));
        let other = open(A, "us-west-1", 1).unwrap_err();
        assert!(matches!(other, IdentityError::OtherNode { .. }));
        assert!(
            other
                .to_string()
                .contains("belongs to node us-east-1 (number 1)"),
            "{other}"
        );
        assert!(matches!(
            open(A, "us-east-1", 2),
            Err(IdentityError::OtherNode { .. })
        ));
        assert_eq!(
            open(A, "us-east-1", 1).unwrap().at().boot,
            2,
            "refusals raise nothing"
        );
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Identity::open(dir.path(), A, "us-east-1", NodeId(1)).unwrap());
        let path = dir.path().join("identity");
        let mut record = fs::read(&path).unwrap();
        record[30] ^= 1;
        fs::write(&path, record).unwrap();
        let refused = Identity::open(dir.path(), A, "us-east-1", NodeId(1));
        assert!(matches!(refused, Err(IdentityError::Damaged { .. })));
    }
}
