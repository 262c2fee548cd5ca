//! A sidecar between real nodes' worker ports and a real HTTP/2 worker, all on loopback.

use super::health::Check;
use super::options::{Secret, Settings};
use super::{Stop, serve};
use crate::drain::{Drain, Stage};
use crate::net::{TcpListener, TcpStream};
use crate::tasks;
use crate::tunnel::tests::{Group, KEY, Node, REGION, until};
use crate::tunnel::{Carries, LinkError, Tunnel};
use bytes::Bytes;
use pontoon_proto::id::WorkerId;
use pontoon_proto::worker::{NodeMessage, OpenTunnel, node_message};
use pontoon_raft::directory::command::{Command, DrainReason, EndReason};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A worker: answers health checks, echoes everything else, and notes what is POSTed to it.
pub(super) struct Worker {
    address: String,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Worker {
    pub(super) async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let accepting = tasks::spawn(tasks::Kind::Worker, "worker", async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    Ok((stream, _)) = listener.accept() => {
                        let stopped = stopped.clone();
                        tasks::spawn(tasks::Kind::Worker, "worker-connection", async move {
                            tokio::select! {
                                () = stopped.cancelled() => {}
                                () = echo(stream) => {}
                            }
                        });
                    }
                }
            }
        });
        Self {
            address,
            stop,
            accepting,
        }
    }

    /// Dies without a word, as if killed.
    pub(super) async fn kill(self) -> String {
        self.stop.cancel();
        self.accepting.await.unwrap();
        self.address
    }
}

async fn echo(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tasks::spawn(tasks::Kind::Worker, "worker-stream", async move {
            let health = request.uri().path().starts_with("/grpc.health.v1.Health/");
            let mut body = request.into_body();
            let answer = http::Response::new(());
            let Ok(mut send) = respond.send_response(answer, false) else {
                return;
            };
            while let Some(Ok(data)) = body.data().await {
                let _room = body.flow_control().release_capacity(data.len());
                if !health {
                    let _or_reset = send.send_data(data, false);
                }
            }
            if health {
                let serving = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]);
                let _or_reset = send.send_data(serving, false);
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let _or_reset = send.send_trailers(trailers);
        });
    }
}

/// Takes POSTs over HTTP/1.1 and keeps their bodies.
async fn ended_sessions() -> (String, Arc<Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ended", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&bodies);
    tasks::spawn(tasks::Kind::Worker, "on-end", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            while !text.ends_with('}') {
                let mut part = [0; 1024];
                let Ok(n @ 1..) = stream.read(&mut part).await else {
                    break;
                };
                text.push_str(&String::from_utf8_lossy(&part[..n]));
            }
            let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
            kept.lock().unwrap().push(body.to_owned());
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    });
    (url, bodies)
}

pub(super) fn settings(worker: &Worker, nodes: &[&Node]) -> Settings {
    Settings {
        trust: None,
        worker: worker.address.clone(),
        nodes: nodes.iter().map(|node| node.address.clone()).collect(),
        region: REGION.to_owned(),
        version: None,
        slots: 0,
        spares: 0,
        name: "echo".to_owned(),
        check: Check::Grpc,
        on_end: None,
        ops: None,
        drain_timeout: Duration::from_secs(60),
        worker_wait: None,
        key: Secret(KEY.to_owned()),
        command: Vec::new(),
        recycle: false,
    }
}

pub(super) struct Sidecar {
    drain: Drain,
    process: JoinHandle<Result<(), Stop>>,
}

pub(super) fn start(settings: Settings) -> Sidecar {
    let drain = Drain::default();
    let process = serve(settings, drain.listener());
    Sidecar {
        process: tasks::spawn(tasks::Kind::Worker, "sidecar", process),
        drain,
    }
}

/// The only worker that is attached, and at how many nodes.
fn attached(group: &Group) -> Option<(WorkerId, usize)> {
    let directory = group.directory();
    let mut workers = directory.workers();
    let worker = workers.find(|worker| directory.attached(worker).next().is_some())?;
    Some((worker.id, directory.attached(worker).count()))
}

pub(super) async fn attached_at(group: &Group, nodes: usize) -> WorkerId {
    until("the sidecar is attached", || {
        attached(group).and_then(|(id, count)| (count == nodes).then_some(id))
    })
    .await
}

pub(super) const WITHIN: Duration = Duration::from_secs(10);

