//! A process that is killed without warning, again and again, keeps what it has answered.
//!
//! SIGKILL leaves the page cache alone, so this shows the order of things, not the syncs; those are
//! shown on the simulated disk.

mod world;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;
use world::ledger::write;
use world::{LONG, World};

const FOLDER: &str = "PONTOON_CRASH_FOLDER";
const FIRST: &str = "PONTOON_CRASH_FIRST";

#[test]
fn a_group_that_is_killed_again_and_again_keeps_what_it_has_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered = Vec::new();
    for round in 0..8 {
        let first = round * 1_000_000;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "the_process_that_is_killed",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(FOLDER, dir.path())
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            // The harness writes its own words before the first number, on the same line.
            let Some(id) = line
                .rsplit(' ')
                .next()
                .and_then(|word| word.parse::<u64>().ok())
            else {
                continue;
            };
            answered.push(id);
            seen += 1;
            if seen == 150 + round * 37 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen > 0, "round {round} got nothing done");
    }
    let check = async {
        let world = World::start_in(dir.path(), 1, 100).await;
        let state = world.group(1).read(LONG).await.unwrap();
        let lost: Vec<_> = answered
            .iter()
            .filter(|id| !state.notes.contains_key(id))
            .collect();
        assert!(lost.is_empty(), "{lost:?} of {} were lost", answered.len());
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(check);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other side of the test above"]
async fn the_process_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let world = World::start_in(folder.as_ref(), 1, 100).await;
    let group = world.group(1);
    let work = async {
        for id in first.. {
            group.propose(write(id), LONG).await.unwrap();
            println!("{id}");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .ok();
}
