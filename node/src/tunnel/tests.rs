//! A node's worker port over real sockets, with the directory in memory, and what other tests need
//! to have such nodes.

use super::desk::Waiting;
use super::{
    Directories, Grant, KeyRefused, Parts, PassOutcome, Passer, Tunnels, Unanswered, close, serve,
};
use crate::net::{TcpListener, TcpStream};
use crate::ops::metrics::Metrics;
use crate::prefixed::ByteStream;
use crate::relay::Relayer;
use crate::session::Target;
use crate::tls::accept::{For, Port};
use crate::{clock, random, tasks};
use futures::StreamExt as _;
use pontoon_proto::id::{
    FunctionId, NodeBoot, NodeId, RegionId, RequestId, TenantId, VersionId, WorkerId,
};
use pontoon_proto::peer::{PassReply, pass_reply::Outcome};
use pontoon_proto::ticket::Ticket;
use pontoon_proto::worker::node_message::Message;
use pontoon_proto::worker::{NodeAddress, NodeMessage, OpenTunnel};
use pontoon_raft::directory::Directory;
use pontoon_raft::directory::command::{Binding, Command, Effect, EndReason, Reply};
use pontoon_raft::group::network::Unreachable;
use pontoon_raft::machine::{Clock, Machine as _};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

pub(crate) const REGION: &str = "home";
pub(crate) const KEY: &str = "pnt_w_test";
const HOME: RegionId = RegionId(1);

/// One region's group, in memory, shared by all nodes of a test.
pub(crate) struct Group {
    state: Mutex<(Directory, u64)>,
    effects: broadcast::Sender<Effect>,
    restored: watch::Sender<u64>,
    started: Instant,
    nodes: Mutex<BTreeMap<NodeId, Tunnels>>,
    addresses: Mutex<Vec<NodeAddress>>,
    silent: Mutex<BTreeSet<NodeId>>,
    pub(crate) grant: Grant,
}

impl Group {
    pub(crate) fn new(slots: u32) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new((Directory::new(HOME), 0)),
            effects: broadcast::Sender::new(256),
            restored: watch::channel(0).0,
            started: clock::now(),
            nodes: Mutex::default(),
            addresses: Mutex::default(),
            silent: Mutex::default(),
            grant: Grant {
                tenant: TenantId::from_random([1; 16]),
                function: FunctionId::from_random([2; 16]),
                version: VersionId::from_random([3; 16]),
                slots,
            },
        })
    }

    pub(crate) fn apply(&self, command: Command) -> Reply {
        let mut effects = Vec::new();
        let mut state = self.state.lock().unwrap();
        let (directory, index) = &mut *state;
        *index += 1;
        let now = Clock(self.started.elapsed().as_millis() as u64);
        let reply = directory.apply(*index, now, command, &mut effects);
        directory.check().unwrap();
        drop(state);
        for effect in effects {
            let _nobody_listens = self.effects.send(effect);
        }
        reply
    }

    pub(crate) fn directory(&self) -> Directory {
        self.state.lock().unwrap().0.clone()
    }

    /// Opens a session, entered at this node.
    pub(crate) fn open(&self, at: NodeBoot) -> Target {
        let id = RequestId::mint(HOME, random::bytes());
        let reply = self.apply(Command::Open {
            id,
            tenant: self.grant.tenant,
            function: self.grant.function,
            version: self.grant.version,
            at,
            seq: 1,
            asked: Clock(self.started.elapsed().as_millis() as u64),
            wait_ms: 0,
            window_ms: 30_000,
            absorbed: false,
            window_asked: false,
        });
        let Reply::Bound(binding) = reply else {
            panic!("not bound: {reply:?}");
        };
        target(id, binding)
    }

    /// A node that the catalog has and that answers nobody.
    fn silence(&self, node: NodeId) {
        self.silent.lock().unwrap().insert(node);
    }

    pub(crate) fn end(&self, id: RequestId) {
        self.end_as(id, EndReason::Released);
    }

    pub(crate) fn end_as(&self, id: RequestId, reason: EndReason) {
        self.apply(Command::End { id, reason });
    }
}

