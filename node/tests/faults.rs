//! The faults of the contract, byte for byte, as a real gRPC client and a bare HTTP/2 client see them.

mod support;

use serde_json::json;
use support::client::{Client, keys};
use support::cluster::Cluster;
use support::raw;
use support::worker::{Function, text};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

fn connected(cluster: &Cluster) -> Option<Client> {
    let client = Client::start()?;
    client.connect("east", cluster.client_address("us-east"));
    Some(client)
}

#[test]
fn c_err_1_c_key_1_without_a_credential_nothing_else_is_looked_at() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    let says = "no authorization was passed in the metadata";
    let function = ("function-id", cluster.ready().function_id.as_str());
    client.sum("east", &[], 1).fails(16, says);
    client.sum("east", &[function], 1).fails(16, says);
    for malformed in [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        &cluster.ready().api_key,
    ] {
        client
            .sum("east", &[("authorization", malformed), function], 1)
            .fails(16, says);
    }
    client
        .sum(
            "east",
            &[("nvcf-reqid", "67e55044-10b1-426f-9247-bb680e5fe0c8")],
            1,
        )
        .fails(16, says);
}

#[test]
fn c_err_2_c_key_2_a_credential_that_is_not_known_is_refused_and_the_scheme_may_be_in_any_case() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    let ready = cluster.ready();
    let function = ("function-id", ready.function_id.as_str());
    let mut flipped = ready.bearer.clone();
    let last = if flipped.pop() == Some('a') { 'b' } else { 'a' };
    flipped.push(last);
    let admin = format!("Bearer {}", ready.admin_token);
    for unknown in [
        "Bearer x",
        "Bearer 0123456789abcdef0123456789abcdef",
        &flipped,
        &admin,
    ] {
        client
            .sum("east", &[("authorization", unknown), function], 1)
            .fails(16, "invalid credential");
    }
    assert!(
        ready
            .api_key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)),
        "keys are safe in a protocol list and in a URL"
    );
    let shouted = format!("BEARER {}", ready.api_key);
    let call = client.sum("east", &[("authorization", &shouted), function], 1);
    call.answer();
    cluster.ask(&["session", "end", &call.session()]);
}

#[test]
fn c_err_2_o_rev_1_a_revoked_key_is_refused_at_the_next_call_and_an_expired_one_too() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    let ready = cluster.ready();
    let create = |more: &[&str]| {
        let mut arguments = vec![
            "key",
            "create",
            "--kind",
            "client",
            "--tenant",
            &ready.tenant,
        ];
        arguments.extend_from_slice(more);
        cluster.ask(&arguments)
    };
    let key = create(&["--subject", "leaver"]);
    let bearer = format!("Bearer {}", text(&key, "secret"));
    let call = || {
        let keys = [
            ("authorization", bearer.as_str()),
            ("function-id", &ready.function_id),
        ];
        client.sum("east", &keys, 1)
    };
    let first = call();
    first.answer();
    let id = text(&key["key"], "id");
    cluster.ask(&["key", "revoke", &id, "--dry-run"]);
    assert_eq!(
        call().session(),
        first.session(),
        "a dry run changes nothing"
    );
    cluster.ask(&["key", "revoke", &id]);
    call().fails(16, "invalid credential");
    cluster.ask(&["session", "end", &first.session()]);
    let brief = format!(
        "Bearer {}",
        text(&create(&["--expires-in", "1s"]), "secret")
    );
    let keys = [
        ("authorization", brief.as_str()),
        ("function-id", &ready.function_id),
    ];
    support::wait::until(
        std::time::Duration::from_secs(10),
        "the key expires",
        || {
            let call = client.sum("east", &keys, 1);
            if call.code() == 0 {
                return None;
            }
            call.fails(16, "invalid credential");
            Some(())
        },
    );
}

#[test]
fn c_err_3_a_key_for_one_function_may_not_invoke_another() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    let own = Function::create(cluster, "allowed", &["--slots", "1"]);
    let other = cluster.ask(&["function", "create", "forbidden", "--tenant", &own.tenant]);
    let other = text(&other, "id");
    let key = cluster.ask(&[
        "key",
        "create",
        "--kind",
        "client",
        "--tenant",
        &own.tenant,
        "--function",
        &own.function,
    ]);
    let bearer = format!("Bearer {}", text(&key, "secret"));
    let keys = [
        ("authorization", bearer.as_str()),
        ("function-id", other.as_str()),
    ];
    client
        .sum("east", &keys, 1)
        .fails(7, "not authorized to invoke function");
}

#[test]
fn c_err_4_a_function_id_is_needed_and_ids_are_uuids() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    let ready = cluster.ready();
    let bearer = ("authorization", ready.bearer.as_str());
    let function = ("function-id", ready.function_id.as_str());
    let none = "no function-id was passed in the metadata";
    client.sum("east", &[bearer], 1).fails(3, none);
    client
        .sum("east", &[bearer, ("function-id", "")], 1)
        .fails(3, none);
    client
        .sum("east", &[bearer, ("function-id", "demo")], 1)
        .fails(3, "malformed function-id");
    client
        .sum(
            "east",
            &[bearer, function, ("function-version-id", "v1")],
            1,
        )
        .fails(3, "malformed function-version-id");
    let empty = [bearer, function, ("function-version-id", "")];
    let call = client.sum("east", &empty, 1);
    call.answer();
    cluster.ask(&["session", "end", &call.session()]);
}

