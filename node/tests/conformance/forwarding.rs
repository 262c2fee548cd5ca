//! C-FWD: what the worker sees of a call, and what crosses unchanged.

use crate::caller::{Ask, Conn, Report, ask, h2};
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Behind, Checked, Target, Wire};
use crate::twin::{Flaw, Twin};
use crate::worker::asked::message;
use crate::{check, ensure, same};
use futures::future::try_join_all;
use http::HeaderValue;

pub const ROWS: &[Row] = &[
    Row {
        id: "C-FWD-1",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(headers),
        twin: Twin::Request(|request| {
            // A bug that merges headers of one name.
            if let Some(first) = request.headers.get("x-mine").cloned() {
                request.headers.insert("x-mine", first);
            }
        }),
    },
    Row {
        id: "C-FWD-2",
        wires: Wires::Both,
        needs: Needs::Cluster,
        check: check!(credentials),
        twin: Twin::Request(|request| {
            // A bug that takes all cookies away with ours.
            request.headers.remove("cookie");
        }),
    },
    Row {
        id: "C-FWD-3",
        wires: Wires::Both,
        needs: Needs::Cluster,
        check: check!(introduction),
        twin: Twin::Report(|report| {
            // What the worker would report, had the client's own value passed.
            let text = String::from_utf8_lossy(report).replace(r#""tester""#, r#""forged""#);
            *report = text.into_bytes();
        }),
    },
    Row {
        id: "C-FWD-4",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(unchanged),
        twin: Twin::Request(|request| {
            // A bug that tidies paths up.
            let path = request
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default();
            let mut parts = request.uri.clone().into_parts();
            parts.path_and_query = path.replace("//", "/").parse().ok();
            request.uri = http::Uri::from_parts(parts).expect("a URI");
        }),
    },
    Row {
        id: "C-FWD-4/body",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(bodies),
        twin: Twin::Body(|bytes| {
            // A bug that touches what it passes.
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
        }),
    },
    Row {
        id: "C-FWD-5",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(kinds),
        twin: Twin::Trailers(|trailers| {
            // A bug that keeps gRPC's own trailers only.
            trailers.remove("x-after");
            trailers.remove("x-bytes-bin");
        }),
    },
    Row {
        id: "C-FWD-5/early",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(early),
        twin: Twin::Flaw(Flaw::Patient),
    },
    Row {
        id: "C-FWD-5/at-once",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(at_once),
        twin: Twin::Flaw(Flaw::Single),
    },
    Row {
        id: "C-FWD-9",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(forwarded),
        twin: Twin::Request(|request| {
            // A bug that lets a client's address pass under another name.
            let forged = HeaderValue::from_static("10.0.0.1");
            if request.headers.contains_key("x-forwarded-for") {
                request.headers.insert("x-real-client", forged);
            }
        }),
    },
];

async fn report(target: &Target, call: &Ask) -> Result<Report, String> {
    ask(target, call).await?.report()
}

async fn headers(target: Target) -> Checked {
    let call = target
        .ask("POST", "/headers")
        .with("x-mine", "one")
        .with("x-mine", "two");
    let call = call
        .with("x-bin", "a, b;c=\"d\"")
        .with("user-agent", "conformance/1");
    let mut conn = Conn::open(&target).await?;
    let reply = conn.ask(&call.with("nvcf-reqid", "not-an-id")).await?;
    let seen = reply.report()?;
    same!(seen.all("x-mine"), ["one", "two"], "several of one name");
    same!(seen.all("x-bin"), ["a, b;c=\"d\""], "a value");
    same!(seen.all("user-agent"), ["conformance/1"], "the user agent");
    same!(
        seen.all("nvcf-reqid"),
        [reply.session()?],
        "the session's id"
    );
    for gone in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        ensure!(
            seen.all(gone).is_empty(),
            "{gone} is for one connection: {seen:?}"
        );
    }
    if target.wire == Wire::H2 {
        let seen = report(&target, &target.ask("POST", "/te").with("te", "trailers")).await?;
        same!(seen.all("te"), ["trailers"], "te: trailers stays");
    } else {
        let call = target
            .ask("POST", "/hop")
            .with("connection", "x-hop")
            .with("x-hop", "1");
        let seen = report(&target, &call).await?;
        ensure!(
            seen.all("x-hop").is_empty(),
            "what connection names is hop-by-hop: {seen:?}"
        );
    }
    Ok(())
}