pub(crate) fn target(id: RequestId, binding: Binding) -> Target {
    Target {
        id,
        region: HOME,
        generation: 1,
        binding,
    }
}

/// The group as one node sees it.
struct Seen {
    group: Arc<Group>,
    boots: watch::Sender<NodeBoot>,
}

#[tonic::async_trait]
impl Directories for Seen {
    fn boots(&self) -> watch::Receiver<NodeBoot> {
        self.boots.subscribe()
    }

    async fn worker_key(&self, secret: &str) -> Result<Grant, KeyRefused> {
        match secret == KEY {
            true => Ok(self.group.grant),
            false => Err(KeyRefused::Key),
        }
    }

    async fn region(&self, name: &str) -> Result<Option<RegionId>, Unanswered> {
        Ok((name == REGION).then_some(HOME))
    }

    fn regions(&self) -> Vec<RegionId> {
        vec![HOME]
    }

    fn generation(&self, _region: RegionId) -> u64 {
        1
    }

    async fn propose(
        &self,
        _region: RegionId,
        command: Command,
        _within: Duration,
    ) -> Result<Reply, Unanswered> {
        Ok(self.group.apply(command))
    }

    async fn read(
        &self,
        _region: RegionId,
        _within: Duration,
    ) -> Result<Arc<Directory>, Unanswered> {
        Ok(Arc::new(self.group.directory()))
    }

    fn replica(&self, _region: RegionId) -> Option<Arc<Directory>> {
        Some(Arc::new(self.group.directory()))
    }

    fn effects(&self, _region: RegionId) -> Option<broadcast::Receiver<Effect>> {
        Some(self.group.effects.subscribe())
    }

    fn restored(&self, _region: RegionId) -> Option<watch::Receiver<u64>> {
        Some(self.group.restored.subscribe())
    }

    fn is_node(&self, node: NodeId) -> bool {
        self.group.nodes.lock().unwrap().contains_key(&node)
    }

    fn nodes(&self) -> Vec<NodeAddress> {
        self.group.addresses.lock().unwrap().clone()
    }
}

/// A node, as far as workers see it.
pub(crate) struct Node {
    pub(crate) at: NodeBoot,
    pub(crate) address: String,
    pub(crate) tunnels: Tunnels,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Node {
    pub(crate) async fn start(group: &Arc<Group>, number: u32) -> Self {
        let at = NodeBoot {
            node: NodeId(number),
            boot: 1,
        };
        group.apply(Command::NodeUp { at });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        group.addresses.lock().unwrap().push(NodeAddress {
            name: format!("n{number}"),
            region: REGION.to_owned(),
            worker: address.clone(),
            node: u64::from(number),
        });
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::new(&close::labels(), &close::CODES));
        let seen = Seen {
            group: Arc::clone(group),
            boots: watch::Sender::new(at),
        };
        let tunnels = Tunnels::start(Parts {
            leaves: Arc::new(|_| false),
            directories: Arc::new(seen),
            passer: passer(group),
            relayer: relayer(group),
            advertised: address.clone(),
            cluster: [7; 16],
            name: format!("n{number}"),
            metrics: Arc::clone(&metrics),
            stop: stop.clone(),
        });
        group.nodes.lock().unwrap().insert(at.node, tunnels.clone());
        let served = serve(
            listener,
            Port::new("worker", None, For::Others),
            tunnels.clone(),
        );
        tasks::spawn(tasks::Kind::Worker, "node", served);
        Self {
            at,
            address,
            tunnels,
            metrics,
            stop,
        }
    }

