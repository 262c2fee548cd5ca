//! Wrong keys, ports, folders and disks: one clear line, an exit code that is not 0, no damage.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::cluster::{self, Cluster, PONTOON};
use support::process::Process;
use support::worker::{Function, Sidecar};
use support::{cli, skipped};

/// How long a process may take to find out that it can't go on.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

/// Starts a process that must refuse; what it said last.
#[track_caller]
fn refuses(name: &str, command: &mut Command) -> (i32, String) {
    let folder = cluster::folder();
    let process = Process::start(name, &folder, command);
    let status = process.wait(REFUSED_WITHIN);
    let output = process.output();
    let last = output.lines().last().unwrap_or_default().to_owned();
    let code = status.code().expect("it ended by itself");
    assert_ne!(code, 0, "{output}");
    assert!(
        last.starts_with("pontoon"),
        "the last line is for people: {output}"
    );
    assert!(!output.contains("panicked"), "{output}");
    (code, last)
}

/// The configuration file of a node of a cluster, read and changed.
fn changed_config(cluster: &Cluster, change: impl FnOnce(&mut toml::Table)) -> (PathBuf, PathBuf) {
    let text = fs::read_to_string(cluster.data().join("config/us-east-1.toml")).expect("its file");
    let mut config: toml::Table = text.parse().expect("TOML");
    let folder = cluster::folder();
    change(&mut config);
    let path = folder.join("node.toml");
    fs::write(&path, config.to_string()).expect("written");
    (path, folder)
}

fn table<'a>(config: &'a mut toml::Table, key: &str) -> &'a mut toml::Table {
    config[key].as_table_mut().expect("a table")
}

/// Free ports for all listeners, so that only what is meant can be wrong.
fn free_ports(config: &mut toml::Table) {
    let mut held = Vec::new();
    let mut free = || {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("an address").to_string();
        held.push(free);
        address
    };
    let listen = table(config, "listen").iter_mut();
    for (_, address) in listen.filter(|(_, value)| value.is_str()) {
        *address = free().into();
    }
    table(config, "dns_service").insert("listen".into(), free().into());
}

#[test]
fn k_att_1_a_sidecar_with_a_wrong_key_ends_and_says_so() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let worker = &cluster.ready().sidecars[0].worker;
    let client_key = cluster.ready().api_key.clone();
    let revoked = Function::create(cluster, "revoked", &["--slots", "1"]);
    let keys = cluster.ask(&["key", "list"]);
    for key in keys.as_array().expect("a list") {
        if key["version_id"] == revoked.version.as_str() {
            cluster.ask(&["key", "revoke", key["id"].as_str().expect("an id")]);
        }
    }
    for (what, key) in [
        ("garbage", "not-a-key"),
        ("a client's key", client_key.as_str()),
        ("a revoked key", revoked.worker_key.as_str()),
    ] {
        let mut command = Sidecar::command(cluster, "wrong-key", "us-east", worker, key);
        let (_, line) = refuses("wrong-key", &mut command);
        assert!(line.contains("key"), "{what}: {line}");
        assert!(!line.contains(key), "{what}: no key in an error: {line}");
    }
    let workers = cluster.ask(&["worker", "list"]);
    assert!(!workers.to_string().contains("wrong-key"), "{workers}");
}

#[test]
fn a_sidecar_whose_worker_cannot_be_reached_says_so() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let function = Function::create(cluster, "unreachable", &["--slots", "1"]);
    let nobody = {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        taken.local_addr().expect("an address").to_string()
    };
    let mut command = Sidecar::command(cluster, "lonely", "us-east", &nobody, &function.worker_key);
    command.args(["--worker-wait", "2"]);
    let (_, line) = refuses("lonely", &mut command);
    assert!(line.contains(&nobody), "{line}");
}

#[test]
fn a_taken_port_is_named() {
    let folder = cluster::folder();
    // Whoever has it: we, or somebody else on this machine.
    let _taken = TcpListener::bind("127.0.0.1:10081");
    let mut command = Command::new(PONTOON);
    command.args(["dev", "--data-dir"]).arg(folder.join("data"));
    let (_, line) = refuses("taken", &mut command);
    assert!(line.contains("10081") && line.contains("--ports"), "{line}");
    let cluster = Cluster::shared();
    let (path, _) = changed_config(cluster, |config| {
        let folder = cluster::folder();
        config["data_dir"] = folder.join("data").to_string_lossy().into_owned().into();
    });
    let (_, line) = refuses("taken-too", &mut cli::node_with(&path));
    assert!(line.contains("cannot listen on 127.0.0.1:"), "{line}");
}

