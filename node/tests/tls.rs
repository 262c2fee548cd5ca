//! Certificates, as an operator meets them: made, wrong, replaced while everything runs.

mod support;

use rustix::process::Signal;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::client::{Client, keys};
use support::cluster::{self, Cluster, PONTOON};
use support::process::{Process, is_alive, send};
use support::worker::Sidecar;
use support::{cli, wait};

/// How long new files may take until they are in use: two looks of 2 s, on a busy machine.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(20);

fn cert(arguments: &[&str]) -> Command {
    let mut command = Command::new(PONTOON);
    command.arg("cert").args(arguments);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a printable path")
}

/// A CA for the cluster `prod`, and a certificate for `us-east-1`; gives what was said about it.
fn make(folder: &Path) -> (PathBuf, String) {
    let (ca, own) = (folder.join("ca"), folder.join("us-east-1"));
    let said = cli::run(&mut cert(&["ca", "--out", text(&ca), "--cluster", "prod"]));
    assert!(said.contains("development CA"), "{said}");
    let said = cli::run(&mut cert(&[
        "node",
        "--ca",
        text(&ca),
        "--name",
        "us-east-1",
        "--san",
        "proxy.example.com",
        "--out",
        text(&own),
    ]));
    (own, said)
}

/// A node's configuration with these lines for `[tls]`.
fn configuration(folder: &Path, tls: &str) -> PathBuf {
    let token = folder.join("token");
    fs::write(&token, "a join token of some length").expect("written");
    let config = format!(
        "name = \"us-east-1\"\nregion = \"us-east\"\ndata_dir = {data:?}\n\n[cluster]\n\
         name = \"prod\"\njoin_token_file = {token:?}\n\n[[cluster.members]]\n\
         name = \"us-east-1\"\nregion = \"us-east\"\npeer = \"127.0.0.1:10085\"\n\n{tls}",
        data = folder.join("data"),
    );
    let path = folder.join("node.toml");
    fs::write(&path, config).expect("written");
    path
}

#[test]
fn o_cfg_1_what_cert_prints_can_be_pasted_and_what_it_made_is_never_replaced_unasked() {
    let folder = cluster::folder();
    let (own, said) = make(&folder);
    assert!(said.contains("us-east-1.prod.pontoon"), "{said}");
    assert!(said.contains("proxy.example.com"), "{said}");
    let lines = &said[said.find("[tls]").expect("lines to paste")..];
    let path = configuration(&folder, lines);
    let checked = cli::run(cli::node_with(&path).arg("--check"));
    assert!(checked.ends_with("good\n"), "{checked}");
    let printed = cli::run(cli::node_with(&path).args(["--print-config", "--insecure"]));
    let key = own.join("node.key");
    let wanted = format!("tls.key_file = {key:?}  # file {}", path.display());
    assert!(printed.lines().any(|line| line == wanted), "{printed}");
    let wanted = "insecure = true  # flag --insecure";
    assert!(printed.lines().any(|line| line == wanted), "{printed}");

    for (file, mode) in [
        (folder.join("ca/ca.key"), 0o600),
        (folder.join("ca/ca.pem"), 0o644),
        (key.clone(), 0o600),
    ] {
        let about = fs::metadata(&file).expect("it is there");
        assert_eq!(
            about.permissions().mode() & 0o777,
            mode,
            "{}",
            file.display()
        );
    }
    let before = fs::read(&key).expect("a key");
    let ca = folder.join("ca");
    let again = [
        "node",
        "--ca",
        text(&ca),
        "--name",
        "us-east-1",
        "--out",
        text(&own),
    ];
    let refused = cli::fail(64, &mut cert(&again));
    assert!(
        refused.contains("node.pem") && refused.contains("--force"),
        "{refused}"
    );
    assert_eq!(fs::read(&key).expect("a key"), before);
    cli::run(cert(&again).arg("--force"));
    assert_ne!(fs::read(&key).expect("a key"), before);
    let refused = cli::fail(64, &mut cert(&["ca", "--out", text(&ca)]));
    assert!(refused.contains("--force"), "{refused}");
    for wrong in [
        &[
            "node",
            "--ca",
            text(&own),
            "--name",
            "x",
            "--out",
            text(&own),
        ][..],
        &[
            "node",
            "--ca",
            text(&ca),
            "--name",
            "not a label",
            "--out",
            "/nowhere",
        ],
        &["ca", "--out", "/nowhere", "--cluster", "a.b"],
        &["ca", "--out", "/nowhere", "--days", "0"],
    ] {
        cli::fail(64, &mut cert(wrong));
    }
}