/// One call through a tunnel.
pub(super) async fn call(tunnel: &Tunnel, text: &str) -> Result<String, h2::Error> {
    let request = http::Request::post("http://worker/echo").body(()).unwrap();
    let (answer, mut send) = tunnel
        .h2()
        .unwrap()
        .ready()
        .await?
        .send_request(request, false)?;
    send.send_data(Bytes::from(text.to_owned()), true)?;
    let mut body = answer.await?.into_body();
    let mut echoed = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        echoed.extend_from_slice(&data);
    }
    Ok(String::from_utf8(echoed).unwrap())
}

#[tokio::test]
async fn k_att_1_a_session_is_carried_from_its_first_tunnel_to_its_end() {
    let group = Group::new(2);
    let node = Node::start(&group, 1).await;
    let worker = Worker::start("127.0.0.1:0").await;
    let (url, ended) = ended_sessions().await;
    let mut settings = settings(&worker, &[&node]);
    settings.on_end = Some(url.parse().unwrap());
    let _sidecar = start(settings);
    attached_at(&group, 1).await;

    let target = group.open(node.at);
    let tunnel = node
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    assert_eq!(call(&tunnel, "hello").await.unwrap(), "hello");

    // A parked tunnel is used again; a second connection gets a second one.
    let second = node
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    assert_eq!(call(&second, "again").await.unwrap(), "again");
    node.tunnels.park(&target, tunnel);
    let parked = node
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    assert_eq!(call(&parked, "parked").await.unwrap(), "parked");

    group.end(target.id);
    until("the tunnels are closed", || {
        (!parked.is_live() && !second.is_live()).then_some(())
    })
    .await;
    // K-END-1: the worker is told once.
    let told = until("the worker is told", || ended.lock().unwrap().pop()).await;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["request_id"], target.id.to_string());
    assert_eq!(told["reason"], "released");

    // The node that lags behind gets no tunnel for what has ended.
    let again = node.tunnels.obtain(&target, Carries::Grpc, WITHIN).await;
    assert_eq!(again.err(), Some(LinkError::NoDial));
    assert!(ended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_end_is_confirmed_after_the_sidecar_has_let_go() {
    let group = Group::new(1);
    let node = Node::start(&group, 1).await;
    let worker = Worker::start("127.0.0.1:0").await;
    let _sidecar = start(settings(&worker, &[&node]));
    let id = attached_at(&group, 1).await;
    let target = group.open(node.at);
    let tunnel = node
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    let end = crate::tunnel::end_session(target.id, &target.binding, EndReason::Released, 1);
    let passed = node.tunnels.sidecars().pass(id, end, Some(WITHIN)).await;
    assert_eq!(passed, crate::tunnel::PassOutcome::Passed);
    until("the tunnel is closed", || (!tunnel.is_live()).then_some(())).await;
}

#[tokio::test]
async fn h_23_the_old_side_of_a_region_that_was_recovered_ends_nothing_of_the_new_one() {
    let group = Group::new(1);
    let node = Node::start(&group, 1).await;
    let worker = Worker::start("127.0.0.1:0").await;
    let _sidecar = start(settings(&worker, &[&node]));
    let id = attached_at(&group, 1).await;
    let mut target = group.open(node.at);
    target.generation = 2;
    let tunnel = node
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    let end = |generation| {
        let (id, binding) = (target.id, target.binding);
        crate::tunnel::end_session(id, &binding, EndReason::Expired, generation)
    };
    let sidecars = node.tunnels.sidecars();
    // The sidecar says nothing to it, and the order of messages shows that it was heard.
    sidecars.pass(id, end(1), None).await;
    assert_eq!(call(&tunnel, "still").await.unwrap(), "still");
    assert!(tunnel.is_live());
    let passed = sidecars.pass(id, end(2), Some(WITHIN)).await;
    assert_eq!(passed, crate::tunnel::PassOutcome::Passed);
    until("the tunnel is closed", || (!tunnel.is_live()).then_some(())).await;
}

#[tokio::test]
async fn h_4_a_newer_binding_of_a_slot_closes_the_older_ones_tunnels() {
    let group = Group::new(1);
    let node = Node::start(&group, 1).await;
    let worker = Worker::start("127.0.0.1:0").await;
    let _sidecar = start(settings(&worker, &[&node]));
    attached_at(&group, 1).await;
    let older = group.open(node.at);
    let tunnel = node
        .tunnels
        .obtain(&older, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    let mut newer = older;
    newer.id = pontoon_proto::id::RequestId::mint(older.region, [1; 16]);
    newer.binding.index += 1;
    let next = node
        .tunnels
        .obtain(&newer, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    assert_eq!(call(&next, "new").await.unwrap(), "new");
    until("the older tunnel is closed", || {
        (!tunnel.is_live()).then_some(())
    })
    .await;
    let again = node.tunnels.obtain(&older, Carries::Grpc, WITHIN).await;
    assert_eq!(again.err(), Some(LinkError::NoDial));
}

#[tokio::test]
async fn k_att_2_the_loss_of_one_of_two_nodes_costs_nothing() {
    let group = Group::new(1);
    let (lost, kept, third) = (
        Node::start(&group, 1).await,
        Node::start(&group, 2).await,
        Node::start(&group, 3).await,
    );
    let worker = Worker::start("127.0.0.1:0").await;
    let _sidecar = start(settings(&worker, &[&lost]));
    let id = attached_at(&group, 2).await;
    let target = group.open(third.at);
    // The entry node asks a node where the sidecar is attached, whichever that is.
    let tunnel = third
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    lost.stop();
    until("attached elsewhere", || {
        let away = !lost.tunnels.sidecars().is_attached(id);
        (away && attached(&group) == Some((id, 2))).then_some(())
    })
    .await;
    assert_eq!(call(&tunnel, "still").await.unwrap(), "still");
    let resumed = kept
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    assert_eq!(call(&resumed, "here").await.unwrap(), "here");
}

#[tokio::test]
async fn c_rsm_7_a_restarted_worker_has_a_new_id_and_the_old_sessions_are_gone() {
    let group = Group::new(1);
    let node = Node::start(&group, 1).await;
    let worker = Worker::start("127.0.0.1:0").await;
    let _sidecar = start(settings(&worker, &[&node]));
    let first = attached_at(&group, 1).await;
    let target = group.open(node.at);
    let tunnel = node
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();

    let address = worker.kill().await;
    let worker = Worker::start(&address).await;
    until("the session has ended", || {
        group.directory().ended(target.id).map(|_| ())
    })
    .await;
    until("the tunnel is closed", || (!tunnel.is_live()).then_some(())).await;
    let second = until("attached anew", || {
        attached(&group).map(|(id, _)| id).filter(|id| *id != first)
    })
    .await;
    assert!(group.directory().worker_lost(first));

    // H-22: it dies right after a good check, and is gone for good this time.
    let target = group.open(node.at);
    worker.kill().await;
    until("the session has ended", || {
        group.directory().ended(target.id).map(|_| ())
    })
    .await;
    assert!(group.directory().worker_lost(second));
}

#[tokio::test]
async fn k_att_3_a_sidecar_that_is_told_to_leave_lets_its_sessions_end() {
    let group = Group::new(2);
    let node = Node::start(&group, 1).await;
    let worker = Worker::start("127.0.0.1:0").await;
    let sidecar = start(settings(&worker, &[&node]));
    let id = attached_at(&group, 1).await;
    let target = group.open(node.at);
    let tunnel = node
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();

    sidecar.drain.enter(Stage::Draining);
    until("the directory knows", || {
        let directory = group.directory();
        let draining = &directory.worker(id)?.draining;
        draining.contains(&DrainReason::Sidecar).then_some(())
    })
    .await;
    assert_eq!(call(&tunnel, "on").await.unwrap(), "on");
    assert!(!sidecar.process.is_finished());
    group.end(target.id);
    let left = tokio::time::timeout(WITHIN, sidecar.process).await;
    assert_eq!(left.expect("it leaves").unwrap(), Ok(()));
    assert!(group.directory().worker_lost(id));
}

#[tokio::test]
async fn a_wrong_key_ends_the_sidecar_with_one_line() {
    let group = Group::new(1);
    let node = Node::start(&group, 1).await;
    let worker = Worker::start("127.0.0.1:0").await;
    let mut settings = settings(&worker, &[&node]);
    settings.key = Secret("pnt_w_other".to_owned());
    let ended = tokio::time::timeout(WITHIN, start(settings).process).await;
    let stop = ended.expect("it ends").unwrap().unwrap_err();
    assert_eq!(stop.code, 77);
    assert!(!stop.text.contains("pnt_w_other"));
    assert_eq!(stop.text.lines().count(), 1);
}

#[tokio::test]
async fn a_worker_that_never_comes_up_is_given_up_only_when_asked_to() {
    let group = Group::new(1);
    let node = Node::start(&group, 1).await;
    let worker = Worker::start("127.0.0.1:0").await;
    let mut settings = settings(&worker, &[&node]);
    worker.kill().await;
    settings.worker_wait = Some(Duration::ZERO);
    let ended = tokio::time::timeout(WITHIN, start(settings).process).await;
    let stop = ended.expect("it ends").unwrap().unwrap_err();
    assert_eq!(stop.code, 69);
}

#[tokio::test]
async fn h_5_a_lost_control_stream_closes_no_tunnel_to_another_node() {
    let group = Group::new(1);
    let (control, entry) = (Node::start(&group, 1).await, Node::start(&group, 2).await);
    let worker = Worker::start("127.0.0.1:0").await;
    let _sidecar = start(settings(&worker, &[&control]));
    attached_at(&group, 2).await;
    let target = group.open(entry.at);
    let tunnel = entry
        .tunnels
        .obtain(&target, Carries::Grpc, WITHIN)
        .await
        .unwrap();
    control.stop();
    until("one control stream is left", || {
        (attached(&group)?.1 == 1).then_some(())
    })
    .await;
    assert_eq!(call(&tunnel, "on").await.unwrap(), "on");
}

#[tokio::test]
async fn h_21_a_sidecar_whose_id_was_declared_lost_begins_a_new_life() {
    let group = Group::new(1);
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(Node::start(&group, number).await);
    }
    let worker = Worker::start("127.0.0.1:0").await;
    let all: Vec<_> = nodes.iter().collect();
    let sidecar = start(settings(&worker, &all));
    let first = attached_at(&group, 2).await;
    let attached_to = |at| {
        let directory = group.directory();
        let worker = directory.worker(first).unwrap();
        directory.attached(worker).any(|node| node == at)
    };
    let left = nodes.iter().find(|node| attached_to(node.at)).unwrap();

    // As after a long sleep: the id is lost, and the next attach is refused for it.
    group.apply(Command::WorkerDead { worker: first });
    left.stop();
    until("attached anew", || {
        assert!(!sidecar.process.is_finished(), "it goes on");
        attached(&group).filter(|(id, count)| *id != first && *count == 2)
    })
    .await;
}

#[tokio::test]
async fn h_27_a_worker_that_was_set_aside_comes_back_when_a_probe_gets_through() {
    let group = Group::new(1);
    let node = Node::start(&group, 1).await;
    let worker = Worker::start("127.0.0.1:0").await;
    let _sidecar = start(settings(&worker, &[&node]));
    let id = attached_at(&group, 1).await;
    for _ in 0..3 {
        let target = group.open(node.at);
        group.end_as(target.id, EndReason::NoLink);
    }
    let draining = || group.directory().worker(id).map(|w| w.draining.clone());
    assert_eq!(draining(), Some([DrainReason::NoLink].into()));
    until("it takes sessions again", || {
        draining().is_some_and(|d| d.is_empty()).then_some(())
    })
    .await;
}

/// Takes the next tunnel as a node does, and gives the ticket that it came with.
async fn next_ticket(listener: &TcpListener, open: &mut Vec<TcpStream>) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(stream.read_u8().await.unwrap()));
    }
    let answer = b"HTTP/1.1 200 OK\r\n\r\n";
    stream.write_all(answer).await.unwrap();
    open.push(stream);
    let ticket = head.lines().find_map(|line| {
        let value = line.strip_prefix("Authorization: Bearer ")?;
        Some(value.to_owned())
    });
    ticket.unwrap()
}

