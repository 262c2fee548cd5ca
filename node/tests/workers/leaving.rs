//! How sessions end, as client, worker and directory see it.

use crate::support::client::{Call, Client};
use crate::support::told::Told;
use crate::support::worker::{Function, Sidecar, Worker, find};
use crate::support::{raw, wait};
use crate::{
    SOON, Stream, becomes, finds_nobody, hurried, is_gone, queued, shared, show, slots_used,
};
use rustix::process::Signal;
use std::time::Duration;

/// A Python worker with its sidecar, which tells it of ends.
struct World {
    function: Function,
    told: Told,
    sidecar: Sidecar,
    worker: Worker,
}

impl World {
    /// `None` where there is no Python.
    fn start(name: &str, region: &str, policy: &[&str]) -> Option<World> {
        let cluster = shared();
        let worker = Worker::start(name, &cluster.data().join("logs"))?;
        let function = Function::create(cluster, name, policy);
        let told = Told::start();
        let more = ["--on-end", &told.url];
        let sidecar = Sidecar::attach_with(cluster, &function, name, region, &worker, &more);
        Some(World {
            function,
            told,
            sidecar,
            worker,
        })
    }

    /// Opens a session on a channel of its own.
    #[track_caller]
    fn open(&self, client: &Client, region: &str, more: &[(&str, &str)]) -> (String, Call) {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let channel = format!("{region} {number}");
        client.connect(&channel, shared().client_address(region));
        let call = client.echo(&channel, &self.function.keys(more), "first");
        assert_eq!(call.json()["count"], 1, "a session of its own");
        (channel, call)
    }

    /// Resumes a session at a node; how often the worker's process has been called in it.
    #[track_caller]
    fn resumes(&self, client: &Client, region: &str, id: &str) -> i64 {
        let channel = format!("{id} at {region}");
        client.connect(&channel, shared().client_address(region));
        let keys = self.function.keys(&[("nvcf-reqid", id)]);
        let call = client.echo(&channel, &keys, "again");
        assert_eq!(call.session(), id);
        client.close(&channel);
        call.json()["count"].as_i64().expect("a number")
    }

    /// Waits until the worker was told of an end, once and for one of these reasons.
    #[track_caller]
    fn was_told(&self, id: &str, reasons: &[&str]) {
        wait::until(SOON, "the worker is told", || {
            (!self.told.of(id).is_empty()).then_some(())
        });
        let told = self.told.of(id);
        assert!(
            told.len() == 1 && reasons.contains(&told[0].as_str()),
            "{told:?}"
        );
    }
}

