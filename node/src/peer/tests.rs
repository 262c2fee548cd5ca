//! Two ends over loopback: what callers are told when the other end is well, gone, silent or
//! foreign.

use super::*;
use crate::net;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use pb::pass_reply::Outcome;
use pb::raft_server::{Raft, RaftServer};
use pontoon_proto::id::WorkerId;
use pontoon_proto::worker::{EndSession, NodeMessage, node_message};
use pontoon_raft::catalog::command::Survive;
use pontoon_raft::cluster::{self, Cluster};
use pontoon_raft::group::Timing;
use pontoon_raft::group::network::Transport as _;
use pontoon_raft::identity::Identity;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Streaming};

const CLUSTER: [u8; 16] = [7; 16];
const WITHIN: Duration = Duration::from_secs(5);
const OTHER: NodeId = NodeId(2);

/// A cluster of one node, number 1, in the region `us-east`, with its own log in `folder`.
pub(crate) async fn lone(folder: &std::path::Path, peers: &Peers) -> Cluster {
    let me = peers.me();
    let node = me.at.node;
    let identity = Identity::open(folder, me.cluster, &me.name, Some(node), [7; 16]).unwrap();
    identity.settle(node, 1).unwrap();
    let options = cluster::Options {
        data_dir: folder.into(),
        members: vec![cluster::Member {
            node: me.at.node,
            name: me.name.clone(),
            region: "us-east".into(),
        }],
        cluster_id: me.cluster,
        timing: Some(Timing::LAN),
        survive: Survive::Region,
        node_lost_after: Duration::from_secs(5),
        node_dead_after: Duration::from_secs(600),
        distance: Arc::new(|_| None),
        transport: Arc::new(peers.clone()),
    };
    Cluster::start(Arc::new(identity), options).await.unwrap()
}

pub(crate) fn me(node: u32) -> Me {
    Me {
        cluster: CLUSTER,
        name: format!("n{node}"),
        at: NodeBoot {
            node: NodeId(node),
            boot: 3,
        },
    }
}

fn peers_to(address: &str) -> Peers {
    let peers = Peers::new(me(1), None);
    peers.set_places(at(OTHER, address));
    peers
}

/// The table in which one node is at this address.
pub(super) fn at(node: NodeId, address: &str) -> BTreeMap<NodeId, Place> {
    let place = Place {
        name: format!("n{}", node.0),
        address: address.to_owned(),
    };
    BTreeMap::from([(node, place)])
}

