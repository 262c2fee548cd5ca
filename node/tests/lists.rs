//! What operators can ask the command line, as tables and as JSON.

mod support;

use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;
use support::client::{Client, keys};
use support::cluster::{Cluster, PONTOON};
use support::{cli, wait};

#[test]
fn every_list_has_a_table_and_json_and_they_agree() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let token = &cluster.ready().admin_token;
    for (noun, least) in [
        ("node", 3),
        ("group", 4),
        ("worker", 3),
        ("session", 0),
        ("tenant", 1),
        ("key", 2),
        ("function", 1),
        ("version", 1),
    ] {
        let all = cluster.ask(&[noun, "list"]);
        let all = all.as_array().expect("a list").len();
        assert!(all >= least, "{noun}: {all}");
        let table = cli::run(&mut cli::pontoon(&cluster.admin(), token, &[noun, "list"]));
        let heading = table.lines().next().expect("a heading");
        assert_eq!(heading, heading.to_uppercase(), "{table}");
        assert!(table.lines().count() > least, "{noun}: {table}");
    }
}

#[test]
fn nodes_and_groups_are_as_the_cluster_was_started() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let nodes = cluster.ask(&["node", "list"]);
    for (node, known) in nodes
        .as_array()
        .expect("a list")
        .iter()
        .zip(&cluster.ready().nodes)
    {
        assert_eq!(node["name"], known.name.as_str());
        assert_eq!(node["region"], known.region.as_str());
        assert_eq!(node["client"], known.client.as_str());
        assert_eq!(node["reachable"], true, "{node}");
    }
    let shown = cluster.ask(&["node", "show", "us-west-1"]);
    assert_eq!(shown["name"], "us-west-1");
    let groups = cluster.ask(&["group", "list"]);
    let names: BTreeSet<&str> = groups
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|group| group["name"].as_str())
        .collect();
    assert_eq!(
        names,
        BTreeSet::from(["catalog", "us-east", "us-west", "eu-central"])
    );
    for group in groups.as_array().expect("a list") {
        assert_eq!(group["voters"].as_array().map(Vec::len), Some(3), "{group}");
        assert_eq!(group["failure_tolerance"], 1, "{group}");
        assert_eq!(group["connected"], true, "{group}");
    }
    wait::until(
        Duration::from_secs(20),
        "all replicas have the same hash",
        || {
            let hashes: BTreeSet<String> = cluster
                .ready()
                .nodes
                .iter()
                .map(|node| {
                    let hash = cli::ask(
                        &node.admin,
                        &cluster.ready().admin_token,
                        &["group", "list"],
                    );
                    let groups = hash.as_array().expect("a list").iter();
                    groups
                        .map(|group| format!("{} {}", group["applied"], group["state_hash"]))
                        .collect()
                })
                .collect();
            (hashes.len() == 1).then_some(())
        },
    );
}

#[test]
fn k_slot_1_a_session_is_listed_shown_and_ended() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = Client::start() else {
        return;
    };
    client.connect("a", cluster.client_address("us-east"));
    let id = client.sum("a", &keys(cluster, &[]), 1).session();
    let shown = cluster.ask(&["session", "show", &id]);
    assert_eq!(shown["request_id"], id.as_str());
    assert_eq!(shown["state"], "bound");
    assert_eq!(shown["tenant_id"], cluster.ready().tenant.as_str());
    assert_eq!(shown["entered_at"], json!(["us-east-1"]));
    let region = shown["region"].as_str().expect("a region");
    let listed = cluster.ask(&["session", "list", "--region", region]);
    let found = |list: &serde_json::Value| {
        let all = list.as_array().expect("a list").iter();
        all.filter(|session| session["request_id"] == id.as_str())
            .count()
    };
    assert_eq!(found(&listed), 1);
    let worker = |id: &serde_json::Value| {
        let workers = cluster.ask(&["worker", "list"]);
        let all = workers.as_array().expect("a list").clone();
        all.into_iter()
            .find(|worker| worker["id"] == *id)
            .expect("its worker")
    };
    assert!(worker(&shown["worker_id"])["slots_used"].as_u64() >= Some(1));
    cluster.ask(&["session", "end", &id, "--dry-run"]);
    assert_eq!(client.sum("a", &keys(cluster, &[]), 1).answer()["sum"], 2);
    cluster.ask(&["session", "end", &id]);
    assert_eq!(
        found(&cluster.ask(&["session", "list", "--region", region])),
        0
    );
    let token = &cluster.ready().admin_token;
    let gone = cli::fail(
        1,
        &mut cli::pontoon(
            &cluster.admin(),
            token,
            &["session", "show", "67e55044-10b1-426f-9247-bb680e5fe0c8"],
        ),
    );
    assert_eq!(gone.lines().count(), 1, "{gone}");
}