#[test]
fn o_cfg_1_wrong_certificates_are_bad_configuration_also_for_check() {
    let folder = cluster::folder();
    let (own, said) = make(&folder);
    let lines = &said[said.find("[tls]").expect("lines to paste")..];
    let check = |lines: &str| {
        let path = configuration(&folder, lines);
        let said = cli::fail(64, cli::node_with(&path).arg("--check"));
        assert_eq!(said, cli::fail(64, &mut cli::node_with(&path)));
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let without: String = lines
        .lines()
        .filter(|line| !line.starts_with("ca_file"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(check(&without).contains("without tls.ca_file"));
    let moved = lines.replace("node.key", "lost.key");
    let said = check(&moved);
    assert!(
        said.contains("tls.key_file") && said.contains("lost.key"),
        "{said}"
    );
    let swapped = lines.replace("node.key", "node.pem");
    assert!(check(&swapped).contains("no private key"));

    let ca = folder.join("ca");
    let other = [
        "node",
        "--ca",
        text(&ca),
        "--name",
        "us-east-2",
        "--out",
        text(&own),
        "--force",
    ];
    cli::run(&mut cert(&other));
    let said = check(lines);
    assert!(said.contains("us-east-2.prod.pontoon"), "{said}");
    assert!(said.contains("not for us-east-1.prod.pontoon"), "{said}");
    let foreign = ["ca", "--out", text(&ca), "--cluster", "prod", "--force"];
    let right = [
        "node",
        "--ca",
        text(&ca),
        "--name",
        "us-east-1",
        "--out",
        text(&own),
        "--force",
    ];
    cli::run(&mut cert(&right));
    cli::run(&mut cert(&foreign));
    let said = check(lines);
    assert!(said.contains("not signed by a CA"), "{said}");
}

/// The admin API of a cluster with TLS.
fn admin(cluster: &Cluster, scheme: &str, ca: &Path) -> Command {
    let node = cluster.ready().nodes.first().expect("a node");
    let mut command = Command::new(PONTOON);
    command
        .args(["node", "list", "-o", "json"])
        .env("PONTOON_ENDPOINT", format!("{scheme}://{}", node.admin))
        .env("PONTOON_TOKEN", &cluster.ready().admin_token)
        .env("PONTOON_CA_FILE", ca);
    command
}

fn log(cluster: &Cluster, process: &str) -> String {
    let path = cluster.data().join(format!("logs/{process}.log"));
    fs::read_to_string(path).expect("a log")
}

#[test]
fn o_log_1_a_cluster_with_tls_serves_takes_up_new_files_and_logs_no_key() {
    let folder = cluster::folder();
    let cluster = Cluster::start_in(&folder, &["--tls", "--slots", "8"]);
    let tls = cluster.data().join("tls");
    let ca = tls.join("ca.pem");
    let call = || {
        let node = cluster.ready().nodes.last().expect("a node");
        let mut command = Command::new(PONTOON);
        command
            .args(["call", "--x", "40", "--endpoint", &node.client])
            .env("FUNCTION_ID", &cluster.ready().function_id)
            .env("FUNCTION_VERSION_ID", &cluster.ready().function_version_id)
            .env("API_KEY", &cluster.ready().api_key);
        cli::run(&mut command)
    };
    call();
    // Clients come over TLS, too, and grpcio believes the same CA.
    if let Some(client) = Client::start() {
        let node = cluster.ready().nodes.first().expect("a node");
        client.connect_tls("tls", &node.client_tls, &ca);
        client.sum("tls", &keys(&cluster, &[]), 1).answer();
    }
    let nodes = cli::run(&mut admin(&cluster, "https", &ca));
    assert!(nodes.contains("us-west-1"), "{nodes}");
    let refused = cli::fail(69, &mut admin(&cluster, "http", &ca));
    assert!(refused.contains("https://"), "{refused}");
    let (own, _) = make(&folder);
    let foreign = own.with_file_name("ca").join("ca.pem");
    let refused = cli::fail(69, &mut admin(&cluster, "https", &foreign));
    assert!(
        refused.contains("not signed by a CA that we trust"),
        "{refused}"
    );

    // A new certificate, and then a broken one, while everything goes on.
    let mut keys = vec![
        tls.join("us-east-1/node.key"),
        tls.join("us-west-1/node.key"),
    ]
    .into_iter()
    .map(|path| fs::read_to_string(path).expect("a key"))
    .collect::<Vec<_>>();
    let own = tls.join("us-east-1");
    let renew = [
        "node",
        "--ca",
        text(&tls),
        "--name",
        "us-east-1",
        "--out",
        text(&own),
        "--force",
    ];
    cli::run(&mut cert(&renew));
    keys.push(fs::read_to_string(own.join("node.key")).expect("a key"));
    let taken_up = |times: usize, what: &str| {
        wait::until(TAKEN_UP_WITHIN, what, || {
            // The certificate for clients is the same, and is followed apart.
            (log(&cluster, "us-east-1").matches(what).count() >= times).then_some(())
        });
    };
    taken_up(1, "new certificates are in use");
    let node = cluster.ready().node("us-east-1").clone();
    send(node.pid, Signal::HUP);
    taken_up(2, "new certificates are in use");
    fs::write(own.join("node.key"), &keys[1]).expect("written");
    taken_up(1, "the old ones stay in force");
    cli::run(&mut admin(&cluster, "https", &ca));
    call();
    assert!(is_alive(node.pid));
    let page = get(&node.ops, "/metrics");
    let gauge = "pontoon_certificate_expiry_seconds{certificate=\"node\"}";
    assert!(page.contains(gauge), "{page}");

    // A sidecar that believes another CA.
    let mut sidecar = Sidecar::command(
        &cluster,
        "astray",
        "us-east",
        &cluster.ready().sidecars[0].worker,
        "pnt_w_some-key",
    );
    sidecar.arg("--ca-file").arg(&foreign);
    let sidecar = Process::start("astray", &folder, &mut sidecar);
    wait::until(TAKEN_UP_WITHIN, "a sidecar sees a foreign CA", || {
        let seen = "not signed by a CA that we trust";
        sidecar.output().contains(seen).then_some(())
    });
    drop(sidecar);
    let data = cluster.data();
    for node in &cluster.ready().nodes {
        let stop = ["dev", "stop", &node.name, "--data-dir", text(&data)];
        cli::run(Command::new(PONTOON).args(stop));
    }

    // Nobody lost a connection over it, and no secret is in any log.
    for entry in fs::read_dir(cluster.data().join("logs"))
        .expect("logs")
        .flatten()
    {
        let text = fs::read_to_string(entry.path()).expect("a log");
        let name = entry.path();
        let name = name.display();
        assert!(
            !text.contains("no connection to another node"),
            "{name}: {text}"
        );
        let secrets = keys
            .iter()
            .flat_map(|key| key.lines())
            .filter(|line| !line.starts_with("-----"))
            .chain([&*cluster.ready().admin_token, &*cluster.ready().api_key]);
        for secret in secrets {
            assert!(!text.contains(secret), "{name} has a secret");
            assert!(!page.contains(secret), "the metrics have a secret");
        }
        // A clean stop is no error.
        let errors = text.lines().filter(|line| line.contains(" ERROR "));
        let errors: Vec<&str> = errors
            .filter(|line| !line.contains("the old ones stay in force"))
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}

/// One page of an ops port.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the ops port");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("an answer");
    page
}
