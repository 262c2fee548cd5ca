//! Snapshots that are whole, and such that are not.

use super::*;
use crate::codec::{self, HEADER, Role};
use std::io::{Read, Write};

const MACHINE: u8 = 203;

fn open(dir: &Path) -> Snapshots {
    Snapshots::open(dir, GroupId::Catalog).unwrap()
}

fn write(snapshots: &Snapshots, index: u64, meta: &[u8], state: &[u8]) -> SnapshotFile {
    snapshots
        .write(index, MACHINE, meta, |writer| writer.write_all(state))
        .unwrap()
}

/// Metadata and state, read in pieces that fit no chunk.
fn read(file: &SnapshotFile) -> io::Result<(Bytes, Vec<u8>)> {
    let (meta, mut reader) = file.open()?;
    let (mut state, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match reader.read(&mut piece)? {
            0 => break,
            count => state.extend_from_slice(&piece[..count]),
        }
    }
    reader.finish()?;
    Ok((meta, state))
}

#[test]
fn the_newest_snapshot_is_the_current_one_and_the_only_one() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(dir.path());
    assert!(snapshots.current().unwrap().is_none());
    write(&snapshots, 7, b"seven", b"");
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK * 2 + 7] {
        let state: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        write(&snapshots, 19 + len as u64, b"nineteen", &state);
        let (meta, file) = snapshots.current().unwrap().unwrap();
        assert_eq!(&meta[..], b"nineteen");
        assert_eq!(&file.read().unwrap()[..], b"nineteen");
        assert_eq!(
            read(&file).unwrap(),
            (Bytes::from_static(b"nineteen"), state)
        );
        assert_eq!(file.open().unwrap().1.machine(), MACHINE);
        assert_eq!(snapshots.finished().unwrap().len(), 1);
    }
}

#[test]
fn a_damaged_or_cut_snapshot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&open(dir.path()), 7, b"seven", &[1; 100]);
    let whole = fs::read(file.path()).unwrap();
    for len in 0..whole.len() {
        fs::write(file.path(), &whole[..len]).unwrap();
        assert!(file.read().is_err(), "cut to {len}");
        assert!(read(&file).is_err(), "cut to {len}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        fs::write(file.path(), &bytes).unwrap();
        assert!(file.read().is_err(), "flipped at {at}");
        assert!(read(&file).is_err(), "flipped at {at}");
    }
    let longer = [&whole[..], b"x"].concat();
    fs::write(file.path(), longer).unwrap();
    assert!(file.read().is_err());
}

#[test]
fn a_snapshot_without_one_of_its_chunks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&open(dir.path()), 7, b"", &vec![1; 3 * CHUNK]);
    let whole = fs::read(file.path()).unwrap();
    let meta = HEADER + 2;
    let chunk = HEADER + CHUNK;
    for missing in 0..3 {
        let (from, to) = (meta + missing * chunk, meta + (missing + 1) * chunk);
        fs::write(file.path(), [&whole[..from], &whole[to..]].concat()).unwrap();
        assert!(file.read().is_err(), "without {missing}");
    }
}

#[test]
fn a_state_that_is_not_read_to_its_end_is_not_taken_as_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&open(dir.path()), 7, b"", &vec![1; CHUNK + 1]);
    let (_, mut reader) = file.open().unwrap();
    reader.read_exact(&mut vec![0; CHUNK]).unwrap();
    assert!(reader.finish().is_err());
}

#[test]
fn a_snapshot_of_another_format_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(dir.path());
    let file = write(&snapshots, 7, b"", b"state");
    let mut body = (FORMAT + 1).to_le_bytes().to_vec();
    body.extend_from_slice(b"meta");
    let record = codec::frame(Role::SnapshotMeta, MACHINE, 7, &body).unwrap();
    fs::write(file.path(), record).unwrap();
    let error = snapshots.current().unwrap_err().to_string();
    let format = format!("format {}", FORMAT + 1);
    assert!(error.contains(&format), "{error}");
}

#[test]
fn what_could_not_be_written_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(dir.path());
    write(&snapshots, 7, b"seven", b"state");
    let failed = snapshots.write(9, MACHINE, b"nine", |writer| {
        writer.write_all(&vec![1; 2 * CHUNK])?;
        Err(io::Error::other("the view is broken"))
    });
    assert!(failed.is_err());
    let (meta, _) = snapshots.current().unwrap().unwrap();
    assert_eq!(&meta[..], b"seven");
    assert_eq!(fs::read_dir(&snapshots.dir).unwrap().count(), 1);
}
