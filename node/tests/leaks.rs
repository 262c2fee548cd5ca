//! What comes and goes leaves nothing behind: sessions, tunnels, control streams, descriptors.
//!
//! A few hundred rounds; `PONTOON_LEAK_ROUNDS` asks for more.

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use support::client::Client;
use support::cluster::{self, Cluster, RECOVERED_WITHIN};
use support::member::free;
use support::process::Process;
use support::worker::{Function, Sidecar, Worker, find};
use support::{alone, ops, wait};

/// Sessions at once; the worker has as many slots.
const AT_ONCE: usize = 16;

/// How long what has ended may take to be gone everywhere: windows of 1 s, the idle time of relays'
/// connections, and the reconciliation every 10 s.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// How many descriptors may come and go by themselves: connections between nodes, their log files.
const SLACK: usize = 4;

fn rounds() -> usize {
    let asked = std::env::var("PONTOON_LEAK_ROUNDS").ok();
    asked.map_or(320, |text| text.parse().expect("a number"))
}

/// How many descriptors a process has open.
fn descriptors(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    entries.count()
}

/// A series of a process that answers, or 0.
fn series(address: &str, name: &str) -> f64 {
    let (_, page) = ops::page(address, "/metrics").expect("a page");
    ops::value(&page, name)
}

/// A cluster with a worker whose sidecar has an ops port.
struct World {
    cluster: Cluster,
    function: Function,
    client: Client,
    sidecar: Process,
    ops: String,
    worker: Worker,
    region: String,
}

impl World {
    /// `None` where there is no Python.
    fn start() -> Option<World> {
        let cluster = Cluster::start_in(&cluster::folder(), &["--slots", "4"]);
        let folder = cluster.data().join("logs");
        let worker = Worker::start("echo", &folder)?;
        let client = Client::start()?;
        let slots = AT_ONCE.to_string();
        let policy = ["--slots", &slots, "--window", "1s"];
        let function = Function::create(&cluster, "echo", &policy);
        let region = cluster.ready().nodes[0].region.clone();
        let ops = free();
        let key = &function.worker_key;
        let mut command = Sidecar::command(&cluster, "echo", &region, &worker.address, key);
        command.args(["--ops", &ops]);
        let sidecar = Process::start("echo-sidecar", &folder, &mut command);
        let world = World {
            cluster,
            function,
            client,
            sidecar,
            ops,
            worker,
            region,
        };
        world.attached("echo");
        Some(world)
    }

    #[track_caller]
    fn attached(&self, name: &str) {
        wait::until(RECOVERED_WITHIN, "it is attached at two nodes", || {
            let worker = find(&self.cluster, name)?;
            let nodes = worker["attached_at"].as_array()?.len();
            (worker["state"] == "ready" && nodes >= 2).then_some(())
        });
    }

    /// Sessions open at all nodes at once, are resumed at another, and are left.
    #[track_caller]
    fn come_and_go(&self, round: usize) {
        let nodes = &self.cluster.ready().nodes;
        let at = |number: usize| &nodes[number % nodes.len()].client;
        let name = |number: usize, what: &str| format!("{what} {round} {number}");
        let keys = self.function.keys(&[]);
        let begun: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let channel = name(number, "open");
                self.client.connect(&channel, at(number));
                let call = self
                    .client
                    .begin_echo(&channel, "Unary", &keys, "one", 60.0);
                (call, channel)
            })
            .collect();
        let opened: Vec<_> = begun
            .into_iter()
            .map(|(call, channel)| (call.call().session(), channel))
            .collect();
        for (number, (id, channel)) in opened.into_iter().enumerate() {
            if number % 4 == 0 {
                let again = name(number, "resume");
                let keys = self.function.keys(&[("nvcf-reqid", &id)]);
                self.client.connect(&again, at(number + 1));
                assert_eq!(self.client.echo(&again, &keys, "two").session(), id);
                self.client.close(&again);
            }
            self.client.close(&channel);
        }
    }

    /// Waits until no session is left, nor any slot, tunnel or relay.
    #[track_caller]
    fn nothing_is_left(&self) {
        let mut left = BTreeMap::new();
        let gone = wait::within(GONE_WITHIN, || {
            left.clear();
            let sessions = self.cluster.ask(&["session", "list"]);
            let sessions = sessions.as_array().map_or(0, Vec::len);
            left.insert("sessions", sessions as f64);
            let worker = find(&self.cluster, "echo").unwrap_or(Value::Null);
            left.insert("slots", worker["slots_used"].as_f64().unwrap_or(-1.0));
            left.insert(
                "of the sidecar",
                series(&self.ops, "pontoon_sidecar_tunnels_open"),
            );
            for node in &self.cluster.now().nodes {
                let active = "nvcf_grpc_proxy_service_worker_connections_active";
                *left.entry("tunnels").or_default() += series(&node.ops, active);
                *left.entry("relays").or_default() += series(&node.ops, "pontoon_relays_active");
            }
            left.values().all(|left| *left == 0.0).then_some(())
        });
        assert!(gone.is_some(), "{left:?}");
    }

    /// How many descriptors the nodes and the sidecar have open, by name.
    fn open(&self) -> BTreeMap<String, usize> {
        let nodes = self.cluster.now().nodes.into_iter();
        let nodes = nodes.map(|node| (node.name, descriptors(node.pid)));
        let sidecar = ("sidecar".to_owned(), descriptors(self.sidecar.pid()));
        nodes.chain([sidecar]).collect()
    }
}

#[test]
fn sessions_and_sidecars_that_come_and_go_leave_no_tunnel_and_no_descriptor_behind() {
    let _alone = alone();
    let Some(world) = World::start() else {
        return;
    };
    world.come_and_go(0);
    world.nothing_is_left();
    let before = world.open();

    for round in 1..=rounds().div_ceil(AT_ONCE) {
        world.come_and_go(round);
        if round % 5 == 0 {
            // Another sidecar of the same worker comes and goes meanwhile.
            let (name, key) = (format!("guest-{round}"), &world.function.worker_key);
            let address = &world.worker.address;
            let mut command = Sidecar::command(&world.cluster, &name, &world.region, address, key);
            let folder = world.cluster.data().join("logs");
            let guest = Process::start(&name, &folder, &mut command);
            world.attached(&name);
            guest.signal(Signal::TERM);
            guest.wait(RECOVERED_WITHIN);
            wait::until(RECOVERED_WITHIN, "it is gone", || {
                let known = find(&world.cluster, &name);
                known
                    .is_none_or(|worker| worker["state"] == "detached")
                    .then_some(())
            });
        }
    }
    // A node that drains and comes back has its sidecars attach elsewhere and count again.
    let node = &world.cluster.ready().nodes[0].name;
    for _ in 0..3 {
        world
            .cluster
            .ask(&["node", "drain", node, "--wait", "--deadline", "60s"]);
        world.cluster.ask(&["node", "undrain", node]);
        world.attached("echo");
    }
    world.come_and_go(usize::MAX);
    world.nothing_is_left();
    let mut after = BTreeMap::new();
    let back = wait::within(GONE_WITHIN, || {
        after = world.open();
        let back = |(name, open): (&String, &usize)| *open <= before[name] + SLACK;
        after.iter().all(back).then_some(())
    });
    println!("descriptors before: {before:?}, after: {after:?}");
    assert!(back.is_some(), "before {before:?}, after {after:?}");
}
