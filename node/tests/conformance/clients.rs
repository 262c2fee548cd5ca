//! Real clients over HTTP/2 without TLS: grpcio in both its forms, tritonclient, @grpc/grpc-js, curl, h2load.

use crate::program::{Program, curl, python};
use crate::support::cluster::Cluster;
use crate::support::python as environment;
use crate::target::{Target, Wire};
use std::process::Command;

#[test]
fn c_fwd_5_the_interop_cases_cross_with_grpcio() {
    python("grpcio_sync.py", &[]);
}

#[test]
fn c_fwd_5_the_interop_cases_cross_with_grpcio_in_asyncio() {
    python("grpcio_async.py", &[]);
}

#[test]
fn c_fwd_5_the_interop_cases_cross_with_grpc_js() {
    crate::program::node("grpc_js.js", &[]);
}

#[test]
fn c_pin_1_tritonclient_keeps_its_session_in_unary_calls_and_in_a_stream() {
    let target = Target::shared(Wire::H2);
    let Some(own) = &target.world.own else {
        eprintln!("not judged: needs the demo function");
        return;
    };
    let Some(interpreter) = environment::interpreter() else {
        return;
    };
    let ready = own.cluster.ready();
    let mut program = Program::new("tritonclient", Command::new(interpreter));
    program
        .command
        .arg(crate::support::node::folder().join("triton.py"));
    program.command.env(
        "CASE_TARGET",
        Cluster::client_address(own.cluster, "us-west"),
    );
    program.command.env("CASE_AUTHORIZATION", &ready.bearer);
    program.command.env("CASE_FUNCTION", &ready.function_id);
    program.run();
}

#[test]
fn c_lsn_1_curl_speaks_http_2_with_prior_knowledge() {
    let target = Target::shared(Wire::H2);
    let body = "x".repeat(100_000);
    let Some(said) = curl(
        &target,
        &["--http2-prior-knowledge", "--data-binary", &body, "-i"],
    ) else {
        return;
    };
    assert!(said.starts_with("HTTP/2 200"), "{said}");
    assert!(said.contains("\"length\":100000"), "{said}");
}

#[test]
fn c_rsp_2_a_cookie_jar_of_curl_resumes_a_session() {
    let jar = crate::target::folder().join("jar");
    let jar = jar.to_str().expect("a printable path");
    let target = Target::shared(Wire::H2);
    let ask = || {
        curl(
            &target,
            &["--http2-prior-knowledge", "-i", "-b", jar, "-c", jar],
        )
    };
    let (Some(first), Some(second)) = (ask(), ask()) else {
        return;
    };
    let id = crate::http1::header_of(&first, "nvcf-reqid").expect("an id");
    assert_eq!(crate::http1::header_of(&second, "nvcf-reqid"), Some(id));
}

#[test]
fn c_lsn_3_h2load_runs_many_streams_without_a_failure() {
    let target = Target::shared(Wire::H2);
    let Some(mut command) = crate::program::tool("h2load", "nghttp2-client") else {
        return;
    };
    command.args(["-n", "4000", "-c", "4", "-m", "100", "--warm-up-time=0"]);
    command
        .arg("-H")
        .arg(format!("authorization: {}", target.world.bearer));
    command
        .arg("-H")
        .arg(format!("function-id: {}", target.world.function));
    command.arg("-H").arg("x-echo-digest: 1");
    command.arg(format!("http://{}/h2load", target.address));
    let said = crate::support::cli::run(&mut command);
    assert!(
        said.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{said}"
    );
    assert!(said.contains("4000 2xx"), "{said}");
}
