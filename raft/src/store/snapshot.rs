//! Snapshots: one file per group, checksummed piece by piece, written aside, synced, then renamed.
//!
//! ```text
//! meta frame, body: format, metadata | chunk frames, numbered from 0
//! | end frame, numbered with the count, body: total bytes
//! ```
//!
//! A state is never in memory as a whole: it is encoded into and decoded from one chunk at a time
//! ([`SnapshotWriter`], [`SnapshotReader`]). A transfer sends the file as it is, so the receiver checks
//! the same sums. All of this blocks: callers run it on a blocking thread.

mod stream;
#[cfg(test)]
mod tests;

pub use stream::{SnapshotReader, SnapshotWriter};

use bytes::Bytes;
use pontoon_proto::id::GroupId;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes of state in one frame, and of file in one transferred message.
pub const CHUNK: usize = 512 * 1024;

/// How states are written. A build reads no other format: a node that gets a newer one stays behind
/// until it is upgraded.
pub const FORMAT: u16 = 1;

/// The folder of one group's snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots {
    dir: PathBuf,
    count: Arc<AtomicU64>,
}

/// One snapshot, finished or not.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    path: PathBuf,
}

impl Snapshots {
    /// Opens the folder, and removes what a crash left unfinished.
    pub fn open(data_dir: &Path, group: GroupId) -> io::Result<Self> {
        let dir = data_dir
            .join("snapshots")
            .join(format!("group-{}", group.number()));
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self {
            dir,
            count: Arc::default(),
        })
    }

    /// Writes a machine's snapshot up to `index`, as `fill` brings the state; it is the current one
    /// when this returns.
    pub fn write(
        &self,
        index: u64,
        machine: u8,
        meta: &[u8],
        fill: impl FnOnce(&mut SnapshotWriter) -> io::Result<()>,
    ) -> io::Result<SnapshotFile> {
        let aside = self.aside();
        let written = SnapshotWriter::create(&aside.path, index, machine, meta)
            .and_then(|mut writer| fill(&mut writer).and_then(|()| writer.finish()));
        if let Err(error) = written {
            fs::remove_file(&aside.path).ok();
            return Err(error);
        }
        self.place(index, aside)
    }

    /// A new file for a snapshot that is being received.
    pub fn aside(&self) -> SnapshotFile {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        SnapshotFile {
            path: self.dir.join(format!("{number}.tmp")),
        }
    }

    /// Makes a complete file, up to `index`, the current snapshot, and removes the older ones.
    pub fn place(&self, index: u64, file: SnapshotFile) -> io::Result<SnapshotFile> {
        let path = self.dir.join(format!("{index:020}.snap"));
        if file.path != path {
            File::open(&file.path)?.sync_all()?;
            fs::rename(&file.path, &path)?;
            File::open(&self.dir)?.sync_all()?;
        }
        for other in self.finished()? {
            if other < path {
                fs::remove_file(other)?;
            }
        }
        Ok(SnapshotFile { path })
    }

    /// The newest snapshot and its metadata; the state is not read.
    pub fn current(&self) -> io::Result<Option<(Bytes, SnapshotFile)>> {
        let Some(path) = self.finished()?.into_iter().max() else {
            return Ok(None);
        };
        let file = SnapshotFile { path };
        let (meta, _) = file.open()?;
        Ok(Some((meta, file)))
    }

    /// Whether the newest snapshot is whole and holds what the log has forgotten: all before `first`.
    /// An error of the kind `InvalidData` says that it is damaged.
    pub fn reaches(&self, first: Option<u64>) -> io::Result<bool> {
        let Some(first) = first else { return Ok(true) };
        let Some(path) = self.finished()?.into_iter().max() else {
            return Ok(false);
        };
        let index = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        SnapshotFile { path }.read()?;
        Ok(index.is_some_and(|index| index + 1 >= first))
    }

    /// Removes all snapshots.
    pub fn remove(&self) -> io::Result<()> {
        for path in self.finished()? {
            fs::remove_file(path)?;
        }
        File::open(&self.dir)?.sync_all()
    }

    fn finished(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "snap")
            {
                paths.push(path);
            }
        }
        Ok(paths)
    }
}

impl SnapshotFile {
    /// Reads it through and verifies all sums; returns the metadata.
    pub fn read(&self) -> io::Result<Bytes> {
        let (meta, mut reader) = self.open()?;
        reader.skip().map_err(|error| self.damaged(error))?;
        Ok(meta)
    }

    /// The metadata, and the state to be read piece by piece.
    pub fn open(&self) -> io::Result<(Bytes, SnapshotReader)> {
        SnapshotReader::open(&self.path).map_err(|error| self.damaged(error))
    }

    /// The bytes of the file, to be sent or received.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn damaged(&self, error: io::Error) -> io::Error {
        io::Error::new(
            error.kind(),
            format!("snapshot {}: {error}", self.path.display()),
        )
    }
}