async fn credentials(target: Target) -> Checked {
    let id = crate::ids::open(&target).await?;
    let cookie = format!("theme=dark; nvcf-request-id={id}; lang=de");
    let seen = report(&target, &target.ask("POST", "/own").with("cookie", &cookie)).await?;
    ensure!(
        seen.all("authorization").is_empty(),
        "the credential stays here: {seen:?}"
    );
    let cookies = seen.all("cookie").join("; ");
    same!(
        cookies,
        "theme=dark; lang=de",
        "other cookies pass, ours does not"
    );
    let own = target.world.own_cluster()?;
    let open = own.function(
        "forwards",
        &["--slots", "200", "--forward-credentials"],
        Behind::Echo,
    );
    let call = target.ask_of(&open.function, "POST", "/open");
    let seen = report(&target, &call).await?;
    same!(
        seen.all("authorization"),
        std::slice::from_ref(&open.function.bearer),
        "a version may want it"
    );
    Ok(())
}

async fn introduction(target: Target) -> Checked {
    let own = target.world.own_cluster()?;
    let mut call = target.ask("POST", "/introduction").with("x-mine", "kept");
    let ours = [
        ("nvcf-ncaid", own.main.tenant.as_str()),
        ("nvcf-sub", "tester"),
        ("nvcf-function-id", &own.main.function),
        ("nvcf-function-version-id", &own.main.version),
        ("nvcf-function-name", "conformance"),
        ("nvcf-region", "us-east"),
    ];
    for (name, _) in ours {
        call = call.with(name, "forged");
    }
    let seen = report(&target, &call).await?;
    for (name, value) in ours {
        same!(seen.all(name), [value], "{name}");
    }
    same!(seen.all("x-mine"), ["kept"], "the rest passes");
    Ok(())
}

async fn unchanged(target: Target) -> Checked {
    for path in [
        "/",
        "/a//b/../c?x=1&x=%20%2F&empty=",
        "/%E2%82%AC/;v=1?q=a+b",
        "/inference.GRPCInferenceService/ModelInfer",
    ] {
        let mut call = target.ask("POST", path);
        call.authority = "Worker.example:8443".to_owned();
        let seen = report(&target, &call).await?;
        same!(seen.text("path"), path, "the path");
        same!(
            seen.text("authority"),
            "Worker.example:8443",
            "the authority"
        );
        same!(seen.text("method"), "POST", "the method");
        if seen.text("protocol") == "HTTP/2" {
            same!(seen.text("scheme"), "http", "the scheme towards the worker");
        }
    }
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let seen = report(&target, &target.ask(method, "/method")).await?;
        same!(seen.text("method"), method, "the method");
    }
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let call = target.ask("POST", "/trace").with("traceparent", trace);
    let seen = report(&target, &call).await?.all("traceparent");
    let same_trace = seen.len() == 1 && seen[0].starts_with(&trace[..35]);
    ensure!(same_trace, "the trace goes on: {seen:?}");
    Ok(())
}

