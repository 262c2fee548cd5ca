//! Nodes that an operator drains, by the command line and over real processes.

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use support::cli;
use support::client::Client;
use support::cluster::{self, Cluster, Node, RECOVERED_WITHIN};
use support::process::{Process, send};
use support::raw::frame;
use support::worker::{Function, Sidecar, Worker, find};
use support::{alone, wait};

/// How long a node may take to be drained once nothing holds it: leaders settle for 3 s before they
/// hand over, and idle clients have their goodbye.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// How long a drained node may take to end: it has nothing to wait for.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// A cluster with an echo worker and a client.
struct World {
    cluster: Cluster,
    function: Function,
    client: Client,
    _sidecar: Sidecar,
    _worker: Worker,
}

impl World {
    /// `None` where there is no Python.
    fn start() -> Option<World> {
        let cluster = Cluster::start_in(&cluster::folder(), &["--slots", "64"]);
        let worker = Worker::start("echo", &cluster.data().join("logs"))?;
        let client = Client::start()?;
        let function = Function::create(&cluster, "echo", &["--slots", "8"]);
        let region = &cluster.ready().nodes[0].region;
        let sidecar = Sidecar::attach(&cluster, &function, "echo", region, &worker);
        Some(World {
            cluster,
            function,
            client,
            _sidecar: sidecar,
            _worker: worker,
        })
    }

    fn nodes(&self) -> &[Node] {
        &self.cluster.ready().nodes
    }

    /// A command line for one node's admin port.
    fn at(&self, node: &Node, arguments: &[&str]) -> Command {
        cli::pontoon(&node.admin, &self.cluster.ready().admin_token, arguments)
    }

    /// What a node says of another one.
    fn seen(&self, by: &Node, of: &Node) -> Option<Value> {
        let token = &self.cluster.ready().admin_token;
        cli::try_ask(&by.admin, token, &["node", "show", &of.name])
    }

    /// Waits until one node sees another one so.
    #[track_caller]
    fn becomes(&self, by: &Node, of: &Node, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait::until(DRAINED_WITHIN, what, || self.seen(by, of).filter(&is))
    }

    /// Begins a stream at a node, in a session of its own; its id.
    #[track_caller]
    fn stream(&self, node: &Node) -> String {
        let client = &self.client;
        client.connect(&node.name, &node.client);
        let call = client.echo(&node.name, &self.function.keys(&[]), "one");
        let id = call.session();
        client.run(json!({
            "do": "stream_open", "channel": node.name, "stream": node.name,
            "method": "/test.Echo/Bidi", "metadata": self.function.keys(&[("nvcf-reqid", &id)]),
        }));
        self.echoes(node, "a");
        id
    }

    /// The stream goes both ways.
    #[track_caller]
    fn echoes(&self, node: &Node, message: &str) {
        let stream = &node.name;
        self.client
            .run(json!({"do": "stream_send", "stream": stream, "message": message}));
        let echoed = self
            .client
            .run(json!({"do": "stream_next", "stream": stream}));
        assert_eq!(echoed["message"], format!("echo {message}"));
    }
}

/// A page of an ops port: its status and its JSON.
fn ready(node: &Node) -> Option<(u16, Value)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(&node.ops).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