    /// Whether the metrics page has this line.
    pub(crate) fn shows(&self, line: &str) -> bool {
        let page = self.metrics.render(clock::now());
        page.lines().any(|one| one == line)
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Passes messages between the nodes of a test, encoded as on the wire.
fn passer(group: &Arc<Group>) -> Passer {
    let group = Arc::downgrade(group);
    Arc::new(move |node, request, within| {
        let group = group.clone();
        Box::pin(async move {
            let unreachable = || Unreachable {
                node,
                cause: "gone".to_owned(),
                unsent: true,
            };
            let group = group.upgrade().ok_or_else(unreachable)?;
            let tunnels = group.nodes.lock().unwrap().get(&node).cloned();
            let tunnels = tunnels.ok_or_else(unreachable)?;
            let message = NodeMessage::decode(request.message).unwrap();
            let worker = WorkerId::from_slice(&request.worker).unwrap();
            let passed = tunnels.sidecars().pass(worker, message, Some(within)).await;
            Ok(PassReply {
                outcome: Outcome::from(passed).into(),
            })
        })
    })
}

/// Relays between the nodes of a test.
fn relayer(group: &Arc<Group>) -> Relayer {
    let group = Arc::downgrade(group);
    Arc::new(move |node, open, frames, _within| {
        let group = group.upgrade();
        let group = group.filter(|group| !group.silent.lock().unwrap().contains(&node));
        let tunnels = group.and_then(|group| group.nodes.lock().unwrap().get(&node).cloned());
        Box::pin(async move {
            let tunnels = tunnels.ok_or_else(|| Unreachable {
                node,
                cause: "gone".to_owned(),
                unsent: true,
            })?;
            let frames = ReceiverStream::new(frames).map(Ok).boxed();
            Ok(tunnels.relayed(&open, frames))
        })
    })
}

/// Waits until something is so, at most 20 s.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = clock::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::now() < deadline, "never so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends bytes and gives the whole answer.
async fn exchange(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer));
    read.await.expect("an answer in time").unwrap();
    answer
}

/// A CONNECT that is taken, with bytes right behind its head and others back: both ends of its tunnel.
async fn tunneled(
    address: &str,
    head: &str,
    waiting: &mut Waiting,
) -> (TcpStream, Box<dyn ByteStream>) {
    let mut sidecar = TcpStream::connect(address).await.unwrap();
    sidecar
        .write_all(format!("{head}behind").as_bytes())
        .await
        .unwrap();
    let mut stream = (&mut waiting.stream).await.unwrap().stream;
    let mut behind = [0; 6];
    stream.read_exact(&mut behind).await.unwrap();
    assert_eq!(&behind, b"behind");
    stream.write_all(b"back").await.unwrap();
    let mut answer = [0; pontoon_proto::connect::CONNECTED.len() + 4];
    sidecar.read_exact(&mut answer).await.unwrap();
    assert_eq!(
        answer,
        *format!("{}back", pontoon_proto::connect::CONNECTED).as_bytes()
    );
    (sidecar, stream)
}

fn connect(ticket: &str, id: &str) -> String {
    format!(
        "CONNECT /v1/proxy HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ticket}\r\n\
         X-Request-ID: {id}\r\n\r\n"
    )
}

fn some_target() -> Target {
    let binding = Binding {
        worker: WorkerId::from_random([9; 16]),
        slot: 0,
        index: 1,
    };
    target(RequestId::mint(HOME, [5; 16]), binding)
}