async fn bodies(target: Target) -> Checked {
    // Bytes that claim to be compressed and are not: nobody looks into them.
    let mut bytes: Vec<u8> = (0..300_000_u32).map(|at| (at * 7 % 251) as u8).collect();
    bytes.extend_from_slice(&[0x1f, 0x8b, 0, 0]);
    let mut hash = crate::worker::asked::Body::default();
    hash.take(&bytes);
    let call = target
        .ask("POST", "/body")
        .with("content-encoding", "gzip")
        .body(bytes.clone());
    let seen = report(&target, &call).await?;
    same!(seen.0["length"], bytes.len(), "the length");
    same!(seen.text("sha256"), hash.digest(), "the bytes");
    same!(seen.all("content-encoding"), ["gzip"], "the encoding");
    let call = target
        .ask("POST", "/body")
        .with("x-echo-header", "content-encoding: br");
    let reply = ask(&target, &call).await?;
    same!(
        reply.header("content-encoding"),
        "br",
        "the answer's encoding"
    );
    reply.report().map(|_| ())
}

async fn kinds(target: Target) -> Checked {
    let call = target.ask("POST", "/conformance.Echo/Any").grpc();
    let trailers = call.clone().with("x-echo-trailer", "x-after: kept");
    let trailers = trailers
        .with("x-echo-trailer", "x-bytes-bin: AP8=")
        .body(message(b"one"));
    let unary = ask(&target, &trailers).await?;
    let behind = unary.trailers.clone().unwrap_or_default();
    same!(
        behind.get("grpc-status"),
        Some(&HeaderValue::from_static("0")),
        "the status"
    );
    same!(
        behind.get("x-after"),
        Some(&HeaderValue::from_static("kept")),
        "a trailer"
    );
    same!(
        behind.get("x-bytes-bin"),
        Some(&HeaderValue::from_static("AP8=")),
        "a binary one"
    );
    let served = call
        .clone()
        .with("x-echo-messages", "500")
        .with("x-echo-size", "100");
    let served = ask(&target, &served.body(message(b""))).await?;
    same!(
        served.body.len(),
        500 * 105,
        "500 messages of a server stream"
    );
    let sent: Vec<u8> = (0..500).flat_map(|_| message(&[b'y'; 100])).collect();
    let gathered = ask(&target, &call.clone().body(sent).trailer("x-client", "too")).await?;
    let seen = gathered.report()?;
    same!(
        seen.0["length"],
        500 * 105,
        "500 messages of a client stream"
    );
    same!(
        seen.0["trailers"].to_string(),
        r#"[["x-client","too"]]"#,
        "the client's trailers"
    );
    ping_pong(&target, &call).await?;
    let only = call.clone().with("x-echo-trailers-only", "1");
    let only = only.with("x-echo-trailer", "grpc-status: 9");
    let only = only.with("x-echo-trailer", "grpc-message: kein %C3%96l");
    let only = ask(&target, &only).await?;
    ensure!(only.ended_with_headers, "trailers only stays so: {only:?}");
    same!(only.header("grpc-status"), "9", "its status");
    same!(
        only.header("grpc-message"),
        "kein %C3%96l",
        "its message, byte for byte"
    );
    let reset = ask(&target, &call.with("x-echo-reset", "11")).await;
    let error = reset.err().ok_or("a reset arrives as a reset")?;
    ensure!(
        error.contains("ENHANCE_YOUR_CALM"),
        "with its code: {error}"
    );
    Ok(())
}

/// Messages one by one in both directions, and a half-close at the end.
async fn ping_pong(target: &Target, call: &Ask) -> Checked {
    let conn = h2::Conn::open(&target.address).await?;
    let mut open = conn
        .begin(&call.clone().with("x-echo-mirror", "1"), false)
        .await?;
    let (response, _) = h2::head(open.answer).await?;
    let mut body = response.into_body();
    for turn in 0..50_u8 {
        let sent = message(&[turn; 40]);
        h2::send(&mut open.out, sent.clone())
            .await
            .map_err(h2::said)?;
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let data = body.data().await.ok_or("an echo")?.map_err(h2::said)?;
            body.flow_control()
                .release_capacity(data.len())
                .map_err(h2::said)?;
            got.extend_from_slice(&data);
        }
        same!(got, sent, "turn {turn}");
    }
    open.out
        .send_data(bytes::Bytes::new(), true)
        .map_err(h2::said)?;
    ensure!(body.data().await.is_none(), "the half-close ends the echo");
    let trailers = body.trailers().await.map_err(h2::said)?.unwrap_or_default();
    ensure!(
        trailers.contains_key("grpc-status"),
        "trailers behind it: {trailers:?}"
    );
    Ok(())
}