#[test]
fn o_drn_1_a_node_drained_by_a_verb_lets_its_streams_finish_and_waits_and_serves_again() {
    let _alone = alone();
    let Some(world) = World::start() else {
        return;
    };
    let (node, other) = (&world.nodes()[0], &world.nodes()[1]);
    let id = world.stream(node);
    let led = world.becomes(other, node, "it leads its region", |seen| {
        seen["groups_led"].as_u64() > Some(0) && seen["calls"] == 1
    });
    assert_eq!(
        (&led["stage"], &led["ready"]),
        (&json!("serving"), &json!(true))
    );
    assert_eq!(led["calls"], 1, "{led}");

    // Said to another node, and waited for.
    let arguments = ["node", "drain", &node.name, "--deadline", "120s", "--wait"];
    let mut command = world.at(other, &arguments);
    let waiting = Process::start("waiting", &world.cluster.data(), &mut command);
    world.becomes(other, node, "all but the stream is gone", |seen| {
        seen["stage"] == "draining"
            && seen["groups_led"] == 0
            && seen["sidecars_only_here"] == 0
            && seen["calls"] == 1
    });
    let (status, verdict) = ready(node).expect("an answer");
    assert_eq!((status, &verdict["ready"]), (503, &json!(false)));
    assert_eq!(verdict["drain"]["stage"], "draining", "{verdict}");
    assert_eq!(verdict["drain"]["calls"], 1, "{verdict}");
    assert!(
        std::net::TcpStream::connect(&node.client).is_err(),
        "it is closed"
    );
    let worker = find(&world.cluster, "echo").expect("it is there");
    assert_eq!(worker["state"], "ready", "{worker}");
    let elsewhere = |at: &Value| at.as_str() != Some(&node.name);
    let nodes = worker["attached_at"].as_array().expect("a list");
    assert!(
        nodes.iter().filter(|at| elsewhere(at)).count() >= 2,
        "{worker}"
    );
    world.echoes(node, "b");
    assert!(waiting.ended().is_none(), "it waits:\n{}", waiting.output());

    world
        .client
        .run(json!({"do": "stream_finish", "stream": node.name}));
    let status = waiting.wait(DRAINED_WITHIN);
    let said = waiting.output();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("draining; 1 calls"), "{said}");
    let drained = world.seen(node, node).expect("its admin port answers");
    assert_eq!(drained["stage"], "drained", "{drained}");
    let (status, verdict) = ready(node).expect("an answer");
    assert_eq!(
        (status, &verdict["drain"]["stage"]),
        (503, &json!("drained"))
    );
    // Again, it changes nothing.
    cli::run(&mut world.at(other, &["node", "drain", &node.name, "--wait"]));
    assert_eq!(
        world.seen(node, node).expect("an answer")["stage"],
        "drained"
    );

    // The session is reached by another node meanwhile, ...
    let keys = world.function.keys(&[("nvcf-reqid", &id)]);
    world.client.connect("other", &other.client);
    let again = world.client.echo("other", &keys, "two");
    assert_eq!(again.session(), id);
    // ... and by this one once it serves again.
    cli::run(&mut world.at(other, &["node", "undrain", &node.name]));
    wait::until(DRAINED_WITHIN, "it is ready", || {
        let (status, verdict) = ready(node)?;
        (status == 200 && verdict.get("drain").is_none()).then_some(())
    });
    world.client.connect("back", &node.client);
    let again = world.client.echo("back", &keys, "three");
    assert_eq!(again.session(), id);
    world.becomes(other, node, "its sidecars count again", |seen| {
        seen["stage"] == "serving" && seen["sidecars"].as_u64() > Some(0)
    });

    let audit = world.cluster.ask(&["audit", "list"]);
    let lines: Vec<&str> = audit
        .as_array()
        .expect("a list")
        .iter()
        .filter(|line| line["actor"] != "autopilot")
        .filter_map(|line| line["what"].as_str())
        .collect();
    let drain = format!("drain node {} within 120s", node.name);
    let undrain = format!("undrain node {}", node.name);
    assert!(lines.contains(&drain.as_str()), "{lines:?}");
    assert!(lines.contains(&undrain.as_str()), "{lines:?}");
}

#[test]
fn o_drn_1_a_deadline_cuts_and_says_so_and_a_drained_node_ends_at_once() {
    let _alone = alone();
    let Some(world) = World::start() else {
        return;
    };
    let (node, other) = (&world.nodes()[0], &world.nodes()[1]);
    let id = world.stream(node);
    let arguments = ["node", "drain", &node.name, "--deadline", "1s", "--wait"];
    let said = cli::fail(1, &mut world.at(other, &arguments));
    assert!(said.contains("its deadline came first"), "{said}");
    let seen = world.seen(node, node).expect("its admin port answers");
    assert_eq!(seen["stage"], "drained (cut)", "{seen}");
    let ended = world
        .client
        .run(json!({"do": "stream_next", "stream": node.name}));
    assert_ne!(
        ended["code"], 0,
        "a cut stream never looks complete: {ended}"
    );
    send(node.pid, Signal::TERM);
    wait::until(ENDS_WITHIN, "it ends at once", || {
        (!world.cluster.runs(&node.name)).then_some(())
    });
    let keys = world.function.keys(&[("nvcf-reqid", &id)]);
    world.client.connect("other", &other.client);
    let again = world.client.echo("other", &keys, "two");
    assert_eq!(again.session(), id, "the session is not lost");
}

