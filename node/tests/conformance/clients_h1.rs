//! Real clients over HTTP/1.1, WebSockets and TLS: curl, `ws`, Chromium, HAProxy, grpcio with a CA.

use crate::program::{Program, curl, node, python, tool};
use crate::support::cluster::Cluster;
use crate::target::{Target, Wire, folder};
use std::path::{Path, PathBuf};

#[test]
fn c_lsn_1_curl_speaks_http_1_1() {
    let target = Target::shared(Wire::H1);
    let Some(said) = curl(&target, &["--http1.1", "-i", "--data-binary", "hello"]) else {
        return;
    };
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(said.contains("\"length\":5"), "{said}");
}

#[test]
fn c_lsn_1_curl_upgrades_to_h2c() {
    let target = Target::shared(Wire::H1);
    let Some(said) = curl(&target, &["--http2", "-i"]) else {
        return;
    };
    assert!(said.starts_with("HTTP/1.1 101"), "{said}");
    assert!(said.contains("HTTP/2 200"), "{said}");
}

#[test]
fn c_rsp_2_a_cookie_jar_of_curl_resumes_a_session_over_http_1_1() {
    let jar = folder().join("jar");
    let jar = jar.to_str().expect("a printable path");
    let target = Target::shared(Wire::H1);
    let ask = || curl(&target, &["--http1.1", "-i", "-b", jar, "-c", jar]);
    let (Some(first), Some(second)) = (ask(), ask()) else {
        return;
    };
    let id = crate::http1::header_of(&first, "nvcf-reqid").expect("an id");
    assert_eq!(crate::http1::header_of(&second, "nvcf-reqid"), Some(id));
}

#[test]
fn c_wsp_2_the_ws_library_takes_the_selection_and_resumes_by_item() {
    node("ws.js", &[]);
}

#[test]
fn c_cor_1_chromium_opens_websockets_resumes_by_cookie_and_fetches_across_origins() {
    if tool("/usr/bin/chromium", "chromium").is_some() {
        node("browser.js", &[]);
    }
}

/// A cluster with TLS on its second client listener: that address, and the CA's file.
fn with_tls() -> (Cluster, String, PathBuf) {
    let folder = folder();
    let cluster = Cluster::start_in(&folder, &["--tls", "--slots", "64"]);
    let text = std::fs::read_to_string(folder.join("ready.json")).expect("the ready file");
    let ready: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let node = &ready["regions"][0]["nodes"][0];
    let address = node["client_tls"]
        .as_str()
        .expect("the ready file has client_tls")
        .to_owned();
    let ca = cluster.data().join("tls/ca.pem");
    (cluster, address, ca)
}

#[test]
fn c_lsn_1_tls_is_negotiated_by_curl_and_by_grpcio_with_call_credentials() {
    let (cluster, address, ca) = with_tls();
    let ready = cluster.ready();
    let port = address.rsplit(':').next().expect("a port");
    for (version, wanted) in [("--http2", "HTTP/2 200"), ("--http1.1", "HTTP/1.1 200")] {
        let Some(mut command) = tool("curl", "curl") else {
            return;
        };
        command
            .args(["-sS", "-i", "--max-time", "20", version, "--cacert"])
            .arg(&ca);
        command.arg(format!("https://localhost:{port}/info"));
        let said = crate::support::cli::run(&mut command);
        assert!(said.starts_with(wanted), "{said}");
    }
    let more = [
        ("CASE_TARGET", format!("localhost:{port}")),
        ("CASE_AUTHORIZATION", ready.bearer.clone()),
        ("CASE_FUNCTION", ready.function_id.clone()),
        ("CASE_CA", ca.to_str().expect("a printable path").to_owned()),
    ];
    let more: Vec<(&str, &str)> = more
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    python("grpcio_tls.py", &more);
}

/// The configuration that the documentation shows, word for word, with this test's addresses.
fn documented(listen: &str, target: &Target) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/intermediary-proxy.md");
    let page = std::fs::read_to_string(page).expect("docs/intermediary-proxy.md");
    let (_, block) = page.split_once("```haproxy\n").expect("a block of haproxy");
    let (block, _) = block.split_once("```").expect("its end");
    let mut text = block.to_owned();
    for (shown, used) in [
        ("0.0.0.0:8080", listen),
        ("pontoon.example:10081", &target.address),
        ("REPLACE-WITH-THE-KEY", &target.world.key),
        ("REPLACE-WITH-THE-FUNCTION-ID", &target.world.function),
    ] {
        assert!(text.contains(shown), "the page shows {shown}");
        text = text.replace(shown, used);
    }
    text
}

#[test]
fn c_pin_1_users_behind_an_intermediary_are_told_apart_by_what_they_send() {
    let Some(mut command) = tool("haproxy", "haproxy") else {
        return;
    };
    let target = Target::shared(Wire::H1);
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = free.local_addr().expect("an address").to_string();
    drop(free);
    let home = folder();
    let file = home.join("haproxy.cfg");
    std::fs::write(&file, documented(&listen, &target)).expect("written");
    command.arg("-f").arg(&file).arg("-db");
    let haproxy = crate::support::process::Process::start("haproxy", &home, &mut command);
    crate::support::wait::until(
        std::time::Duration::from_secs(10),
        "HAProxy listens",
        || {
            assert!(haproxy.ended().is_none(), "{}", haproxy.output());
            std::net::TcpStream::connect(&listen).ok()
        },
    );
    let Some(node) = crate::support::node::command() else {
        return;
    };
    let mut program = Program::new("intermediary", node);
    program
        .command
        .arg("intermediary.js")
        .env("CASE_TARGET", &listen);
    if let Some(own) = &target.world.own {
        let other = own.second_key().expect("a second key");
        program.command.env("CASE_OTHER_KEY", other);
    }
    program.run();
}
