//! The file with the two slots beside the engine.
//!
//! A slot is written in place and synced by a thread of its own, while the storage thread gathers,
//! applies and syncs the next batch; that batch is acknowledged when both syncs are through. So the
//! file costs no waiting, and is at most one batch behind.

use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of one slot: 4096 groups at 42 bytes each are 168 KiB.
pub(crate) const SLOT: usize = 256 * 1024;

/// The open file.
pub(crate) struct SlotFile {
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    file: Arc<File>,
    start: SyncSender<()>,
    done: Receiver<io::Result<()>>,
    /// Whether a sync was started whose outcome nobody has taken yet.
    under_way: bool,
}

impl SlotFile {
    /// Opens the file. A missing one is made by the first [`SlotFile::write`].
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let open = match File::options().read(true).write(true).open(path) {
            Ok(file) => Some(Open::new(file)?),
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

    /// Writes a slot and starts to sync it.
    pub(crate) fn write(&mut self, slot: usize, record: &[u8]) -> io::Result<()> {
        if record.len() > SLOT {
            return Err(io::Error::other("too many groups for a slot"));
        }
        self.settle()?;
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(create(&self.path)?),
        };
        open.file.write_all_at(record, (slot * SLOT) as u64)?;
        open.start.send(()).map_err(gone)?;
        open.under_way = true;
        Ok(())
    }

    /// Waits until what was written is durable.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if std::mem::take(&mut open.under_way) {
            open.done.recv().map_err(gone).flatten()
        } else {
            Ok(())
        }
    }
}

impl Open {
    fn new(file: File) -> io::Result<Self> {
        let file = Arc::new(file);
        let ((start, started), (finish, done)) = (sync_channel(1), sync_channel(1));
        let synced = file.clone();
        std::thread::Builder::new()
            .name("pontoon-slots".into())
            .spawn(move || {
                while started.recv().is_ok() {
                    if finish.send(synced.sync_data()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            file,
            start,
            done,
            under_way: false,
        })
    }
}

/// Makes the file at its full length, so that no later write needs room on the disk. It is written
/// aside and renamed: a file that is there is whole.
fn create(path: &Path) -> io::Result<Open> {
    let aside = path.with_extension("durable.tmp");
    let mut file = File::create(&aside)?;
    file.write_all(&vec![0; 2 * SLOT])?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Open::new(File::options().read(true).write(true).open(path)?)
}

fn gone<T>(_: T) -> io::Error {
    io::Error::other("the thread that syncs the slots has stopped")
}