#[tokio::test]
async fn k_ops_1_the_worker_port_answers_health_checks() {
    let node = Node::start(&Group::new(1), 1).await;
    let answer = exchange(&node.address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let answer = exchange(&node.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn k_con_2_refusals_are_byte_exact_on_the_wire() {
    let node = Node::start(&Group::new(1), 1).await;
    let id = some_target().id.to_string();
    let cases = [
        (
            "CONNECT /v1/proxy HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "401",
            "missing auth",
        ),
        (connect("t", ""), "400", "missing request id"),
        (connect("t", "7"), "400", "an invalid request id"),
        (connect("t", &id), "403", "missing valid auth"),
    ];
    for (head, status, words) in cases {
        let answer = exchange(&node.address, head.as_bytes()).await;
        let verb = if words.starts_with("an ") {
            "has"
        } else {
            "is"
        };
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let text = format!("\r\n\r\nHTTP CONNECT request {verb} {words}");
        assert!(answer.ends_with(&text), "{answer}");
    }
}

#[tokio::test]
async fn h_25_a_used_ticket_is_refused_and_bytes_behind_the_head_are_kept() {
    let node = Node::start(&Group::new(1), 1).await;
    let target = some_target();
    let mut waiting = node
        .tunnels
        .desk()
        .register(target.id, target.binding.worker)
        .unwrap();
    let head = connect(&waiting.ticket.encode(), &target.id.to_string());

    let _both_ends = tunneled(&node.address, &head, &mut waiting).await;
    let replayed = exchange(&node.address, head.as_bytes()).await;
    assert!(replayed.starts_with("HTTP/1.1 403 "), "{replayed}");
}

#[tokio::test]
async fn k_con_3_a_connect_that_lands_on_another_node_is_relayed_to_the_one_that_issued_its_ticket()
{
    let group = Group::new(1);
    let (entry, landed) = (Node::start(&group, 1).await, Node::start(&group, 2).await);
    let target = some_target();
    let mut waiting = entry
        .tunnels
        .desk()
        .register(target.id, target.binding.worker)
        .unwrap();
    let ticket = waiting.ticket.encode();
    let wrong = connect(&ticket, &RequestId::mint(HOME, [6; 16]).to_string());
    let refused = exchange(&landed.address, wrong.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");

    let head = connect(&ticket, &target.id.to_string());
    let (sidecar, mut stream) = tunneled(&landed.address, &head, &mut waiting).await;
    let replayed = exchange(&landed.address, head.as_bytes()).await;
    assert!(replayed.starts_with("HTTP/1.1 403 "), "{replayed}");
    assert!(replayed.ends_with("HTTP CONNECT request is missing valid auth"));
    // A cut is passed on as a cut.
    sidecar.set_zero_linger().unwrap();
    drop(sidecar);
    stream.read_u8().await.unwrap_err();
}

#[tokio::test]
async fn k_con_2_a_ticket_of_no_known_node_is_refused_and_one_of_a_silent_node_says_so() {
    let group = Group::new(1);
    let landed = Node::start(&group, 2).await;
    let foreign = |node| Ticket {
        issuer: NodeBoot {
            node: NodeId(node),
            boot: 1,
        },
        nonce: [4; 16],
    };
    let id = some_target().id.to_string();
    let unknown = connect(&foreign(9).encode(), &id);
    let answer = exchange(&landed.address, unknown.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let silent = Node::start(&group, 3).await;
    group.silence(silent.at.node);
    let unanswered = connect(&foreign(3).encode(), &id);
    let answer = exchange(&landed.address, unanswered.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.ends_with("can't be reached from here"), "{answer}");
    // A node that is about to end begins no further relay.
    landed.tunnels.relay_no_more();
    let answer = exchange(&landed.address, unanswered.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn a_ticket_goes_with_its_waiter() {
    let node = Node::start(&Group::new(1), 1).await;
    let target = some_target();
    let desk = node.tunnels.desk();
    let waiting = desk.register(target.id, target.binding.worker).unwrap();
    let head = connect(&waiting.ticket.encode(), &target.id.to_string());
    drop(waiting);
    let answer = exchange(&node.address, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn a_message_for_a_sidecar_that_is_not_here_is_not_passed() {
    let node = Node::start(&Group::new(1), 1).await;
    let target = some_target();
    let end = super::end_session(target.id, &target.binding, EndReason::Released, 1);
    let worker = target.binding.worker;
    let passed = node.tunnels.sidecars().pass(worker, end, None).await;
    assert_eq!(passed, PassOutcome::NotAttached);
}

/// A sidecar without a process: one control stream per node, and what comes down each.
struct Attached {
    worker: WorkerId,
    group: Arc<Group>,
}

struct Stream {
    place: super::sidecars::Place,
    messages: mpsc::Receiver<Result<NodeMessage, tonic::Status>>,
}

impl Attached {
    fn new(group: &Arc<Group>) -> Self {
        Self {
            worker: WorkerId::from_random(random::bytes()),
            group: Arc::clone(group),
        }
    }

    fn at(&self, node: &Node) -> Stream {
        let (sender, mut messages) = mpsc::channel(super::sidecars::QUEUE);
        let sidecars = node.tunnels.sidecars();
        let place = sidecars.enter(self.worker, 1, sender).unwrap();
        sidecars.welcome(self.worker, 1, NodeMessage::default());
        messages.try_recv().unwrap().unwrap();
        let attached = self.group.apply(Command::AttachWorker {
            worker: self.worker,
            name: "fake".to_owned(),
            function: self.group.grant.function,
            version: self.group.grant.version,
            slots: self.group.grant.slots,
            at: node.at,
            stream: 1,
        });
        assert!(
            matches!(attached, Reply::Attached | Reply::Done),
            "{attached:?}"
        );
        Stream { place, messages }
    }
}

impl Stream {
    async fn open_tunnel(&mut self) -> OpenTunnel {
        match self.messages.recv().await.unwrap().unwrap().message {
            Some(Message::OpenTunnel(open)) => open,
            other => panic!("{other:?}"),
        }
    }
}

/// Dials as a sidecar does that was told to; the status of the answer.
async fn dial(open: &OpenTunnel) -> (String, TcpStream) {
    let id = RequestId::from_slice(&open.request_id).unwrap();
    let mut stream = TcpStream::connect(&open.urls[0]).await.unwrap();
    let head = connect(&open.ticket, &id.to_string());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    (String::from_utf8_lossy(&status).into_owned(), stream)
}

/// An obtain of a tunnel on its way, and its result.
fn obtaining(
    node: &Node,
    target: Target,
) -> tokio::task::JoinHandle<Result<super::Tunnel, super::LinkError>> {
    let tunnels = node.tunnels.clone();
    tasks::spawn(tasks::Kind::Worker, "obtain", async move {
        tunnels
            .obtain(&target, super::wire::Carries::Grpc, Duration::from_secs(10))
            .await
    })
}

#[tokio::test]
async fn k_att_2_a_message_that_a_lost_control_stream_swallowed_goes_through_another_node() {
    let group = Group::new(2);
    let nodes = [Node::start(&group, 1).await, Node::start(&group, 2).await];
    let sidecar = Attached::new(&group);
    let mut first = sidecar.at(&nodes[0]);
    let target = group.open(nodes[0].at);
    let obtained = obtaining(&nodes[0], target);
    // It takes the message and never says a word; the sidecar attaches to another node meanwhile.
    let swallowed = first.open_tunnel().await;
    let mut second = sidecar.at(&nodes[1]);
    let again = second.open_tunnel().await;
    assert_eq!(again.ticket, swallowed.ticket);
    let (status, _tunnel) = dial(&again).await;
    assert_eq!(status, "HTTP/1.1 200");
    obtained.await.unwrap().unwrap();
}

#[tokio::test]
async fn k_att_2_a_message_whose_control_stream_ends_goes_through_the_next_one() {
    let group = Group::new(2);
    let nodes = [Node::start(&group, 1).await, Node::start(&group, 2).await];
    let sidecar = Attached::new(&group);
    let mut first = sidecar.at(&nodes[0]);
    let target = group.open(nodes[0].at);
    let obtained = obtaining(&nodes[0], target);
    let swallowed = first.open_tunnel().await;
    drop(first.place);
    // The same node, by a stream that the sidecar has just opened.
    let mut next = sidecar.at(&nodes[0]);
    let again = next.open_tunnel().await;
    assert_eq!(again.ticket, swallowed.ticket);
    let (status, _tunnel) = dial(&again).await;
    assert_eq!(status, "HTTP/1.1 200");
    obtained.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_second_dial_with_one_ticket_is_refused_and_harms_neither_its_own_session_nor_another() {
    let group = Group::new(2);
    let node = Node::start(&group, 1).await;
    let sidecar = Attached::new(&group);
    let mut stream = sidecar.at(&node);
    let target = group.open(node.at);
    let (one, other) = (obtaining(&node, target), obtaining(&node, target));
    let (first, second) = (stream.open_tunnel().await, stream.open_tunnel().await);
    assert_ne!(first.ticket, second.ticket, "each connection has its own");
    let (status, _tunnel) = dial(&first).await;
    assert_eq!(status, "HTTP/1.1 200");
    let (status, _) = dial(&first).await;
    assert_eq!(status, "HTTP/1.1 403");
    // What the sidecar says of that dial is no news of the other one.
    let failed = super::sidecars::Word::NoDial(first.ticket.clone());
    node.tunnels.sidecars().said(sidecar.worker, &failed);
    let (status, _tunnel) = dial(&second).await;
    assert_eq!(status, "HTTP/1.1 200");
    one.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
}
