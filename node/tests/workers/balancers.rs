//! Load balancers between sidecars and nodes: with TLS, and one that goes away and comes back.

use crate::support::client::Client;
use crate::support::cluster::{self, Cluster, PONTOON, RECOVERED_WITHIN};
use crate::support::member::free;
use crate::support::process::Process;
use crate::support::worker::{Function, Sidecar, Worker, attached, find};
use crate::support::{alone, cli, haproxy, wait};
use crate::{NOWHERE, Stream, attached_at, relayed, shared, show};
use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;

#[test]
fn k_att_1_k_con_3_tls_reaches_through_a_load_balancer_from_sidecar_and_client_to_node() {
    let _alone = alone();
    let cluster = Cluster::start_with(&cluster::folder(), &["--tls", "--slots", "4"], &[NOWHERE]);
    let logs = cluster.data().join("logs");
    let Some((worker, client)) = Worker::start("sealed", &logs).zip(Client::start()) else {
        return;
    };
    let nodes = &cluster.ready().nodes;
    let (workers, clients) = (free(), free());
    let fronts = [
        (&*workers, nodes.iter().map(|node| &*node.worker).collect()),
        (
            &*clients,
            nodes.iter().map(|node| &*node.client_tls).collect(),
        ),
    ];
    let Some(_haproxy) = haproxy::start("sealed-front", &logs, &fronts) else {
        return;
    };
    let ca = cluster.ca();
    let function = Function::create(&cluster, "sealed", &["--slots", "16"]);
    let beside = |name: &str| {
        let key = &function.worker_key;
        Sidecar::knowing(&[&workers], name, "us-east", &worker.address, key)
    };
    let mut command = beside("sealed");
    let _sidecar = Process::start("sealed-sidecar", &logs, command.arg("--ca-file").arg(&ca));
    let foreign = logs.join("foreign");
    let mut make = Command::new(PONTOON);
    cli::run(
        make.args(["cert", "ca", "--cluster", "dev", "--out"])
            .arg(&foreign),
    );
    let mut command = beside("astray");
    command.arg("--ca-file").arg(foreign.join("ca.pem"));
    let astray = Process::start("astray-sidecar", &logs, &mut command);
    attached(&cluster, "sealed", 2);

    let mut ids = Vec::new();
    for number in 0..6 {
        let channel = format!("open {number}");
        client.connect_tls(&channel, &clients, &ca);
        let call = client.echo(&channel, &function.keys(&[]), &"x".repeat(100_000));
        assert_eq!(call.json()["count"], 1);
        ids.push(call.session());
    }
    for (number, id) in ids.iter().enumerate() {
        let channel = format!("resume {number}");
        client.connect_tls(&channel, &clients, &ca);
        let keys = function.keys(&[("nvcf-reqid", id)]);
        let call = client.echo(&channel, &keys, "again");
        assert_eq!(
            (call.session(), &call.json()["count"]),
            (id.clone(), &2.into())
        );
        let stream = Stream::open(&client, &channel, &keys);
        stream.echoes("more");
        stream.ends_well();
    }
    assert!(relayed(&cluster) > 0.0, "nothing was relayed");
    // The balancer sees nothing, so it can't stand in for a node either.
    wait::until(RECOVERED_WITHIN, "a sidecar sees a foreign CA", || {
        let seen = "not signed by a CA that we trust";
        astray.output().contains(seen).then_some(())
    });
    assert_eq!(find(&cluster, "astray"), None);
}

#[test]
fn k_att_2_nodes_that_all_advertise_their_balancer_are_met_two_at_a_time() {
    let _alone = alone();
    let front = free();
    let advertise = ("PONTOON__ADVERTISE__WORKER", &*front);
    let cluster = Cluster::start_with(&cluster::folder(), &["--slots", "4"], &[advertise]);
    let logs = cluster.data().join("logs");
    let nodes = &cluster.ready().nodes;
    let behind = nodes.iter().map(|node| &*node.worker).collect();
    let Some(_haproxy) = haproxy::start("front", &logs, &[(&*front, behind)]) else {
        return;
    };
    let Some(client) = Client::start() else {
        return;
    };
    let function = Function::create(&cluster, "fronted", &["--slots", "16"]);
    let worker = Worker::demo("fronted", &logs);
    let key = &function.worker_key;
    let mut command = Sidecar::knowing(&[&front], "fronted", HOME, &worker.address, key);
    let _sidecar = Process::start("fronted-sidecar", &logs, &mut command);
    attached(&cluster, "fronted", 2);
    wait::until(RECOVERED_WITHIN, "its own region is among them", || {
        let at = attached_at(&cluster, "fronted")?;
        at.iter().any(|name| name.starts_with(HOME)).then_some(())
    });
    for node in nodes {
        client.connect(&node.name, &node.client);
        let call = client.sum(&node.name, &function.keys(&[]), 1);
        assert_eq!(call.answer()["worker"], "fronted");
    }
}

