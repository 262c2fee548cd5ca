//! What a group promises, on three nodes with real storage.

mod world;

use futures::future::join_all;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer as pb;
use pontoon_raft::codec::{self, Role};
use pontoon_raft::group::{ProposeError, Unavailable};
use pontoon_raft::machine::Machine as _;
use pontoon_raft::store::Store;
use pontoon_raft::store::memory::Platter;
use std::time::Duration;
use world::ledger::{Command, Ledger, write};
use world::{CLUSTER, GROUP, LONG, World, eventually};

const EVERY: u64 = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_node_writes_every_node_reads_at_once() {
    let world = World::start(3, EVERY).await;
    for (id, (node, group)) in world.groups().enumerate() {
        let id = id as u64;
        let proposed = group.propose(write(id), LONG).await.unwrap();
        for (reader, group) in world.groups() {
            let state = group.read(LONG).await.unwrap();
            assert_eq!(
                state.notes[&id].index, proposed.reply,
                "{node} wrote, {reader} read"
            );
            assert_eq!(proposed.reply, proposed.index);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_command_is_applied_once() {
    let world = World::start(3, EVERY).await;
    let first = world.group(1).propose(write(7), LONG).await.unwrap();
    let again = world.group(2).propose(write(7), LONG).await.unwrap();
    assert_eq!(first.reply, again.reply);
    assert_ne!(first.index, again.index);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_wait_at_a_follower_travel_together_and_each_has_its_own_answer() {
    let world = World::start(3, EVERY).await;
    let leader = world.leader().await;
    let (_, follower) = world.groups().find(|(node, _)| *node != leader).unwrap();
    follower.propose(write(10_000), LONG).await.unwrap();
    let mut messages = Vec::new();
    // On a busy machine an election may fall into one of the rounds, and its repetitions count.
    for round in 0..3 {
        let ids = round * 500..(round + 1) * 500;
        let before = world.net.forwarded();
        let proposed = join_all(ids.clone().map(|id| follower.propose(write(id), LONG))).await;
        messages.push(world.net.forwarded() - before);
        let state = follower.read(LONG).await.unwrap();
        for (id, proposed) in ids.zip(proposed) {
            assert_eq!(state.notes[&id].index, proposed.unwrap().reply, "{id}");
        }
    }
    assert!(
        messages.iter().any(|messages| *messages < 100),
        "500 commands took {messages:?} messages"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_caller_that_is_no_node_may_propose_through_any_node() {
    let world = World::start(3, EVERY).await;
    let leader = world.leader().await;
    let command = codec::encode(&write(7)).unwrap();
    let request = |forward| pb::ProposeRequest {
        envelope: Some(pb::Envelope {
            cluster: CLUSTER.to_vec().into(),
            group: u32::from(GROUP.number()),
            generation: 1,
            ..pb::Envelope::default()
        }),
        commands: vec![codec::frame(Role::Command, Ledger::KIND, 0, &command).unwrap()],
        wait_ms: LONG.as_millis() as u64,
        forward,
    };
    for (node, _) in world.groups() {
        let reply = world.registry(node).serve_propose(request(true)).await;
        assert_eq!(reply.refusal(), pb::Refusal::Unspecified, "node {node}");
        assert_eq!(reply.replies.len(), 1);
        if node != leader {
            let reply = world.registry(node).serve_propose(request(false)).await;
            assert_eq!(reply.refusal(), pb::Refusal::NotLeader, "node {node}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_goes_on_without_its_leader_and_the_leader_comes_back() {
    let mut world = World::start(3, EVERY).await;
    let mut id = 0;
    for _ in 0..2 {
        let leader = world.leader().await;
        let survivor = world
            .groups()
            .map(|(node, _)| node)
            .find(|node| *node != leader)
            .unwrap();
        world.group(leader).propose(write(id), LONG).await.unwrap();
        world.down(leader).await;
        let state = world.group(survivor).read(LONG).await.unwrap();
        assert!(
            state.notes.contains_key(&id),
            "what was answered is there after the failover"
        );
        world
            .group(survivor)
            .propose(write(id + 1), LONG)
            .await
            .unwrap();
        world.up(leader).await;
        let state = world.group(leader).read(LONG).await.unwrap();
        assert!(state.notes.contains_key(&(id + 1)));
        id += 2;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_under_way_survives_the_death_of_the_leader() {
    let mut world = World::start(3, EVERY).await;
    let leader = world.leader().await;
    let survivor = world
        .groups()
        .map(|(node, _)| node)
        .find(|node| *node != leader)
        .unwrap();
    let group = world.group(survivor);
    let watched = world.group(survivor);
    let writing = async {
        for id in 0..200 {
            group.propose(write(id), LONG).await.unwrap();
        }
    };
    let killing = async {
        eventually("some notes", || async {
            (watched.state().notes.len() > 20).then_some(())
        })
        .await;
        world.down(leader).await;
    };
    futures::join!(writing, killing);
    // The leader answers, and may be ahead of this replica.
    eventually("all notes", || async {
        (watched.state().notes.len() == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_18_all_nodes_restart_with_everything_and_without_old_effects() {
    let mut world = World::start(3, EVERY).await;
    let group = world.group(1);
    join_all((0..500).map(|id| group.propose(write(id), LONG)))
        .await
        .into_iter()
        .for_each(|done| {
            done.unwrap();
        });
    // A node that has not seen them yet may act on them later; one that has, may not again.
    for (_, group) in world.groups() {
        assert_eq!(group.read(LONG).await.unwrap().notes.len(), 500);
    }
    for node in 1..=3 {
        world.down(node).await;
    }
    let mut effects = Vec::new();
    for node in 1..=3 {
        world.up(node).await;
        effects.push(world.group(node).effects());
    }
    for (_, group) in world.groups() {
        assert_eq!(group.read(LONG).await.unwrap().notes.len(), 500);
    }
    world.group(2).propose(write(1000), LONG).await.unwrap();
    for (node, mut effects) in (1..).zip(effects) {
        world.group(node).read(LONG).await.unwrap();
        assert_eq!(
            effects.recv().await.unwrap(),
            1000,
            "the first effect on node {node}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_proposals_share_entries() {
    let world = World::start(3, EVERY).await;
    let leader = world.group(world.leader().await);
    let before = leader.status().last_log;
    let done = join_all((0..2000).map(|id| leader.propose(write(id), LONG))).await;
    assert!(done.iter().all(Result::is_ok));
    let entries = leader.status().last_log - before;
    assert!(entries <= 200, "2000 proposals took {entries} entries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_replica_is_brought_up_by_a_snapshot() {
    let mut world = World::start(3, 40).await;
    let leader = world.leader().await;
    let lagging = (1..=3).find(|node| *node != leader).unwrap();
    world.down(lagging).await;
    let group = world.group(leader);
    for id in 0..400 {
        group.propose(write(id), LONG).await.unwrap();
    }
    eventually("a purge", || async {
        (group.status().purged > 100).then_some(())
    })
    .await;
    world.up(lagging).await;
    let state = world.group(lagging).read(LONG).await.unwrap();
    assert_eq!(state.notes.len(), 400);
    assert!(world.group(lagging).status().snapshot > 100);
    // And it recovers from that snapshot.
    world.down(lagging).await;
    world.up(lagging).await;
    assert_eq!(
        world.group(lagging).read(LONG).await.unwrap().notes.len(),
        400
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_6_a_node_that_is_not_heard_stops_counting_itself_connected() {
    let world = World::start(3, EVERY).await;
    let leader = world.leader().await;
    let deaf = (1..=3).find(|node| *node != leader).unwrap();
    let group = world.group(deaf);
    eventually("a beat", || async { group.connected().then_some(()) }).await;
    for other in (1..=3).filter(|node| *node != deaf) {
        world.net.cut(NodeId(deaf), NodeId(other), true);
    }
    eventually("the loss", || async { (!group.connected()).then_some(()) }).await;
    assert_eq!(
        group.read(Duration::from_millis(300)).await.err(),
        Some(Unavailable)
    );
    for other in (1..=3).filter(|node| *node != deaf) {
        world.net.cut(NodeId(deaf), NodeId(other), false);
    }
    eventually("a beat again", || async { group.connected().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_29_a_leader_without_a_quorum_confirms_nothing() {
    let world = World::start(3, EVERY).await;
    let leader = world.leader().await;
    world.isolate(leader, true);
    let group = world.group(leader);
    assert_eq!(
        group.read(Duration::from_millis(500)).await.err(),
        Some(Unavailable)
    );
    let outcome = group.propose(write(1), Duration::from_millis(500)).await;
    assert!(outcome.is_err());
    let other = (1..=3).find(|node| *node != leader).unwrap();
    world.group(other).propose(write(2), LONG).await.unwrap();
    world.isolate(leader, false);
    let state = group.read(LONG).await.unwrap();
    assert!(state.notes.contains_key(&2));
    if outcome == Err(ProposeError::Unavailable) {
        assert!(
            !state.notes.contains_key(&1),
            "unavailable means: surely not proposed"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_acts_when_it_is_due_and_only_then() {
    let world = World::start(3, EVERY).await;
    let group = world.group(world.leader().await);
    group.propose(write(0), LONG).await.unwrap();
    // Two ticks' worth: that nothing happens is what is looked at.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(group.state().ticks, 0, "no ticks while nothing is due");
    let asleep = group
        .propose(Command::Wake { after_ms: 1200 }, LONG)
        .await
        .unwrap();
    let woken = eventually("the wake-up", || async {
        let state = group.state();
        state.due.is_none().then_some(state)
    })
    .await;
    assert!((2..=6).contains(&woken.ticks), "{} ticks", woken.ticks);
    let next = group.propose(write(1), LONG).await.unwrap();
    // One tick may have been on its way when the wake-up was seen.
    assert!(next.index <= asleep.index + woken.ticks + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_voter_is_a_group_too() {
    let mut world = World::start(1, EVERY).await;
    world.group(1).propose(write(1), LONG).await.unwrap();
    world.down(1).await;
    world.up(1).await;
    assert!(
        world
            .group(1)
            .read(LONG)
            .await
            .unwrap()
            .notes
            .contains_key(&1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_4_a_replica_whose_storage_has_failed_stops_counting_although_others_hear_it() {
    let platter = Platter::default();
    let store = Store::over(Box::new(platter.engine())).unwrap();
    let world = World::start_with(3, EVERY, store).await;
    let hurt = world.group(3);
    eventually("it counts", || async { hurt.connected().then_some(()) }).await;
    let mut leader = world.leader().await;
    platter.fail(true);
    if leader == 3 {
        // It notices when it is to write; the others elect another one meanwhile.
        let _unknown = hurt.propose(write(1), Duration::from_secs(1)).await;
        world.isolate(3, true);
        leader = eventually("another leader", || async {
            [1, 2].into_iter().find(|node| world.group(*node).leads())
        })
        .await;
        world.isolate(3, false);
    }
    eventually("the others go on", || async {
        world.group(leader).propose(write(2), LONG).await.ok()
    })
    .await;
    eventually("it stops counting", || async {
        hurt.beat_age().is_none().then_some(())
    })
    .await;
    // For longer than a beat: nothing that others confirm makes it count again.
    for _ in 0..10 {
        assert!(hurt.read(Duration::from_millis(200)).await.is_err());
        assert!(!hurt.connected());
    }
}
