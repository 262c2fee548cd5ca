//! C-ERR: the faults, byte for byte, in each rendering.

use crate::caller::{Ask, ask, h2, percent_decoded};
use crate::ids::STRANGER;
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Behind, Checked, Target, Wire};
use crate::twin::{Flaw, Twin};
use crate::{check, ensure, same};
use http::HeaderValue;
use rustix::process::Signal;
use std::time::Duration;

/// A twin that changes the text of faults of this HTTP status, or of this gRPC code.
macro_rules! blurred {
    ($status:literal) => {
        Twin::Answer(|_, answer| {
            if answer.status == $status {
                answer.status = http::StatusCode::IM_A_TEAPOT;
            }
        })
    };
}

macro_rules! fault {
    ($id:literal, $needs:ident, $check:ident, $twin:expr) => {
        Row {
            id: $id,
            wires: Wires::Both,
            needs: Needs::$needs,
            check: check!($check),
            twin: $twin,
        }
    };
}

pub const ROWS: &[Row] = &[
    fault!(
        "C-ERR-1",
        Client,
        no_credential,
        Twin::Answer(|_, answer| {
            // A bug that forgets to say how to come back.
            answer.headers.remove("www-authenticate");
        })
    ),
    fault!("C-ERR-2", Client, unknown_credential, blurred!(401)),
    fault!("C-ERR-3", Cluster, not_allowed, blurred!(403)),
    fault!("C-ERR-4", Client, malformed, blurred!(400)),
    fault!("C-ERR-5", Client, no_function, blurred!(404)),
    fault!(
        "C-ERR-6",
        Cluster,
        no_session,
        Twin::Answer(|asked, answer| {
            // A bug that tells a foreign session from one that nobody has.
            let own = asked.headers.get("nvcf-reqid");
            if answer.status == 404 && own.is_some_and(|id| id.as_bytes() != STRANGER.as_bytes()) {
                answer.status = http::StatusCode::FORBIDDEN;
            }
        })
    ),
    fault!("C-ERR-7", Cluster, no_worker, blurred!(504)),
    Row {
        id: "C-ERR-9",
        wires: Wires::H2,
        needs: Needs::Cluster,
        check: check!(tunnel_lost_before),
        twin: blurred!(502),
    },
    Row {
        id: "C-ERR-9/retry",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(refused_once),
        twin: Twin::Request(|request| {
            // A bug that passes a refusal on: the worker refuses once more than it was asked to.
            if request.headers.contains_key("x-echo-refuse") {
                request
                    .headers
                    .insert("x-echo-refuse", HeaderValue::from_static("2"));
            }
        }),
    },
    Row {
        id: "C-ERR-10",
        wires: Wires::H2,
        needs: Needs::Cluster,
        check: check!(tunnel_lost_behind),
        twin: Twin::Flaw(Flaw::Clean),
    },
    Row {
        id: "C-ERR-14",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(connect),
        twin: blurred!(501),
    },
    fault!(
        "C-ERR-1/forms",
        Client,
        forms,
        Twin::Answer(|_, answer| {
            // A bug that lets a cache keep a refusal.
            answer.headers.remove("cache-control");
        })
    ),
];

/// The same fault in both renderings.
async fn both(target: &Target, call: &Ask, code: u8, status: u16, text: &str) -> Checked {
    let plain = ask(target, call).await?;
    plain.refuses(status, text)?;
    ensure!(
        plain.header("content-type").starts_with("text/plain"),
        "plain text: {plain:?}"
    );
    let grpc = ask(target, &call.clone().grpc()).await?;
    grpc.fails(code, text)?;
    same!(
        grpc.header("content-type"),
        "application/grpc",
        "gRPC's content type"
    );
    for reply in [&plain, &grpc] {
        same!(reply.header("cache-control"), "no-store", "{text}");
    }
    Ok(())
}

async fn no_credential(target: Target) -> Checked {
    let text = "no authorization was passed in the metadata";
    let call = target.ask("POST", "/fault").without("authorization");
    both(&target, &call, 16, 401, text).await?;
    for malformed in ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz"] {
        both(
            &target,
            &call.clone().with("authorization", malformed),
            16,
            401,
            text,
        )
        .await?;
    }
    let reply = ask(&target, &call).await?;
    same!(
        reply.header("www-authenticate"),
        "Bearer",
        "how to come back"
    );
    Ok(())
}

async fn unknown_credential(target: Target) -> Checked {
    let call = target.ask("POST", "/fault").without("authorization");
    for unknown in ["Bearer x", "Bearer 0123456789abcdef0123456789abcdef"] {
        let call = call.clone().with("authorization", unknown);
        both(&target, &call, 16, 401, "invalid credential").await?;
    }
    Ok(())
}

