//! Tunnels that don't land where they are wanted: CONNECTs at other nodes, and sidecars that reach
//! nothing but a load balancer.
//!
//! All nodes advertise a worker port that nobody has, so a sidecar's only way to a node is the address
//! through which it is attached to one.

mod support;

use pontoon_proto::id::{NodeBoot, NodeId};
use pontoon_proto::ticket::Ticket;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use support::client::{Call, Client, keys};
use support::cluster::{self, Cluster, Node, PONTOON, RECOVERED_WITHIN};
use support::member::free;
use support::ops::{self, series};
use support::process::{Process, send};
use support::worker::{Function, Sidecar, Worker, attached, find};
use support::{alone, cli, haproxy, raw, wait};

/// Where no sidecar can reach a node.
const NOWHERE: (&str, &str) = ("PONTOON__ADVERTISE__WORKER", "127.0.0.1:1");

/// How long counters may take to show what has happened.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

fn start(more: &[&str]) -> Cluster {
    let arguments = [&["--slots", "64"], more].concat();
    Cluster::start_with(&cluster::folder(), &arguments, &[NOWHERE])
}

/// A series, added up over nodes.
fn total(nodes: &[Node], name: &str) -> f64 {
    nodes.iter().map(|node| series(&node.ops, name)).sum()
}

/// Waits until no tunnel is left at any node, relayed or not.
#[track_caller]
fn nothing_is_left(nodes: &[Node], within: Duration) {
    for name in [
        "pontoon_relays_active",
        "nvcf_grpc_proxy_service_worker_connections_active",
    ] {
        let mut left = 0.0;
        let gone = wait::within(within, || {
            left = total(nodes, name);
            (left == 0.0).then_some(())
        });
        assert!(gone.is_some(), "{name} is still {left}");
    }
}

/// What a CONNECT with this ticket is answered at a worker port.
#[track_caller]
fn present(node: &Node, ticket: &str, id: &str) -> String {
    let head = format!(
        "CONNECT /v1/proxy HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ticket}\r\n\
         x-request-id: {id}\r\n\r\n"
    );
    ops::exchange(&node.worker, &head).expect("an answer")
}

/// Carries connections to a node, and keeps the heads of CONNECTs that it sees.
struct Recorder {
    address: String,
    connects: Arc<Mutex<Vec<String>>>,
    /// How long bytes take each way, milliseconds.
    slow: Arc<AtomicU64>,
}

impl Recorder {
    fn start(to: &str) -> Recorder {
        Self::towards(&Arc::new(OnceLock::from(to.to_owned())))
    }

    /// To a node whose address comes later; until then nobody is reached.
    fn towards(to: &Arc<OnceLock<String>>) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (connects, slow) = (Arc::default(), Arc::default());
        let (kept, late, to) = (Arc::clone(&connects), Arc::clone(&slow), Arc::clone(to));
        std::thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let Some(Ok(above)) = to.get().map(TcpStream::connect) else {
                    continue;
                };
                let back = (above.try_clone(), from.try_clone());
                let (Ok(above_too), Ok(from_too)) = back else {
                    continue;
                };
                let kept = Some(Arc::clone(&kept));
                let (up, down) = (Arc::clone(&late), Arc::clone(&late));
                std::thread::spawn(move || pump(from, above, &up, kept));
                std::thread::spawn(move || pump(above_too, from_too, &down, None));
            }
        });
        Recorder {
            address,
            connects,
            slow,
        }
    }

    /// From now on, bytes take so long each way.
    fn slow(&self, span: Duration) {
        let ms = u64::try_from(span.as_millis()).expect("short");
        self.slow.store(ms, Ordering::Relaxed);
    }

    /// A header of the CONNECT for this session.
    fn header(&self, id: &str, name: &str) -> Option<String> {
        let connects = self.connects.lock().expect("no panic");
        let head = connects.iter().find(|head| head.contains(id))?;
        let line = head.lines().find(|line| line.starts_with(name))?;
        Some(line.rsplit(' ').next()?.to_owned())
    }
}

fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    slow: &AtomicU64,
    keep: Option<Arc<Mutex<Vec<String>>>>,
) {
    let mut bytes = [0; 16 << 10];
    let mut keep = keep;
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if let Some(kept) = keep.take() {
            let head = String::from_utf8_lossy(&bytes[..n]);
            kept.lock().expect("no panic").push(head.into_owned());
        }
        wait::hold_up(Duration::from_millis(slow.load(Ordering::Relaxed)));
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Write).ok();
}

#[test]
fn k_con_3_a_connect_that_lands_on_another_node_reaches_the_right_worker() {
    let _alone = alone();
    let cluster = start(&["--workers-per-region", "2"]);
    let Some(client) = Client::start() else {
        return;
    };
    let nodes = &cluster.ready().nodes;
    let mut sessions = Vec::new();
    for node in nodes {
        for number in 0..8 {
            let channel = format!("{} {number}", node.name);
            client.connect(&channel, &node.client);
            let call = client.sum(&channel, &keys(&cluster, &[]), 1);
            let worker = call.answer()["worker"].as_str().expect("text").to_owned();
            sessions.push((call.session(), worker));
            client.close(&channel);
        }
    }
    for node in nodes {
        client.connect(&node.name, &node.client);
        for (id, worker) in &sessions {
            let call = client.sum(&node.name, &keys(&cluster, &[("nvcf-reqid", id)]), 1);
            assert_eq!(call.answer()["worker"], worker.as_str());
            assert_eq!(call.session(), *id);
        }
    }
    let last = keys(&cluster, &[("nvcf-reqid", &sessions[0].0)]);
    let call = client.sum(&nodes[0].name, &last, 1);
    assert_eq!(call.answer()["sum"], 5, "one worker counted all of it");
    let relayed = total(nodes, "pontoon_relays_total{result=\"ok\"}");
    assert!(relayed > 0.0, "nothing was relayed");
    for result in ["refused", "unreachable", "unknown_node", "limited"] {
        let name = format!("pontoon_relays_total{{result=\"{result}\"}}");
        assert_eq!(total(nodes, &name), 0.0, "{result}");
    }
    drop(client);
    for (id, _) in &sessions {
        cluster.ask(&["session", "end", id]);
    }
    nothing_is_left(nodes, SHOWN_WITHIN);
    let ended = total(nodes, "pontoon_relays_closed_total{reason=\"finished\"}");
    assert!(ended > 0.0, "no relay ended in good order");
}

#[test]
fn k_con_3_relays_work_between_nodes_with_tls() {
    let _alone = alone();
    let cluster = start(&["--tls"]);
    let Some(client) = Client::start() else {
        return;
    };
    let nodes = &cluster.ready().nodes;
    for node in nodes {
        client.connect(&node.name, &node.client);
        let call = client.sum(&node.name, &keys(&cluster, &[]), 1);
        assert_eq!(call.answer()["sum"], 1);
    }
    // One worker per region, each attached at two of the three nodes: open until one is relayed.
    wait::until(RECOVERED_WITHIN, "a tunnel is relayed", || {
        let node = &nodes[0];
        client.connect("more", &node.client);
        client.sum("more", &keys(&cluster, &[]), 1).answer();
        client.close("more");
        (total(nodes, "pontoon_relays_total{result=\"ok\"}") > 0.0).then_some(())
    });
}

/// A cluster with an echo worker that is attached through recorders at two nodes, and its function.
struct Recorded {
    cluster: Cluster,
    function: Function,
    recorders: Vec<(String, Recorder)>,
    _sidecar: Process,
    _worker: Worker,
}

