//! Servers that know nothing of Pontoon, behind sidecars and clients in front of nodes that reach nothing but
//! load balancers.

use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::member::free;
use crate::support::process::Process;
use crate::support::worker::{Function, Sidecar, Worker, attached};
use crate::support::{cli, haproxy, node, skipped, wait};
use crate::{SOON, Stream, relayed, shared};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A program of a real client, which prints a line per case.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Load balancers in front of all worker ports and of all client ports.
struct Fronts {
    workers: String,
    clients: String,
    _haproxy: Process,
}

impl Fronts {
    /// `None` where there is no HAProxy.
    fn start(cluster: &Cluster, name: &str) -> Option<Fronts> {
        let nodes = &cluster.ready().nodes;
        let (workers, clients) = (free(), free());
        let fronts = [
            (&*workers, nodes.iter().map(|node| &*node.worker).collect()),
            (&*clients, nodes.iter().map(|node| &*node.client).collect()),
        ];
        let haproxy = haproxy::start(name, &cluster.data().join("logs"), &fronts)?;
        Some(Fronts {
            workers,
            clients,
            _haproxy: haproxy,
        })
    }
}

/// One call by curl over HTTP/1.1: the answer's head, and what the worker says that it was asked.
#[track_caller]
fn curl(address: &str, function: &Function, body: &Path, more: &[(&str, &str)]) -> (String, Value) {
    let mut command = Command::new("curl");
    command.args([
        "-sS",
        "-i",
        "--http1.1",
        "--max-time",
        "30",
        "--noproxy",
        "*",
    ]);
    command.args(["-H", "expect:", "-X", "PUT"]);
    for (name, value) in function.keys(more) {
        command.arg("-H").arg(format!("{name}: {value}"));
    }
    command
        .arg("--data-binary")
        .arg(format!("@{}", body.display()));
    let said = cli::run(command.arg(format!("http://{address}/some/path?a=b")));
    let (head, body) = said.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{said}");
    (head.to_owned(), serde_json::from_str(body).expect("JSON"))
}

/// A header of an answer.
#[track_caller]
fn header(head: &str, name: &str) -> String {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    let (_, value) = found.next().expect("the header is there");
    assert!(found.next().is_none(), "{name} comes once: {head}");
    value.to_owned()
}

#[test]
fn c_fwd_6_k_con_4_a_plain_node_server_serves_curl_and_websockets_through_load_balancers() {
    let cluster = shared();
    let _witness = cluster.witness();
    let logs = cluster.data().join("logs");
    let Some((mut serves, mut calls)) = node::command().zip(node::command()) else {
        return;
    };
    let Some(fronts) = Fronts::start(cluster, "plain-node-front") else {
        return;
    };
    if Command::new("curl").arg("--version").output().is_err() {
        skipped("there is no curl");
        return;
    }
    let worker = Worker::run("plain-node", &logs, serves.arg("plain_worker.js"));
    let function = Function::create(cluster, "plain-node", &["--slots", "64", "--window", "60s"]);
    let key = &function.worker_key;
    let mut command = Sidecar::knowing(
        &[&fronts.workers],
        "plain-node",
        "us-west",
        &worker.address,
        key,
    );
    command.args(["--health", "http:/health"]);
    let _sidecar = Process::start("plain-node-sidecar", &logs, &mut command);
    attached(cluster, "plain-node", 2);
    let before = relayed(cluster);

    let body = logs.join("plain-body");
    std::fs::write(&body, vec![b'x'; 300_000]).expect("written");
    let (head, first) = curl(&fronts.clients, &function, &body, &[("x-mine", "kept")]);
    let id = header(&head, "nvcf-reqid");
    assert_eq!(header(&head, "x-worker"), "plain");
    let asked = &first["headers"];
    for (seen, wanted) in [
        (&first["method"], "PUT"),
        (&first["url"], "/some/path?a=b"),
        (&asked["x-mine"], "kept"),
        (&asked["host"], &fronts.clients),
        (&asked["nvcf-reqid"], &id),
    ] {
        assert_eq!(seen, wanted, "{first}");
    }
    assert_eq!(
        (&first["length"], &first["count"]),
        (&300_000.into(), &1.into())
    );
    // The balancer gives each of these to the next node.
    for count in 2..=7 {
        let (head, again) = curl(&fronts.clients, &function, &body, &[("nvcf-reqid", &id)]);
        assert_eq!(header(&head, "nvcf-reqid"), id);
        assert_eq!(
            (&again["count"], &again["pid"]),
            (&count.into(), &first["pid"])
        );
    }

    let (_, key) = function.bearer.split_once(' ').expect("a scheme and a key");
    calls
        .arg("ws.js")
        .env("CASE_TARGET", &fronts.clients)
        .env("CASE_KEY", key)
        .env("CASE_FUNCTION", &function.function);
    let program = Process::start("plain-node-client", &logs, &mut calls);
    let status = program.wait(ENDS_WITHIN);
    let said = program.output();
    assert!(
        status.success() && said.matches("ok ").count() >= 6,
        "{said}"
    );
    assert!(relayed(cluster) > before, "nothing was relayed");
}