#[test]
fn c_rsm_6_k_end_1_the_longest_clean_hold_gives_its_slot_to_a_waiting_open_and_no_other() {
    let cluster = shared();
    let _witness = cluster.witness();
    let policy = ["--slots", "5", "--window", "60s", "--wait", "60s"];
    let Some(world) = World::start("preempted", "us-east", &policy) else {
        return;
    };
    let Some((client, dies)) = Client::start().zip(Client::start()) else {
        return;
    };
    let asked = [("x-nvcf-reconnect-window-secs", "60")];
    let (channel, call) = world.open(&client, "us-west", &asked);
    let wanted = call.session();
    client.close(&channel);
    // A process that dies in the middle of a call closes uncleanly.
    let (channel, call) = world.open(&dies, "us-west", &[]);
    let unclean = call.session();
    let keys = world.function.keys(&[]);
    let hangs = dies.begin_echo(&channel, "Hang", &keys, "dies", 60.0);
    world
        .worker
        .says(r#"{"event": "hanging", "message": "dies""#);
    drop(dies);
    drop(hangs);
    becomes(cluster, &unclean, "held", SOON);
    let absorbed = hurried(cluster, "us-east", &world.function);
    assert_eq!(absorbed.status, 200, "{absorbed:?}");
    let absorbed = absorbed.header("nvcf-reqid").to_owned();
    let (earlier, one) = world.open(&client, "eu-central", &[]);
    let (later, two) = world.open(&client, "us-east", &[]);
    let closed = pontoon::clock::now();
    client.close(&earlier);
    becomes(cluster, &one.session(), "held", SOON);
    client.close(&later);
    for id in [&wanted, &absorbed, &two.session()] {
        becomes(cluster, id, "held", SOON);
    }
    assert_eq!(slots_used(cluster, "preempted"), 5);

    let waits = |name: &str| {
        client.connect(name, cluster.client_address("us-west"));
        client.begin_echo(name, "Unary", &world.function.keys(&[]), name, 60.0)
    };
    let slot = |id: &str| show(cluster, id)["slot"].clone();
    let slots = [&one, &two].map(|call| slot(&call.session()));
    let third = waits("third");
    queued(cluster, &world.function, 1);
    let fourth = waits("fourth");
    let third = third.call();
    let took = closed.elapsed();
    assert!(took >= Duration::from_millis(4_900), "after {took:?}");
    let fourth = fourth.call();
    for (victim, heir, slot_of_it) in [(&one, &third, &slots[0]), (&two, &fourth, &slots[1])] {
        assert_eq!(heir.json()["count"], 1, "a session of its own");
        assert_eq!(slot(&heir.session()), *slot_of_it, "the longest held first");
        let id = victim.session();
        becomes(cluster, &id, "ended (preempted)", SOON);
        // The tunnel of the slot's next session may reach the sidecar before the word of the end.
        world.was_told(&id, &["preempted", "superseded"]);
        is_gone(cluster, "eu-central", &world.function, &id);
    }

    // The others have been held for longer, and are not for taking.
    finds_nobody(&hurried(cluster, "us-west", &world.function));
    for (id, calls) in [(&wanted, 2), (&unclean, 2), (&absorbed, 1)] {
        assert_eq!(show(cluster, id)["state"], "held");
        assert_eq!(world.resumes(&client, "eu-central", id), calls);
        assert_eq!(world.told.of(id), [""; 0]);
    }
    assert_eq!(slots_used(cluster, "preempted"), 5);
}

#[test]
fn c_rsm_1_k_end_1_a_hold_ends_after_its_window_and_not_before() {
    let cluster = shared();
    let _witness = cluster.witness();
    let policy = ["--slots", "1", "--window", "2s", "--wait", "2s"];
    let Some(world) = World::start("expiring", "us-west", &policy) else {
        return;
    };
    let Some(client) = Client::start() else {
        return;
    };
    let (channel, call) = world.open(&client, "us-east", &[]);
    let id = call.session();
    client.close(&channel);
    becomes(cluster, &id, "held", SOON);
    assert_eq!(world.resumes(&client, "eu-central", &id), 2);
    let closed = pontoon::clock::now();
    becomes(cluster, &id, "held", SOON);
    assert_eq!(slots_used(cluster, "expiring"), 1);
    becomes(cluster, &id, "ended (expired)", 3 * SOON);
    // The window, and the 5 s within which a resume that was answered in time is recorded.
    let took = closed.elapsed();
    assert!(took >= Duration::from_millis(6_500), "{took:?}");
    world.was_told(&id, &["expired"]);
    is_gone(cluster, "us-west", &world.function, &id);
    assert_eq!(slots_used(cluster, "expiring"), 0);
    world.open(&client, "us-west", &[]);
}

#[test]
fn c_abs_2_k_end_1_a_release_is_answered_when_the_sidecar_has_let_go_and_told_the_worker() {
    let cluster = shared();
    let _witness = cluster.witness();
    let Some(world) = World::start("released", "us-east", &["--slots", "2"]) else {
        return;
    };
    let Some(client) = Client::start() else {
        return;
    };
    let (channel, call) = world.open(&client, "us-west", &[]);
    let id = call.session();
    let stream = Stream::open(&client, &channel, &world.function.keys(&[]));
    let keys = world
        .function
        .keys(&[("x-nvcf-absorb", "true"), ("nvcf-reqid", &id)]);
    let ask =
        |method: &str| raw::exchange(cluster.client_address("eu-central"), method, "/", &keys);
    assert_eq!(ask("POST").status, 200, "it lives");

    let kept_back = world.told.keep_back();
    std::thread::scope(|scope| {
        let release = scope.spawn(|| ask("DELETE"));
        world.was_told(&id, &["released"]);
        stream.is_cut();
        world.worker.says(r#"{"event": "ended", "last": ["first"]"#);
        assert_eq!(show(cluster, &id)["state"], "ended (released)");
        // A node waits 5 s for a sidecar that says nothing.
        let early = wait::within(Duration::from_secs(1), || {
            release.is_finished().then_some(())
        });
        assert_eq!(early, None, "the worker has not answered yet");
        drop(kept_back);
        let answer = release.join().expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.text(), "");
    });
    for method in ["DELETE", "POST"] {
        let answer = ask(method);
        assert_eq!(answer.status, 404, "{answer:?}");
        assert_eq!(answer.text(), "no existing session found");
    }
    is_gone(cluster, "us-west", &world.function, &id);
    assert_eq!(world.told.of(&id), ["released"]);
    assert_eq!(slots_used(cluster, "released"), 0);
}

#[test]
fn c_rsm_5_h_21_a_killed_sidecar_takes_its_sessions_along_and_another_one_begins_anew() {
    let cluster = shared();
    let _witness = cluster.witness();
    let policy = ["--slots", "1", "--wait", "60s"];
    let Some(world) = World::start("bereft", "us-west", &policy) else {
        return;
    };
    let Some(client) = Client::start() else {
        return;
    };
    let (channel, call) = world.open(&client, "us-east", &[]);
    let id = call.session();
    let stream = Stream::open(&client, &channel, &world.function.keys(&[]));
    client.connect("waits", cluster.client_address("eu-central"));
    let keys = world.function.keys(&[]);
    let waits = client.begin_echo("waits", "Unary", &keys, "waits", 60.0);
    queued(cluster, &world.function, 1);
    let before = find(cluster, "bereft").expect("attached")["id"].clone();

    let killed = pontoon::clock::now();
    world.sidecar.process().signal(Signal::KILL);
    stream.is_cut();
    world.worker.says(r#"{"event": "ended", "last": ["first"]"#);
    client.connect("resume", cluster.client_address("us-west"));
    let resume = world.function.keys(&[("nvcf-reqid", &id)]);
    let gone = wait::until(SOON, "its session is not found", || {
        let call = client.echo("resume", &resume, "two");
        assert!([5, 14].contains(&call.code()), "{call:?}");
        (call.code() == 5).then_some(call)
    });
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    gone.fails(5, "no existing session found");
    is_gone(cluster, "eu-central", &world.function, &id);
    assert_eq!(show(cluster, &id)["state"], "ended (worker lost)");
    queued(cluster, &world.function, 1);

    // The same worker process, memory and all, behind another sidecar is another worker.
    let region = "us-west";
    let _again = Sidecar::attach(cluster, &world.function, "bereft", region, &world.worker);
    let served = waits.call();
    assert_eq!(served.json()["count"], 1);
    let after = show(cluster, &served.session());
    assert_ne!(after["worker_id"], before, "{after}");
    client
        .echo("resume", &resume, "three")
        .fails(5, "no existing session found");
}
