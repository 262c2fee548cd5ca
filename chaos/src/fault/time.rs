//! What is done to a node's wall clock, by libfaketime: it jumps. The monotonic clock goes on, as it does
//! when an operator or NTP sets a machine's time.

use crate::cluster::Error;
use crate::cluster::debs::{self, Deb};
use std::path::{Path, PathBuf};

/// The library, for programs with threads.
const LIBRARY: Deb = Deb {
    package: "libfaketime",
    binary: "usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
};

/// How nodes get a clock that can be set.
#[derive(Clone, Debug)]
pub struct Clocks {
    library: PathBuf,
    folder: PathBuf,
}

impl Clocks {
    /// Finds the library, or unpacks its package below `home`; the clocks' files are in `folder`.
    pub async fn find(home: &Path, folder: &Path) -> Result<Self, Error> {
        Ok(Self {
            library: debs::binary(home, LIBRARY).await?,
            folder: folder.to_owned(),
        })
    }

    /// The environment of a node with such a clock. It is right at the first start, and at a later one as it
    /// was left: a machine's clock does not mend when a process starts again.
    pub fn environment(&self, node: &str) -> Result<Vec<(&'static str, String)>, Error> {
        if !self.file(node).exists() {
            self.set(node, 0)?;
        }
        Ok(vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            (
                "FAKETIME_TIMESTAMP_FILE",
                self.file(node).display().to_string(),
            ),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ])
    }

    /// Sets a node's clock so many seconds before or after the right time.
    pub fn set(&self, node: &str, seconds: i64) -> Result<(), Error> {
        let path = self.file(node);
        // Renamed into place: a reader never sees half of it.
        let aside = path.with_extension("new");
        let written = std::fs::write(&aside, format!("{seconds:+}"));
        let written = written.and_then(|()| std::fs::rename(&aside, &path));
        written.map_err(|error| Error::file("write", &path, &error))
    }

    /// Whether a process runs with the library.
    pub fn is_in(&self, pid: u32) -> bool {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.contains(&*self.library.to_string_lossy())
    }

    fn file(&self, node: &str) -> PathBuf {
        self.folder.join(format!("{node}.clock"))
    }
}
