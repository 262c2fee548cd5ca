//! Any gRPC server can be a worker: a Python one that knows nothing of Pontoon, behind a sidecar.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use support::client::Client;
use support::cluster::{Cluster, PONTOON};
use support::member::free;
use support::process::{Process, descendants, is_alive, send};
use support::wait;
use support::worker::{Function, Sidecar, Worker, find};

/// When the worker has seen the end of a call, by the contract.
const SEEN_WITHIN: f64 = 1.0;

/// A worker of many slots in us-east that most tests share.
struct Shared {
    function: Function,
    worker: Worker,
    _sidecar: Sidecar,
}

/// The shared worker and a client with a channel `a` to a node of another region.
fn shared() -> Option<(&'static Shared, Client)> {
    static SHARED: OnceLock<Option<Shared>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let cluster = Cluster::shared();
        let worker = Worker::start("echo", &cluster.data().join("logs"))?;
        let function = Function::create(cluster, "echo-function", &["--slots", "200"]);
        let sidecar = Sidecar::attach(cluster, &function, "echo", "us-east", &worker);
        Some(Shared {
            function,
            worker,
            _sidecar: sidecar,
        })
    });
    let client = Client::start()?;
    client.connect("a", Cluster::shared().client_address("us-west"));
    Some((shared.as_ref()?, client))
}

#[test]
fn c_fwd_1_c_fwd_2_c_fwd_3_the_worker_sees_the_clients_headers_and_ours_and_no_credential() {
    let Some((shared, client)) = shared() else {
        return;
    };
    let _witness = Cluster::shared().witness();
    let own = [
        ("x-mine", "kept"),
        ("nvcf-ncaid", "forged"),
        ("nvcf-sub", "forged"),
        ("nvcf-function-name", "forged"),
        ("nvcf-region", "forged"),
    ];
    let call = client.echo("a", &shared.function.keys(&own), "hello");
    let said = call.json();
    assert_eq!(said["message"], "hello");
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in said["headers"].as_array().expect("a list") {
        let [name, value] =
            [&pair[0], &pair[1]].map(|text| text.as_str().expect("text").to_owned());
        seen.entry(name).or_default().push(value);
    }
    let function = &shared.function;
    let id = call.session();
    for (name, value) in [
        ("x-mine", "kept"),
        ("nvcf-reqid", &id),
        ("nvcf-ncaid", &function.tenant),
        ("nvcf-sub", "tester"),
        ("nvcf-function-id", &function.function),
        ("nvcf-function-version-id", &function.version),
        ("nvcf-function-name", "echo-function"),
    ] {
        assert_eq!(
            seen.get(name).map(Vec::as_slice),
            Some(&[value.to_owned()][..]),
            "{name}"
        );
    }
    let region = &seen["nvcf-region"];
    assert!(region.len() == 1 && region[0] != "forged", "{region:?}");
    assert!(!seen.contains_key("authorization"), "{seen:?}");
    let cookie = format!("theme=dark; nvcf-request-id={id}");
    let again = client.echo("a", &function.keys(&[("cookie", &cookie)]), "again");
    assert_eq!(again.session(), id);
    let text = again.json().to_string();
    assert!(
        text.contains("theme=dark") && !text.contains("nvcf-request-id"),
        "{text}"
    );
}

#[test]
fn c_rsp_1_the_workers_own_headers_pass_but_for_the_request_id() {
    let Some((shared, client)) = shared() else {
        return;
    };
    let _witness = Cluster::shared().witness();
    let call = client.echo("a", &shared.function.keys(&[]), "hello");
    assert_ne!(call.session(), "set-by-the-worker");
    assert_eq!(call.metadata("x-worker"), ["echo"]);
    assert_eq!(call.metadata("x-after"), ["trailer"]);
    assert_eq!(call.metadata("x-bytes-bin"), ["00ff"]);
    let ours = format!("nvcf-request-id={}; Path=/; SameSite=Lax", call.session());
    assert_eq!(call.metadata("set-cookie"), ["own=1".to_owned(), ours]);
    let failed = client
        .begin_echo("a", "Fail", &shared.function.keys(&[]), "", 60.0)
        .call();
    failed.fails(9, "kein Öl %");
    assert_eq!(failed.metadata("x-after"), ["failure"]);
    assert_eq!(failed.session(), call.session());
}

