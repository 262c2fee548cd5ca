//! A whole cluster's groups in one process: birth, regions, identities, losses.

mod world;

use pontoon_proto::id::{GroupId, NodeBoot, NodeId, RegionId};
use pontoon_raft::directory::command::{Command, Reply};
use world::nodes::{Nodes, request};
use world::{LONG, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_are_born_and_come_back_from_disk() {
    let mut nodes = Nodes::new(&["us-east", "us-west", "eu-central"]);
    for node in 1..=3 {
        nodes.up(node).await;
    }
    nodes.ready(3).await;
    for (number, cluster) in &nodes.running {
        for (region, group) in cluster.regions() {
            assert_eq!(group.id(), GroupId::Region(region));
            assert_eq!(group.status().voters.len(), 3);
            let id = request(region.0, *number as u8);
            let cancelled = group
                .propose(Command::CancelOpen { id }, LONG)
                .await
                .unwrap();
            assert!(
                matches!(cancelled.reply, Reply::Done | Reply::Ended(_)),
                "{:?}",
                cancelled.reply
            );
        }
    }
    for node in 1..=3 {
        nodes.down(node).await;
    }
    for node in 1..=3 {
        nodes.up(node).await;
    }
    nodes.ready(3).await;
    for (number, cluster) in &nodes.running {
        assert_eq!(
            cluster.at(),
            NodeBoot {
                node: NodeId(*number),
                boot: 2
            }
        );
        for (region, group) in cluster.regions() {
            let state = group.read(LONG).await.unwrap();
            assert!((1..=3).all(|seed| state.ended(request(region.0, seed)).is_some()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_beyond_the_voters_listen_and_write() {
    let mut nodes = Nodes::new(&["a", "a", "b", "b", "c", "c", "c"]);
    for node in 1..=7 {
        nodes.up(node).await;
    }
    nodes.ready(3).await;
    for (number, cluster) in &nodes.running {
        let group = cluster.region(RegionId(2)).unwrap();
        let id = request(2, *number as u8);
        group
            .propose(Command::CancelOpen { id }, LONG)
            .await
            .unwrap();
        assert!(group.read(LONG).await.unwrap().ended(id).is_some());
    }
    let status = nodes.running[&1].catalog().status();
    assert_eq!((status.voters.len(), status.learners.len()), (5, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_8_a_node_that_is_silent_is_given_up_and_comes_back_in_another_boot() {
    let mut nodes = Nodes::new(&["a", "b", "c"]);
    for node in 1..=3 {
        nodes.up(node).await;
    }
    nodes.ready(3).await;
    let region = RegionId(1);
    let group = nodes.running[&1].region(region).unwrap();
    let leader = eventually("a leader", || async { group.status().leader }).await;
    let victim = (1..=3).find(|node| NodeId(*node) != leader).unwrap();
    let at = nodes.running[&victim].at();
    let cluster = nodes.running[&victim].clone();
    // Something of the victim's to lose: an open that waits for a worker that never comes.
    let group = cluster.region(region).unwrap();
    let open = Command::Open {
        id: request(1, 9),
        tenant: pontoon_proto::id::TenantId::from_random([1; 16]),
        function: pontoon_proto::id::FunctionId::from_random([1; 16]),
        version: pontoon_proto::id::VersionId::from_random([1; 16]),
        at,
        seq: 1,
        asked: pontoon_raft::machine::Machine::clock(&*group.state()),
        wait_ms: 600_000,
        window_ms: 30_000,
        absorbed: false,
        window_asked: false,
    };
    assert_eq!(
        group.propose(open, LONG).await.unwrap().reply,
        Reply::Queued
    );
    for other in (1..=3).filter(|node| *node != victim) {
        nodes.net.cut(NodeId(victim), NodeId(other), true);
        nodes.net.cut(NodeId(other), NodeId(victim), true);
    }
    let witness = nodes.running[&leader.0].region(region).unwrap();
    eventually("the loss", || async {
        witness.state().boot_over(at).then_some(())
    })
    .await;
    for other in (1..=3).filter(|node| *node != victim) {
        nodes.net.cut(NodeId(victim), NodeId(other), false);
        nodes.net.cut(NodeId(other), NodeId(victim), false);
    }
    let mut boots = cluster.boots();
    let next = tokio::time::timeout(LONG, boots.wait_for(|now| *now != at))
        .await
        .unwrap()
        .unwrap()
        .boot;
    assert_eq!(next, at.boot + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h_2_messages_of_another_cluster_are_refused() {
    let mut nodes = Nodes::new(&["a"]);
    nodes.up(1).await;
    nodes.ready(1).await;
    let envelope = pontoon_proto::peer::Envelope {
        cluster: vec![9; 16].into(),
        generation: 1,
        node: 2,
        boot: 1,
        ..Default::default()
    };
    let vote = pontoon_proto::peer::VoteRequest {
        envelope: Some(envelope.clone()),
        ..Default::default()
    };
    assert!(nodes.running[&1].serve_vote(vote).await.is_err());
    let propose = pontoon_proto::peer::ProposeRequest {
        envelope: Some(envelope),
        ..Default::default()
    };
    let reply = nodes.running[&1].serve_propose(propose).await;
    assert_eq!(reply.refusal(), pontoon_proto::peer::Refusal::Foreign);
}