#[test]
fn c_fwd_5_k_con_4_a_plain_python_server_serves_all_kinds_of_calls_through_load_balancers() {
    let cluster = shared();
    let _witness = cluster.witness();
    let logs = cluster.data().join("logs");
    let Some((worker, client)) = Worker::start("plain-python", &logs).zip(Client::start()) else {
        return;
    };
    let Some(fronts) = Fronts::start(cluster, "plain-python-front") else {
        return;
    };
    let function = Function::create(
        cluster,
        "plain-python",
        &["--slots", "64", "--window", "60s"],
    );
    let key = &function.worker_key;
    let mut command = Sidecar::knowing(
        &[&fronts.workers],
        "plain-python",
        "us-east",
        &worker.address,
        key,
    );
    let _sidecar = Process::start("plain-python-sidecar", &logs, &mut command);
    attached(cluster, "plain-python", 2);
    let before = relayed(cluster);

    let many = "x".repeat(1 << 20);
    let mut ids = Vec::new();
    for number in 0..6 {
        let channel = format!("open {number}");
        client.connect(&channel, &fronts.clients);
        let call = client.echo(&channel, &function.keys(&[]), &many);
        assert_eq!(call.json()["message"], many.as_str(), "bytes both ways");
        ids.push(call.session());
    }
    // Six connections are two to each node, and streams side by side on them stay apart.
    let channels: Vec<String> = (0..6).map(|number| format!("open {number}")).collect();
    let streams: Vec<Stream> = channels
        .iter()
        .map(|channel| Stream::open(&client, channel, &function.keys(&[])))
        .collect();
    for (number, stream) in streams.iter().enumerate() {
        for round in 0..20 {
            stream.echoes(&format!("{round} of {number}"));
        }
    }
    for (number, id) in ids.iter().enumerate() {
        let channel = format!("resume {number}");
        client.connect(&channel, &fronts.clients);
        let call = client.echo(&channel, &function.keys(&[("nvcf-reqid", id)]), "again");
        assert_eq!(call.session(), *id);
        // A call, a stream, and this.
        assert_eq!(call.json()["count"], 3, "one memory");
    }
    for stream in &streams {
        stream.ends_well();
    }
    assert!(relayed(cluster) > before, "nothing was relayed");
}

/// A field of a line in a node's log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn o_log_1_a_trace_reaches_the_worker_as_it_came_and_joins_the_lines_of_calls_and_their_tunnel() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let cluster = shared();
    let _witness = cluster.witness();
    let logs = cluster.data().join("logs");
    let Some(client) = Client::start() else {
        return;
    };
    let Some(worker) = Worker::start("traced", &logs) else {
        return;
    };
    let function = Function::create(cluster, "traced", &["--slots", "2"]);
    let _sidecar = Sidecar::attach(cluster, &function, "traced", "eu-central", &worker);
    client.connect("traced", cluster.client_address("us-west"));
    let spans = ["00f067aa0ba902b7", "b7ad6b7169203331"];
    let calls = spans.map(|span| {
        let sent = format!("00-{TRACE}-{span}-01");
        let more = [("traceparent", &*sent), ("tracestate", "vendor=1")];
        let call = client.echo("traced", &function.keys(&more), span);
        let headers = call.json()["headers"].clone();
        let headers = headers.as_array().expect("a list");
        for (name, value) in more {
            let found = headers.iter().filter(|header| header[0] == name);
            let found: Vec<&Value> = found.collect();
            assert_eq!(found, [&json!([name, value])], "{headers:?}");
        }
        call.session()
    });
    assert_eq!(calls[0], calls[1], "one session");
    let malformed = [("traceparent", "00-not-one")];
    let untraced = client.echo("traced", &function.keys(&malformed), "untraced");
    let headers = untraced.json()["headers"].clone();
    let headers = headers.as_array().expect("a list");
    assert!(headers.contains(&json!(malformed[0])), "{headers:?}");
    cluster.ask(&["session", "end", &calls[0]]);

    let log = logs.join("us-west-1.log");
    let of_session = |what: &str, count: usize| -> Vec<String> {
        wait::until(SOON, what, || {
            let text = fs::read_to_string(&log).expect("a log");
            let lines = text
                .lines()
                .filter(|line| line.contains(what) && field(line, "session") == Some(&*calls[0]));
            let lines: Vec<String> = lines.map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
    };
    let ended = &of_session("tunnel closed", 1)[0];
    assert_eq!(field(ended, "trace"), Some(TRACE), "{ended}");
    assert_eq!(field(ended, "calls"), Some("3"), "{ended}");
    let tunnel = field(ended, "tunnel").expect("its number");
    let lines = of_session(": call ", 3);
    let traced = lines.iter().map(|line| field(line, "trace"));
    assert!(traced.eq([Some(TRACE), Some(TRACE), None]), "{lines:?}");
    let of = lines.iter().map(|line| field(line, "span"));
    assert!(of.eq([Some(spans[0]), Some(spans[1]), None]), "{lines:?}");
    let over = lines.iter().map(|line| field(line, "tunnel"));
    assert!(over.eq([Some(tunnel); 3]), "{lines:?} not over {tunnel}");
}