impl Recorded {
    /// `None` where there is no Python.
    fn start() -> Option<Recorded> {
        let cluster = start(&[]);
        let folder = cluster.data().join("logs");
        let worker = Worker::start("echo", &folder)?;
        let function = Function::create(&cluster, "echo", &["--slots", "8"]);
        let nodes = &cluster.ready().nodes[..2];
        let recorders: Vec<_> = nodes
            .iter()
            .map(|node| (node.name.clone(), Recorder::start(&node.worker)))
            .collect();
        let ways: Vec<&str> = recorders.iter().map(|(_, r)| r.address.as_str()).collect();
        let key = &function.worker_key;
        let mut command = Sidecar::knowing(&ways, "echo", &nodes[0].region, &worker.address, key);
        let sidecar = Process::start("echo-sidecar", &folder, &mut command);
        attached(&cluster, "echo", 2);
        Some(Recorded {
            cluster,
            function,
            recorders,
            _sidecar: sidecar,
            _worker: worker,
        })
    }

    /// The node where the worker is not attached.
    fn entry(&self) -> &Node {
        &self.cluster.ready().nodes[2]
    }

    fn header(&self, id: &str, name: &str) -> String {
        let mut recorders = self.recorders.iter();
        let found = recorders.find_map(|(_, recorder)| recorder.header(id, name));
        found.expect("its CONNECT was seen")
    }
}

/// A session whose tunnel is relayed, with its client on the channel `entry`.
struct Begun {
    recorded: Recorded,
    client: Client,
    first: Call,
}

impl Begun {
    /// `None` where there is no Python.
    fn start() -> Option<Begun> {
        let recorded = Recorded::start()?;
        let client = Client::start()?;
        client.connect("entry", &recorded.entry().client);
        let first = client.echo("entry", &recorded.function.keys(&[]), "one");
        Some(Begun {
            recorded,
            client,
            first,
        })
    }
}

/// A later call is of the same session, at a worker that remembers the first.
#[track_caller]
fn goes_on(first: &Call, again: &Call) {
    assert_eq!(again.session(), first.session());
    let count = |call: &Call| call.json()["count"].as_i64();
    assert!(count(again) > count(first), "one memory");
}

#[test]
fn k_con_2_h_25_used_unknown_and_older_tickets_are_refused_through_a_relay() {
    let _alone = alone();
    let Some(recorded) = Recorded::start() else {
        return;
    };
    let Some(client) = Client::start() else {
        return;
    };
    let entry = recorded.entry();
    let (one, other) = (
        &recorded.cluster.ready().nodes[0],
        &recorded.cluster.ready().nodes[1],
    );
    client.connect("entry", &entry.client);
    let many = "x".repeat(1 << 20);
    let call = client.echo("entry", &recorded.function.keys(&[]), &many);
    assert_eq!(call.json()["message"], many.as_str(), "bytes both ways");
    let id = call.session();
    let ticket = recorded.header(&id, "Authorization");
    let issuer = Ticket::parse(&ticket).expect("a ticket").issuer;

    let refused = |answer: &str| {
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        let text = "HTTP CONNECT request is missing valid auth";
        assert!(answer.ends_with(text), "{answer}");
    };
    let counted = |label: &str| {
        let name = "nvcf_grpc_proxy_service_worker_connect_total";
        series(&entry.ops, &format!("{name}{{result=\"{label}\"}}"))
    };
    let before = (counted("used"), counted("unknown"));
    refused(&present(one, &ticket, &id));
    refused(&present(other, &ticket, &id));
    let made_up = |issuer| {
        let nonce = [7; 16];
        Ticket { issuer, nonce }.encode()
    };
    refused(&present(one, &made_up(issuer), &id));
    let after = (counted("used"), counted("unknown"));
    assert_eq!(after, (before.0 + 2.0, before.1 + 1.0));
    let boot = issuer.boot;
    let nobody = NodeBoot {
        node: NodeId(4_000),
        boot,
    };
    refused(&present(one, &made_up(nobody), &id));

    recorded.cluster.kill_node(&entry.name);
    let answer = wait::until(
        RECOVERED_WITHIN,
        "the entry node is known to be gone",
        || {
            let answer = present(one, &ticket, &id);
            answer.starts_with("HTTP/1.1 502 ").then_some(answer)
        },
    );
    assert!(answer.ends_with("can't be reached from here"), "{answer}");
    recorded.cluster.start_again(&entry.name);
    wait::until(RECOVERED_WITHIN, "the entry node judges again", || {
        let answer = present(one, &ticket, &id);
        answer.starts_with("HTTP/1.1 403 ").then_some(())
    });
    let unknown = series(
        &recorded.cluster.now().node(&entry.name).ops,
        "nvcf_grpc_proxy_service_worker_connect_total{result=\"unknown\"}",
    );
    assert!(unknown >= 1.0, "the new process does not know it");
}

