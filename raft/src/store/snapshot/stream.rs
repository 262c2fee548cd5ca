//! A snapshot's state as a stream: into a file chunk by chunk, and out of it.

use super::{CHUNK, FORMAT};
use crate::codec::{self, HEADER, Header, Role, STATE_MAX};
use bytes::{Buf, Bytes};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// After how many bytes what was written so far is synced.
///
/// Otherwise the kernel gathers hundreds of megabytes and writes them in one go, and the log's own
/// sync on the same disk waits behind them. 4 MiB take 40 ms at 100 MB/s.
const SYNC_EVERY: u64 = 4 * 1024 * 1024;

/// Writes a state into a file; what is in memory is one chunk.
pub struct SnapshotWriter {
    file: File,
    machine: u8,
    chunk: Vec<u8>,
    /// Chunks written.
    count: u64,
    /// Bytes of state written, without the chunk in memory.
    total: u64,
    unsynced: u64,
}

impl SnapshotWriter {
    pub(super) fn create(path: &Path, index: u64, machine: u8, meta: &[u8]) -> io::Result<Self> {
        let mut writer = Self {
            file: File::create(path)?,
            machine,
            chunk: Vec::with_capacity(CHUNK),
            count: 0,
            total: 0,
            unsynced: 0,
        };
        let body = [&FORMAT.to_le_bytes(), meta].concat();
        writer.frame(Role::SnapshotMeta, index, &body)?;
        Ok(writer)
    }

    /// Writes what is left, and the end; all of it is on disk when this returns.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.flush_chunk()?;
        }
        self.frame(Role::SnapshotEnd, self.count, &self.total.to_le_bytes())?;
        self.file.sync_all()
    }

    fn flush_chunk(&mut self) -> io::Result<()> {
        let chunk = std::mem::take(&mut self.chunk);
        self.frame(Role::SnapshotChunk, self.count, &chunk)?;
        self.count += 1;
        self.total += chunk.len() as u64;
        self.chunk = chunk;
        self.chunk.clear();
        Ok(())
    }

    fn frame(&mut self, role: Role, index: u64, body: &[u8]) -> io::Result<()> {
        let record = codec::frame(role, self.machine, index, body).map_err(invalid)?;
        self.file.write_all(&record)?;
        self.unsynced += record.len() as u64;
        if self.unsynced >= SYNC_EVERY {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..fits]);
        if self.chunk.len() == CHUNK {
            if self.total + CHUNK as u64 > STATE_MAX {
                return Err(invalid("the state is longer than any may be"));
            }
            self.flush_chunk()?;
        }
        Ok(fits)
    }

    /// Does nothing: chunks are full but for the last.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a state out of a file, and checks the sum of each chunk before it hands any of it out.
pub struct SnapshotReader {
    file: File,
    machine: u8,
    chunk: Bytes,
    /// Chunks read.
    count: u64,
    /// Bytes of state read, the present chunk included.
    total: u64,
    ended: bool,
}

impl SnapshotReader {
    /// The metadata, and the state to come.
    pub(super) fn open(path: &Path) -> io::Result<(Bytes, Self)> {
        let mut file = File::open(path)?;
        let (header, mut meta) = next_frame(&mut file)?;
        if header.role != Role::SnapshotMeta as u8 {
            return Err(invalid("it doesn't begin like a snapshot"));
        }
        let format = meta.try_get_u16_le().map_err(invalid)?;
        if format != FORMAT {
            return Err(invalid(format!(
                "its format {format} is unknown to this build"
            )));
        }
        let reader = Self {
            file,
            machine: header.machine,
            chunk: Bytes::new(),
            count: 0,
            total: 0,
            ended: false,
        };
        Ok((meta, reader))
    }

    /// The kind of the machine whose state this is.
    pub fn machine(&self) -> u8 {
        self.machine
    }

    /// Checks that the state was read to its end, and that nothing follows.
    pub fn finish(mut self) -> io::Result<()> {
        match self.fill()? {
            true => Err(invalid("bytes follow the state")),
            false => Ok(()),
        }
    }

    /// Reads and checks the rest without looking at it.
    pub(super) fn skip(&mut self) -> io::Result<()> {
        while self.fill()? {
            self.chunk.clear();
        }
        Ok(())
    }

    /// Sees to it that there is something to hand out; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        while self.chunk.is_empty() && !self.ended {
            let (header, body) = next_frame(&mut self.file)?;
            if header.index != self.count || header.machine != self.machine {
                return Err(invalid(format!("chunk {} is missing", self.count)));
            }
            if header.role == Role::SnapshotChunk as u8 {
                self.count += 1;
                self.total += body.len() as u64;
                self.chunk = body;
            } else if header.role == Role::SnapshotEnd as u8 {
                self.end(&body)?;
            } else {
                return Err(invalid("a record of another kind is in it"));
            }
        }
        Ok(!self.chunk.is_empty())
    }

    fn end(&mut self, body: &[u8]) -> io::Result<()> {
        if *body != self.total.to_le_bytes() {
            return Err(invalid("its length is wrong"));
        }
        if self.file.read(&mut [0])? != 0 {
            return Err(invalid("bytes follow its end"));
        }
        self.ended = true;
        Ok(())
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if !self.fill()? {
            return Ok(0);
        }
        let fits = to.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut to[..fits]);
        Ok(fits)
    }
}

fn next_frame(file: &mut File) -> io::Result<(Header, Bytes)> {
    let mut bytes = [0; HEADER];
    file.read_exact(&mut bytes)?;
    let header = Header::read(&bytes).map_err(invalid)?;
    let mut body = vec![0; header.len];
    file.read_exact(&mut body)?;
    header.check(&body).map_err(invalid)?;
    Ok((header, body.into()))
}

fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}
