//! The file with the two slots beside the engine.
//!
//! A slot is written in place after its batch was acknowledged, and is durable before the next one
//! is. A second `fdatasync` would cost as much as the engine's: the device flushes one after the other,
//! even for two threads. So where that is enough the slot is written past the page cache, in some
//! 60 us while callers prepare what comes next, and the engine's next sync flushes the device for
//! both: the blocks are written once at the creation and never move, so there is nothing else to be
//! made durable. On other file systems a thread syncs it, beside the work on the next batch.

use bytes::Bytes;
use rustix::fs::OFlags;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of one slot: 4096 groups at 42 bytes each are 168 KiB.
pub(crate) const SLOT: usize = 256 * 1024;

/// What a write past the page cache must be aligned to; no disk has larger blocks.
const BLOCK: usize = 4096;

/// File systems that overwrite in place: ext2 to ext4, and XFS (but for the first write after the
/// file was copied by reference). `statfs(2)` has the numbers.
const IN_PLACE: [u64; 2] = [0xef53, 0x5846_5342];

/// The open file.
pub(crate) struct SlotFile {
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    file: File,
    way: Way,
}

/// How a slot gets to the device.
enum Way {
    /// At once, past the page cache.
    Direct(File),
    /// By a thread that syncs.
    Synced {
        writes: SyncSender<(usize, Bytes)>,
        done: Receiver<io::Result<()>>,
        /// Whether a write was started whose outcome nobody has taken yet.
        under_way: bool,
    },
}

impl SlotFile {
    /// Opens the file. A missing one is made by the first [`SlotFile::write`].
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let open = match Open::new(path) {
            Ok(open) => Some(open),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: path.into(),
            open,
        })
    }

    /// Whether there is a file.
    pub(crate) fn exists(&self) -> bool {
        self.open.is_some()
    }

    /// What is in the slots. A file that was cut short has shorter ones.
    pub(crate) fn read(&self) -> io::Result<[Bytes; 2]> {
        let Some(open) = &self.open else {
            return Ok([Bytes::new(), Bytes::new()]);
        };
        let slot = |at: usize| {
            let mut bytes = vec![0; SLOT];
            let mut len = 0;
            while len < SLOT {
                let offset = (at * SLOT + len) as u64;
                match open.file.read_at(&mut bytes[len..], offset)? {
                    0 => break,
                    more => len += more,
                }
            }
            bytes.truncate(len);
            Ok::<Bytes, io::Error>(bytes.into())
        };
        Ok([slot(0)?, slot(1)?])
    }

    /// Starts to write a slot.
    pub(crate) fn write(&mut self, slot: usize, record: &[u8]) -> io::Result<()> {
        if record.len() > SLOT {
            return Err(io::Error::other("too many groups for a slot"));
        }
        self.settle()?;
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                create(&self.path)?;
                self.open.insert(Open::new(&self.path)?)
            }
        };
        match &mut open.way {
            Way::Direct(file) => write_at(file, slot, record),
            Way::Synced {
                writes, under_way, ..
            } => {
                let record = Bytes::copy_from_slice(record);
                writes.send((slot, record)).map_err(gone)?;
                *under_way = true;
                Ok(())
            }
        }
    }

    /// Waits until what was written is with the device, so that the next flush of it, or
    /// [`SlotFile::sync`], makes it durable.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        let way = self.open.as_mut().map(|open| &mut open.way);
        let Some(Way::Synced {
            done, under_way, ..
        }) = way
        else {
            return Ok(());
        };
        if std::mem::take(under_way) {
            done.recv().map_err(gone).flatten()
        } else {
            Ok(())
        }
    }

    /// Makes durable what was written, without the engine.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.settle()?;
        match &self.open {
            Some(open) => open.file.sync_data(),
            None => Ok(()),
        }
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let way = match direct(path, &file) {
            Some(direct) => Way::Direct(direct),
            None => synced(file.try_clone()?)?,
        };
        Ok(Self { file, way })
    }
}

/// Starts the thread that syncs. It ends with the sender.
fn synced(file: File) -> io::Result<Way> {
    let (writes, queue) = sync_channel::<(usize, Bytes)>(1);
    let (finish, done) = sync_channel(1);
    std::thread::Builder::new()
        .name("pontoon-slots".into())
        .spawn(move || {
            for (slot, record) in queue {
                let written = write_at(&file, slot, &record);
                if finish
                    .send(written.and_then(|()| file.sync_data()))
                    .is_err()
                {
                    return;
                }
            }
        })?;
    Ok(Way::Synced {
        writes,
        done,
        under_way: false,
    })
}

/// The file once more, past the page cache; none where that would not be enough.
fn direct(path: &Path, file: &File) -> Option<File> {
    let system = rustix::fs::fstatfs(file).ok()?;
    if !IN_PLACE.contains(&(system.f_type as u64)) || is_buffered(file) {
        return None;
    }
    let flags = OFlags::DIRECT.bits() as i32;
    File::options()
        .write(true)
        .custom_flags(flags)
        .open(path)
        .ok()
}

/// Whether the kernel says that it would put even direct writes into the page cache, as it does for
/// encrypted files and journaled data. Before Linux 6.1 it does not say.
fn is_buffered(file: &File) -> bool {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let asked = StatxFlags::DIOALIGN;
    match statx(file, "", AtFlags::EMPTY_PATH, asked) {
        Ok(found) => {
            let told = found.stx_mask & asked.bits() != 0;
            let align = found.stx_dio_offset_align as usize;
            told && (align == 0 || !BLOCK.is_multiple_of(align))
        }
        Err(_) => false,
    }
}

/// Writes whole blocks from an aligned buffer.
fn write_at(file: &File, slot: usize, record: &[u8]) -> io::Result<()> {
    let len = record.len().next_multiple_of(BLOCK);
    let mut buffer = vec![0; len + BLOCK];
    let start = buffer.as_ptr().align_offset(BLOCK);
    buffer[start..start + record.len()].copy_from_slice(record);
    file.write_all_at(&buffer[start..start + len], (slot * SLOT) as u64)
}

/// Makes the file at its full length, so that no later write needs room on the disk. It is written
/// aside and renamed: a file that is there is whole.
fn create(path: &Path) -> io::Result<()> {
    let aside = path.with_extension("durable.tmp");
    let mut file = File::create(&aside)?;
    file.write_all(&vec![0; 2 * SLOT])?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn gone<T>(_: T) -> io::Error {
    io::Error::other("the thread that writes the slots has stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_and_a_cut_file_has_less_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.durable");
        let mut slots = SlotFile::open(&path).unwrap();
        assert!(!slots.exists());
        for (slot, record) in [(0, b"zero"), (1, b"one!"), (0, b"null")] {
            slots.write(slot, record).unwrap();
            slots.sync().unwrap();
        }
        let again = SlotFile::open(&path).unwrap().read().unwrap();
        assert!(again[0].starts_with(b"null\0") && again[1].starts_with(b"one!\0"));
        assert!(slots.write(0, &vec![1; SLOT + 1]).is_err());
        slots.open.unwrap().file.set_len(SLOT as u64 + 2).unwrap();
        let cut = SlotFile::open(&path).unwrap().read().unwrap();
        assert_eq!((cut[0].len(), &cut[1][..]), (SLOT, &b"on"[..]));
    }
}