#[test]
fn o_drn_1_a_node_that_is_told_to_stop_waits_for_the_streams_that_it_relays() {
    let _alone = alone();
    let Some(Begun {
        recorded,
        client,
        first,
    }) = Begun::start()
    else {
        return;
    };
    let (cluster, function) = (&recorded.cluster, &recorded.function);
    let id = first.session();
    let mut recorders = recorded.recorders.iter();
    let (relaying, _) = recorders
        .find(|(_, recorder)| recorder.header(&id, "Authorization").is_some())
        .expect("its CONNECT was seen");
    let relaying = cluster.ready().node(relaying);
    let keys = function.keys(&[("nvcf-reqid", &id)]);
    client.run(json!({
        "do": "stream_open", "channel": "entry", "stream": "s", "method": "/test.Echo/Bidi",
        "metadata": keys,
    }));
    let echoes = |message: &str| {
        client.run(json!({"do": "stream_send", "stream": "s", "message": message}));
        let echoed = client.run(json!({"do": "stream_next", "stream": "s"}));
        assert_eq!(echoed["message"], format!("echo {message}"));
    };
    echoes("a");

    send(relaying.pid, Signal::TERM);
    let token = &cluster.ready().admin_token;
    let entry = &recorded.entry().admin;
    wait::until(SHOWN_WITHIN, "it drains, and the entry node knows", || {
        let seen = cli::try_ask(entry, token, &["node", "show", &relaying.name])?;
        (seen["stage"] == "draining" && seen["relays"] == 1).then_some(())
    });
    // The next call of this session goes another way at once, and the stream stays where it is.
    wait::until(SHOWN_WITHIN, "new calls go another way", || {
        client.echo("entry", &keys, "two").answer();
        let (name, _) = recorded
            .recorders
            .iter()
            .find(|(name, _)| *name != relaying.name)?;
        let other = cluster.ready().node(name);
        (series(&other.ops, "pontoon_relays_active") > 0.0).then_some(())
    });
    echoes("b");
    assert!(cluster.runs(&relaying.name), "it waits");
    client.run(json!({"do": "stream_finish", "stream": "s"}));
    let ended = client.run(json!({"do": "stream_next", "stream": "s"}));
    assert_eq!(ended["code"], 0, "{ended}");
    // Far below its grace of 30 s.
    wait::until(SHOWN_WITHIN, "it ends", || {
        (!cluster.runs(&relaying.name)).then_some(())
    });
    goes_on(&first, &client.echo("entry", &keys, "three"));
    let retired =
        "nvcf_grpc_proxy_service_worker_connection_closed_total{reason=\"relay_leaving\"}";
    assert!(series(&recorded.entry().ops, retired) > 0.0);
}