pub(super) async fn bound() -> (net::TcpListener, String) {
    let listener = net::listen("tests", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A whole server on a cluster of one, as node 2; a pass is answered with `Passed` when it is an
/// `EndSession` and asks to wait.
struct Serving {
    address: String,
    stop: CancellationToken,
    cluster: Cluster,
    _folder: tempfile::TempDir,
}

async fn serving() -> Serving {
    let (listener, address) = bound().await;
    let folder = tempfile::tempdir().unwrap();
    let cluster = lone(folder.path(), &Peers::new(me(2), None)).await;
    let stop = CancellationToken::new();
    start(listener, Peers::new(me(2), None), &cluster, stop.clone());
    Serving {
        address,
        stop,
        cluster,
        _folder: folder,
    }
}

pub(super) fn start(
    listener: net::TcpListener,
    peers: Peers,
    cluster: &Cluster,
    stop: CancellationToken,
) {
    let pass: PassHandler = Arc::new(|_, message, wait| {
        let end = matches!(message.message, Some(node_message::Message::EndSession(_)));
        async move {
            match wait {
                Some(_) if end => Outcome::Passed,
                _ => Outcome::NotAttached,
            }
        }
        .boxed()
    });
    let handlers = Handlers {
        pass,
        relay: crate::relay::refuse_all(),
        greet: Arc::new(|_, _| async { Ok(Verdict::Unsure) }.boxed()),
        admit: Arc::new(|_| async { Err(Status::unavailable("not here")) }.boxed()),
        folder: [7; 16],
        closes: Arc::new(|_| pb::ClosesReply::default()),
        switch: crate::drain::Switch::default(),
    };
    let mut incoming = take(listener, peers.tls().cloned());
    let cluster = cluster.clone();
    crate::tasks::spawn(crate::tasks::Kind::Worker, "test server", async move {
        serve(&mut incoming, peers, Some(cluster), handlers, stop).await
    });
}

/// The raft half of a node in a few lines.
struct Fake;

#[tonic::async_trait]
impl Raft for Fake {
    type AppendStream = BoxStream<'static, Result<pb::AppendReply, Status>>;

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        Ok(Response::new(pb::VoteReply {
            vote: request.into_inner().vote,
            granted: true,
            last_log_id: None,
        }))
    }

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let replies = request.into_inner().map(|request| {
            Ok(pb::AppendReply {
                result: Some(pb::append_reply::Result::Partial(
                    request?.prev_log_id.unwrap_or_default(),
                )),
            })
        });
        Ok(Response::new(replies.boxed()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        let mut chunks = request.into_inner();
        let mut bytes = 0;
        while let Some(chunk) = chunks.message().await? {
            bytes += chunk.data.len() as u64;
        }
        let vote = pb::Vote {
            term: bytes,
            ..pb::Vote::default()
        };
        Ok(Response::new(pb::SnapshotReply { vote: Some(vote) }))
    }

    async fn transfer_leader(
        &self,
        _: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderReply>, Status> {
        Ok(Response::new(pb::TransferLeaderReply::default()))
    }

    /// Never answers: the outcome stays unknown to whoever asked.
    async fn propose(
        &self,
        _: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeReply>, Status> {
        std::future::pending().await
    }

    async fn read_index(
        &self,
        _: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexReply>, Status> {
        Ok(Response::new(pb::ReadIndexReply::default()))
    }

    async fn beat(&self, _: Request<pb::BeatRequest>) -> Result<Response<pb::BeatReply>, Status> {
        Ok(Response::new(pb::BeatReply::default()))
    }
}

async fn fake() -> String {
    let (listener, address) = bound().await;
    let serving = Server::builder()
        .add_service(RaftServer::new(Fake).max_decoding_message_size(MESSAGE_MAX))
        .serve_with_incoming(TcpIncoming::from(listener));
    crate::tasks::spawn(crate::tasks::Kind::Worker, "test server", serving);
    address
}

#[tokio::test]
async fn votes_reads_and_beats_reach_the_other_node() {
    let peers = peers_to(&fake().await);
    let vote = pb::Vote {
        term: 4,
        member: 9,
        committed: false,
    };
    let request = pb::VoteRequest {
        vote: Some(vote),
        ..pb::VoteRequest::default()
    };
    let reply = peers.vote(OTHER, request, WITHIN).await.unwrap();
    assert_eq!((reply.granted, reply.vote), (true, Some(vote)));
    let read = peers.read_index(OTHER, pb::ReadIndexRequest::default(), WITHIN);
    read.await.unwrap();
    let beat = peers.beat(OTHER, pb::BeatRequest::default(), WITHIN);
    beat.await.unwrap();
}

#[tokio::test]
async fn appends_are_answered_in_order_while_the_stream_is_open() {
    let peers = peers_to(&fake().await);
    let (more, requests) = tokio::sync::mpsc::channel(8);
    let requests = stream::unfold(requests, |mut requests| async {
        requests.recv().await.map(|request| (request, requests))
    });
    let mut replies = peers.append(OTHER, requests.boxed(), WITHIN).await.unwrap();
    for index in 1..=100 {
        let id = pb::LogId {
            index,
            ..pb::LogId::default()
        };
        let request = pb::AppendRequest {
            prev_log_id: Some(id),
            ..pb::AppendRequest::default()
        };
        more.send(request).await.unwrap();
        assert_eq!(
            replies.next().await.unwrap().unwrap().result,
            Some(pb::append_reply::Result::Partial(id))
        );
    }
}

#[tokio::test]
async fn a_snapshot_larger_than_every_window_arrives_whole() {
    let peers = peers_to(&fake().await);
    let chunk = pb::SnapshotChunk {
        data: vec![1; 1 << 20].into(),
        ..pb::SnapshotChunk::default()
    };
    let chunks = stream::repeat(chunk).take(24).boxed();
    let reply = peers.install_snapshot(OTHER, chunks, WITHIN).await.unwrap();
    assert_eq!(reply.vote.unwrap().term, 24 << 20);
}

#[tokio::test]
async fn a_message_that_was_sent_and_not_answered_is_not_called_unsent() {
    let peers = peers_to(&fake().await);
    let within = Duration::from_millis(200);
    let error = peers
        .propose(OTHER, pb::ProposeRequest::default(), within)
        .await
        .unwrap_err();
    assert!(!error.unsent, "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_message_leaves_it_unknown() {
    let (listener, address) = bound().await;
    let peers = peers_to(&address);
    let cut = async {
        // The first connection swallows what it is sent, then closes; hold the listener open.
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut seen = 0;
        while seen < 200 {
            let mut buffer = [0; 4096];
            seen += tokio::io::AsyncReadExt::read(&mut socket, &mut buffer)
                .await
                .unwrap();
        }
    };
    let request = pb::ProposeRequest {
        commands: vec![vec![0; 200].into()],
        ..pb::ProposeRequest::default()
    };
    let (error, ()) = tokio::join!(peers.propose(OTHER, request, WITHIN), cut);
    let error = error.unwrap_err();
    assert!(!error.unsent, "{error}");
}

#[tokio::test]
async fn nobody_listening_means_unsent_and_fails_fast() {
    let (listener, address) = bound().await;
    drop(listener);
    let peers = peers_to(&address);
    let began = clock::now();
    for _ in 0..20 {
        let beat = peers.beat(OTHER, pb::BeatRequest::default(), WITHIN).await;
        let error = beat.unwrap_err();
        assert!(error.unsent, "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    let unknown = peers.ping(NodeId(99), WITHIN).await.unwrap_err();
    assert!(unknown.unsent);
}

#[tokio::test]
async fn a_node_that_comes_back_is_reached_again_and_its_round_trip_is_known() {
    let serving = serving().await;
    let address = &serving.address;
    let peers = peers_to(address);
    peers.ping(OTHER, WITHIN).await.unwrap();
    let give_up = clock::now() + Duration::from_secs(20);
    while peers.rtt(OTHER).is_none() {
        assert!(clock::now() < give_up, "no pulse");
        tokio::task::yield_now().await;
    }

    serving.stop.cancel();
    while peers.ping(OTHER, Duration::from_secs(1)).await.is_ok() {
        assert!(clock::now() < give_up, "it never went");
        tokio::task::yield_now().await;
    }
    let listener = loop {
        // The old connections may hold the port for a moment.
        if let Ok(listener) = net::listen("tests", address).await {
            break listener;
        }
        assert!(clock::now() < give_up, "the port stays taken");
        tokio::task::yield_now().await;
    };
    let peers_again = Peers::new(me(2), None);
    start(
        listener,
        peers_again,
        &serving.cluster,
        CancellationToken::new(),
    );
    let back = clock::now();
    while peers.ping(OTHER, Duration::from_secs(1)).await.is_err() {
        assert!(clock::now() < give_up, "it never came back");
        tokio::task::yield_now().await;
    }
    assert!(
        back.elapsed() < Duration::from_secs(1),
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test]
async fn a_message_for_a_sidecar_is_handed_over_and_its_outcome_comes_back() {
    let serving = serving().await;
    let peers = peers_to(&serving.address);
    let message = NodeMessage {
        message: Some(node_message::Message::EndSession(EndSession::default())),
    };
    let mut request = pb::PassRequest {
        worker: WorkerId::from_random([1; 16]).to_bytes().to_vec().into(),
        message: message.encode_to_vec().into(),
        wait_ms: 100,
        ..pb::PassRequest::default()
    };
    let reply = peers.pass(OTHER, request.clone(), WITHIN).await.unwrap();
    assert_eq!(reply.outcome(), Outcome::Passed);
    request.wait_ms = 0;
    let reply = peers.pass(OTHER, request.clone(), WITHIN).await.unwrap();
    assert_eq!(reply.outcome(), Outcome::NotAttached);
    request.worker = vec![1; 3].into();
    let error = peers.pass(OTHER, request, WITHIN).await.unwrap_err();
    assert!(error.cause.contains("16 bytes"), "{error}");
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_and_told_why() {
    let serving = serving().await;
    let stranger = Me {
        cluster: [8; 16],
        ..me(1)
    };
    let stranger = Peers::new(stranger, None);
    stranger.set_places(at(OTHER, &serving.address));
    let error = stranger.ping(OTHER, WITHIN).await.unwrap_err();
    assert!(error.cause.contains("another cluster"), "{error}");
    assert!(error.cause.contains("join token"), "{error}");
    let vote = pb::VoteRequest {
        envelope: Some(stranger.envelope()),
        ..pb::VoteRequest::default()
    };
    let error = stranger.vote(OTHER, vote, WITHIN).await.unwrap_err();
    assert!(error.cause.contains("another cluster"), "{error}");
    let append = pb::AppendRequest {
        envelope: Some(stranger.envelope()),
        ..pb::AppendRequest::default()
    };
    let requests = stream::iter([append]).boxed();
    let mut replies = stranger.append(OTHER, requests, WITHIN).await.unwrap();
    let error = replies.next().await.unwrap().unwrap_err();
    assert!(error.cause.contains("another cluster"), "{error}");
}

#[tokio::test]
async fn a_real_group_answers_over_the_wire_and_says_how_far_its_catalog_is() {
    let serving = serving().await;
    let peers = peers_to(&serving.address);
    let catalog = serving.cluster.catalog();
    catalog.read(WITHIN).await.unwrap();
    let request = || pb::ReadIndexRequest {
        envelope: Some(pb::Envelope {
            generation: catalog.generation(),
            ..peers.envelope()
        }),
    };
    let reply = peers.read_index(OTHER, request(), WITHIN).await.unwrap();
    assert_eq!(reply.refusal(), pb::Refusal::Unspecified);
    assert!(reply.index > 0);
    catalog.applied_at_least(reply.index, WITHIN).await.unwrap();
    let applied = peers.catalog_applied(OTHER, WITHIN).await.unwrap();
    assert!(applied >= reply.index, "{applied} of {}", reply.index);
}

#[tokio::test]
async fn another_node_at_a_known_address_is_not_taken_for_the_one_that_was_there() {
    let serving = serving().await;
    let peers = Peers::new(me(1), None);
    peers.set_places(at(NodeId(3), &serving.address));
    let error = peers.ping(NodeId(3), WITHIN).await.unwrap_err();
    assert!(error.cause.contains("node 2"), "{error}");
}
