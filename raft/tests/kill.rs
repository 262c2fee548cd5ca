//! A store that is killed without warning, again and again, keeps the votes and entries that it has
//! acknowledged, and never takes its own end for damage.
//!
//! SIGKILL leaves the page cache alone; what a power loss leaves is in the store's own tests.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, also outside of its own function"
)]

use bytes::Bytes;
use pontoon_proto::id::GroupId;
use pontoon_raft::codec::{Role, frame, unframe};
use pontoon_raft::store::log::VOTE;
use pontoon_raft::store::{Log, Recovered, Store};
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::sync::oneshot;

const FOLDER: &str = "PONTOON_KILL_FOLDER";

/// How often it is killed.
const ROUNDS: u64 = 20;

/// Where the child stops by itself: nobody gets there.
const STEPS_MAX: u64 = 100_000;

fn entry(index: u64, term: u64) -> (u64, Bytes) {
    (
        index,
        frame(Role::Entry, 0, index, &body(index, term)).unwrap(),
    )
}

/// Of many lengths: some records are cut into several pieces.
fn body(index: u64, term: u64) -> Vec<u8> {
    let len = if index.is_multiple_of(17) {
        30_000
    } else {
        100
    };
    let mut body = term.to_le_bytes().to_vec();
    body.resize(8 + len, index as u8);
    body
}

fn vote(term: u64) -> Bytes {
    frame(Role::Vote, 0, term, b"").unwrap()
}

async fn append(log: &Log, records: Vec<(u64, Bytes)>) -> io::Result<()> {
    let (sender, done) = oneshot::channel();
    let callback = Box::new(move |result| {
        sender.send(result).ok();
    });
    log.append(records, callback).await?;
    done.await.unwrap()
}

async fn open(folder: &Path) -> (Store, Log, Recovered) {
    let store = Store::open(&folder.join("log")).unwrap();
    let (log, found) = store.log(GroupId::Catalog).await.unwrap();
    (store, log, found)
}

fn term_of(found: &Recovered) -> u64 {
    let vote = found.vote.as_ref();
    vote.map_or(0, |record| unframe(Role::Vote, 0, record).unwrap().0)
}

/// Checks that all entries are whole and as they were written, and returns the last one's term.
fn check(found: &Recovered) -> u64 {
    let mut last = 0;
    for record in &found.tail {
        let (index, found) = unframe(Role::Entry, 0, record).unwrap();
        let term = u64::from_le_bytes(found[..8].try_into().unwrap());
        assert_eq!(found[..], body(index, term)[..], "entry {index}");
        assert!(term >= last, "entry {index} is of an older term");
        last = term;
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_killed_again_and_again_keeps_its_votes_and_entries() {
    let dir = tempfile::tempdir().unwrap();
    let (mut term, mut next) = (0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "the_store_that_is_killed",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            // The harness writes its own words before the first of ours, on the same line.
            let words: Vec<&str> = line.rsplit(' ').take(3).collect();
            let [number, what, "did"] = words[..] else {
                continue;
            };
            let number: u64 = number.parse().unwrap();
            match what {
                "vote" => term = number,
                "append" => next = number,
                _ => panic!("{line}"),
            }
            seen += 1;
            if seen == 60 + round * 13 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let (store, _, found) = open(dir.path()).await;
        let end = found.first + found.count;
        // The last thing that it did may have been a truncation, of two entries.
        assert!(
            term_of(&found) >= term,
            "round {round}: vote {term} is lost"
        );
        assert!(
            end + 2 >= next,
            "round {round}: {next} were acknowledged, {end} are there"
        );
        assert!(check(&found) <= term_of(&found));
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other side of the test above"]
async fn the_store_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let (_store, log, found) = open(folder.as_ref()).await;
    let mut term = term_of(&found);
    let mut next = found.first + found.count;
    let mut first = found.first;
    for step in 1..STEPS_MAX {
        if step.is_multiple_of(5) {
            term += 1;
            log.mark(VOTE, vote(term)).await.unwrap();
            println!("did vote {term}");
        }
        if step.is_multiple_of(7) && next > first + 2 {
            // A new leader replaces the last two entries, by as many at least.
            log.truncate(next - 2).await.unwrap();
            next -= 2;
        }
        if step.is_multiple_of(50) {
            let upto = next - 1;
            let mark = frame(Role::Mark, 0, upto, b"").unwrap();
            log.purge(upto, mark).await.unwrap();
            first = next;
        }
        let records: Vec<_> = (next..next + 3).map(|index| entry(index, term)).collect();
        append(&log, records).await.unwrap();
        next += 3;
        println!("did append {next}");
    }
}
