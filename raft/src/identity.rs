//! Whose data folder this is: one process, one node, one cluster.
//!
//! The folder holds a lock that lives as long as the process, and a record with the cluster, the
//! node's name, number, life and boot. The boot is raised and synced at every open, before anything
//! is said to anybody, so that what an earlier boot did can be told from what this one does.
//!
//! ```text
//!            fresh ────────── founded by the first members ─────────▶ settled, life 1
//!              └── admitted by the catalog: a new node, or one ─────▶ settled, life 1, 2, ...
//!                  that lost its folder
//! ```
//!
//! A fresh folder must not take the place of one that was lost: as a voter, that one had promised
//! things. So each first member remembers, on its disk, which folder it met under which name
//! ([`Identity::greet`]), and a folder is founded only when enough of them vouch that they met no
//! other: see [`founded`].

use crate::catalog::boot_before;
use crate::catalog::command::FolderId;
use crate::codec::{self, Role};
use bytes::Bytes;
use pontoon_proto::id::{GroupId, NodeBoot, NodeId};
use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    folder: FolderId,
    /// 0 while fresh.
    node: NodeId,
    /// 0 while fresh.
    life: u32,
    boot: u64,
    /// The folders that were met under the first members' names.
    greeted: BTreeMap<NodeId, FolderId>,
    /// What this folder has of each group, by number.
    groups: BTreeMap<u16, Replica>,
}

/// What a folder has of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The incarnation that its log is of.
    pub generation: u64,
    /// How often the log was found damaged or missing and begun anew.
    pub damages: u32,
    /// Whether anything was ever in it: then an empty log is a lost one.
    pub holds: bool,
}

/// What one first member says about the folder of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the first one that it met under that name.
    Founder,
    /// It met another one before.
    Other,
    /// It lost its own memory, or was no first member: it can't say.
    Unsure,
}

/// Whether a fresh folder of one of `members` first members may take the place that the list of first
/// members has for it; none while more must be asked.
///
/// It takes more than half of the other members to vouch for it. Any two such sets have a member in
/// common, so a second folder of the same name meets at least one that remembers the first. Then,
/// and when too many can't say, the catalog has to decide: there must be one.
pub fn founded(members: usize, verdicts: &[Verdict]) -> Option<bool> {
    let others = members.saturating_sub(1);
    let needed = if others == 0 { 0 } else { others / 2 + 1 };
    let count = |verdict| verdicts.iter().filter(|one| **one == verdict).count();
    if count(Verdict::Other) > 0 || others - count(Verdict::Unsure).min(others) < needed {
        return Some(false);
    }
    (count(Verdict::Founder) >= needed).then_some(true)
}

/// A locked data folder. Dropping it lets go of the folder.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    stored: Mutex<Stored>,
    _lock: File,
}