async fn not_allowed(target: Target) -> Checked {
    let own = target.world.own_cluster()?;
    let other = own.function("not-allowed", &["--slots", "1"], Behind::Nobody);
    let tenant = &other.function.tenant;
    let only = [
        "key",
        "create",
        "--kind",
        "client",
        "--tenant",
        tenant,
        "--function",
    ];
    let made = own.admin(&["function", "create", "out-of-bounds", "--tenant", tenant]);
    let key = own.admin(&[&only[..], &[&other.function.function]].concat());
    let secret = key["secret"].as_str().ok_or("a secret")?;
    let call = Ask::new("POST", "/fault")
        .with("authorization", &format!("Bearer {secret}"))
        .with("function-id", made["id"].as_str().ok_or("an id")?);
    both(&target, &call, 7, 403, "not authorized to invoke function").await
}

async fn malformed(target: Target) -> Checked {
    let call = target.ask("POST", "/fault").without("function-version-id");
    let none = call.clone().without("function-id");
    let text = "no function-id was passed in the metadata";
    both(&target, &none, 3, 400, text).await?;
    both(&target, &none.clone().with("function-id", ""), 3, 400, text).await?;
    let text = "malformed function-id";
    both(&target, &none.with("function-id", "demo"), 3, 400, text).await?;
    let text = "malformed function-version-id";
    both(
        &target,
        &call.clone().with("function-version-id", "v1"),
        3,
        400,
        text,
    )
    .await?;
    let empty = ask(&target, &call.with("function-version-id", "")).await?;
    same!(empty.status, 200, "an empty version is none");
    Ok(())
}

async fn no_function(target: Target) -> Checked {
    let call = target.ask("POST", "/fault").without("function-version-id");
    let text = "function not found";
    let version = call.clone().with("function-version-id", STRANGER);
    both(&target, &version, 5, 404, text).await?;
    let function = call.without("function-id").with("function-id", STRANGER);
    both(&target, &function, 5, 404, text).await
}

async fn no_session(target: Target) -> Checked {
    let text = "no existing session found";
    let call = target.ask("POST", "/fault");
    both(&target, &call.with("nvcf-reqid", STRANGER), 5, 404, text).await?;
    let own = target.world.own_cluster()?;
    let other = own.function("curious", &["--slots", "10"], Behind::Nobody);
    let id = crate::ids::open(&target).await?;
    let foreign = target
        .ask_of(&other.function, "POST", "/fault")
        .with("nvcf-reqid", &id);
    both(&target, &foreign, 5, 404, text).await?;
    let there = ask(&target, &target.ask("POST", "/on").with("nvcf-reqid", &id)).await?;
    same!(there.session()?, id, "the session goes on");
    Ok(())
}

async fn no_worker(target: Target) -> Checked {
    let own = target.world.own_cluster()?;
    let text = "failed to establish link to worker";
    let brief = own.function(
        "brief",
        &["--slots", "1", "--wait", "700ms"],
        Behind::Nobody,
    );
    let began = pontoon::clock::now();
    both(
        &target,
        &target.ask_of(&brief.function, "POST", "/fault"),
        4,
        504,
        text,
    )
    .await?;
    ensure!(
        began.elapsed() >= Duration::from_millis(1300),
        "two waits of 700 ms"
    );
    let patient = own.function("patient", &["--slots", "1"], Behind::Nobody);
    let call = target.ask_of(&patient.function, "POST", "/fault");
    let began = pontoon::clock::now();
    both(&target, &call.with("grpc-timeout", "500m"), 4, 504, text).await?;
    let took = began.elapsed();
    ensure!(
        took < Duration::from_secs(8),
        "grpc-timeout bounds the wait, not {took:?}"
    );
    Ok(())
}

/// A worker whose sidecar is killed while a call waits for its answer.
async fn tunnel_lost_before(target: Target) -> Checked {
    let own = target.world.own_cluster()?;
    for grpc in [false, true] {
        let name = format!("lost-{grpc}-{}", target.address);
        let victim = own.victim(&name, &["--slots", "4"]);
        let call = target
            .ask_of(&victim.function, "POST", "/lost")
            .with("x-echo-hold", "1");
        let call = call.with("x-echo-tag", "lost").body("x");
        let call = if grpc { call.grpc() } else { call };
        let conn = h2::Conn::open(&target.address).await?;
        let lost = conn.ask(&call);
        let kill = async {
            until("the worker has the call", || {
                !victim.worker.notes("lost").is_empty()
            })
            .await?;
            let sidecar = victim.sidecar.as_ref().ok_or("a sidecar")?;
            sidecar.signal(Signal::KILL);
            Ok::<(), String>(())
        };
        let (reply, killed) = tokio::join!(lost, kill);
        killed?;
        if grpc {
            reply?.fails(14, "worker connection lost")?;
        } else {
            reply?.refuses(502, "worker connection lost")?;
        }
    }
    Ok(())
}

/// Waits until something holds, with a bound of 10 s.
pub async fn until(what: &str, holds: impl Fn() -> bool) -> Checked {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..500 {
        if holds() {
            return Ok(());
        }
        ticks.tick().await;
    }
    Err(format!("waited 10 s in vain: {what}"))
}