#[test]
fn c_err_10_c_rsm_1_a_relaying_node_is_killed_and_only_the_stream_is_lost() {
    let _alone = alone();
    let Some(Begun {
        recorded,
        client,
        first,
    }) = Begun::start()
    else {
        return;
    };
    let (cluster, function) = (&recorded.cluster, &recorded.function);
    let id = first.session();
    let mut recorders = recorded.recorders.iter();
    let (relaying, _) = recorders
        .find(|(_, recorder)| recorder.header(&id, "Authorization").is_some())
        .expect("its CONNECT was seen");
    let keys = function.keys(&[("nvcf-reqid", &id)]);
    client.run(json!({
        "do": "stream_open", "channel": "entry", "stream": "s", "method": "/test.Echo/Bidi",
        "metadata": keys,
    }));
    client.run(json!({"do": "stream_send", "stream": "s", "message": "a"}));
    let echoed = client.run(json!({"do": "stream_next", "stream": "s"}));
    assert_eq!(echoed["message"], "echo a");

    cluster.kill_node(relaying);
    let ended = client.run(json!({"do": "stream_next", "stream": "s"}));
    // RST_STREAM with INTERNAL_ERROR, as grpcio shows it; never a clean end.
    assert_eq!(ended["code"], 13, "{ended}");
    let again = wait::until(RECOVERED_WITHIN, "the session goes on", || {
        let call = client.echo("entry", &keys, "two");
        (call.code() == 0).then_some(call)
    });
    goes_on(&first, &again);
}

#[test]
fn c_rsm_1_an_entry_node_is_killed_and_its_relays_end() {
    let _alone = alone();
    let Some(Begun {
        recorded,
        client,
        first,
    }) = Begun::start()
    else {
        return;
    };
    let (cluster, function) = (&recorded.cluster, &recorded.function);
    let entry = recorded.entry();
    let id = first.session();
    let others = &cluster.ready().nodes[..2];
    assert!(total(others, "pontoon_relays_active") >= 1.0);
    send(entry.pid, Signal::KILL);
    wait::until(SHOWN_WITHIN, "its relays end", || {
        (total(others, "pontoon_relays_active") == 0.0).then_some(())
    });
    let broke = total(
        others,
        "pontoon_relays_closed_total{reason=\"entry_broke\"}",
    );
    assert!(broke >= 1.0, "{broke}");
    client.connect("other", &others[1].client);
    let keys = function.keys(&[("nvcf-reqid", &id)]);
    let again = wait::until(RECOVERED_WITHIN, "the session resumes", || {
        let call = client.echo("other", &keys, "two");
        assert_ne!(call.code(), 5, "{call:?}");
        (call.code() == 0).then_some(call)
    });
    goes_on(&first, &again);
}

/// How many sessions go through the load balancers.
fn how_many() -> usize {
    let wanted = std::env::var("PONTOON_RELAYED_SESSIONS").ok();
    wanted.map_or(300, |text| text.parse().expect("a number"))
}

