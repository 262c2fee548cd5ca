//! The data folder: made, locked, found again by `pontoon dev stop|start|kill`, and removed when it
//! was a temporary one.

use super::Error;
use super::plan::{self, Layout};
use super::saved::write_private;
use crate::random;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// The longest path that a unix socket may have, in bytes, its closing zero included: 108 on Linux,
/// 104 on macOS.
const SOCKET_PATH_MAX: usize = 104;

/// An open data folder; while this lives, no other `pontoon dev` uses it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) layout: Layout,
    pub(super) temporary: bool,
    _lock: File,
}

impl Folder {
    /// Opens the folder, or makes a temporary one.
    pub(super) fn open(wanted: Option<&Path>) -> Result<Self, Error> {
        let root = match wanted {
            Some(path) => {
                make(path)?;
                fs::canonicalize(path).map_err(|error| Error::file("open", path, &error))?
            }
            None => {
                let name = format!("pontoon-dev-{}", plan::hex(&random::bytes::<6>()));
                let path = std::env::temp_dir().join(name);
                make(&path)?;
                path
            }
        };
        let path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Error::file("open", &path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(format!(
                    "another `pontoon dev` is running on {}: end it with Ctrl-C, or use another --data-dir",
                    root.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Error::file("lock", &path, &error)),
        }
        for part in ["secrets", "config", "run", "logs", "nodes"] {
            make(&root.join(part))?;
        }
        Ok(Self {
            layout: Layout { root, tls: false },
            temporary: wanted.is_none(),
            _lock: lock,
        })
    }

    /// Where the control socket goes: into the folder, or beside the pointer when that path would be
    /// too long for a socket. Whatever a killed process left there is removed.
    pub(super) fn socket(&self) -> Result<PathBuf, Error> {
        let mut path = self.layout.root.join("control.sock");
        if path.as_os_str().len() >= SOCKET_PATH_MAX {
            path = runtime_folder()?.join(format!("{}.sock", std::process::id()));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", &path, &error))
            }
            _ => Ok(path),
        }
    }

    /// Lets `pontoon dev stop` and its kin find this cluster.
    pub(super) fn announce(&self, socket: &Path) -> Result<(), Error> {
        write_private(&self.layout.control(), &socket.to_string_lossy())?;
        let root = self.layout.root.to_string_lossy();
        write_private(&runtime_folder()?.join("current"), &root)
    }

    /// Removes what this run has left, and the folder itself when it was a temporary one.
    pub(super) fn leave(&self, socket: &Path) {
        // Best effort: the processes are gone, and a leftover hurts nobody.
        let _ = fs::remove_file(socket);
        let _ = fs::remove_file(self.layout.control());
        if let Ok(current) = runtime_folder().map(|folder| folder.join("current"))
            && fs::read_to_string(&current).is_ok_and(|path| Path::new(&path) == self.layout.root)
        {
            let _ = fs::remove_file(current);
        }
        if self.temporary {
            let _ = fs::remove_dir_all(&self.layout.root);
        }
    }
}

/// The socket of the cluster that runs on this folder, or of the one that was started last.
pub(super) fn find_socket(data_dir: Option<&Path>) -> Result<PathBuf, Error> {
    let none = || Error::new("no `pontoon dev` is running (or name its --data-dir)");
    let root = match data_dir {
        Some(path) => path.to_owned(),
        None => PathBuf::from(
            fs::read_to_string(runtime_folder()?.join("current")).map_err(|_| none())?,
        ),
    };
    let socket = fs::read_to_string(
        Layout {
            root: root.clone(),
            tls: false,
        }
        .control(),
    )
    .map_err(|_| Error::new(format!("no `pontoon dev` is running on {}", root.display())))?;
    Ok(PathBuf::from(socket))
}

/// A folder of this user's own for what belongs to the running session, as the XDG base directory
/// specification has it; without one, a folder in the temporary one that must be ours alone.
fn runtime_folder() -> Result<PathBuf, Error> {
    let user = rustix::process::getuid().as_raw();
    let path = match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| Path::new(path).is_dir()) {
        Some(path) => Path::new(&path).join("pontoon-dev"),
        None => PathBuf::from(format!("/tmp/pontoon-dev-{user}")),
    };
    make(&path)?;
    let about = fs::symlink_metadata(&path).map_err(|error| Error::file("open", &path, &error))?;
    if !about.is_dir() || about.uid() != user || about.mode() & 0o022 != 0 {
        return Err(Error::new(format!(
            "{} is not a folder that only you may write to: remove it",
            path.display()
        )));
    }
    Ok(path)
}

fn make(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::file("make the folder", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_and_free_again_afterwards() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let folder = Folder::open(Some(&path)).unwrap();
        let error = Folder::open(Some(&path)).unwrap_err().to_string();
        assert!(
            error.contains("another `pontoon dev` is running on"),
            "{error}"
        );
        drop(folder);
        assert!(Folder::open(Some(&path)).is_ok());
    }

    #[test]
    fn a_temporary_folder_goes_away() {
        let folder = Folder::open(None).unwrap();
        let socket = folder.socket().unwrap();
        assert!(folder.layout.root.join("logs").is_dir());
        folder.leave(&socket);
        assert!(!folder.layout.root.exists());
    }

    #[test]
    fn a_running_cluster_is_found_by_its_folder() {
        let parent = tempfile::tempdir().unwrap();
        let error = find_socket(Some(parent.path())).unwrap_err().to_string();
        assert!(error.contains("no `pontoon dev` is running on"), "{error}");
        let layout = Layout {
            root: parent.path().to_owned(),
            tls: false,
        };
        write_private(&layout.control(), "/x/control.sock").unwrap();
        assert_eq!(
            find_socket(Some(parent.path())).unwrap(),
            Path::new("/x/control.sock")
        );
    }
}