#[test]
fn c_fwd_5_all_four_kinds_of_call_cross_unchanged() {
    let Some((shared, client)) = shared() else {
        return;
    };
    let _witness = Cluster::shared().witness();
    let metadata = shared.function.keys(&[]);
    client.echo("a", &metadata, "one").json();
    let served = client.run(json!({
        "do": "server_stream", "channel": "a", "method": "/test.Echo/ServerStream",
        "metadata": metadata, "message": "500",
    }));
    let messages = served["messages"].as_array().expect("a list");
    assert_eq!(
        (served["code"].as_i64(), messages.len()),
        (Some(0), 500),
        "{served}"
    );
    assert_eq!(messages[499], "echo 499");
    let words: Vec<String> = (0..300).map(|word| word.to_string()).collect();
    let gathered = client.run(json!({
        "do": "client_stream", "channel": "a", "method": "/test.Echo/ClientStream",
        "metadata": metadata, "messages": words,
    }));
    assert_eq!(gathered["messages"][0], words.join("+"));
    let large = "x".repeat(3 << 20);
    let call = client.echo("a", &metadata, &large);
    assert_eq!(
        call.json()["message"].as_str().map(str::len),
        Some(large.len())
    );
}

#[test]
fn c_fwd_5_a_stream_stays_open_for_seconds_while_other_calls_go_by() {
    let Some((shared, client)) = shared() else {
        return;
    };
    let _witness = Cluster::shared().witness();
    let metadata = shared.function.keys(&[]);
    let stream = |what: &str| json!({"do": what, "stream": "long", "message": "tick"});
    client.run(json!({
        "do": "stream_open", "channel": "a", "stream": "long",
        "method": "/test.Echo/Bidi", "metadata": metadata,
    }));
    client.run(stream("stream_send"));
    assert_eq!(client.run(stream("stream_next"))["message"], "echo tick");
    let began = pontoon::clock::now();
    let mut calls = 0;
    while began.elapsed() < Duration::from_secs(4) {
        assert_eq!(
            client.echo("a", &metadata, "beside").json()["message"],
            "beside"
        );
        calls += 1;
        if calls % 50 == 0 {
            client.run(stream("stream_send"));
            assert_eq!(client.run(stream("stream_next"))["message"], "echo tick");
        }
    }
    assert!(calls > 50, "only {calls} calls in 4 s");
    client.run(stream("stream_finish"));
    let end = client.run(stream("stream_next"));
    assert_eq!(end["code"], 0, "{end}");
}

/// Checks how many seconds a client's leaving takes to the worker. Both processes stamp what they do
/// by the clock that they share. A busy machine may hold up either of them once, so that the best of
/// three counts; who is late by himself always is.
#[track_caller]
fn seen_soon(how: &str, mut seconds: impl FnMut(usize) -> f64) {
    let took: Vec<f64> = (0..3).map(&mut seconds).collect();
    println!("{how}: seen after {took:?} s");
    let best = took.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best < SEEN_WITHIN, "{how}: seen after {took:?} s");
}

/// The time of an event or of an answer.
#[track_caller]
fn at(event: &Value) -> f64 {
    event["at"]
        .as_f64()
        .unwrap_or_else(|| panic!("no time: {event}"))
}

