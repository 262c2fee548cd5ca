//! The log engine: an ordered map of keys to values that survives a crash once synced.
//!
//! Two sides implement [`Engine`]: the real disk in [`super::disk`], and the simulated one in
//! [`super::memory`], which forgets what was not synced.
//!
//! Beside the map lie two slots of a few bytes each, outside of whatever the map is kept in. The
//! storage thread notes in them how far each group was durable, so that a map that comes back short
//! is noticed; see [`super::durable`].

use bytes::Bytes;
use std::fmt;
use std::io;

/// The longest value that an engine must take. Sled moves an item that takes a quarter of a segment
/// into a file of its own, which it never syncs; a leaf holds up to 17 values before it splits, and
/// 17 * 8 KiB < 1 MiB / 4.
pub const VALUE_MAX: usize = 8 * 1024;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes one.
    Delete(Vec<u8>),
}

/// Where one group's keys are. A wipe gives the group another tree, so that nothing of the old one,
/// however stale a page the disk brings back, can be taken for the new one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tree {
    /// The group's number.
    pub group: u16,
    /// How often the group was begun on this node, from 1.
    pub epoch: u32,
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group-{}-{}", self.group, self.epoch)
    }
}

impl Tree {
    /// The reverse of `Display`.
    pub fn parse(name: &str) -> Option<Tree> {
        let (group, epoch) = name.strip_prefix("group-")?.split_once('-')?;
        Some(Tree {
            group: group.parse().ok()?,
            epoch: epoch.parse().ok()?,
        })
    }
}

/// An ordered map per tree. It has one owner, the storage thread, and may block.
///
/// Errors of the kinds [`io::ErrorKind::InvalidData`] and [`io::ErrorKind::UnexpectedEof`] mean that
/// what is stored is damaged; all others, that the disk can't be used now.
pub trait Engine: Send + 'static {
    /// Shows all pairs with `from <= key < to`, in order, until `each` answers false.
    fn scan(
        &mut self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()>;

    /// One value.
    fn get(&mut self, tree: Tree, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Applies writes in order, all or none of them. They are readable at once, durable after the
    /// next [`Engine::sync`]. What a crash leaves of the batches after the last sync is a prefix.
    fn apply(&mut self, tree: Tree, writes: Vec<Write>) -> io::Result<()>;

    /// Makes durable all that was applied, and the slots. After an error nothing more may be
    /// acknowledged: the kernel may have dropped the pages that it could not write.
    fn sync(&mut self) -> io::Result<()>;

    /// All trees that something was ever applied to, dropped ones excepted.
    fn trees(&mut self) -> io::Result<Vec<Tree>>;

    /// Removes a tree. It may come back after a crash, until the next sync.
    fn drop_tree(&mut self, tree: Tree) -> io::Result<()>;

    /// What is in the two slots; empty when nothing was ever written there.
    fn slots(&mut self) -> io::Result<[Bytes; 2]>;

    /// Replaces the content of one slot. A crash before the next [`Engine::sync`] may leave the old
    /// content, the new one, or neither; the other slot is not touched.
    fn write_slot(&mut self, slot: usize, record: &[u8]) -> io::Result<()>;

    /// Why nothing of the map can be read; none when it can. The slots can be used either way.
    fn broken(&self) -> Option<String>;

    /// Puts the map aside, whatever it is, and begins with an empty one.
    fn restart(&mut self) -> io::Result<()>;
}
