//! How long the disk takes to make 4 KiB durable: the floor under every figure here.

use super::numbers::percentile;
use crate::clock;
use crate::cluster::Error;
use serde::Serialize;
use std::io::Write as _;
use std::path::Path;

/// How often it is measured: 200 take 60 ms on a disk of 0.3 ms.
const SYNCS: usize = 200;

/// The bytes of one write.
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// What `fdatasync` takes after an append of 4 KiB, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Disk {
    /// The median.
    pub fdatasync_p50_us: u64,
    /// All but 1 % are faster.
    pub fdatasync_p99_us: u64,
}

/// Measures the disk below this folder. It blocks for as long as that takes.
pub fn measure(folder: &Path) -> Result<Disk, Error> {
    let path = folder.join("fdatasync");
    let broken = |error: std::io::Error| Error::file("write", &path, &error);
    let mut file = std::fs::File::create(&path).map_err(broken)?;
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = clock::now();
        file.write_all(&BLOCK).map_err(broken)?;
        file.sync_data().map_err(broken)?;
        took.push(began.elapsed().as_micros() as u64);
    }
    took.sort_unstable();
    Ok(Disk {
        fdatasync_p50_us: percentile(&took, 0.5),
        fdatasync_p99_us: percentile(&took, 0.99),
    })
}
