//! C-KEY: what a call says, and in which order it is judged.

use crate::caller::{Ask, ask};
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Checked, Target};
use crate::twin::Twin;
use crate::{check, ensure};
use http::HeaderValue;

pub const ROWS: &[Row] = &[
    Row {
        id: "C-KEY-1",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(order),
        twin: Twin::Answer(|asked, answer| {
            // A bug that looks at the function before the credential.
            if !asked.headers.contains_key("function-id") && answer.status == 401 {
                answer.status = http::StatusCode::BAD_REQUEST;
            }
        }),
    },
    Row {
        id: "C-KEY-2",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(minted),
        twin: Twin::Request(|request| {
            // A bug that knows the scheme in one spelling only.
            let own = request.headers.get("authorization");
            if own.is_some_and(|value| value.as_bytes().starts_with(b"BEARER")) {
                let other = HeaderValue::from_static("Basic BEARER");
                request.headers.insert("authorization", other);
            }
        }),
    },
];

async fn order(target: Target) -> Checked {
    let nothing = Ask::new("POST", "/order").with("nvcf-reqid", "no");
    let reply = ask(&target, &nothing).await?;
    reply.refuses(401, "no authorization was passed in the metadata")?;
    let nothing = nothing
        .with("function-id", "no")
        .with("function-version-id", "no");
    let reply = ask(&target, &nothing).await?;
    reply.refuses(401, "no authorization was passed in the metadata")?;
    let unknown = nothing.with("authorization", "Bearer unknown");
    ask(&target, &unknown)
        .await?
        .refuses(401, "invalid credential")?;
    let bad = Ask::new("POST", "/order").with("authorization", &target.world.bearer);
    let bad = bad
        .with("function-version-id", "no")
        .with("nvcf-reqid", "no");
    let reply = ask(&target, &bad).await?;
    reply.refuses(400, "no function-id was passed in the metadata")?;
    let bad = bad.with("function-id", "no");
    ask(&target, &bad)
        .await?
        .refuses(400, "malformed function-id")?;
    // Health and info come before all of it; so does a preflight, which has a row of its own.
    let info = ask(&target, &Ask::new("GET", "/info")).await?;
    ensure!(info.status == 200, "info needs no credential: {info:?}");
    Ok(())
}

async fn minted(target: Target) -> Checked {
    let key = &target.world.key;
    let plain = key
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    ensure!(plain, "a key has only letters, digits, - and _");
    let last = if key.ends_with('a') { "b" } else { "a" };
    let flipped = format!("Bearer {}{last}", &key[..key.len() - 1]);
    for garbage in [&flipped, "Bearer x", "Bearer 0123456789abcdef"] {
        let call = target.ask("POST", "/minted").without("authorization");
        let reply = ask(&target, &call.with("authorization", garbage)).await?;
        reply.refuses(401, "invalid credential")?;
    }
    for scheme in ["bearer", "BEARER", "BeArEr"] {
        let call = target.ask("POST", "/minted").without("authorization");
        let reply = ask(
            &target,
            &call.with("authorization", &format!("{scheme} {key}")),
        )
        .await?;
        ensure!(
            reply.status == 200,
            "the scheme {scheme} is the same: {reply:?}"
        );
    }
    Ok(())
}

#[test]
fn c_key_1_the_credential_is_judged_first_then_the_function_then_the_rest() {
    prove("C-KEY-1");
}

#[test]
fn c_key_2_a_key_is_safe_in_any_header_and_garbage_is_refused() {
    prove("C-KEY-2");
}
