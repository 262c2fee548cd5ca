//! The README's story, run as it stands there, and the lines that `pontoon dev` prints.

mod support;

use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::client::{Client, keys};
use support::cluster::{Cluster, RECOVERED_WITHIN};
use support::{cli, python, wait};

/// The Python program of the README.
fn readme_program() -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).expect("README.md");
    let (_, rest) = readme
        .split_once("```python\n")
        .expect("the README has a program");
    let (program, _) = rest.split_once("```").expect("it ends");
    program.to_owned()
}

/// Runs a Python program with the four variables that clients use.
#[track_caller]
fn run_python(
    cluster: &Cluster,
    gateway: &str,
    more: &[(&str, &str)],
    program: &str,
) -> Option<String> {
    let ready = cluster.ready();
    let mut command = Command::new(python::interpreter()?);
    command
        .args(["-c", program])
        .env("GRPC_GATEWAY_ADDR", gateway)
        .env("FUNCTION_ID", &ready.function_id)
        .env("FUNCTION_VERSION_ID", &ready.function_version_id)
        .env("API_KEY", &ready.api_key)
        .envs(more.iter().copied());
    Some(cli::run(&mut command))
}

/// What the README's program prints: sum, worker and session, a line per answer.
#[track_caller]
fn lines(text: &str) -> Vec<(i64, String, String)> {
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [sum, worker, session] = words[..] else {
                panic!("{line:?} is not a sum, a worker and a session");
            };
            (
                sum.parse().expect("a sum"),
                worker.to_owned(),
                session.to_owned(),
            )
        })
        .collect()
}

#[test]
fn c_rsm_1_the_readmes_story_a_session_outlives_the_node_that_opened_it() {
    let cluster = Cluster::start();
    let program = readme_program();
    let Some(first) = run_python(&cluster, cluster.client_address("us-east"), &[], &program) else {
        return;
    };
    let first = lines(&first);
    let (_, worker, id) = first[0].clone();
    let sums: Vec<i64> = first.iter().map(|line| line.0).collect();
    assert_eq!(
        sums,
        [20, 40, 41, 42],
        "two calls, and two messages of a stream"
    );
    assert!(
        first.iter().all(|line| line.1 == worker && line.2 == id),
        "{first:?}"
    );
    cluster.kill_node("us-east-1");
    for (region, base) in [("eu-central", 42), ("us-west", 84)] {
        let gateway = cluster.client_address(region);
        let next = run_python(&cluster, gateway, &[("ID", &id)], &program).expect("as before");
        let next = lines(&next);
        let sums: Vec<i64> = next.iter().map(|line| line.0).collect();
        assert_eq!(
            sums,
            [base + 20, base + 40, base + 41, base + 42],
            "the sum goes on"
        );
        assert!(
            next.iter().all(|line| line.1 == worker && line.2 == id),
            "{next:?}"
        );
    }
    // The node comes back under its own name, and serves the session again.
    cluster.start_again("us-east-1");
    let client = Client::start().expect("as before");
    client.connect("back", cluster.client_address("us-east"));
    let call = wait::until(
        RECOVERED_WITHIN,
        "the node that came back serves the session",
        || {
            let call = client.sum("back", &keys(&cluster, &[("nvcf-reqid", &id)]), 0);
            (call.code() == 0).then_some(call)
        },
    );
    assert_eq!((call.session(), &call.answer()["sum"]), (id, &json!(126)));
}

#[test]
fn the_lines_that_dev_prints_work_as_they_stand() {
    let cluster = Cluster::start();
    let screen = cluster.dev().output();
    let from = screen
        .find("export GRPC_GATEWAY_ADDR")
        .expect("four exports");
    let printed = &screen[from..];
    // Python first, for the shell's lines kill the node that it is to call.
    let (_, rest) = printed.split_once("<<'END'\n").expect("a program");
    let (program, _) = rest.split_once("\nEND\n").expect("it ends");
    let gateway = cluster.client_address("us-east");
    if let Some(said) = run_python(&cluster, gateway, &[], program) {
        let sums: Vec<&str> = said
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(sums, ["40", "42"], "{said}");
    }
    let shell: Vec<&str> = printed
        .lines()
        .filter(|line| {
            let commands = ["export ", "ID=", "kill -9 "];
            commands.iter().any(|start| line.starts_with(start)) || line.contains(" call --")
        })
        .filter(|line| !line.contains("PONTOON_TOKEN"))
        .collect();
    assert!(shell.len() >= 8, "{shell:?}");
    let said = cli::run(Command::new("sh").args(["-ec", &shell.join("\n")]));
    assert!(
        said.trim_end()
            .lines()
            .last()
            .is_some_and(|line| line.contains("42")),
        "{said}"
    );
    let endpoint = printed
        .lines()
        .find(|line| line.starts_with("export PONTOON_ENDPOINT"))
        .expect("the admin API");
    let list = printed
        .lines()
        .find(|line| line.ends_with(" session list"))
        .expect("a list");
    let said = cli::run(Command::new("sh").args(["-ec", &format!("{endpoint}\n{list}")]));
    assert!(
        said.lines().count() >= 3,
        "a heading and the sessions: {said}"
    );
}

#[test]
fn the_snippet_of_the_public_documentation_works_unchanged() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let program = fs::read_to_string(python::scripts().join("snippet.py")).expect("the snippet");
    let address = cluster.client_address("us-east");
    let (host, port) = address.rsplit_once(':').expect("host and port");
    // The test's cluster has free ports; nothing else is changed.
    let program = program.replace(":10081", &format!(":{port}"));
    if let Some(said) = run_python(cluster, host, &[], &program) {
        assert!(
            said.contains("identity") && said.contains("hello"),
            "{said}"
        );
    }
}

#[test]
fn the_built_in_client_calls_and_resumes() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let ready = cluster.ready();
    let call = |region: &str, more: &[&str]| -> serde_json::Value {
        let mut command = Command::new(support::cluster::PONTOON);
        command
            .args([
                "call",
                "-o",
                "json",
                "--endpoint",
                cluster.client_address(region),
            ])
            .args(more)
            .env("FUNCTION_ID", &ready.function_id)
            .env("API_KEY", &ready.api_key);
        serde_json::from_str(&cli::run(&mut command)).expect("JSON")
    };
    let first = call("us-east", &["--x", "40"]);
    assert_eq!(first["sum"], 40);
    let id = first["request_id"].as_str().expect("an id");
    let second = call("eu-central", &["--x", "2", "--request-id", id]);
    assert_eq!(
        (&second["sum"], &second["worker"]),
        (&json!(42), &first["worker"])
    );
    wait::until(
        Duration::from_secs(10),
        "the session is held when its connections closed",
        || {
            let shown = cluster.ask(&["session", "show", id]);
            (shown["state"] == "held").then_some(())
        },
    );
}