async fn early(target: Target) -> Checked {
    let call = target.ask("POST", "/early");
    let reply = ask(&target, &call.with("x-echo-informational", "103")).await?;
    let codes: Vec<u16> = reply.early.iter().map(|(code, _)| *code).collect();
    same!(codes, [103], "the 1xx before the answer");
    same!(
        reply.early[0].1.get("x-early"),
        Some(&HeaderValue::from_static("yes")),
        "its header"
    );
    Ok(())
}

async fn at_once(target: Target) -> Checked {
    let conn = h2::Conn::open(&target.address).await?;
    let call = target.ask("POST", "/at-once").grpc();
    conn.ask(&call).await?;
    let mirror = call.clone().with("x-echo-mirror", "1");
    // 100 streams that stay open, and 100 unary calls between them.
    let begun = try_join_all((0..100).map(|_| conn.begin(&mirror, false))).await?;
    let calls = (0..100).map(|_| conn.ask(&call));
    let unary = tokio::time::timeout(std::time::Duration::from_secs(30), try_join_all(calls));
    let unary = unary
        .await
        .map_err(|_| "100 unary calls beside 100 streams take over 30 s")??;
    ensure!(
        unary.iter().all(|reply| reply.status == 200),
        "all of them go well"
    );
    let streams = begun.into_iter().map(|mut open| async move {
        h2::send(&mut open.out, message(b"x"))
            .await
            .map_err(h2::said)?;
        open.out
            .send_data(bytes::Bytes::new(), true)
            .map_err(h2::said)?;
        h2::receive(open.answer).await
    });
    for reply in try_join_all(streams).await? {
        same!(reply.body, message(b"x"), "a stream's echo");
    }
    Ok(())
}

async fn forwarded(target: Target) -> Checked {
    let mut call = target.ask("POST", "/forwarded");
    let names = [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
    ];
    for name in names {
        call = call.with(name, "10.0.0.1");
    }
    let seen = report(&target, &call).await?;
    for name in names {
        ensure!(
            seen.all(name).is_empty(),
            "{name} of a client does not pass: {seen:?}"
        );
    }
    ensure!(
        !seen.0.to_string().contains("10.0.0.1"),
        "under no name: {seen:?}"
    );
    Ok(())
}

#[test]
fn c_fwd_1_the_clients_headers_pass_without_those_of_its_connection() {
    prove("C-FWD-1");
}

#[test]
fn c_fwd_2_credentials_stay_here_unless_the_version_wants_them() {
    prove("C-FWD-2");
}

#[test]
fn c_fwd_3_the_worker_is_told_who_calls_and_a_client_can_not_forge_it() {
    prove("C-FWD-3");
}

#[test]
fn c_fwd_4_authority_path_and_method_arrive_as_they_were_sent() {
    prove("C-FWD-4");
}

#[test]
fn c_fwd_4_a_body_arrives_byte_for_byte() {
    prove("C-FWD-4/body");
}

#[test]
fn c_fwd_5_every_kind_of_call_crosses_with_its_trailers() {
    prove("C-FWD-5");
}

#[test]
fn c_fwd_5_an_early_answer_crosses_before_the_answer() {
    prove("C-FWD-5/early");
}

#[test]
fn c_fwd_5_a_hundred_streams_and_a_hundred_calls_run_at_once() {
    prove("C-FWD-5/at-once");
}

#[test]
fn c_fwd_9_a_clients_word_about_addresses_does_not_pass() {
    prove("C-FWD-9");
}
