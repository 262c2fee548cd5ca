//! C-RID: which session a call means.

use crate::caller::{Conn, Reply, ask};
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Checked, Target};
use crate::twin::Twin;
use crate::{check, ensure, same};
use http::{HeaderName, HeaderValue};

const REQID: HeaderName = HeaderName::from_static("nvcf-reqid");

/// An id that nobody minted.
pub const STRANGER: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

pub const ROWS: &[Row] = &[
    Row {
        id: "C-RID-1",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(sources),
        twin: Twin::Request(|request| {
            // A bug that prefers the cookie.
            if request.headers.contains_key("cookie") {
                request.headers.remove(REQID);
            }
        }),
    },
    Row {
        id: "C-RID-2",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(spellings),
        twin: Twin::Request(|request| {
            // A bug that knows one spelling of an id, and finds nothing under another.
            let own = request.headers.get(REQID);
            if own.is_some_and(|value| value.as_bytes().starts_with(b"urn:")) {
                request
                    .headers
                    .insert(REQID, HeaderValue::from_static(STRANGER));
            }
        }),
    },
    Row {
        id: "C-RID-3",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(strangers),
        twin: Twin::Request(|request| {
            // A bug that opens a session for an id that it doesn't know.
            let own = request.headers.get(REQID);
            if own.is_some_and(|value| value.as_bytes() == STRANGER.as_bytes()) {
                request.headers.remove(REQID);
            }
        }),
    },
    Row {
        id: "C-RID-4",
        wires: Wires::Both,
        needs: Needs::Client,
        check: check!(over_the_pin),
        twin: Twin::Request(|request| {
            // A bug that lets the pin win.
            request.headers.remove(REQID);
        }),
    },
];

/// A session of its own, opened on a connection of its own.
pub async fn open(target: &Target) -> Result<String, String> {
    let reply = ask(target, &target.ask("POST", "/open")).await?;
    ensure!(reply.status == 200, "a session opens: {reply:?}");
    reply.session()
}

async fn named(target: &Target, headers: &[(&str, &str)]) -> Result<Reply, String> {
    let mut call = target.ask("POST", "/named");
    for (name, value) in headers {
        call = call.with(name, value);
    }
    ask(target, &call).await
}

async fn sources(target: Target) -> Checked {
    let (one, two) = (open(&target).await?, open(&target).await?);
    ensure!(one != two, "two connections have two sessions");
    let cookie = format!("theme=dark; nvcf-request-id={two}");
    let both = named(&target, &[("nvcf-reqid", &one), ("cookie", &cookie)]).await?;
    same!(both.session()?, one, "the header wins over the cookie");
    let cookies = named(&target, &[("cookie", &cookie)]).await?;
    same!(cookies.session()?, two, "the cookie counts");
    let empty = named(&target, &[("nvcf-reqid", ""), ("cookie", &cookie)]).await?;
    same!(empty.session()?, two, "an empty header is none");
    Ok(())
}

async fn spellings(target: Target) -> Checked {
    let id = open(&target).await?;
    let uuid: uuid::Uuid = id.parse().map_err(|_| format!("{id} is no UUID"))?;
    same!(
        id,
        uuid.hyphenated().to_string(),
        "ours are hyphenated, in lower case"
    );
    for spelling in [
        uuid.simple().to_string(),
        uuid.urn().to_string(),
        uuid.braced().to_string(),
        id.to_uppercase(),
    ] {
        let reply = named(&target, &[("nvcf-reqid", &spelling)]).await?;
        same!(reply.session()?, id, "{spelling}");
    }
    let cookie = format!("nvcf-request-id={id}");
    for garbage in ["not-an-id", "1234", &id[1..]] {
        let reply = named(&target, &[("nvcf-reqid", garbage), ("cookie", &cookie)]).await?;
        ensure!(
            reply.session()? != id,
            "{garbage} is no id at all, and no fall-through"
        );
    }
    Ok(())
}

async fn strangers(target: Target) -> Checked {
    for stranger in [
        STRANGER,
        "00000000-0000-0000-0000-000000000000",
        "01234567-89ab-8001-8123-456789abcdef",
        "01234567-89ab-8fff-8123-456789abcdef",
    ] {
        let reply = named(&target, &[("nvcf-reqid", stranger)]).await?;
        reply.refuses(404, "no existing session found")?;
    }
    Ok(())
}

async fn over_the_pin(target: Target) -> Checked {
    let other = open(&target).await?;
    let mut conn = Conn::open(&target).await?;
    let call = target.ask("POST", "/pinned");
    let pinned = conn.ask(&call).await?.session()?;
    let named = conn.ask(&call.clone().with("nvcf-reqid", &other)).await?;
    same!(named.session()?, other, "the id wins over the pin");
    same!(conn.ask(&call).await?.session()?, pinned, "the pin stays");
    let cookie = |id: &str| {
        call.clone()
            .with("cookie", &format!("nvcf-request-id={id}"))
    };
    let by_cookie = conn.ask(&cookie(&other)).await?;
    same!(
        by_cookie.session()?,
        other,
        "a live cookie wins over the pin"
    );
    let dead = conn
        .ask(&cookie("01234567-89ab-8001-8123-456789abcdef"))
        .await?;
    same!(
        dead.session()?,
        pinned,
        "a dead cookie is none beside a live pin"
    );
    let several = format!("nvcf-request-id={STRANGER}; nvcf-request-id={other}");
    let several = conn.ask(&call.clone().with("cookie", &several)).await?;
    same!(
        several.session()?,
        other,
        "of several cookies, the first that lives"
    );
    Ok(())
}

#[test]
fn c_rid_1_the_header_counts_before_the_cookie() {
    prove("C-RID-1");
}

#[test]
fn c_rid_2_an_id_has_four_spellings_and_garbage_is_no_id() {
    prove("C-RID-2");
}

#[test]
fn c_rid_3_an_id_that_nobody_minted_opens_nothing() {
    prove("C-RID-3");
}

#[test]
fn c_rid_4_an_id_wins_over_the_pin_and_a_cookie_when_its_session_lives() {
    prove("C-RID-4");
}