#[test]
fn k_att_2_c_rsm_1_sidecars_and_clients_that_reach_only_load_balancers_open_and_resume() {
    let _alone = alone();
    // Three of each when it is for long.
    let per_region = if how_many() > 300 { "3" } else { "2" };
    let cluster = start(&["--nodes-per-region", per_region]);
    let _witness = cluster.witness();
    let folder = cluster.data().join("logs");
    let nodes = &cluster.ready().nodes;
    let regions: BTreeSet<&str> = nodes.iter().map(|node| node.region.as_str()).collect();
    let mut behind: Vec<Vec<&str>> = regions
        .iter()
        .map(|region| {
            let own = nodes.iter().filter(|node| node.region == *region);
            own.map(|node| node.worker.as_str()).collect()
        })
        .collect();
    behind.push(nodes.iter().map(|node| node.client.as_str()).collect());
    let fronts: Vec<String> = behind.iter().map(|_| free()).collect();
    let listed: Vec<_> = fronts.iter().map(String::as_str).zip(behind).collect();
    let Some(_haproxy) = haproxy::start("haproxy", &folder, &listed) else {
        return;
    };
    let Some(client) = Client::start() else {
        return;
    };
    let (clients, workers) = fronts.split_last().expect("four fronts");
    let slots = how_many().div_ceil(regions.len()) + 16;
    let slots = slots.to_string();
    let function = Function::create(&cluster, "balanced", &["--slots", &slots]);
    let mut parts = Vec::new();
    let mut of_workers = Vec::new();
    for (region, front) in regions.iter().zip(workers) {
        let (name, address) = (format!("balanced-{region}"), free());
        let mut command = Command::new(PONTOON);
        command.args(["demo-worker", "--exit-with-stdin", "--listen", &address]);
        command.args(["--name", &name]);
        parts.push(Process::start(&name, &folder, &mut command));
        let (key, ops) = (&function.worker_key, free());
        let others = workers.iter().filter(|other| *other != front);
        let ways: Vec<&str> = [front]
            .into_iter()
            .chain(others)
            .map(String::as_str)
            .collect();
        let mut command = Sidecar::knowing(&ways, &name, region, &address, key);
        command.args(["--ops", &ops, "--on-end"]);
        command.arg(format!("http://{address}/session-ended"));
        let label = format!("{name}-sidecar");
        parts.push(Process::start(&label, &folder, &mut command));
        of_workers.push((name, address, ops));
    }
    for (name, ..) in &of_workers {
        attached(&cluster, name, 2);
    }

    let mut sessions: Vec<(String, String)> = Vec::new();
    let numbers: Vec<usize> = (0..how_many()).collect();
    for some in numbers.chunks(20) {
        let calls: Vec<_> = some
            .iter()
            .map(|number| {
                let channel = format!("open {number}");
                client.connect(&channel, clients);
                (client.begin_sum(&channel, &function.keys(&[]), 1), channel)
            })
            .collect();
        for (call, channel) in calls {
            let call = call.call();
            let worker = call.answer()["worker"].as_str().expect("text").to_owned();
            sessions.push((call.session(), worker));
            client.close(&channel);
        }
        // As many again resume at whatever node the load balancer gives them.
        let begun = sessions.len() - some.len();
        let calls: Vec<_> = (begun..sessions.len())
            .map(|at| {
                let channel = format!("resume {at}");
                client.connect(&channel, clients);
                let keys = function.keys(&[("nvcf-reqid", &sessions[at].0)]);
                (at, client.begin_sum(&channel, &keys, 1), channel)
            })
            .collect();
        for (at, call, channel) in calls {
            let call = call.call();
            let (id, worker) = &sessions[at];
            assert_eq!(call.answer()["worker"], worker.as_str(), "the right worker");
            assert_eq!(call.answer()["sum"], 2, "its own memory");
            assert_eq!(call.session(), *id);
            client.close(&channel);
            let keys = function.keys(&[("nvcf-reqid", id), ("x-nvcf-absorb", "true")]);
            let released = raw::exchange(clients, "DELETE", "/", &keys);
            assert_eq!(released.status.as_u16(), 200, "{released:?}");
        }
    }
    let ids: BTreeSet<&String> = sessions.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), how_many(), "each open has a session of its own");
    let mut by_worker: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, worker) in &sessions {
        *by_worker.entry(worker).or_default() += 1;
    }
    let relayed = total(nodes, "pontoon_relays_total{result=\"ok\"}");
    println!("{relayed} tunnels were relayed; sessions by worker: {by_worker:?}");
    assert!(relayed > 0.0);
    for result in ["refused", "unreachable", "unknown_node", "limited"] {
        let name = format!("pontoon_relays_total{{result=\"{result}\"}}");
        assert_eq!(total(nodes, &name), 0.0, "{result}");
    }

    nothing_is_left(nodes, SHOWN_WITHIN);
    for (name, address, ops) in &of_workers {
        wait::until(SHOWN_WITHIN, "the worker forgets its sessions", || {
            let head = "GET /sessions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            let page = ops::exchange(address, head)?;
            let (_, body) = page.split_once("\r\n\r\n")?;
            let kept: Value = serde_json::from_str(body).ok()?;
            (kept["sessions"] == 0).then_some(())
        });
        assert_eq!(series(ops, "pontoon_sidecar_tunnels_open"), 0.0, "{name}");
        let worker = find(&cluster, name).expect("it is still there");
        assert_eq!(worker["slots_used"], 0, "{worker}");
    }
}

