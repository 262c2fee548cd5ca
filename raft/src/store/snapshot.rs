//! Snapshots: one file per group, checksummed piece by piece, written aside, synced, then renamed.
//!
//! ```text
//! meta frame | chunk frames, numbered from 0 | end frame, numbered with the count, body: total bytes
//! ```
//!
//! A transfer sends the file as it is, so the receiver checks the same sums. All of this blocks:
//! callers run it on a blocking thread.

use crate::codec::{self, HEADER, Header, Role};
use bytes::Bytes;
use pontoon_proto::id::GroupId;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes of state in one frame, and of file in one transferred message.
pub const CHUNK: usize = 512 * 1024;

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

    /// Writes a snapshot up to `index`; it is the current one when this returns.
    pub fn write(&self, index: u64, meta: &[u8], state: &[u8]) -> io::Result<SnapshotFile> {
        let aside = self.aside();
        let mut file = File::create(&aside.path)?;
        file.write_all(&framed(Role::SnapshotMeta, index, meta)?)?;
        let mut count = 0;
        for chunk in state.chunks(CHUNK) {
            file.write_all(&framed(Role::SnapshotChunk, count, chunk)?)?;
            count += 1;
        }
        file.write_all(&framed(
            Role::SnapshotEnd,
            count,
            &(state.len() as u64).to_le_bytes(),
        )?)?;
        file.sync_all()?;
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
        let (_, meta) = next_frame(&mut File::open(&file.path)?, Role::SnapshotMeta)
            .map_err(|error| file.damaged(error))?;
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
    /// Reads and verifies all of it: metadata and state.
    pub fn read(&self) -> io::Result<(Bytes, Vec<u8>)> {
        self.read_all().map_err(|error| self.damaged(error))
    }

    /// The bytes of the file, to be sent or received.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read_all(&self) -> io::Result<(Bytes, Vec<u8>)> {
        let mut file = BufReader::with_capacity(CHUNK, File::open(&self.path)?);
        let (_, meta) = next_frame(&mut file, Role::SnapshotMeta)?;
        let mut state = Vec::new();
        let mut count = 0;
        loop {
            let header = next_header(&mut file)?;
            let body = next_body(&mut file, &header)?;
            if header.index != count {
                return Err(invalid(format!("chunk {count} is missing")));
            }
            if header.role == Role::SnapshotChunk as u8 {
                state.extend_from_slice(&body);
                count += 1;
            } else if header.role == Role::SnapshotEnd as u8 {
                if body[..] != (state.len() as u64).to_le_bytes() {
                    return Err(invalid("its length is wrong"));
                }
                break;
            } else {
                return Err(invalid("a record of another kind is in it"));
            }
        }
        if file.read(&mut [0])? != 0 {
            return Err(invalid("bytes follow its end"));
        }
        Ok((meta, state))
    }

    fn damaged(&self, error: io::Error) -> io::Error {
        io::Error::new(
            error.kind(),
            format!("snapshot {}: {error}", self.path.display()),
        )
    }
}

fn framed(role: Role, index: u64, body: &[u8]) -> io::Result<Bytes> {
    codec::frame(role, 0, index, body).map_err(invalid)
}

fn next_frame(file: &mut impl Read, role: Role) -> io::Result<(u64, Bytes)> {
    let header = next_header(file)?;
    if header.role != role as u8 {
        return Err(invalid("it doesn't begin like a snapshot"));
    }
    Ok((header.index, next_body(file, &header)?))
}

fn next_header(file: &mut impl Read) -> io::Result<Header> {
    let mut bytes = [0; HEADER];
    file.read_exact(&mut bytes)?;
    Header::read(&bytes).map_err(invalid)
}

fn next_body(file: &mut impl Read, header: &Header) -> io::Result<Bytes> {
    let mut body = vec![0; header.len];
    file.read_exact(&mut body)?;
    header.check(&body).map_err(invalid)?;
    Ok(body.into())
}

fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_snapshot_is_the_current_one_and_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path(), GroupId::Catalog).unwrap();
        assert!(snapshots.current().unwrap().is_none());
        let state: Vec<u8> = (0..CHUNK * 2 + 7).map(|byte| byte as u8).collect();
        snapshots.write(7, b"seven", b"").unwrap();
        snapshots.write(19, b"nineteen", &state).unwrap();
        let (meta, file) = snapshots.current().unwrap().unwrap();
        assert_eq!(&meta[..], b"nineteen");
        assert_eq!(
            file.read().unwrap(),
            (Bytes::from_static(b"nineteen"), state)
        );
        assert_eq!(snapshots.finished().unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_or_cut_snapshot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path(), GroupId::Catalog).unwrap();
        let file = snapshots.write(7, b"seven", &[1; 100]).unwrap();
        let whole = fs::read(file.path()).unwrap();
        for len in [0, 10, HEADER + 5, whole.len() - 1] {
            fs::write(file.path(), &whole[..len]).unwrap();
            assert!(file.read().is_err(), "cut to {len}");
        }
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(file.path(), &bytes).unwrap();
            assert!(file.read().is_err(), "flipped at {at}");
        }
    }
}