#[tokio::test]
async fn k_att_2_a_message_that_comes_through_two_nodes_is_one_dial() {
    let group = Group::new(2);
    let nodes = [Node::start(&group, 1).await, Node::start(&group, 2).await];
    let worker = Worker::start("127.0.0.1:0").await;
    let _sidecar = start(settings(&worker, &[&nodes[0], &nodes[1]]));
    let id = attached_at(&group, 2).await;
    let target = group.open(nodes[0].at);
    let entry = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let message = |ticket: &str| NodeMessage {
        message: Some(node_message::Message::OpenTunnel(OpenTunnel {
            request_id: target.id.to_bytes().to_vec().into(),
            generation: target.generation,
            binding_index: target.binding.index,
            slot: target.binding.slot,
            ticket: ticket.to_owned(),
            urls: vec![entry.local_addr().unwrap().to_string()],
            worker_id: id.to_bytes().to_vec().into(),
            ..OpenTunnel::default()
        })),
    };
    let pass = async |node: &Node, ticket: &str| {
        let sidecars = node.tunnels.sidecars();
        sidecars.pass(id, message(ticket), None).await
    };
    let mut open = Vec::new();
    pass(&nodes[0], "one").await;
    assert_eq!(next_ticket(&entry, &mut open).await, "one");
    pass(&nodes[1], "one").await;
    pass(&nodes[1], "two").await;
    assert_eq!(next_ticket(&entry, &mut open).await, "two");
}