/// Not the region of the first node.
const HOME: &str = "eu-central";

#[test]
fn k_att_2_c_rsm_1_without_its_own_regions_balancer_a_sidecar_goes_through_another_one_and_returns()
{
    let cluster = shared();
    let _witness = cluster.witness();
    let logs = cluster.data().join("logs");
    let Some((worker, client)) = Worker::start("homing", &logs).zip(Client::start()) else {
        return;
    };
    let nodes = &cluster.ready().nodes;
    let (near, far) = (free(), free());
    let behind = |home: bool| {
        let those = nodes.iter().filter(|node| (node.region == HOME) == home);
        those.map(|node| &*node.worker).collect()
    };
    let begin_near = |name: &str| haproxy::start(name, &logs, &[(&*near, behind(true))]);
    let Some(own) = begin_near("near") else {
        return;
    };
    let Some(_other) = haproxy::start("far", &logs, &[(&*far, behind(false))]) else {
        return;
    };
    let function = Function::create(cluster, "homing", &["--slots", "16", "--window", "60s"]);
    let key = &function.worker_key;
    let mut command = Sidecar::knowing(&[&near, &far], "homing", HOME, &worker.address, key);
    let _sidecar = Process::start("homing-sidecar", &logs, &mut command);
    let is_home = |at: &[String]| at.iter().any(|name| name.starts_with(HOME));
    let at = attached(cluster, "homing", 2);
    assert!(is_home(&at), "{at:?}");
    let life = find(cluster, "homing").expect("attached")["id"].clone();

    let mut ids = Vec::new();
    let channels: Vec<String> = nodes
        .iter()
        .map(|node| format!("at {}", node.name))
        .collect();
    for (node, channel) in nodes.iter().zip(&channels) {
        client.connect(channel, &node.client);
        let call = client.echo(channel, &function.keys(&[]), "one");
        assert_eq!(show(cluster, &call.session())["region"], HOME);
        ids.push(call.session());
    }
    // Each session from each node, by its id; never a "not found".
    let mut calls = vec![1; ids.len()];
    let mut all_resume = |what: &str| {
        for channel in &channels {
            for (id, calls) in ids.iter().zip(&mut calls) {
                let keys = function.keys(&[("nvcf-reqid", id)]);
                let call = wait::until(RECOVERED_WITHIN, what, || {
                    let call = client.echo(channel, &keys, what);
                    assert!([0, 14].contains(&call.code()), "{call:?}");
                    (call.code() == 0).then_some(call)
                });
                assert_eq!(call.session(), *id);
                let count = call.json()["count"].as_i64().expect("a number");
                assert!(count > *calls, "{what}: one memory: {call:?}");
                *calls = count;
            }
        }
    };
    all_resume("through both");

    own.signal(Signal::KILL);
    own.wait(Duration::from_secs(5));
    wait::until(RECOVERED_WITHIN, "it is attached elsewhere", || {
        let at = attached_at(cluster, "homing")?;
        (at.len() >= 2 && !is_home(&at)).then_some(())
    });
    all_resume("through another region's");
    client.connect("new", cluster.client_address(HOME));
    let new = client.echo("new", &function.keys(&[]), "new");
    assert_eq!(new.json()["count"], 1);

    let Some(_own) = begin_near("near-again") else {
        return;
    };
    wait::until(RECOVERED_WITHIN, "it is back at its own region", || {
        is_home(&attached_at(cluster, "homing")?).then_some(())
    });
    all_resume("through its own again");
    let after = find(cluster, "homing").expect("attached");
    assert_eq!(after["id"], life, "one life all along");
}