#[test]
fn who_may_not_ask_and_where_nobody_answers_have_exit_codes_of_their_own() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let admin = cluster.admin();
    let ready = cluster.ready();
    for wrong in ["not-a-token", &ready.api_key] {
        let said = cli::fail(77, &mut cli::pontoon(&admin, wrong, &["node", "list"]));
        assert!(said.lines().count() == 1 && !said.contains(wrong), "{said}");
    }
    let said = cli::fail(
        64,
        Command::new(PONTOON)
            .args(["node", "list"])
            .env_remove("PONTOON_TOKEN"),
    );
    assert!(said.contains("PONTOON_TOKEN"), "{said}");
    let said = cli::fail(
        69,
        &mut cli::pontoon("127.0.0.1:1", &ready.admin_token, &["node", "list"]),
    );
    assert!(said.contains("127.0.0.1:1"), "{said}");
    let viewer = cluster.ask(&["key", "create", "--kind", "viewer", "--subject", "watcher"]);
    let viewer = viewer["secret"].as_str().expect("a secret");
    cli::ask(&admin, viewer, &["session", "list"]);
    cli::fail(
        77,
        &mut cli::pontoon(&admin, viewer, &["tenant", "create", "by-a-viewer"]),
    );
}

#[test]
fn o_liv_1_nodes_say_that_they_live_and_are_ready() {
    let cluster = Cluster::shared();
    for node in &cluster.ready().nodes {
        for page in ["/livez", "/readyz", "/metrics"] {
            let said = get(&node.ops, page);
            assert!(said.starts_with("HTTP/1.1 200"), "{page}: {said}");
        }
    }
}

/// One HTTP/1.1 exchange.
fn get(address: &str, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("set");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("an answer");
    said
}

#[test]
fn o_log_1_no_secret_is_in_any_log_or_command_line() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = Client::start() else {
        return;
    };
    client.connect("a", cluster.client_address("us-east"));
    let ready = cluster.ready();
    let call = client.sum("a", &keys(cluster, &[]), 1);
    cluster.ask(&["session", "end", &call.session()]);
    client.sum("a", &[("authorization", "Bearer my-secret-guess")], 1);
    let worker_key = fs::read_to_string(cluster.data().join("secrets/worker-key")).expect("a key");
    let secrets = [
        &ready.api_key,
        &ready.admin_token,
        worker_key.trim(),
        "my-secret-guess",
    ];
    let mut texts = Vec::new();
    for entry in fs::read_dir(cluster.data().join("logs"))
        .expect("logs")
        .flatten()
    {
        texts.push((
            entry.path(),
            fs::read_to_string(entry.path()).expect("UTF-8"),
        ));
    }
    assert!(texts.len() >= 9, "{texts:?}");
    for life in support::process::descendants(cluster.dev().pid()) {
        let path = format!("/proc/{}/cmdline", life.pid);
        texts.push((
            path.clone().into(),
            fs::read_to_string(path).unwrap_or_default(),
        ));
    }
    for (path, text) in texts {
        for secret in secrets {
            assert!(!text.contains(secret), "{} has {secret}", path.display());
        }
    }
}
