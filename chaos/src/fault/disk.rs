//! What is done to a node's disk: it is full, has lost a bit, or has lost its power.

use crate::cluster::Error;
use crate::cluster::process::run;
use crate::seed::Seed;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// A node's own disk, in place of its folder; it goes when this is dropped.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
    /// The file that stands for the disk; none when it is memory.
    image: Option<PathBuf>,
    options: &'static str,
}

/// The journal is written when somebody syncs, and not every five seconds of itself.
const OPTIONS: &str = "loop,commit=300";

/// The same for a disk whose users' syncs do nothing: what is written around the kernel's memory
/// (O_DIRECT) would be kept all the same, but goes through the journal, too.
const OPTIONS_UNSYNCED: &str = "loop,commit=300,data=journal";

impl Disk {
    /// A small file system in memory.
    pub async fn small(at: &Path, mib: u64) -> Result<Self, Error> {
        let size = format!("size={mib}m,mode=700");
        mount(at, &["-t", "tmpfs", "-o", &size, "pontoon-chaos"]).await?;
        Ok(Self {
            at: at.to_owned(),
            image: None,
            options: "",
        })
    }

    /// A file system in a file, whose power can be cut: what was not synced is in the kernel's memory
    /// only, and not in the file. `skips` is for users whose syncs do nothing.
    pub async fn image(at: &Path, mib: u64, skips: bool) -> Result<Self, Error> {
        let image = at.with_extension("disk");
        let made = File::create(&image).and_then(|file| file.set_len(mib << 20));
        made.map_err(|error| Error::file("make", &image, &error))?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&image)).await?;
        let disk = Self {
            at: at.to_owned(),
            image: Some(image),
            options: if skips { OPTIONS_UNSYNCED } else { OPTIONS },
        };
        disk.attach().await?;
        Ok(disk)
    }

    async fn attach(&self) -> Result<(), Error> {
        let image = self.image.iter().flat_map(|image| image.to_str());
        let words = ["-t", "ext4", "-o", self.options].into_iter();
        mount(&self.at, &words.chain(image).collect::<Vec<_>>()).await
    }

    /// From now on what was written until now stays.
    pub async fn sync(&self) -> Result<(), Error> {
        run(Command::new("sync").arg("-f").arg(&self.at)).await
    }

    /// Cuts the power, once nobody writes any more; says what is lost. The file is copied as it is, and
    /// the copy is the disk from now on: its journal is replayed as after a real power cut.
    pub async fn cut(&self) -> Result<String, Error> {
        let Some(image) = &self.image else {
            return Err(Error("this disk has no power to cut".into()));
        };
        let written = content(&self.at)?;
        let copy = image.with_extension("copy");
        run(Command::new("cp")
            .arg("--sparse=always")
            .arg(image)
            .arg(&copy))
        .await?;
        // What was in the kernel's memory goes to the old file, which is nobody's then.
        run(Command::new("umount").arg("-l").arg(&self.at)).await?;
        let renamed = std::fs::rename(&copy, image);
        renamed.map_err(|error| Error::file("replace", image, &error))?;
        self.attach().await?;
        let left = content(&self.at)?;
        let lost = written
            .iter()
            .filter(|(path, bytes)| left.get(*path) != Some(bytes));
        let names = lost.map(|(path, _)| path.strip_prefix(&self.at).unwrap_or(path).display());
        let names: Vec<String> = names.map(|name| name.to_string()).collect();
        match names.iter().any(|name| name == UNSYNCED) {
            true => Ok(format!("unsynced writes are lost in {}", names.join(", "))),
            // The kernel wrote it all the same: nothing was lost for sure.
            false => Ok(String::new()),
        }
    }
}

/// What is written without a sync just before the power is cut: it must be lost.
const UNSYNCED: &str = "unsynced";

/// Writes it.
pub(super) fn write_unsynced(folder: &Path) -> Result<(), Error> {
    let path = folder.join(UNSYNCED);
    let written = std::fs::write(&path, [1; 8192]);
    written.map_err(|error| Error::file("write", &path, &error))
}

/// All files below a folder, with what is in them.
fn content(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, Error> {
    let failed = |error: std::io::Error| Error::file("read", folder, &error);
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path.clone(), std::fs::read(&path).map_err(failed)?)),
            }
        }
    }
    Ok(found)
}

async fn mount(at: &Path, words: &[&str]) -> Result<(), Error> {
    std::fs::create_dir_all(at).map_err(|error| Error::file("make", at, &error))?;
    let mounted = run(Command::new("mount").args(words).arg(at)).await;
    mounted.map_err(|error| Error(format!("a disk for each node needs root: {error}")))
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open keeps it until it closes that.
        let mut command = std::process::Command::new("umount");
        command.arg("-l").arg(&self.at).status().ok();
    }
}

/// The file that takes all the room.
const FILLER: &str = "filler";

/// Takes all the room that is left on the folder's disk; says how much that was.
pub(super) fn fill(folder: &Path) -> Result<String, Error> {
    let path = folder.join(FILLER);
    let failed = |error: std::io::Error| Error::file("write", &path, &error);
    let mut file = File::create(&path).map_err(failed)?;
    let (block, mut bytes) = (vec![1; 4096], 0);
    loop {
        match file.write(&block) {
            Ok(0) => break,
            Ok(written) => bytes += written,
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(format!("{} KiB took all the room", bytes / 1024))
}

/// Takes everything away, as when the disk is replaced by an empty one; says how much that was.
pub(super) fn lose(folder: &Path) -> Result<String, Error> {
    let failed = |error: std::io::Error| Error::file("empty", folder, &error);
    let mut gone = 0;
    // The folder itself may be where a disk is mounted.
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let removed = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        removed.map_err(failed)?;
        gone += 1;
    }
    match gone {
        0 => Ok(String::new()),
        gone => Ok(format!("{gone} files and folders are gone")),
    }
}

/// Gives it back.
pub(super) fn empty(folder: &Path) -> Result<(), Error> {
    let path = folder.join(FILLER);
    std::fs::remove_file(&path).map_err(|error| Error::file("remove", &path, &error))
}

/// Flips a bit that the log's file has in use; says which.
pub(super) fn flip(folder: &Path, seed: &mut Seed) -> Result<String, Error> {
    let path = folder.join("log").join("db");
    let failed = |error: std::io::Error| Error::file("change", &path, &error);
    let file = File::options().read(true).write(true).open(&path);
    let mut file = file.map_err(failed)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    // What was never written is all zero, and so is what is free.
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    if used.is_empty() {
        return Err(Error(format!("{} is empty", path.display())));
    }
    let (at, bit) = (used[seed.below(used.len())], seed.below(8));
    file.seek(SeekFrom::Start(at as u64)).map_err(failed)?;
    file.write_all(&[bytes[at] ^ (1 << bit)]).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(format!("bit {bit} of byte {at} of {} flipped", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_bit_that_is_in_use_is_flipped() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::create_dir(&log).unwrap();
        let mut before = vec![0; 1000];
        before[300..310].fill(0x55);
        std::fs::write(log.join("db"), &before).unwrap();
        let said = flip(folder.path(), &mut Seed::new(7)).unwrap();
        let after = std::fs::read(log.join("db")).unwrap();
        let changed: Vec<usize> = (0..1000).filter(|at| before[*at] != after[*at]).collect();
        assert_eq!(changed.len(), 1, "{said}");
        assert!((300..310).contains(&changed[0]));
        assert_eq!((before[changed[0]] ^ after[changed[0]]).count_ones(), 1);
        assert!(flip(Path::new("/nowhere"), &mut Seed::new(7)).is_err());
    }
}