async fn refused_once(target: Target) -> Checked {
    let tag = format!("refused-{}", uuid::Uuid::new_v4());
    let call = target.ask("POST", "/refused").with("x-echo-refuse", "1");
    let reply = ask(&target, &call.with("x-echo-tag", &tag)).await;
    let reply =
        reply.map_err(|error| format!("a call that was refused once is retried: {error}"))?;
    same!(reply.status, 200, "a call that was refused once");
    Ok(())
}

async fn tunnel_lost_behind(target: Target) -> Checked {
    let own = target.world.own_cluster()?;
    let victim = own.victim(&format!("behind-{}", target.address), &["--slots", "4"]);
    let call = target
        .ask_of(&victim.function, "POST", "/behind")
        .with("x-echo-mirror", "1");
    let conn = h2::Conn::open(&target.address).await?;
    let mut open = conn.begin(&call, false).await?;
    h2::send(&mut open.out, "hello").await.map_err(h2::said)?;
    let (response, _) = h2::head(open.answer).await?;
    let mut body = response.into_body();
    let first = body
        .data()
        .await
        .ok_or("a first piece")?
        .map_err(h2::said)?;
    same!(first, "hello", "the first piece");
    let sidecar = victim.sidecar.as_ref().ok_or("a sidecar")?;
    sidecar.signal(Signal::KILL);
    let next = tokio::time::timeout(Duration::from_secs(15), body.data()).await;
    match next.map_err(|_| "the loss is not told within 15 s")? {
        Some(Err(error)) => {
            same!(
                error.reason(),
                Some(::h2::Reason::INTERNAL_ERROR),
                "how it breaks"
            );
            Ok(())
        }
        other => Err(format!("a stream that broke never ends cleanly: {other:?}")),
    }
}

async fn connect(target: Target) -> Checked {
    let mut call = target.ask("CONNECT", "");
    call.authority = "example.com:443".to_owned();
    let conn = h2::Conn::open(&target.address).await?;
    let reply = conn.ask(&call).await?;
    reply.refuses(501, "not supported")?;
    conn.ask(&call.grpc()).await?.fails(12, "not supported")
}

async fn forms(target: Target) -> Checked {
    let text = "no authorization was passed in the metadata";
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc+json",
    ] {
        let call = Ask::new("POST", "/forms").with("content-type", kind);
        let reply = ask(&target, &call).await?;
        reply.fails(16, text)?;
        same!(reply.header("cache-control"), "no-store", "{kind}");
    }
    for kind in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/grpc-web-text+proto",
    ] {
        let call = Ask::new("POST", "/forms").with("content-type", kind);
        let reply = ask(&target, &call).await?;
        same!(reply.status, 200, "{kind}");
        same!(reply.header("content-type"), kind, "{kind}");
        same!(reply.header("grpc-status"), "16", "{kind}");
        same!(
            percent_decoded(&reply.header("grpc-message")),
            text,
            "{kind}"
        );
        ensure!(reply.body.is_empty(), "no body in {kind}: {reply:?}");
    }
    for kind in ["application/json", "application/grpcx", "text/html"] {
        let call = Ask::new("POST", "/forms").with("content-type", kind);
        ask(&target, &call).await?.refuses(401, text)?;
    }
    if target.wire == Wire::H2 {
        let head = ask(&target, &Ask::new("HEAD", "/forms")).await?;
        ensure!(
            head.status == 401 && head.body.is_empty(),
            "HEAD has no body: {head:?}"
        );
    }
    Ok(())
}

#[test]
fn c_err_1_no_credential_in_both_renderings() {
    prove("C-ERR-1");
}

#[test]
fn c_err_1_each_content_type_has_its_rendering() {
    prove("C-ERR-1/forms");
}

#[test]
fn c_err_2_an_unknown_credential_in_both_renderings() {
    prove("C-ERR-2");
}

#[test]
fn c_err_3_a_key_of_another_function_in_both_renderings() {
    prove("C-ERR-3");
}

#[test]
fn c_err_4_ids_that_are_none_in_both_renderings() {
    prove("C-ERR-4");
}

#[test]
fn c_err_5_functions_that_are_not_there_in_both_renderings() {
    prove("C-ERR-5");
}

#[test]
fn c_err_6_sessions_that_are_gone_or_anothers_have_one_text() {
    prove("C-ERR-6");
}

#[test]
fn c_err_7_the_wait_for_a_worker_is_bounded_by_the_version_and_by_the_client() {
    prove("C-ERR-7");
}

#[test]
fn c_err_9_a_tunnel_that_is_lost_before_the_answer_is_told_so() {
    prove("C-ERR-9");
}

#[test]
fn c_err_9_a_call_that_the_worker_refused_is_tried_once_more() {
    prove("C-ERR-9/retry");
}

#[test]
fn c_err_10_a_tunnel_that_is_lost_behind_the_answer_never_ends_cleanly() {
    prove("C-ERR-10");
}

#[test]
fn c_err_14_connect_is_not_supported() {
    prove("C-ERR-14");
}
