//! A temporary folder on the disk that is measured.

use super::{Error, random};
use std::path::{Path, PathBuf};

/// A folder that goes, with everything in it, when this is dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one inside `parent`, which is made when it is missing.
    pub fn inside(parent: &Path) -> Result<Self, Error> {
        let name = u64::from_le_bytes(random()?);
        let path = parent.join(format!("run-{}-{name:016x}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Error::file("make", &path, &error))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What can't be removed is left for people to look at; it hurts nobody.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Where commands of this package keep things: `bench/` beside the running binary, so on the disk of
/// the target folder and never on one that is only memory.
pub fn home() -> Result<PathBuf, Error> {
    let exe = std::env::current_exe().map_err(|error| Error(error.to_string()))?;
    let folder = exe.parent().unwrap_or(Path::new("."));
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(folder.join("bench"))
}
