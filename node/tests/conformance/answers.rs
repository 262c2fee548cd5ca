//! C-RSP: what an answer says.

use crate::caller::{Conn, ask};
use crate::ids::open;
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Checked, Target};
use crate::twin::{Flaw, Twin};
use crate::{check, ensure, same};
use http::HeaderValue;

pub const ROWS: &[Row] = &[
    Row {
        id: "C-RSP-1",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(every_answer),
        twin: Twin::Answer(|asked, answer| {
            // A bug that lets the worker's own value through.
            let told = asked.headers.get("x-echo-header");
            if told.is_some_and(|told| told.as_bytes().starts_with(b"nvcf-reqid")) {
                let forged = HeaderValue::from_static("set-by-the-worker");
                answer.headers.append("nvcf-reqid", forged);
            }
        }),
    },
    Row {
        id: "C-RSP-2",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(cookie_once),
        twin: Twin::Flaw(Flaw::Fresh),
    },
    Row {
        id: "C-RSP-3",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(cleared),
        twin: Twin::Answer(|_, answer| {
            // A bug that clears only the form that has a path.
            if answer.status == 404 {
                answer.headers.remove("set-cookie");
                let one = "nvcf-request-id=; Max-Age=0; Path=/; SameSite=Lax";
                answer
                    .headers
                    .append("set-cookie", HeaderValue::from_static(one));
            }
        }),
    },
];

async fn every_answer(target: Target) -> Checked {
    let mut conn = Conn::open(&target).await?;
    let call = target.ask("POST", "/every");
    let id = conn.ask(&call).await?.session()?;
    for told in [
        &[("x-echo-header", "nvcf-reqid: set-by-the-worker")][..],
        &[("x-echo-status", "503"), ("x-echo-header", "x-own: kept")],
        &[("x-echo-status", "204")],
    ] {
        let mut told_so = call.clone();
        for (name, value) in told {
            told_so = told_so.with(name, value);
        }
        let reply = conn.ask(&told_so).await?;
        same!(reply.session()?, id, "{told:?}");
    }
    let trailers_only = call.clone().grpc().with("x-echo-trailers-only", "1");
    let reply = conn
        .ask(&trailers_only.with("x-echo-trailer", "grpc-status: 5"))
        .await?;
    same!(reply.session()?, id, "trailers only");
    Ok(())
}

async fn cookie_once(target: Target) -> Checked {
    let mut conn = Conn::open(&target).await?;
    let call = target
        .ask("POST", "/cookie")
        .with("x-echo-header", "set-cookie: own=1");
    let first = conn.ask(&call).await?;
    let ours = format!("nvcf-request-id={}; Path=/; SameSite=Lax", first.session()?);
    same!(
        first.all("set-cookie"),
        ["own=1".to_owned(), ours.clone()],
        "the first answer"
    );
    let second = conn.ask(&call).await?;
    same!(
        second.all("set-cookie"),
        ["own=1".to_owned()],
        "once per connection"
    );
    let named = call.with("nvcf-reqid", &first.session()?);
    let elsewhere = ask(&target, &named).await?;
    same!(
        elsewhere.all("set-cookie"),
        ["own=1".to_owned(), ours],
        "another connection's first"
    );
    Ok(())
}

async fn cleared(target: Target) -> Checked {
    let id = open(&target).await?;
    let end = target
        .ask("DELETE", "/")
        .with("x-nvcf-absorb", "true")
        .with("nvcf-reqid", &id);
    let ended = ask(&target, &end).await?;
    ensure!(ended.status == 200, "DELETE ends the session: {ended:?}");
    let both = [
        "nvcf-request-id=; Max-Age=0",
        "nvcf-request-id=; Max-Age=0; Path=/; SameSite=Lax",
    ];
    let call = target.ask("POST", "/cleared");
    let cookie = |id: &str| format!("nvcf-request-id={id}");
    for gone in [
        call.clone().with("cookie", &cookie(&id)),
        call.clone()
            .with("cookie", &cookie(&id))
            .with("nvcf-reqid", &id),
    ] {
        let reply = ask(&target, &gone).await?;
        reply.refuses(404, "no existing session found")?;
        same!(
            reply.all("set-cookie"),
            both,
            "the cookie is cleared, in both forms"
        );
    }
    let live = open(&target).await?;
    let other = call
        .clone()
        .with("nvcf-reqid", &id)
        .with("cookie", &cookie(&live));
    let reply = ask(&target, &other).await?;
    reply.refuses(404, "no existing session found")?;
    ensure!(
        reply.all("set-cookie").is_empty(),
        "another session's cookie stays: {reply:?}"
    );
    Ok(())
}

#[test]
fn c_rsp_1_every_answer_of_a_session_carries_its_id_and_no_other() {
    prove("C-RSP-1");
}

#[test]
fn c_rsp_2_the_first_answer_on_a_connection_sets_the_cookie_behind_the_workers_own() {
    prove("C-RSP-2");
}

#[test]
fn c_rsp_3_a_session_that_is_gone_clears_its_cookie_in_two_forms() {
    prove("C-RSP-3");
}
