//! Workers and their sidecars as an operator runs them: programs that know nothing of Pontoon, load
//! balancers in between, and all the ways in which a session ends.
//!
//! The nodes of the shared cluster advertise a worker port that nobody has, so a sidecar's only ways to a
//! node are the addresses that it was given. [`plain`] and [`balancers`] are about what is in between,
//! [`leaving`] about how sessions end, [`levels`] about a worker's health and what its sidecar shows,
//! [`links`] about workers that no tunnel reaches and about users who vanish.

#![allow(dead_code, reason = "the suite's tools have more than each test needs")]
#![allow(unreachable_pub, reason = "a module tree inside a test binary")]

#[path = "../support/mod.rs"]
mod support;

mod balancers;
mod leaving;
mod levels;
mod links;
mod plain;

use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::Duration;
use support::client::Client;
use support::cluster::{self, Cluster};
use support::ops::series;
use support::raw::{self, Answer};
use support::wait;
use support::worker::{Function, find};

/// Where no sidecar can reach a node.
const NOWHERE: (&str, &str) = ("PONTOON__ADVERTISE__WORKER", "127.0.0.1:1");

/// How soon what has happened is known everywhere, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// The cluster that most tests share: three regions of one node each.
fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start_with(&cluster::folder(), &["--slots", "64"], &[NOWHERE]))
}

/// How many tunnels were relayed so far.
fn relayed(cluster: &Cluster) -> f64 {
    let nodes = cluster.ready().nodes.iter();
    nodes
        .map(|node| series(&node.ops, "pontoon_relays_total{result=\"ok\"}"))
        .sum()
}

/// Where a worker is attached.
fn attached_at(cluster: &Cluster, name: &str) -> Option<Vec<String>> {
    let worker = find(cluster, name)?;
    let at = worker["attached_at"].as_array()?.iter();
    at.map(|at| at.as_str().map(str::to_owned)).collect()
}

/// A session's record at its home group, also for a minute after its end.
#[track_caller]
fn show(cluster: &Cluster, id: &str) -> Value {
    cluster.ask(&["session", "show", id])
}

/// Waits until a session is in a state.
#[track_caller]
fn becomes(cluster: &Cluster, id: &str, state: &str, within: Duration) {
    let mut last = Value::Null;
    let found = wait::within(within, || {
        last = show(cluster, id);
        (last["state"] == state).then_some(())
    });
    assert!(found.is_some(), "not {state} within {within:?}: {last}");
}

/// Waits until so many opens of a function's version are in the queue.
#[track_caller]
fn queued(cluster: &Cluster, function: &Function, count: usize) {
    wait::until(SOON, &format!("{count} opens wait"), || {
        let all = cluster.ask(&["session", "list"]);
        let waiting = |session: &&Value| {
            session["version_id"] == function.version.as_str() && session["state"] == "queued"
        };
        (all.as_array()?.iter().filter(waiting).count() == count).then_some(())
    });
}

/// How many slots of a worker are in use.
#[track_caller]
fn slots_used(cluster: &Cluster, name: &str) -> u64 {
    let worker = find(cluster, name).expect("it is attached");
    worker["slots_used"].as_u64().unwrap_or(0)
}

/// Asks for a session without a call, which may wait for 2 s.
#[track_caller]
fn hurried(cluster: &Cluster, region: &str, function: &Function) -> Answer {
    let keys = function.keys(&[("x-nvcf-absorb", "true"), ("grpc-timeout", "2S")]);
    raw::exchange(cluster.client_address(region), "POST", "/", &keys)
}

/// That no worker took a call in time.
#[track_caller]
fn finds_nobody(answer: &Answer) {
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.text().starts_with("failed to establish link"));
}

/// That a session is gone for a client, who knows it by its cookie only, and that the cookie is cleared.
#[track_caller]
fn is_gone(cluster: &Cluster, region: &str, function: &Function, id: &str) {
    let cookie = format!("nvcf-request-id={id}");
    let keys = function.keys(&[("cookie", &cookie)]);
    let answer = raw::exchange(cluster.client_address(region), "GET", "/", &keys);
    assert_eq!(answer.status, 404, "{answer:?}");
    assert_eq!(answer.text(), "no existing session found");
    let cleared = answer.all("set-cookie");
    assert_eq!(cleared.len(), 2, "{cleared:?}");
    assert_eq!(cleared[0], "nvcf-request-id=; Max-Age=0");
}

/// A stream of the echo worker, opened and used once.
struct Stream<'a> {
    client: &'a Client,
    name: String,
}

impl Stream<'_> {
    #[track_caller]
    fn open<'a>(client: &'a Client, channel: &str, keys: &[(&str, &str)]) -> Stream<'a> {
        let name = format!("stream on {channel}");
        client.run(json!({
            "do": "stream_open", "channel": channel, "stream": name, "method": "/test.Echo/Bidi",
            "metadata": keys, "timeout": 120,
        }));
        let stream = Stream { client, name };
        stream.echoes("first");
        stream
    }

    #[track_caller]
    fn echoes(&self, message: &str) {
        self.client
            .run(json!({"do": "stream_send", "stream": self.name, "message": message}));
        let next = self.next();
        assert_eq!(next["message"], format!("echo {message}"), "{next}");
    }

    /// The next message, or how it ended.
    #[track_caller]
    fn next(&self) -> Value {
        self.client
            .run(json!({"do": "stream_next", "stream": self.name}))
    }

    /// Half-closes it; the worker ends it then.
    #[track_caller]
    fn ends_well(&self) {
        self.client
            .run(json!({"do": "stream_finish", "stream": self.name}));
        let end = self.next();
        assert_eq!(end["code"], 0, "{end}");
    }

    /// That it was cut, and never ended cleanly.
    #[track_caller]
    fn is_cut(&self) {
        let end = self.next();
        let code = end["code"].as_i64().expect("it has ended");
        assert_ne!(code, 0, "{end}");
    }
}
