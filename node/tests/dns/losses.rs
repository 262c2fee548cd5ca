//! Clients and sidecars that know one name, while regions and nodes go and come.

use super::asking::{records, tools};
use super::support::client::Client;
use super::support::cluster::PONTOON;
use super::support::member::ADMIN_TOKEN;
use super::support::process::Process;
use super::support::worker::{Function, Worker, id, text};
use super::support::{alone, cli, wait};
use super::world::{SEEN_WITHIN, World, ZONE, home, ip};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use trust_dns_resolver::proto::op::ResponseCode;

/// A function of the cluster's own, made by the command line. None when a step took too long, which
/// may still have been done: the next attempt uses other names.
fn create(admin: &str, attempt: u32) -> Option<Function> {
    let ask = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        cli::try_ask(admin, ADMIN_TOKEN, &words)
    };
    let tenant = id(&ask(&format!("tenant create t{attempt}"))?);
    let function = id(&ask(&format!("function create f --tenant {tenant}"))?);
    let version = id(&ask(&format!(
        "version create --function {function} --slots 8"
    ))?);
    let key = |more: &str| ask(&format!("key create --tenant {tenant} {more}"));
    let worker = key(&format!("--kind worker --version {version}"))?;
    let client = key("--kind client --subject tester")?;
    Some(Function {
        worker_key: text(&worker, "secret"),
        bearer: format!("Bearer {}", text(&client, "secret")),
        key_id: id(&client["key"]),
        tenant,
        function,
        version,
    })
}

#[test]
fn clients_and_sidecars_find_their_way_when_a_region_dies_and_when_it_comes_back() {
    let _alone = alone();
    let world = World::get();
    let Some(client) = Client::start() else {
        return;
    };
    let Some(worker) = Worker::start("echo", &world.folder) else {
        return;
    };
    let admin = world.admin("us-1");
    let mut attempts = 0..;
    let function = wait::until(2 * SEEN_WITHIN, "a function is made", || {
        create(&admin, attempts.next()?)
    });
    // A sidecar that knows nothing but a name and whom to ask.
    let servers = ["us-1", "ap-1"]
        .map(|node| world.dns(node).to_string())
        .join(",");
    let mut command = Command::new(PONTOON);
    command
        .args([
            "sidecar",
            "--name",
            "echo",
            "--region",
            "us",
            "--exit-with-stdin",
        ])
        .args(["--worker", &worker.address, "--dns", &servers])
        .args(["--node", &format!("_pontoon-worker._tcp.us.{ZONE}")])
        .env("PONTOON_WORKER_KEY", &function.worker_key);
    let _sidecar = Process::start("sidecar", &world.folder, &mut command);
    wait::until(SEEN_WITHIN, "the sidecar is attached at two nodes", || {
        let workers = cli::try_ask(&admin, ADMIN_TOKEN, &["worker", "list"])?;
        let attached = workers[0]["attached_at"].as_array()?.len();
        (attached >= 2).then_some(())
    });

    // A client in Europe.
    let resolve = |node: &str, region| {
        let said = world.ask(node, home(region), ZONE, "A");
        said.answers.first().map(|record| record.data.to_string())
    };
    let first = resolve("ap-1", "eu").expect("an address");
    assert!(first.starts_with("127.1.1."), "{first}");
    client.connect("first", &format!("{first}:{}", world.ports[0]));
    let call = client.echo("first", &function.keys(&[]), "one");
    assert_eq!(call.json()["count"], 1);
    let session = call.session();

    // What the catalog has measured says which one is next.
    let regions = cli::ask(&admin, ADMIN_TOKEN, &["region", "list"]);
    let eu = regions
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["name"] == "eu");
    let nearest = eu.expect("eu")["nearest"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let next = nearest
        .first()
        .and_then(Value::as_str)
        .unwrap_or("us")
        .to_owned();
    let of = |region: &str| -> BTreeSet<String> {
        (1..=2)
            .map(|number| ip(&format!("{region}-{number}")).to_string())
            .collect()
    };

    let died = pontoon::clock::now();
    world.end_node("eu-1", Signal::KILL);
    world.end_node("eu-2", Signal::KILL);
    wait::until(SEEN_WITHIN, "Europe's clients are sent elsewhere", || {
        let found = ["us-1", "us-2", "ap-1", "ap-2"].map(|node| world.addresses(node, "eu", ZONE));
        found.iter().all(|found| *found == of(&next)).then_some(())
    });
    eprintln!(
        "the answers moved {:.1} s after the region died",
        died.elapsed().as_secs_f64()
    );
    for node in ["us-1", "ap-2"] {
        let only = world.ask(node, home("us"), &format!("eu.{ZONE}"), "A");
        assert_eq!(only.metadata.response_code, ResponseCode::NoError);
        assert!(only.answers.is_empty() && only.authorities.len() == 1);
        // Its nodes still have their names, and others look for them there.
        assert_eq!(
            world
                .addresses(node, "us", &format!("eu-1.peer.{ZONE}"))
                .len(),
            1
        );
        assert_eq!(world.all(node).len(), 4);
    }
    for program in tools() {
        let found = records(program, world.dns("us-1"), &["-b", "127.2.1.9", ZONE, "A"]);
        let wanted = of(&next)
            .iter()
            .map(|address| format!("5 A {address}"))
            .collect();
        assert_eq!(found, wanted, "{program}");
    }

    // The client asks again, and goes on.
    let second = resolve("ap-1", "eu").expect("an address");
    client.connect("second", &format!("{second}:{}", world.ports[0]));
    let keys = function.keys(&[("nvcf-reqid", &session)]);
    let resumed = client.begin(json!({
        "do": "unary", "channel": "second", "method": "/test.Echo/Unary", "metadata": keys,
        "message": "two", "timeout": 30,
    }));
    let call = resumed.call();
    assert_eq!(call.json()["count"], 2, "the same worker's memory");
    assert_eq!(call.session(), session);

    let came = pontoon::clock::now();
    world.start_node("eu-1");
    world.start_node("eu-2");
    wait::until(
        2 * SEEN_WITHIN,
        "Europe's clients are at home again",
        || {
            let found = ["us-1", "ap-2"].map(|node| world.addresses(node, "eu", ZONE));
            found.iter().all(|found| *found == of("eu")).then_some(())
        },
    );
    eprintln!(
        "the answers came back {:.1} s after the start",
        came.elapsed().as_secs_f64()
    );

    // A node that drains is left out at once, answers on, and comes back.
    let only = |node: &str| BTreeSet::from([ip(node).to_string()]);
    cli::ask(&admin, ADMIN_TOKEN, &["node", "drain", "ap-1"]);
    wait::until(SEEN_WITHIN, "a draining node is left out", || {
        let found = ["ap-1", "us-1"].map(|node| world.addresses(node, "ap", ZONE));
        found
            .iter()
            .all(|found| *found == only("ap-2"))
            .then_some(())
    });
    cli::ask(&admin, ADMIN_TOKEN, &["node", "undrain", "ap-1"]);
    wait::until(SEEN_WITHIN, "it is back", || {
        (world.addresses("us-1", "ap", ZONE) == of("ap")).then_some(())
    });
    world.end_node("ap-1", Signal::TERM);
    wait::until(
        SEEN_WITHIN,
        "a node that was told to end is left out",
        || (world.addresses("us-1", "ap", ZONE) == only("ap-2")).then_some(()),
    );
    world.start_node("ap-1");
    wait::until(2 * SEEN_WITHIN, "it is back after its start", || {
        let found = ["us-1", "ap-1"].map(|node| world.all(node).len());
        (found == [6, 6]).then_some(())
    });
}
