//! C-COR: what a browser is told about origins.

use crate::caller::{Ask, ask};
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Checked, Target};
use crate::twin::Twin;
use crate::{check, ensure, same};
use http::HeaderValue;

pub const ROWS: &[Row] = &[
    Row {
        id: "C-COR-1",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(preflight),
        twin: Twin::Answer(|_, answer| {
            // A bug that forgets that caches tell requests apart by these.
            answer.headers.remove("vary");
        }),
    },
    Row {
        id: "C-COR-2",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(answers),
        twin: Twin::Answer(|asked, answer| {
            // A bug that gives a worker's answers to every page.
            if asked.headers.contains_key("origin") {
                let all = HeaderValue::from_static("*");
                answer.headers.insert("access-control-allow-origin", all);
            }
        }),
    },
];

const ORIGIN: &str = "https://app.example";

/// The items of list headers, in lower case and in order.
fn items(values: &[String]) -> Vec<String> {
    let all = values.iter().flat_map(|value| value.split(','));
    let mut items: Vec<String> = all.map(|item| item.trim().to_ascii_lowercase()).collect();
    items.sort();
    items
}

const VARY: [&str; 3] = [
    "access-control-request-headers",
    "access-control-request-method",
    "origin",
];

async fn preflight(target: Target) -> Checked {
    let asked = Ask::new("OPTIONS", "/any").with("access-control-request-method", "POST");
    let whole = asked.clone().with("origin", ORIGIN);
    let whole = whole.with(
        "access-control-request-headers",
        "authorization,function-id",
    );
    let reply = ask(&target, &whole).await?;
    same!(reply.status, 200, "a preflight needs no credential");
    for (name, value) in [
        ("access-control-allow-origin", ORIGIN),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "authorization,function-id"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "3600"),
    ] {
        same!(reply.header(name), value, "{name}");
    }
    same!(items(&reply.all("vary")), VARY, "vary");
    ensure!(reply.body.is_empty(), "no body: {reply:?}");
    let strange = whole.without("access-control-request-method");
    let strange = strange.with("access-control-request-method", "TRACE");
    for bare in [asked, strange] {
        let reply = ask(&target, &bare).await?;
        same!(
            reply.status,
            200,
            "no origin, or a method that is not allowed"
        );
        same!(items(&reply.all("vary")), VARY, "vary");
        let said = reply
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("access-control"));
        ensure!(!said, "nothing but vary: {reply:?}");
    }
    // Without the header it is no preflight, but a call.
    let call = ask(&target, &Ask::new("OPTIONS", "/any").with("origin", ORIGIN)).await?;
    call.refuses(401, "no authorization was passed in the metadata")
}

async fn answers(target: Target) -> Checked {
    let call = target.ask("POST", "/cors").with("origin", ORIGIN);
    let ours = ask(&target, &call.clone().without("authorization")).await?;
    ours.refuses(401, "no authorization")?;
    same!(
        ours.header("access-control-allow-origin"),
        ORIGIN,
        "our own faults"
    );
    same!(
        ours.header("access-control-allow-credentials"),
        "true",
        "our own faults"
    );
    let exposed = items(&ours.all("access-control-expose-headers"));
    for name in ["nvcf-reqid", "grpc-status", "grpc-message"] {
        ensure!(
            exposed.iter().any(|own| own == name),
            "{name} is exposed: {exposed:?}"
        );
    }
    let left = ask(&target, &call).await?;
    ensure!(
        left.header("access-control-allow-origin").is_empty(),
        "a worker's answer is left alone: {left:?}"
    );
    let allowing = call
        .with(
            "x-echo-header",
            "access-control-allow-origin: https://app.example",
        )
        .with("x-echo-header", "access-control-expose-headers: x-own");
    let allowed = ask(&target, &allowing).await?;
    same!(
        allowed.all("access-control-allow-origin"),
        [ORIGIN],
        "the worker's word"
    );
    let exposed = items(&allowed.all("access-control-expose-headers"));
    same!(
        exposed,
        ["nvcf-reqid", "x-own"],
        "the id is exposed beside the worker's own"
    );
    Ok(())
}

#[test]
fn c_cor_1_a_preflight_is_answered_here() {
    prove("C-COR-1");
}

#[test]
fn c_cor_2_faults_are_readable_by_pages_and_a_workers_answers_are_left_alone() {
    prove("C-COR-2");
}