#[test]
fn c_err_5_a_function_or_version_that_this_tenant_does_not_have_is_not_found() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    let ready = cluster.ready();
    let own = Function::create(cluster, "switched-off", &["--slots", "1"]);
    let says = "function not found";
    let unknown = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let demo = keys(cluster, &[]);
    client
        .sum("east", &[demo[0], ("function-id", unknown)], 1)
        .fails(5, says);
    client
        .sum(
            "east",
            &[demo[0], demo[1], ("function-version-id", unknown)],
            1,
        )
        .fails(5, says);
    client
        .sum(
            "east",
            &[demo[0], demo[1], ("function-version-id", &own.version)],
            1,
        )
        .fails(5, says);
    let foreign = [("authorization", own.bearer.as_str()), demo[1]];
    client.sum("east", &foreign, 1).fails(5, says);
    assert_ne!(own.tenant, ready.tenant);
    cluster.ask(&["version", "set-state", &own.version, "inactive"]);
    client.sum("east", &own.keys(&[]), 1).fails(5, says);
    let any = [
        ("authorization", own.bearer.as_str()),
        ("function-id", &own.function),
    ];
    client.sum("east", &any, 1).fails(5, says);
}

#[test]
fn c_err_6_a_session_of_another_tenant_or_function_is_not_found_and_goes_on() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    let own = Function::create(cluster, "curious", &["--slots", "1"]);
    let first = client.sum("east", &keys(cluster, &[]), 7);
    let id = first.session();
    let says = "no existing session found";
    for region in ["us-east", "us-west", "eu-central"] {
        client.connect("thief", cluster.client_address(region));
        client
            .sum("thief", &own.keys(&[("nvcf-reqid", &id)]), 1)
            .fails(5, says);
        let cookie = format!("nvcf-request-id={id}");
        let call = client.begin(json!({
            "do": "unary", "channel": "thief", "x": 1, "timeout": 1,
            "metadata": own.keys(&[("cookie", &cookie)]),
        }));
        assert_eq!(
            call.call().code(),
            4,
            "a foreign cookie counts as absent, and nobody works there"
        );
    }
    let next = client.sum("east", &keys(cluster, &[]), 1);
    assert_eq!(next.answer()["sum"], 8);
    cluster.ask(&["session", "end", &id]);
}

#[test]
fn c_err_7_the_wait_for_a_worker_ends_with_the_versions_bound_or_with_grpc_timeout() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    let says = "failed to establish link to worker";
    let brief = Function::create(cluster, "brief", &["--slots", "1", "--wait", "700ms"]);
    let call = client.sum("east", &brief.keys(&[]), 1);
    call.fails(4, says);
    assert!((0.6..5.0).contains(&call.seconds()), "{call:?}");
    // A gRPC library ends the call by its own clock; only a bare client sees our answer.
    let patient = Function::create(cluster, "patient", &["--slots", "1"]);
    let began = pontoon::clock::now();
    let mut headers = patient.keys(&[("grpc-timeout", "500m"), ("te", "trailers")]);
    headers.push(("content-type", "application/grpc"));
    let answer = raw::exchange(cluster.client_address("us-west"), "POST", INFER, &headers);
    let took = began.elapsed().as_secs_f64();
    assert_eq!(answer.header("grpc-status"), "4");
    assert!(
        answer
            .header("grpc-message")
            .starts_with("failed%20to%20establish")
            || answer.header("grpc-message") == says
    );
    assert!((0.4..5.0).contains(&took), "{took}");
}

#[test]
fn c_lsn_1_c_err_1_c_err_6_a_fault_has_the_form_that_its_reader_expects() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let address = cluster.client_address("us-east");
    for kind in ["application/grpc", "application/grpc+proto"] {
        let answer = raw::exchange(address, "POST", INFER, &[("content-type", kind)]);
        assert_eq!(answer.status, 200);
        assert!(answer.ended_with_headers, "trailers only: {answer:?}");
        assert_eq!(answer.header("grpc-status"), "16");
        assert_eq!(
            answer.header("grpc-message"),
            "no authorization was passed in the metadata"
        );
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let answer = raw::exchange(
        address,
        "POST",
        "/v1/things",
        &[("content-type", "application/json")],
    );
    assert_eq!(answer.status, 401);
    assert!(answer.header("content-type").starts_with("text/plain"));
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(
        answer.text().trim_end(),
        "no authorization was passed in the metadata"
    );
    let mut headers = keys(
        cluster,
        &[("nvcf-reqid", "67e55044-10b1-426f-9247-bb680e5fe0c8")],
    );
    headers.push(("content-type", "text/plain"));
    let answer = raw::exchange(address, "GET", "/", &headers);
    assert_eq!(answer.status, 404);
    assert_eq!(answer.text().trim_end(), "no existing session found");
}