impl Identity {
    /// Locks the folder, checks whose it is, and raises the boot if it is settled. A missing or empty
    /// folder becomes this node's, named `fresh`. `number` is the node's place among the first
    /// members, if it has one.
    pub fn open(
        dir: &Path,
        cluster: [u8; 16],
        name: &str,
        number: Option<NodeId>,
        fresh: FolderId,
    ) -> Result<Identity, IdentityError> {
        let files = |source| of_files(dir, source);
        fs::create_dir_all(dir).map_err(files)?;
        let lock = lock(dir)?;
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
                folder: fresh,
                node: NodeId(0),
                life: 0,
                boot: 0,
                greeted: BTreeMap::new(),
                groups: BTreeMap::new(),
            },
            Err(error) => return Err(files(error)),
        };
        if stored.cluster != cluster {
            return Err(IdentityError::OtherCluster { dir: dir.into() });
        }
        let settled = stored.life > 0;
        if stored.name != name || (settled && number.is_some_and(|number| stored.node != number)) {
            let known = |number: NodeId| match number.0 {
                0 => String::new(),
                number => format!(" (number {number})"),
            };
            return Err(IdentityError::OtherNode {
                dir: dir.into(),
                found: format!("{}{}", stored.name, known(stored.node)),
                wanted: format!("{name}{}", known(number.unwrap_or(NodeId(0)))),
            });
        }
        stored.boot += u64::from(settled);
        write(dir, &stored).map_err(files)?;
        Ok(Identity {
            dir: dir.into(),
            stored: Mutex::new(stored),
            _lock: lock,
        })
    }

    /// The number and the life of this node; none while its folder is fresh.
    pub fn settled(&self) -> Option<(NodeId, u32)> {
        let stored = self.lock();
        (stored.life > 0).then_some((stored.node, stored.life))
    }

    /// The folder's own name.
    pub fn folder(&self) -> FolderId {
        self.lock().folder
    }

    /// A fresh folder becomes this number's, in this life, and begins its first boot. It is on the
    /// disk when this returns. Blocks.
    pub fn settle(&self, node: NodeId, life: u32) -> Result<NodeBoot, IdentityError> {
        self.change(|stored| {
            stored.node = node;
            stored.life = life;
            stored.boot = boot_before(life) + 1;
        })?;
        Ok(self.at())
    }

    /// Another first member shows its folder. What is answered is remembered: it is on the disk when
    /// this returns. Blocks.
    pub fn greet(&self, from: NodeId, folder: FolderId) -> Result<Verdict, IdentityError> {
        let known = {
            let stored = self.lock();
            if stored.life > 1 {
                return Ok(Verdict::Unsure);
            }
            stored.greeted.get(&from).copied()
        };
        match known {
            Some(known) if known == folder => Ok(Verdict::Founder),
            Some(_) => Ok(Verdict::Other),
            None => {
                self.change(|stored| {
                    stored.greeted.insert(from, folder);
                })?;
                Ok(Verdict::Founder)
            }
        }
    }

    /// What this folder has of a group.
    pub fn replica(&self, group: GroupId) -> Option<Replica> {
        self.lock().groups.get(&group.number()).copied()
    }

    /// Writes down what this folder has of a group from now on. Blocks.
    pub fn set_replica(&self, group: GroupId, replica: Replica) -> Result<(), IdentityError> {
        if self.replica(group) == Some(replica) {
            return Ok(());
        }
        self.change(|stored| {
            stored.groups.insert(group.number(), replica);
        })
    }

    /// This node and its present boot.
    pub fn at(&self) -> NodeBoot {
        let stored = self.lock();
        NodeBoot {
            node: stored.node,
            boot: stored.boot,
        }
    }

    /// The node's name.
    pub fn name(&self) -> String {
        self.lock().name.clone()
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Begins another boot. It is on the disk when this returns. Blocks.
    pub fn raise_boot(&self) -> Result<NodeBoot, IdentityError> {
        self.change(|stored| stored.boot += 1)?;
        Ok(self.at())
    }

    fn change(&self, change: impl FnOnce(&mut Stored)) -> Result<(), IdentityError> {
        let mut stored = self.lock();
        let mut next = stored.clone();
        change(&mut next);
        write(&self.dir, &next).map_err(|error| of_files(&self.dir, error))?;
        *stored = next;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(dir: &Path) -> Result<File, IdentityError> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("lock"))
        .map_err(|error| of_files(dir, error))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(IdentityError::InUse { dir: dir.into() }),
        Err(error) => Err(of_files(dir, error.into())),
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

    fn open(
        dir: &Path,
        cluster: [u8; 16],
        name: &str,
        node: u32,
    ) -> Result<Identity, IdentityError> {
        Identity::open(dir, cluster, name, Some(NodeId(node)), [9; 16])
    }

    fn settled(dir: &Path) -> Identity {
        let identity = open(dir, A, "us-east-1", 1).unwrap();
        if identity.settled().is_none() {
            identity.settle(NodeId(1), 1).unwrap();
        }
        identity
    }

    #[test]
    fn every_open_is_another_boot() {
        let dir = tempfile::tempdir().unwrap();
        for boot in [1, 2] {
            assert_eq!(settled(dir.path()).at().boot, boot);
        }
        let identity = settled(dir.path());
        assert_eq!(identity.raise_boot().unwrap().boot, 4);
        drop(identity);
        assert_eq!(settled(dir.path()).at().boot, 5);
    }

    #[test]
    fn h_8_a_later_life_begins_above_every_boot_of_the_lives_before() {
        let dir = tempfile::tempdir().unwrap();
        let identity = open(dir.path(), A, "us-east-1", 1).unwrap();
        assert_eq!(identity.settled(), None);
        let at = identity.settle(NodeId(1), 2).unwrap();
        assert!(at.boot > u64::from(u32::MAX), "{at}");
        assert_eq!(identity.settled(), Some((NodeId(1), 2)));
    }

    #[test]
    fn a_folder_has_one_process_one_cluster_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let open = |cluster, name, node| open(dir.path(), cluster, name, node);
        let first = settled(dir.path());
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
        drop(settled(dir.path()));
        let path = dir.path().join("identity");
        let mut record = fs::read(&path).unwrap();
        record[30] ^= 1;
        fs::write(&path, record).unwrap();
        let refused = open(dir.path(), A, "us-east-1", 1);
        assert!(matches!(refused, Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn h_2_a_second_folder_of_a_name_is_told_from_the_first_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let identity = settled(dir.path());
            assert_eq!(
                identity.greet(NodeId(2), [1; 16]).unwrap(),
                Verdict::Founder
            );
            assert_eq!(identity.greet(NodeId(2), [2; 16]).unwrap(), Verdict::Other);
        }
    }

    #[test]
    fn who_lost_its_memory_does_not_vouch() {
        let dir = tempfile::tempdir().unwrap();
        let identity = open(dir.path(), A, "us-east-1", 1).unwrap();
        identity.settle(NodeId(1), 2).unwrap();
        assert_eq!(identity.greet(NodeId(2), [1; 16]).unwrap(), Verdict::Unsure);
    }

    #[test]
    fn what_a_folder_has_of_a_group_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let replica = Replica {
            generation: 2,
            damages: 1,
            holds: true,
        };
        let identity = settled(dir.path());
        assert_eq!(identity.replica(GroupId::Catalog), None);
        identity.set_replica(GroupId::Catalog, replica).unwrap();
        drop(identity);
        assert_eq!(settled(dir.path()).replica(GroupId::Catalog), Some(replica));
    }

    #[test]
    fn a_founder_needs_more_than_half_of_the_others_and_nobody_against_it() {
        use Verdict::{Founder, Other, Unsure};
        assert_eq!(founded(1, &[]), Some(true));
        assert_eq!(founded(2, &[]), None);
        assert_eq!(founded(2, &[Founder]), Some(true));
        assert_eq!(founded(3, &[Founder]), None);
        assert_eq!(founded(3, &[Founder, Founder]), Some(true));
        assert_eq!(founded(3, &[Founder, Other]), Some(false));
        assert_eq!(founded(3, &[Unsure]), Some(false));
        assert_eq!(founded(5, &[Founder, Founder, Unsure]), None);
        assert_eq!(founded(5, &[Founder, Founder, Founder, Unsure]), Some(true));
        assert_eq!(founded(5, &[Unsure, Unsure]), Some(false));
    }
}
