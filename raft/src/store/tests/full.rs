//! A disk that is really full: the real engine in a small file system of its own.
//!
//! Needs root, for a mount in a namespace of its own; elsewhere it says that it was skipped.

use super::*;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = "PONTOON_FULL_FOLDER";

/// What the engine may take, besides the ballast that makes room later.
const ROOM: &str = "12m";
const BALLAST: usize = 4 * 1024 * 1024;

#[test]
fn a_full_disk_loses_nothing_and_room_is_all_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let test = std::env::current_exe().unwrap().display().to_string();
    let script = format!(
        "mount -t tmpfs -o size={ROOM} tmpfs '{folder}' || exit 77; exec '{test}' --exact \
         store::tests::full::the_side_with_the_full_disk --ignored --nocapture"
    );
    let ran = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .env(FOLDER, &folder)
        .output();
    match ran {
        Ok(output) if output.status.success() => {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output) if std::env::var_os("CI").is_none() && may_not_mount(&output.stderr) => {
            eprintln!("skipped: this user may not mount a file system of its own");
        }
        Ok(output) => panic!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) if std::env::var_os("CI").is_none() => eprintln!("skipped: unshare: {error}"),
        Err(error) => panic!("unshare: {error}"),
    }
}

fn may_not_mount(stderr: &[u8]) -> bool {
    let stderr = String::from_utf8_lossy(stderr).to_lowercase();
    stderr.contains("not permitted") || stderr.contains("permission denied")
}

#[tokio::test]
#[ignore = "the other side of the test above"]
async fn the_side_with_the_full_disk() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST]).unwrap();
    let acknowledged = fill(&folder).await;
    assert!(acknowledged > 10, "{acknowledged}");
    // While the disk is full it fails again, in whatever way, but says so and loses nothing.
    if let Ok(store) = Store::open(&folder.join("log")) {
        if let Ok((log, found)) = store.log(GROUP).await {
            assert!(found.count >= acknowledged);
            let next = found.first + found.count;
            append(&log, vec![record(next, 300_000)]).await.ok();
        }
        store.close().await;
    }
    std::fs::remove_file(&ballast).unwrap();
    let store = Store::open(&folder.join("log")).unwrap();
    let (log, found) = store.log(GROUP).await.unwrap();
    assert!(
        found.count >= acknowledged,
        "{} {acknowledged}",
        found.count
    );
    for (index, found) in log
        .read(0, acknowledged, usize::MAX)
        .await
        .unwrap()
        .into_iter()
        .enumerate()
    {
        assert_eq!(found, record(index as u64, SIZE).1);
    }
    append(&log, vec![record(found.count, SIZE)]).await.unwrap();
}

const SIZE: usize = 20_000;

/// Appends until the disk is full.
async fn fill(folder: &Path) -> u64 {
    let store = Store::open(&folder.join("log")).unwrap();
    let (log, _) = store.log(GROUP).await.unwrap();
    let mut acknowledged = 0;
    while append(&log, vec![record(acknowledged, SIZE)]).await.is_ok() {
        acknowledged += 1;
    }
    let why = store.failure().unwrap();
    assert!(why.contains("make room"), "{why}");
    eprintln!("{acknowledged} acknowledged, then: {why}");
    store.close().await;
    acknowledged
}
