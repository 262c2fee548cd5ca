//! Checks that the checks work: each planted bug must be caught by the same question that finds
//! nothing wrong with the real thing.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set its scene up has failed"
)]

mod world;

use pontoon_raft::group::Group;
use std::time::Duration;
use world::ledger::{Ledger, write};
use world::{LONG, World, eventually};

const EVERY: u64 = 100_000;

/// The acknowledged notes that a state lacks: none may be lost.
fn lost(acknowledged: &[u64], state: &Ledger) -> Vec<u64> {
    let lacks = |id: &&u64| !state.notes.contains_key(id);
    acknowledged.iter().filter(lacks).copied().collect()
}

/// The real thing: acknowledged when the group has answered.
async fn when_answered(group: &Group<Ledger>, id: u64) -> bool {
    let within = Duration::from_millis(500);
    group.propose(write(id), within).await.is_ok()
}

/// The planted bug: acknowledged when the leader has it in its own log.
async fn when_appended(group: &Group<Ledger>, id: u64) -> bool {
    let before = group.status().last_log;
    let _unknown = group.propose(write(id), Duration::from_millis(500)).await;
    group.status().last_log > before
}

/// Writes through a leader that has just been cut off, heals, and returns what is lost.
async fn lost_through_an_isolated_leader(eager: bool) -> Vec<u64> {
    let world = World::start(3, EVERY).await;
    let leader = world.leader().await;
    let group = world.group(leader);
    let mut acknowledged = Vec::new();
    for id in 0..3 {
        assert!(when_answered(&group, id).await);
        acknowledged.push(id);
    }
    world.isolate(leader, true);
    for id in 3..6 {
        let answered = match eager {
            true => when_appended(&group, id).await,
            false => when_answered(&group, id).await,
        };
        if answered {
            acknowledged.push(id);
        }
    }
    let other = (1..=3).find(|node| *node != leader).unwrap();
    // The majority goes on, so that what the old leader has alone can't win.
    assert!(world.group(other).propose(write(100), LONG).await.is_ok());
    world.isolate(leader, false);
    let state = world.group(leader).read(LONG).await.unwrap();
    lost(&acknowledged, &state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_answered_is_lost_by_the_isolation_of_a_leader() {
    assert_eq!(lost_through_an_isolated_leader(false).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_acknowledges_before_commit_is_caught() {
    assert!(!lost_through_an_isolated_leader(true).await.is_empty());
}

/// Asks a lagging replica for a note that was acknowledged elsewhere, and says whether its answer was
/// a wrong "not found".
async fn wrong_absence(stale: bool) -> bool {
    let world = World::start(3, EVERY).await;
    let leader = world.leader().await;
    let laggard = (1..=3).find(|node| *node != leader).unwrap();
    // What the leader sends does not arrive there; what it is asked does.
    world.net.cut(
        pontoon_proto::id::NodeId(leader),
        pontoon_proto::id::NodeId(laggard),
        true,
    );
    assert!(when_answered(&world.group(leader), 7).await);
    let replica = world.group(laggard);
    if stale {
        return !replica.state().notes.contains_key(&7);
    }
    match replica.read(Duration::from_secs(1)).await {
        Ok(state) => !state.notes.contains_key(&7),
        Err(_unavailable) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_7_a_replica_that_lags_never_answers_not_found() {
    assert!(!wrong_absence(false).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_not_found_from_a_stale_replica_is_caught() {
    assert!(wrong_absence(true).await);
}

/// Two replicas that applied different things don't have the same hash; the question that operators
/// and tests ask would see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_differ_by_one_note_are_caught() {
    use pontoon_raft::machine::Machine;
    let world = World::start(3, EVERY).await;
    let group = world.group(world.leader().await);
    assert!(when_answered(&group, 1).await);
    let digests = || async {
        let states: Vec<_> = world.groups().map(|(_, group)| group.state()).collect();
        let first = states[0].digest();
        states
            .iter()
            .all(|state| state.digest() == first)
            .then_some(first)
    };
    let equal = eventually("equal replicas", digests).await;
    let mut planted = Ledger::clone(&group.state());
    std::sync::Arc::make_mut(&mut planted.notes)
        .get_mut(&1)
        .unwrap()
        .text
        .push('!');
    assert_ne!(planted.digest(), equal);
}