#[test]
fn o_drn_1_the_last_ready_node_is_drained_by_force_only_and_by_operators_only() {
    let _alone = alone();
    let cluster = Cluster::start();
    let nodes = &cluster.ready().nodes;
    let last = &nodes[2];
    let token = &cluster.ready().admin_token;
    let drain = |name: &str, more: &[&str]| {
        let arguments = [&["node", "drain", name], more].concat();
        cli::pontoon(&last.admin, token, &arguments)
    };
    let viewer = cluster.ask(&["key", "create", "--kind", "viewer"]);
    let viewer = viewer["secret"].as_str().expect("a secret");
    let arguments = ["node", "drain", &last.name];
    cli::fail(77, &mut cli::pontoon(&last.admin, viewer, &arguments));
    let said = cli::fail(1, &mut drain("nobody", &[]));
    assert!(said.contains("there is no node"), "{said}");
    for node in &nodes[..2] {
        cli::run(&mut drain(&node.name, &["--dry-run"]));
        cli::run(&mut drain(&node.name, &["--wait"]));
    }
    let said = cli::fail(1, &mut drain(&last.name, &[]));
    assert!(said.contains("no other node is ready"), "{said}");
    cli::run(&mut drain(&last.name, &["--force"]));
    let (status, verdict) = ready(last).expect("an answer");
    assert_eq!(status, 503, "{verdict}");
    for node in nodes {
        cli::run(&mut cli::pontoon(
            &last.admin,
            token,
            &["node", "undrain", &node.name],
        ));
    }
    wait::until(RECOVERED_WITHIN, "all are ready again", || {
        let all = nodes
            .iter()
            .all(|node| ready(node).is_some_and(|(s, _)| s == 200));
        all.then_some(())
    });
}

/// A header as a literal that nobody indexes (RFC 7541 6.2.2); lengths are integers with a prefix of 7 bits.
fn literal((name, value): (&str, &str)) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match text.len() {
            short @ 0..127 => bytes.push(short as u8),
            long => bytes.extend([127, (long - 127) as u8 | 128, ((long - 127) >> 7) as u8]),
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// Reads frames until one is of this type, and has these flags.
#[track_caller]
fn read_until(stream: &mut std::net::TcpStream, kind: u8, flags: u8) -> Vec<u8> {
    use std::io::Read as _;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("the connection stays");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).expect("the whole frame");
        if head[3] == kind && head[4] & flags == flags {
            return payload;
        }
    }
}

#[test]
fn o_drn_1_a_client_that_has_not_heard_yet_that_it_should_go_is_served_to_the_end() {
    use std::io::{Read as _, Write as _};
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let _alone = alone();
    let Some(world) = World::start() else {
        return;
    };
    let (node, other) = (&world.nodes()[0], &world.nodes()[1]);
    let mut client = std::net::TcpStream::connect(&node.client).expect("a connection");
    client
        .set_read_timeout(Some(DRAINED_WITHIN))
        .expect("a bound");
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(frame(SETTINGS, 0, 0, &[]));
    client.write_all(&hello).expect("the preface");
    read_until(&mut client, SETTINGS, 1);

    send(node.pid, Signal::TERM);
    read_until(&mut client, GOAWAY, 0);
    // It asks by a PING whether the client has heard it. Until that is answered any call is in time.
    let ping = read_until(&mut client, PING, 0);
    world.becomes(other, node, "others hear that it drains", |seen| {
        seen["stage"] == "draining"
    });
    let headers: Vec<u8> = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/test.Echo/Unary"),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .into_iter()
    .chain(world.function.keys(&[]))
    .flat_map(literal)
    .collect();
    let mut call = frame(HEADERS, 4, 1, &headers);
    call.extend(frame(DATA, 1, 1, b"\0\0\0\0\x03one"));
    client.write_all(&call).expect("a call");
    let answer = read_until(&mut client, DATA, 0);
    assert!(
        String::from_utf8_lossy(&answer).contains("\"count\""),
        "{answer:?}"
    );
    client
        .write_all(&frame(PING, 1, 0, &ping))
        .expect("the client has heard it");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("an end in order");
    wait::until(ENDS_WITHIN, "it ends as soon as nobody is there", || {
        (!world.cluster.runs(&node.name)).then_some(())
    });
}