#[test]
fn c_fwd_8_a_cancelled_call_is_cancelled_at_the_worker() {
    let Some((shared, client)) = shared() else {
        return;
    };
    let _witness = Cluster::shared().witness();
    let metadata = shared.function.keys(&[]);
    seen_soon("a cancelled stream", |turn| {
        let (stream, message) = (format!("cancelled-{turn}"), format!("cancel me, {turn}"));
        client.run(json!({
            "do": "stream_open", "channel": "a", "stream": stream,
            "method": "/test.Echo/Bidi", "metadata": metadata,
        }));
        client.run(json!({"do": "stream_send", "stream": stream, "message": message}));
        client.run(json!({"do": "stream_next", "stream": stream}));
        let left = client.run(json!({"do": "stream_cancel", "stream": stream}));
        let ended = format!(r#"{{"event": "ended", "last": ["{message}"]"#);
        at(&shared.worker.says(&ended)) - at(&left)
    });
    // A deadline reaches the worker too, and so does a connection that closes.
    seen_soon("a deadline", |turn| {
        let message = format!("deadline {turn}");
        let late = client
            .begin_echo("a", "Hang", &metadata, &message, 0.5)
            .call();
        assert_eq!(late.code(), 4);
        let gone = format!(r#"{{"event": "gone", "message": "{message}""#);
        let began = late.0["began"].as_f64().expect("when it began");
        at(&shared.worker.says(&gone)) - (began + 0.5)
    });
    seen_soon("a closed connection", |turn| {
        let (channel, message) = (format!("closing-{turn}"), format!("closed {turn}"));
        client.connect(&channel, Cluster::shared().client_address("us-east"));
        let hanging = client.begin_echo(&channel, "Hang", &metadata, &message, 60.0);
        let event = |name: &str| format!(r#"{{"event": "{name}", "message": "{message}""#);
        shared.worker.says(&event("hanging"));
        let left = client.close(&channel);
        let gone = shared.worker.says(&event("gone"));
        drop(hanging);
        at(&gone) - at(&left)
    });
}

#[test]
fn c_rid_4_a_cookie_of_another_function_counts_as_absent_and_is_not_cleared() {
    let Some((shared, client)) = shared() else {
        return;
    };
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let first = client.echo("a", &shared.function.keys(&[]), "one");
    let demo = support::client::keys(cluster, &[]);
    client.connect("demo", cluster.client_address("us-east"));
    let other = client.sum("demo", &demo, 1);
    let cookie = format!("nvcf-request-id={}", other.session());
    client.connect("fresh", cluster.client_address("us-east"));
    let call = client.echo(
        "fresh",
        &shared.function.keys(&[("cookie", &cookie)]),
        "two",
    );
    assert_ne!(call.session(), other.session());
    assert_ne!(call.session(), first.session());
    // Of several cookies of the name, the first that names a session of this function counts.
    let both = format!("{cookie}; nvcf-request-id={}", first.session());
    client.connect("both", cluster.client_address("us-east"));
    let call = client.echo("both", &shared.function.keys(&[("cookie", &both)]), "three");
    assert_eq!(call.session(), first.session());
    cluster.ask(&["session", "end", &other.session()]);
}

#[test]
fn k_slot_1_a_third_session_waits_and_gets_the_slot_of_one_that_ended() {
    let cluster = Cluster::shared();
    let Some((_, client)) = shared() else {
        return;
    };
    let _witness = cluster.witness();
    let Some(worker) = Worker::start("narrow", &cluster.data().join("logs")) else {
        return;
    };
    let function = Function::create(
        cluster,
        "narrow-function",
        &["--slots", "2", "--wait", "20s"],
    );
    let _sidecar = Sidecar::attach(cluster, &function, "narrow", "us-west", &worker);
    let mut sessions = Vec::new();
    for name in ["first", "second"] {
        client.connect(name, cluster.client_address("us-east"));
        sessions.push(client.echo(name, &function.keys(&[]), name).session());
    }
    assert_ne!(sessions[0], sessions[1]);
    let wait_in_line = |name: &str| {
        client.connect(name, cluster.client_address("eu-central"));
        client.begin_echo(name, "Unary", &function.keys(&[]), name, 60.0)
    };
    let queued = |count: usize| {
        wait::until(Duration::from_secs(10), "the open is in the queue", || {
            let all = cluster.ask(&["session", "list"]);
            let waiting = all.as_array()?.iter().filter(|session| {
                session["version_id"] == function.version && session["state"] == "queued"
            });
            (waiting.count() == count).then_some(())
        });
    };
    let mut third = wait_in_line("third");
    queued(1);
    let mut fourth = wait_in_line("fourth");
    queued(2);
    assert!(!third.is_done() && !fourth.is_done());
    let used = find(cluster, "narrow").expect("it is attached");
    assert_eq!(used["slots_used"], 2, "{used}");
    cluster.ask(&["session", "end", &sessions[0]]);
    let third = third.call();
    assert_eq!(third.json()["count"], 1, "a session of its own");
    assert!(!fourth.is_done(), "in the order of arrival");
    cluster.ask(&["session", "end", &third.session()]);
    let fourth = fourth.call();
    fourth.json();
    client
        .echo(
            "second",
            &function.keys(&[("nvcf-reqid", &sessions[0])]),
            "ended",
        )
        .fails(5, "no existing session found");
    assert_eq!(
        client.echo("second", &function.keys(&[]), "goes on").json()["count"],
        2
    );
}

#[test]
fn c_rsm_5_c_rsm_7_h_22_a_worker_that_died_takes_its_sessions_with_it_and_its_successor_starts_anew()
 {
    let cluster = Cluster::shared();
    let Some((_, client)) = shared() else {
        return;
    };
    let _witness = cluster.witness();
    let logs = cluster.data().join("logs");
    let Some(worker) = Worker::start("mortal", &logs) else {
        return;
    };
    let function = Function::create(
        cluster,
        "mortal-function",
        &["--slots", "4", "--wait", "30s"],
    );
    let _sidecar = Sidecar::attach(cluster, &function, "mortal", "us-east", &worker);
    client.connect("mortal", cluster.client_address("us-east"));
    let call = client.echo("mortal", &function.keys(&[]), "one");
    let id = call.session();
    let before = find(cluster, "mortal").expect("attached")["id"].clone();
    let died = pontoon::clock::now();
    worker.process().signal(rustix::process::Signal::KILL);
    worker.process().wait(Duration::from_secs(5));
    client.connect("resume", cluster.client_address("us-west"));
    let gone = wait::until(Duration::from_secs(10), "its session is not found", || {
        let call = client.echo("resume", &function.keys(&[("nvcf-reqid", &id)]), "two");
        assert_ne!(call.code(), 0, "nobody is there to answer: {call:?}");
        (call.code() == 5).then_some(call)
    });
    assert!(
        died.elapsed() < Duration::from_secs(10),
        "{:?}",
        died.elapsed()
    );
    gone.fails(5, "no existing session found");
    let port = worker
        .address
        .rsplit(':')
        .next()
        .expect("a port")
        .to_owned();
    let Some(_successor) = Worker::start_at("mortal-again", &logs, &port) else {
        return;
    };
    wait::until(
        Duration::from_secs(20),
        "the successor is attached under a new id",
        || {
            let all = cluster.ask(&["worker", "list"]);
            let found = all.as_array()?.iter().any(|worker: &Value| {
                worker["name"] == "mortal" && worker["id"] != before && worker["state"] == "ready"
            });
            found.then_some(())
        },
    );
    client
        .echo("resume", &function.keys(&[("nvcf-reqid", &id)]), "three")
        .fails(5, "no existing session found");
    let new = client.echo("mortal", &function.keys(&[]), "four");
    assert_eq!(new.json()["count"], 1);
    assert_ne!(new.session(), id);
}

/// A client, a function of four slots, and a sidecar that runs the Python worker itself, at a port of its
/// own.
fn supervised(cluster: &Cluster, name: &str, more: &[&str]) -> Option<(Client, Function, Process)> {
    let client = Client::start()?;
    let policy = ["--slots", "4", "--wait", "30s"];
    let function = Function::create(cluster, &format!("{name}-function"), &policy);
    let python = support::python::interpreter()?;
    let script = support::python::scripts().join("echo_worker.py");
    let address = free();
    let port = address.rsplit(':').next().expect("a port");
    let mut command = Sidecar::command(cluster, name, "us-east", &address, &function.worker_key);
    command
        .args(more)
        .arg("--")
        .arg(python)
        .arg(script)
        .args([name, port]);
    let logs = cluster.data().join("logs");
    let sidecar = Process::start(&format!("{name}-sidecar"), &logs, &mut command);
    Some((client, function, sidecar))
}

/// The worker of this name that takes sessions, but not the one with the id `but`.
#[track_caller]
fn ready(cluster: &Cluster, name: &str, but: Option<&str>) -> String {
    wait::until(Duration::from_secs(30), "a worker takes sessions", || {
        let all = cluster.ask(&["worker", "list"]);
        let ready = all.as_array()?.iter().find(|worker| {
            worker["name"] == name && worker["state"] == "ready" && worker["id"].as_str() != but
        })?;
        Some(ready["id"].as_str()?.to_owned())
    })
}

/// The only process that a sidecar has started.
#[track_caller]
fn child_of(sidecar: &Process) -> u32 {
    let children = descendants(sidecar.pid());
    assert_eq!(children.len(), 1, "one worker");
    children[0].pid
}

#[test]
fn k_end_1_a_recycled_worker_has_a_new_process_for_each_session() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some((client, function, sidecar)) = supervised(cluster, "fresh", &["--recycle"]) else {
        return;
    };
    let mut worker = ready(cluster, "fresh", None);
    client.connect("here", cluster.client_address("us-east"));
    client.connect("there", cluster.client_address("us-west"));
    for turn in 1..=3 {
        let pid = child_of(&sidecar);
        let first = client.echo("here", &function.keys(&[]), "one");
        assert_eq!(
            first.json()["count"],
            1,
            "turn {turn}: nobody was here before"
        );
        let id = first.session();
        // A second session finds no place on it, although the version has four slots.
        let mut second = client.begin_echo("there", "Unary", &function.keys(&[]), "two", 60.0);
        let again = client.echo("here", &function.keys(&[]), "again");
        assert_eq!(again.json()["count"], 2);
        assert!(!second.is_done());
        cluster.ask(&["session", "end", &id]);
        let second = second.call();
        assert_eq!(
            second.json()["count"],
            1,
            "turn {turn}: a process of its own"
        );
        assert!(!is_alive(pid));
        worker = ready_after(cluster, &second.session(), &worker);
    }
    sidecar.signal(rustix::process::Signal::TERM);
    let pid = child_of(&sidecar);
    assert!(sidecar.wait(Duration::from_secs(30)).success());
    assert!(!is_alive(pid), "it ends with its sidecar");
}

/// Ends a session, and waits for the worker that takes the next one.
#[track_caller]
fn ready_after(cluster: &Cluster, session: &str, worker: &str) -> String {
    cluster.ask(&["session", "end", session]);
    ready(cluster, "fresh", Some(worker))
}

#[test]
fn c_rsm_5_a_worker_that_its_sidecar_runs_is_started_again_and_never_outlives_it() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some((client, function, sidecar)) = supervised(cluster, "child", &[]) else {
        return;
    };
    let worker = ready(cluster, "child", None);
    client.connect("child", cluster.client_address("us-east"));
    let id = client.echo("child", &function.keys(&[]), "one").session();
    let pid = child_of(&sidecar);
    let died = pontoon::clock::now();
    send(pid, rustix::process::Signal::KILL);
    wait::until(Duration::from_secs(10), "its session is not found", || {
        let call = client.echo("child", &function.keys(&[("nvcf-reqid", &id)]), "two");
        (call.code() == 5).then_some(())
    });
    assert!(died.elapsed() < Duration::from_secs(10));
    ready(cluster, "child", Some(&worker));
    let next = child_of(&sidecar);
    assert_ne!(next, pid);
    client.connect("new", cluster.client_address("us-west"));
    let anew = client.echo("new", &function.keys(&[]), "three");
    assert_eq!(anew.json()["count"], 1);
    sidecar.signal(rustix::process::Signal::KILL);
    wait::until(Duration::from_secs(10), "the worker dies with it", || {
        (!is_alive(next)).then_some(())
    });
}

#[test]
fn a_worker_whose_command_is_not_there_is_one_clear_line() {
    let mut command = Command::new(PONTOON);
    command
        .args(["sidecar", "--node", "127.0.0.1:1", "--region", "us-east"])
        .args(["--worker", "127.0.0.1:1", "--", "no-such-command"])
        .env("PONTOON_WORKER_KEY", "pnt_w_any");
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(
        said.contains("cannot run \"no-such-command\": No such file"),
        "{said}"
    );
    assert!(
        said.contains("the worker's command \"no-such-command\" can't be run"),
        "{said}"
    );
}
