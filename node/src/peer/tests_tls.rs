//! Two ends over loopback with certificates: who is taken, who is refused, and what each side says.

use super::tests::{at, bound, lone, me, start};
use super::*;
use crate::net;
use crate::tls::dial::Trust;
use crate::tls::tests::{CLUSTER, Ca, Log};
use pontoon_raft::cluster::Cluster;
use std::fs;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

const WITHIN: Duration = Duration::from_secs(5);
const OTHER: NodeId = NodeId(2);

/// Node 2, whose table says that node 1 is `n1` and node 3 is `n3`.
struct Node {
    address: String,
    _cluster: Cluster,
    _stop: tokio_util::sync::DropGuard,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start(tls: Option<Tls>) -> Self {
        let (listener, address) = bound().await;
        let folder = tempfile::tempdir().unwrap();
        let peers = Peers::new(me(2), tls);
        let mut places = at(NodeId(1), "127.0.0.1:1");
        places.extend(at(NodeId(3), "127.0.0.1:1"));
        peers.set_places(places);
        let cluster = lone(folder.path(), &Peers::new(me(2), None)).await;
        let stop = CancellationToken::new();
        start(listener, peers, &cluster, stop.clone());
        Self {
            address,
            _cluster: cluster,
            _stop: stop.drop_guard(),
            _folder: folder,
        }
    }

    /// What node `number` is told that dials this one.
    async fn refuses(&self, number: u32, tls: Option<Tls>) -> String {
        let peers = dialing(number, tls, &self.address);
        let give_up = clock::now() + WITHIN;
        loop {
            let cause = peers.ping(OTHER, WITHIN).await.unwrap_err().cause;
            // A connection in clear text breaks under the first messages before its cause is known.
            if !cause.starts_with("Un") && !cause.starts_with("Cancelled") {
                return cause;
            }
            assert!(clock::now() < give_up, "{cause}");
            tokio::task::yield_now().await;
        }
    }
}

fn dialing(number: u32, tls: Option<Tls>, address: &str) -> Peers {
    let peers = Peers::new(me(number), tls);
    peers.set_places(at(OTHER, address));
    peers
}

