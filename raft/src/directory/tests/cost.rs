//! What sessions cost: memory, lookups, snapshots.
//!
//! Memory is that of a process of its own, which a test starts: the test's binary, asked for one of the
//! ignored tests here. Times are CPU time of the thread, so that a busy machine changes little.

use super::measure::{busy, filled, longest, scattered};
use super::script::{World, at, session};
use crate::codec;
use crate::directory::Directory;
use crate::directory::command::Command;
use crate::machine::{Clock, Machine};
use crate::store::snapshot::Snapshots;
use pontoon_proto::id::GroupId;
use std::time::Duration;

/// The environment variable that says how many sessions a test makes in its own process. Without it
/// those tests do nothing.
const SESSIONS: &str = "PONTOON_SESSIONS";

/// The most memory that a session may take, whatever state it is in: bytes.
const MEMORY_MAX: u64 = 500;

/// The longest that a lookup may take.
const LOOKUP_MAX: Duration = Duration::from_micros(2);

fn sessions() -> Option<u64> {
    let said = std::env::var(SESSIONS).ok()?;
    Some(said.parse().unwrap())
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Prints what one session takes, and refuses too much.
fn weigh(what: &str, before: u64, count: u64) {
    let bytes = resident().saturating_sub(before) / count;
    println!("{count} sessions, {what}: {bytes} bytes each");
    assert!(bytes <= MEMORY_MAX, "{what}: {bytes} bytes");
}

/// A stride that is prime to any count here, so that neighbours are not touched in a row.
fn strided(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |step| scattered(step * 611_953 % count))
}

#[test]
#[ignore = "needs a process of its own"]
fn sessions_that_were_left_cleanly() {
    let Some(count) = sessions() else { return };
    let before = resident();
    let mut world = filled(count, &[2]);
    weigh("bound", before, count);
    let mut published = world.state.clone();
    for (step, number) in strided(count).enumerate() {
        if step % 1_000 == 0 {
            let now = Clock(world.state.clock().0 + 1);
            world.apply_at(now, Command::NodeUp { at: at(1, 1) });
        }
        world.leave(number, at(1, 1), 2, true);
        if step % 64 == 0 {
            published = world.state.clone();
        }
    }
    drop(published);
    weigh("held and preemptible", before, count);
    longest(&mut world, Command::NodeLost { at: at(1, 1) });
    weigh("held and preemptible, their node lost", before, count);
}

#[test]
#[ignore = "needs a process of its own"]
fn sessions_whose_node_was_lost() {
    let Some(count) = sessions() else { return };
    let before = resident();
    let mut world = filled(count, &[2]);
    longest(&mut world, Command::NodeLost { at: at(1, 1) });
    assert_eq!(
        world.place(scattered(count - 1)).split(' ').next(),
        Some("held")
    );
    weigh("held since their node was lost", before, count);
}

#[test]
#[ignore = "needs a process of its own"]
fn sessions_that_came_by_a_snapshot() {
    let Some(count) = sessions() else { return };
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path(), GroupId::Catalog).unwrap();
    let world = filled(count, &[2]);
    let from = busy();
    let write = |to: &mut _| codec::write_state(&world.state, to);
    let file = snapshots.write(1, Directory::KIND, b"", write).unwrap();
    let took = Duration::from_nanos(busy() - from);
    let bytes = std::fs::metadata(file.path()).unwrap().len() / count;
    println!("snapshot of {count} sessions: {bytes} bytes each, written in {took:?} of CPU");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let from = busy();
    let hash = world.state.digest();
    let took = Duration::from_nanos(busy() - from);
    println!("state hash: {took:?} of CPU");
    drop(world);

    let from = busy();
    let (_, mut reader) = file.open().unwrap();
    let state: Directory = codec::read_state(&mut reader).unwrap();
    reader.finish().unwrap();
    let took = Duration::from_nanos(busy() - from);
    println!("read back: {took:?} of CPU");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(state.digest(), hash);
}

/// How long a lookup of one of so many bound sessions takes, in no order.
fn lookup(world: &World, count: u64) -> Duration {
    let ids: Vec<_> = strided(count).map(session).collect();
    let rounds = 1 + 100_000 / count;
    let from = busy();
    let mut found = 0;
    for _ in 0..rounds {
        found += ids
            .iter()
            .filter(|id| world.state.session(**id).is_some())
            .count() as u64;
    }
    let took = Duration::from_nanos((busy() - from) / found);
    assert_eq!(found, rounds * count);
    took
}

fn lookups(counts: &[u64]) {
    for &count in counts {
        let took = lookup(&filled(count, &[2]), count);
        println!("lookup among {count} sessions: {took:?}");
        assert!(took <= LOOKUP_MAX, "{took:?} among {count}");
    }
}

#[test]
fn p_8_a_lookup_takes_less_than_2_us() {
    lookups(&[1_000, 10_000, 100_000]);
}

#[test]
#[ignore = "takes half a minute and half a gigabyte"]
fn p_8_a_lookup_takes_less_than_2_us_up_to_a_million_sessions() {
    lookups(&[1_000, 10_000, 100_000, 1_000_000]);
}

/// Runs one of the ignored tests above in a process of its own, and repeats what it prints.
fn alone(test: &str, sessions: u64) {
    let name = format!("directory::tests::cost::{test}");
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--ignored", "--nocapture"])
        .env(SESSIONS, sessions.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let wailed = String::from_utf8_lossy(&child.stderr);
    println!("{said}");
    assert!(child.status.success(), "{test}: {said}\n{wailed}");
    assert!(said.contains("1 passed"), "{test} did not run: {said}");
}

#[test]
fn p_9_a_session_takes_at_most_500_bytes_in_any_state() {
    alone("sessions_that_were_left_cleanly", 100_000);
    alone("sessions_whose_node_was_lost", 100_000);
}

#[test]
fn p_9_a_snapshot_is_written_and_read_in_a_bounded_time() {
    alone("sessions_that_came_by_a_snapshot", 50_000);
}

#[test]
#[ignore = "takes minutes and half a gigabyte, and prints figures"]
fn p_9_a_million_sessions_cost() {
    alone("sessions_that_were_left_cleanly", 1_000_000);
    alone("sessions_whose_node_was_lost", 1_000_000);
    alone("sessions_that_came_by_a_snapshot", 1_000_000);
}
