//! Servers of the distribution: the installed one, or its package unpacked, so that nothing is started
//! or changed on the machine.

use super::Error;
use super::process::run;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// A server binary of Debian or a distribution like it.
#[derive(Clone, Copy, Debug)]
pub struct Deb {
    /// The package.
    pub package: &'static str,
    /// Where the binary is.
    pub binary: &'static str,
}

/// HAProxy.
pub const HAPROXY: Deb = Deb {
    package: "haproxy",
    binary: "usr/sbin/haproxy",
};

/// nginx.
pub const NGINX: Deb = Deb {
    package: "nginx",
    binary: "usr/sbin/nginx",
};

/// The binary; its package is unpacked below `home` when it is not installed.
pub async fn binary(home: &Path, deb: Deb) -> Result<PathBuf, Error> {
    let found = unpack(home, deb).await;
    found.map_err(|error| error.without(deb.package))
}

async fn unpack(home: &Path, deb: Deb) -> Result<PathBuf, Error> {
    let folder = home.join(deb.package);
    let places = [Path::new("/").join(deb.binary), folder.join(deb.binary)];
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    std::fs::create_dir_all(&folder).map_err(|error| Error::file("make", &folder, &error))?;
    let download = ["download", deb.package];
    run(Command::new("apt-get").args(download).current_dir(&folder)).await?;
    let entries =
        std::fs::read_dir(&folder).map_err(|error| Error::file("read", &folder, &error))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    let package = files.find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.ok_or_else(|| Error(format!("apt-get brought no {}", deb.package)))?;
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&folder)).await?;
    let [_, unpacked] = places;
    match unpacked.is_file() {
        true => Ok(unpacked),
        false => Err(Error(format!(
            "{} has no {} in it",
            deb.package, deb.binary
        ))),
    }
}