/// Waits for a line in the log; the two sides finish in any order.
async fn logged(log: &Log, text: &str) {
    let give_up = clock::now() + WITHIN;
    while log.lines(text) == 0 {
        assert!(clock::now() < give_up, "{text} is not in\n{}", log.text());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nodes_with_certificates_of_one_ca_talk_and_find_each_other_without_a_name() {
    let ca = Ca::new();
    let node = Node::start(Some(ca.tls("n2"))).await;
    let tls = ca.tls("n1");
    let peers = dialing(1, Some(tls.clone()), &node.address);
    peers.ping(OTHER, WITHIN).await.unwrap();
    let socket = net::dial(&node.address, WITHIN).await.unwrap();
    tls.connect(socket, None).await.unwrap();
}

#[tokio::test]
async fn a_node_of_a_foreign_ca_is_refused_by_both_sides() {
    let (log, _guard) = Log::start();
    let (ca, foreign) = (Ca::new(), Ca::new());
    let node = Node::start(Some(ca.tls("n2"))).await;
    let cause = node.refuses(1, Some(foreign.tls("n1"))).await;
    assert!(
        cause.starts_with(&format!("n2 at {}", node.address)),
        "{cause}"
    );
    assert!(
        cause.contains("not signed by a CA that we trust"),
        "{cause}"
    );
    logged(&log, "it does not trust the CA that signed it").await;

    // One that trusts us, and has the certificate of another CA.
    let mut files = foreign.files("n1");
    let both = fs::read_to_string(ca.pem()).unwrap() + &fs::read_to_string(foreign.pem()).unwrap();
    files.ca = files.ca.with_file_name("both.pem");
    fs::write(&files.ca, both).unwrap();
    let tls = Tls::open(files, "n1", CLUSTER).unwrap();
    let cause = node.refuses(1, Some(tls)).await;
    assert!(
        cause.contains("it refused our certificate: it does not trust"),
        "{cause}"
    );
    logged(
        &log,
        "a connection was refused: its certificate is not signed by a CA",
    )
    .await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_either_side_with_its_day() {
    let (log, _guard) = Log::start();
    let ca = Ca::new();
    let node = Node::start(Some(ca.expired("n2"))).await;
    let cause = node.refuses(1, Some(ca.tls("n1"))).await;
    assert!(cause.contains("its certificate expired on 20"), "{cause}");
    let node = Node::start(Some(ca.tls("n2"))).await;
    let cause = node.refuses(1, Some(ca.expired("n1"))).await;
    assert!(cause.contains("by its clock it has expired"), "{cause}");
    logged(
        &log,
        "a connection was refused: its certificate expired on 20",
    )
    .await;
}

#[tokio::test]
async fn another_nodes_certificate_is_refused_on_either_side() {
    let ca = Ca::new();
    let node = Node::start(Some(ca.tls("n3"))).await;
    let cause = node.refuses(1, Some(ca.tls("n1"))).await;
    let wanted = "for n3.dev.pontoon, 127.0.0.1, and not for n2.dev.pontoon";
    assert!(cause.contains(wanted), "{cause}");

    // Node 3 has the certificate of node 1: the handshake can't know, its messages tell.
    let node = Node::start(Some(ca.tls("n2"))).await;
    let liar = dialing(3, Some(ca.tls("n1")), &node.address);
    let cause = liar.ping(OTHER, WITHIN).await.unwrap_err().cause;
    assert!(
        cause.contains("node 3 (n3)") && cause.contains("is for n1"),
        "{cause}"
    );
    let vote = pb::VoteRequest {
        envelope: Some(liar.envelope()),
        ..pb::VoteRequest::default()
    };
    use futures::StreamExt as _;
    use pontoon_raft::group::network::Transport as _;
    let error = liar.vote(OTHER, vote, WITHIN).await.unwrap_err();
    assert!(error.cause.contains("is for n1"), "{error}");
    let append = pb::AppendRequest {
        envelope: Some(liar.envelope()),
        ..pb::AppendRequest::default()
    };
    let requests = futures::stream::iter([append]).boxed();
    let mut replies = liar.append(OTHER, requests, WITHIN).await.unwrap();
    let error = replies.next().await.unwrap().unwrap_err();
    assert!(error.cause.contains("is for n1"), "{error}");
}

#[tokio::test]
async fn whoever_shows_no_certificate_is_refused() {
    let (log, _guard) = Log::start();
    let ca = Ca::new();
    let node = Node::start(Some(ca.tls("n2"))).await;
    let trust = Trust::open(&ca.pem()).unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    let socket = net::dial(&node.address, WITHIN).await.unwrap();
    let channel = trust
        .channel(endpoint, socket, &node.address)
        .await
        .unwrap();
    let ping = pb::PingRequest::default();
    peer_client(channel).ping(ping).await.unwrap_err();
    logged(&log, "a connection was refused: it shows no certificate").await;
}

#[tokio::test]
async fn one_side_with_tls_and_one_without_say_what_to_do_once() {
    let (log, _guard) = Log::start();
    let ca = Ca::new();
    let secure = Node::start(Some(ca.tls("n2"))).await;
    for _ in 0..3 {
        let cause = secure.refuses(1, None).await;
        assert!(
            cause.contains("it speaks TLS, and this node speaks clear text"),
            "{cause}"
        );
    }
    logged(&log, "it speaks clear text, and this node speaks TLS").await;
    assert_eq!(
        log.lines("it speaks clear text, and this node speaks TLS"),
        1
    );

    let clear = Node::start(None).await;
    let peers = dialing(1, Some(ca.tls("n1")), &clear.address);
    for _ in 0..20 {
        let cause = peers.ping(OTHER, WITHIN).await.unwrap_err().cause;
        assert!(
            cause.contains("it speaks clear text, and we speak TLS"),
            "{cause}"
        );
    }
    let once = "no connection to another node: it speaks clear text, and we speak TLS";
    assert_eq!(log.lines(once), 1, "{}", log.text());
    logged(
        &log,
        "it speaks TLS, and this node speaks clear text: set [tls] on this",
    )
    .await;
}

#[tokio::test]
async fn new_files_serve_new_handshakes_and_connections_that_stand_go_on() {
    let (old, new) = (Ca::new(), Ca::new());
    let tls = old.tls("n2");
    let node = Node::start(Some(tls.clone())).await;
    let standing = dialing(1, Some(old.tls("n1")), &node.address);
    standing.ping(OTHER, WITHIN).await.unwrap();

    // A new CA and a certificate of it, put in the place of the old ones.
    fs::copy(new.pem(), &tls.files().ca).unwrap();
    let pair = new.files("n2");
    fs::copy(&pair.cert, &tls.files().cert).unwrap();
    fs::copy(&pair.key, &tls.files().key).unwrap();
    tls.reload().unwrap();

    standing.ping(OTHER, WITHIN).await.unwrap();
    let fresh = dialing(1, Some(new.tls("n1")), &node.address);
    fresh.ping(OTHER, WITHIN).await.unwrap();
    let late = node.refuses(1, Some(Ca::new().tls("n1"))).await;
    assert!(late.contains("not signed by a CA that we trust"), "{late}");
    standing.ping(OTHER, WITHIN).await.unwrap();

    // Broken ones change nothing.
    fs::write(&tls.files().cert, "").unwrap();
    let problem = tls.reload().unwrap_err();
    assert!(problem.0.contains("is empty"), "{problem}");
    let fresh = dialing(1, Some(new.tls("n1")), &node.address);
    fresh.ping(OTHER, WITHIN).await.unwrap();
}
