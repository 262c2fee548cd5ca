//! Memberships that change while a cluster works: nodes join, leave, die, lose their disks.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot set its scene up has failed, and one measures the machine's time"
)]

mod world;

use pontoon_proto::id::{FunctionId, NodeId, RegionId, VersionId, WorkerId};
use pontoon_raft::catalog::command::{Command, Pace, Reply, Standing, Survive};
use pontoon_raft::directory::command as directory;
use pontoon_raft::member::node_of;
use std::time::Duration;
use world::nodes::{Nodes, group_id};
use world::{LONG, eventually};

const THREE: [&str; 3] = ["a", "b", "c"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_8_a_voter_that_lost_its_disk_comes_back_as_another_member_and_votes_again() {
    let mut nodes = Nodes::start(&THREE).await;
    let before = nodes.mark(1, 1, 1).await;
    let old = nodes.group(3, 1).member();
    let boot = nodes.running[&3].at().boot;
    nodes.down(3).await;
    nodes.lose_disk(3);
    nodes.up(3).await;
    nodes.ready(3).await;
    let new = nodes.group(3, 1).member();
    assert!(new > old && node_of(new) == NodeId(3), "{old} {new}");
    assert!(nodes.running[&3].at().boot > boot);
    // Its node is among the voters all the time: by the member that is lost, then by the new one.
    eventually("the new member votes", || async {
        nodes.group(3, 1).needs_me().then_some(())
    })
    .await;
    nodes.voters(1, &[1, 2, 3]).await;
    nodes.finds(before).await;
    // The new member counts: with another one gone it makes the majority.
    nodes.down(2).await;
    let after = nodes.mark(1, 1, 2).await;
    nodes.finds(after).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_33_a_replica_with_a_damaged_log_does_not_vote_and_comes_back_as_another_member() {
    let mut nodes = Nodes::start(&THREE).await;
    let before = nodes.mark(1, 1, 1).await;
    let old = nodes.group(3, 1).member();
    let others = nodes.group(3, 2).member();
    nodes.down(3).await;
    // The side file says that more was durable than the engine gives back.
    std::fs::remove_dir_all(nodes.folder(3).join("snapshots/group-1")).ok();
    damage(&nodes.folder(3));
    nodes.up(3).await;
    nodes.ready(3).await;
    assert!(nodes.group(3, 1).member() > old);
    assert!(nodes.group(3, 2).member() >= others);
    nodes.voters(1, &[1, 2, 3]).await;
    nodes.finds(before).await;
    nodes.equal(1).await;
}

/// Loses the log engine's files, and with them everything that the identity says is there.
fn damage(folder: &std::path::Path) {
    std::fs::remove_dir_all(folder.join("log")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_listens_and_a_dead_ones_place_is_given_to_it() {
    let mut nodes = Nodes::new(&THREE);
    nodes.dead_after = Duration::from_secs(4);
    let mut nodes = nodes.all_up().await;
    let before = nodes.mark(1, 1, 1).await;
    assert_eq!(nodes.join("late", "c").await, 4);
    nodes.ready(3).await;
    nodes.finds(before).await;
    assert_eq!(nodes.group(4, 1).status().learners, [NodeId(4)]);
    nodes.down(3).await;
    nodes.voters(1, &[1, 2, 4]).await;
    let state = nodes.running[&1].catalog().state();
    assert_eq!(state.node(NodeId(3)).unwrap().standing, Standing::Dead);
    let audit: Vec<String> = state.audit().map(|one| one.what.clone()).collect();
    assert!(
        audit.iter().any(|what| what == "mark node node-3 dead"),
        "{audit:?}"
    );
    // Heard again, it listens, and by placement the lower number votes.
    nodes.up(3).await;
    nodes.voters(1, &[1, 2, 3]).await;
    let after = nodes.mark(4, 1, 2).await;
    nodes.finds(after).await;
    nodes.equal(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_new_region_brings_the_region_with_it_and_its_group_grows() {
    let mut nodes = Nodes::start(&THREE).await;
    nodes.join("d-1", "d").await;
    nodes.ready(4).await;
    let state = nodes.running[&1].catalog().state();
    assert_eq!(state.region_by_name("d").unwrap().number, RegionId(4));
    nodes.voters(4, &[1, 2, 4]).await;
    let mark = nodes.mark(1, 4, 1).await;
    nodes.finds(mark).await;
    eventually("the leader comes home", || async {
        (nodes.group(1, 4).status().leader == Some(NodeId(4))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_24_a_removed_node_and_a_removed_region_never_come_back_under_their_numbers() {
    let mut nodes = Nodes::start(&["a", "b", "c", "c"]).await;
    let refused = nodes
        .ask(Command::RemoveRegion {
            region: RegionId(3),
            actor: "ada".into(),
        })
        .await;
    assert!(matches!(refused, Reply::Refused(_)), "{refused:?}");
    eventually("both have announced themselves", || async {
        let state = nodes.running[&1].catalog().state();
        let known = |node: &u32| state.node(NodeId(*node)).is_some();
        [3, 4].iter().all(known).then_some(())
    })
    .await;
    for node in [3, 4] {
        let command = Command::RemoveNode {
            node: NodeId(node),
            actor: "ada".into(),
        };
        assert_eq!(nodes.ask(command).await, Reply::Done);
    }
    for node in [3, 4] {
        nodes.down(node).await;
    }
    nodes.voters(1, &[1]).await;
    let remove = Command::RemoveRegion {
        region: RegionId(3),
        actor: "ada".into(),
    };
    assert_eq!(nodes.ask(remove).await, Reply::Done);
    eventually("nobody runs the group", || async {
        let gone = |cluster: &pontoon_raft::cluster::Cluster| cluster.regions().len() == 2;
        nodes.running.values().all(gone).then_some(())
    })
    .await;
    nodes.lose_disk(3);
    assert_eq!(nodes.join("node-9", "c").await, 5);
    let state = nodes.running[&1].catalog().state();
    assert_eq!(state.region_by_name("c").unwrap().number, RegionId(4));
    nodes.ready(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_28_survival_changes_while_opens_run_and_nothing_is_lost() {
    let mut nodes = Nodes::new(&["a", "a", "a", "b", "c"]);
    nodes.survive = Survive::Zone;
    nodes.timing = None;
    *nodes.apart.lock().unwrap() = Duration::from_millis(60);
    let nodes = nodes.all_up().await;
    nodes.voters(1, &[1, 2, 3]).await;
    eventually("the short timing at home", || async {
        let quick = |cluster: &pontoon_raft::cluster::Cluster| {
            cluster.region(RegionId(1)).unwrap().pace() == Pace::Lan
        };
        nodes.running.values().all(quick).then_some(())
    })
    .await;
    let mut marks = Vec::new();
    for (survive, wanted) in [
        (Survive::Region, vec![1, 4, 5]),
        (Survive::Zone, vec![1, 2, 3]),
    ] {
        let command = Command::SetSurvive {
            region: RegionId(1),
            survive,
            actor: "ada".into(),
        };
        let (changed, written) = tokio::join!(
            async {
                assert_eq!(nodes.ask(command).await, Reply::Done);
                nodes.voters(1, &wanted).await;
            },
            async {
                let mut written = Vec::new();
                for seed in 0..40u8 {
                    let seed = seed + 40 * (survive == Survive::Zone) as u8;
                    written.push(nodes.mark(u32::from(seed % 5) + 1, 1, seed).await);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                written
            }
        );
        let () = changed;
        marks.extend(written);
    }
    eventually("the short timing again", || async {
        (nodes.group(1, 1).pace() == Pace::Lan).then_some(())
    })
    .await;
    for mark in marks {
        nodes.finds(mark).await;
    }
    nodes.equal(1).await;
    let state = nodes.running[&1].catalog().state();
    let audit: Vec<String> = state.audit().map(|one| one.what.clone()).collect();
    let place = |what: &str| audit.iter().position(|one| one == what);
    let long = place("set the pace of a to Wan").expect("a longer timing");
    let spread = place("a: voters are node-1, node-4, node-5");
    let spread = spread.or_else(|| place("a: voters are node-1, node-2, node-4"));
    assert!(spread.is_some_and(|spread| spread > long), "{audit:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_3_a_learner_three_heartbeats_away_keeps_up_and_disturbs_nobody() {
    let mut nodes = Nodes::new(&["a", "a", "a", "b"]);
    nodes.survive = Survive::Zone;
    let far = Duration::from_millis(75);
    nodes.net.far(NodeId(4), far);
    let nodes = nodes.all_up().await;
    nodes.voters(1, &[1, 2, 3]).await;
    let term = nodes.group(1, 1).status().term;
    let started = std::time::Instant::now();
    let mut last = None;
    for seed in 0..100 {
        last = Some(nodes.mark(1, 1, seed).await);
    }
    let took = started.elapsed();
    assert!(took < 100 * far, "no write waits for the learner: {took:?}");
    let last = last.unwrap();
    let learner = nodes.group(4, 1);
    eventually("the learner has the last write", || async {
        learner.state().ended(last).map(|_| ())
    })
    .await;
    let behind = started.elapsed() - took;
    assert!(behind < Duration::from_secs(2), "{behind:?} behind");
    assert_eq!(
        nodes.group(1, 1).status().term,
        term,
        "nobody stood for election"
    );
    assert!(learner.connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_23_a_recovered_region_refuses_its_old_side_for_good() {
    let mut nodes = Nodes::new(&["a", "a", "a", "b", "c"]);
    nodes.survive = Survive::Zone;
    let nodes = nodes.all_up().await;
    nodes.voters(1, &[1, 2, 3]).await;
    eventually("the others listen", || async {
        (nodes.group(4, 1).status().learners == [NodeId(4), NodeId(5)]).then_some(())
    })
    .await;
    let kept = nodes.mark(1, 1, 1).await;
    nodes.finds(kept).await;
    // Region a is cut off, and alive: its own side goes on.
    let cut = |cut| {
        for (inside, outside) in (1..=3).flat_map(|inside| [(inside, 4), (inside, 5)]) {
            nodes.net.cut(NodeId(inside), NodeId(outside), cut);
            nodes.net.cut(NodeId(outside), NodeId(inside), cut);
        }
    };
    cut(true);
    let lost = nodes.mark(1, 1, 2).await;
    let generation = nodes.group(4, 1).generation() + 1;
    let recover = Command::RecoverRegion {
        region: RegionId(1),
        generation,
        seed: NodeId(4),
        actor: "ada".into(),
    };
    assert_eq!(nodes.ask_at(4, recover).await, Reply::Done);
    let new = |cluster: &pontoon_raft::cluster::Cluster| {
        let group = cluster.region(RegionId(1)).unwrap();
        group.generation() == generation && group.connected()
    };
    eventually("the new incarnation on the other side", || async {
        [4, 5]
            .iter()
            .all(|node| new(&nodes.running[node]))
            .then_some(())
    })
    .await;
    let after = nodes.mark(4, 1, 3).await;
    cut(false);
    eventually("the new incarnation everywhere", || async {
        nodes.running.values().all(new).then_some(())
    })
    .await;
    nodes.voters(1, &[1, 2, 3]).await;
    for mark in [kept, after] {
        nodes.finds(mark).await;
    }
    let state = nodes
        .group(1, 1)
        .read(Duration::from_secs(5))
        .await
        .unwrap();
    assert!(state.ended(lost).is_none(), "its loss was accepted");
    nodes.equal(1).await;
    // What still speaks of the old incarnation is refused.
    let envelope = pontoon_proto::peer::Envelope {
        cluster: world::CLUSTER.to_vec().into(),
        group: u32::from(group_id(1).number()),
        generation: generation - 1,
        node: 1,
        boot: 1,
        to_member: 0,
    };
    let propose = pontoon_proto::peer::ProposeRequest {
        envelope: Some(envelope),
        ..Default::default()
    };
    for cluster in nodes.running.values() {
        let reply = cluster.serve_propose(propose.clone()).await;
        assert_eq!(reply.refusal(), pontoon_proto::peer::Refusal::Foreign);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_while_it_slept_hears_that_nobody_counts_on_its_vote() {
    let mut nodes = Nodes::start(&THREE).await;
    nodes.voters(1, &[1, 2, 3]).await;
    assert!(nodes.group(3, 1).needs_me());
    nodes.down(3).await;
    let remove = Command::RemoveNode {
        node: NodeId(3),
        actor: "ada".into(),
    };
    assert_eq!(nodes.ask(remove).await, Reply::Done);
    nodes.voters(1, &[1]).await;
    eventually("the group has forgotten it", || async {
        let learners = nodes.group(1, 1).status().learners;
        (!learners.contains(&NodeId(3))).then_some(())
    })
    .await;
    // Nothing is sent to it any more: its own replica goes on believing that it votes.
    nodes.up(3).await;
    eventually("it hears it from the leader", || async {
        let group = nodes.running[&3].region(RegionId(1))?;
        (group.connected() && !group.needs_me()).then_some(())
    })
    .await;
    assert!(nodes.group(3, 1).status().voters.contains(&NodeId(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removed_node_had_in_a_directory_is_given_up_too() {
    let mut nodes = Nodes::start(&THREE).await;
    let worker = WorkerId::from_random([7; 16]);
    let attach = directory::Command::AttachWorker {
        worker,
        name: "left behind".into(),
        function: FunctionId::from_random([2; 16]),
        version: VersionId::from_random([3; 16]),
        slots: 1,
        at: nodes.running[&3].at(),
        stream: 1,
    };
    let attached = nodes.group(3, 1).propose(attach, LONG).await.unwrap();
    assert_eq!(attached.reply, directory::Reply::Attached);
    let remove = Command::RemoveNode {
        node: NodeId(3),
        actor: "ada".into(),
    };
    assert_eq!(nodes.ask(remove).await, Reply::Done);
    nodes.voters(1, &[1]).await;
    nodes.down(3).await;
    eventually("its attachment is gone", || async {
        let state = nodes.group(1, 1).state();
        let worker = state.worker(worker);
        worker
            .is_none_or(|worker| state.attached(worker).next().is_none())
            .then_some(())
    })
    .await;
}