/// By which way the tunnels of so many new sessions at the last node come: `direct`, or a relaying
/// node's name. The sidecar is a fresh one, attached at the first two nodes, to which bytes take so long.
fn ways(
    cluster: &Cluster,
    client: &Client,
    direct: &Recorder,
    name: &str,
    to_relays: Duration,
    count: usize,
) -> Option<Vec<String>> {
    let folder = cluster.data().join("logs");
    let worker = Worker::start(name, &folder)?;
    let function = Function::create(cluster, name, &["--slots", "16"]);
    let (relays, entry) = cluster.ready().nodes.split_at(2);
    let recorders: Vec<Recorder> = relays
        .iter()
        .map(|node| Recorder::start(&node.worker))
        .collect();
    for recorder in &recorders {
        recorder.slow(to_relays);
    }
    let known: Vec<&str> = recorders.iter().map(|one| &*one.address).collect();
    let (region, key) = (&relays[0].region, &function.worker_key);
    let mut command = Sidecar::knowing(&known, name, region, &worker.address, key);
    let _sidecar = Process::start(&format!("{name}-sidecar"), &folder, &mut command);
    let mut at = attached(cluster, name, 2);
    at.sort();
    let mut names: Vec<&String> = relays.iter().map(|node| &node.name).collect();
    names.sort();
    assert!(at.iter().eq(names), "{at:?}");
    let came_by = |number: usize| {
        let channel = format!("{name} {number}");
        client.connect(&channel, &entry[0].client);
        let id = client.echo(&channel, &function.keys(&[]), "?").session();
        let seen = |recorder: &Recorder| recorder.header(&id, "X-Request-ID").is_some();
        let relayed = recorders.iter().position(seen);
        assert_ne!(seen(direct), relayed.is_some(), "one way only");
        relayed.map_or("direct".to_owned(), |at| relays[at].name.clone())
    };
    Some((0..count).map(came_by).collect())
}

#[test]
fn k_con_3_measured_round_trips_decide_between_the_direct_way_and_a_relay() {
    let _alone = alone();
    // All nodes advertise it, and it leads to the last one.
    let target = Arc::new(OnceLock::new());
    let direct = Recorder::towards(&target);
    let advertised = ("PONTOON__ADVERTISE__WORKER", &*direct.address);
    let arguments = ["--slots", "64"];
    let cluster = Cluster::start_with(&cluster::folder(), &arguments, &[advertised]);
    let Some(client) = Client::start() else {
        return;
    };
    let nodes = &cluster.ready().nodes;
    target.set(nodes[2].worker.clone()).expect("set once");
    let near = Duration::ZERO;
    let (far, farther) = (Duration::from_millis(75), Duration::from_millis(250));

    // The node itself is far and the relays are not: the first tunnel shows the one, the second the other.
    direct.slow(farther);
    let Some(came) = ways(&cluster, &client, &direct, "relays-near", near, 6) else {
        return;
    };
    println!("the direct way is slow: {came:?}");
    assert_eq!(came[0], "direct", "{came:?}");
    assert!(came[1..].iter().all(|way| way != "direct"), "{came:?}");
    assert!(total(&nodes[..2], "pontoon_relays_total{result=\"ok\"}") >= 5.0);

    // The other way round: each relay is tried once, and is no better.
    direct.slow(far);
    let Some(came) = ways(&cluster, &client, &direct, "relays-far", farther, 6) else {
        return;
    };
    println!("the relays are slow: {came:?}");
    assert_eq!(came[0], "direct", "{came:?}");
    for relay in &nodes[..2] {
        assert!(came[1..3].contains(&relay.name), "{came:?}");
    }
    assert_eq!(came[3..], ["direct", "direct", "direct"], "{came:?}");
}