#[test]
fn a_data_folder_of_another_cluster_or_node_is_refused_and_left_alone() {
    let folder = cluster::folder();
    let data = {
        let other = Cluster::start_in(&folder, &[]);
        other.data().join("nodes/us-east-1")
    };
    let before = listing(&data);
    let cluster = Cluster::shared();
    let (path, _) = changed_config(cluster, |config| {
        config["data_dir"] = data.to_string_lossy().into_owned().into();
        free_ports(config);
    });
    let (_, line) = refuses("foreign", &mut cli::node_with(&path));
    assert!(
        line.contains("cluster") && line.contains(&*data.to_string_lossy()),
        "{line}"
    );
    let own = fs::read_to_string(folder.join("data/config/us-west-1.toml")).expect("its file");
    let mut config: toml::Table = own.parse().expect("TOML");
    config["data_dir"] = data.to_string_lossy().into_owned().into();
    free_ports(&mut config);
    fs::write(&path, config.to_string()).expect("written");
    let (_, line) = refuses("namesake", &mut cli::node_with(&path));
    assert!(
        line.contains("us-east-1") || line.contains("us-west-1"),
        "{line}"
    );
    assert_eq!(listing(&data), before);
}

/// Names and sizes, for "nothing was changed".
fn listing(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(listing(&path));
        } else {
            found.push((path, entry.metadata().expect("metadata").len()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_data_folder_in_use_is_refused() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let (path, _) = changed_config(cluster, free_ports);
    let (_, line) = refuses("in-use", &mut cli::node_with(&path));
    assert!(line.contains("nodes/us-east-1"), "{line}");
}

#[test]
fn o_cfg_1_an_unknown_key_and_a_broken_relation_are_named_and_the_code_is_64() {
    let cluster = Cluster::shared();
    let (path, _) = changed_config(cluster, |config| {
        table(config, "listen").insert("clientt".into(), "127.0.0.1:0".into());
    });
    let (code, line) = refuses("unknown", &mut cli::node_with(&path));
    assert!(code == 64 && line.contains("clientt"), "{code}: {line}");
    let (path, _) = changed_config(cluster, |config| {
        config["name"] = "nobody-1".into();
    });
    let (code, line) = refuses("nobody", &mut cli::node_with(&path));
    assert!(code == 64 && line.contains("nobody-1"), "{code}: {line}");
    let missing = cluster::folder().join("missing.toml");
    let (code, line) = refuses("missing", &mut cli::node_with(&missing));
    assert!(
        code == 64 && line.contains("missing.toml"),
        "{code}: {line}"
    );
    let mut wrong = Command::new(PONTOON);
    cli::fail(64, wrong.args(["dev", "--no-such-flag"]));
    let mut noun = Command::new(PONTOON);
    cli::fail(64, noun.args(["sesion", "list"]));
}

#[test]
fn a_full_disk_at_the_start_is_named() {
    let folder = cluster::folder();
    let mount = folder.join("tiny");
    fs::create_dir(&mount).expect("a folder");
    let own_mounts = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-ec", script, "sh"]);
        command.arg(&mount).arg(PONTOON);
        command
    };
    let try_it = "mount -t tmpfs -o size=64k tmpfs \"$1\"";
    if !cli::finish(&mut own_mounts(try_it)).status.success() {
        return skipped("no file system can be mounted here");
    }
    let full = format!(
        "{try_it}; head -c 65536 /dev/zero >\"$1/filler\" || true; \
         exec \"$2\" dev --ports auto --data-dir \"$1/data\""
    );
    let (_, line) = refuses("full", &mut own_mounts(&full));
    assert!(line.to_lowercase().contains("no space left"), "{line}");
    // Room for the files of `dev`, but not for a node's log.
    let small = "mount -t tmpfs -o size=2m tmpfs \"$1\"; \
         exec \"$2\" dev --ports auto --data-dir \"$1/data\"";
    let (_, line) = refuses("small", &mut own_mounts(small));
    assert!(
        line.contains("is full") && line.contains("make room"),
        "{line}"
    );
}
