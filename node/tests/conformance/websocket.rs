//! C-WSP, C-FWD-6, C-LSN-6: WebSockets, byte by byte.

use crate::caller::Report;
use crate::http1::{Raw, header_of, text_of};
use crate::ids::{STRANGER, open};
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Checked, Target};
use crate::twin::{Flaw, Twin};
use crate::wire::{accept_of, ws};
use crate::{check, ensure, same};
use ::h2::ext::Protocol;
use std::time::Duration;

/// A key of a handshake, and nothing more.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

pub const ROWS: &[Row] = &[
    Row {
        id: "C-WSP-1",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(items),
        twin: Twin::RequestText(|text| text.replace("FUNCTION-ID.", "x-function-id.")),
    },
    Row {
        id: "C-WSP-2",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(selection),
        twin: Twin::AnswerText(|text| without(&text, "sec-websocket-protocol")),
    },
    Row {
        id: "C-RID-1/item",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(resumed),
        twin: Twin::RequestText(|text| text.replace("nvcf-reqid.", "nvcf-nothing.")),
    },
    Row {
        id: "C-PIN-4/websocket",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(own_session),
        twin: Twin::AnswerText(|text| {
            let lines = text.split("\r\n").map(|line| {
                if line.to_ascii_lowercase().starts_with("nvcf-reqid") {
                    format!("nvcf-reqid: {STRANGER}")
                } else {
                    line.to_owned()
                }
            });
            lines.collect::<Vec<_>>().join("\r\n")
        }),
    },
    Row {
        id: "C-FWD-6",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(echoes),
        twin: Twin::AnswerText(|text| without(&text, "sec-websocket-accept")),
    },
    Row {
        id: "C-ERR-6/websocket",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(refusals),
        twin: Twin::AnswerText(|text| text.replace("HTTP/1.1 404", "HTTP/1.1 403")),
    },
    Row {
        id: "C-LSN-6",
        wires: Wires::H2,
        needs: Needs::Client,
        check: check!(extended_connect),
        twin: Twin::Flaw(Flaw::Patient),
    },
];

/// A head without the lines of this name.
fn without(head: &str, name: &str) -> String {
    let is_other = |line: &&str| !line.to_ascii_lowercase().starts_with(name);
    let lines = head.split("\r\n").filter(is_other);
    lines.collect::<Vec<_>>().join("\r\n")
}

/// The two items that say what a call has to say.
fn own_items(target: &Target) -> String {
    format!(
        "authorization.{}, function-id.{}",
        target.world.key, target.world.function
    )
}

/// A handshake with these values of `Sec-WebSocket-Protocol`.
fn handshake(path: &str, protocols: &[&str], more: &str) -> String {
    let ask = crate::caller::Ask::new("GET", path);
    let mut head = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{more}"
    );
    for protocol in protocols {
        head.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
    }
    text_of(&ask, &head)
}

/// A WebSocket that is open: the head of the answer, and the worker's report of the handshake.
async fn upgraded(
    target: &Target,
    path: &str,
    protocols: &[&str],
    more: &str,
) -> Result<(Raw, String, Report), String> {
    let mut raw = Raw::say(target, &handshake(path, protocols, more)).await?;
    let head = raw.head().await?;
    ensure!(
        head.starts_with("HTTP/1.1 101"),
        "a WebSocket opens: {head}"
    );
    let first = tokio::time::timeout(Duration::from_secs(10), ws::read(&mut raw.0)).await;
    let first = first
        .map_err(|_| "no report within 10 s")?
        .map_err(|error| error.to_string())?;
    let report = serde_json::from_slice(&first.payload).map_err(|error| error.to_string())?;
    Ok((raw, head, Report(report)))
}

async fn items(target: Target) -> Checked {
    let (key, function) = (&target.world.key, &target.world.function);
    let one = own_items(&target);
    upgraded(&target, "/", &[&one], "").await?;
    // Keys in any case; no space or one behind a comma; items without a dot are somebody else's.
    let shouted = format!("chat,AUTHORIZATION.{key},FUNCTION-ID.{function}");
    upgraded(&target, "/", &[&shouted], "").await?;
    // Several headers are one list, and the first of a repeated key wins.
    let (first, second) = (
        format!("authorization.{key}"),
        format!("function-id.{function}"),
    );
    let again = format!("function-id.{STRANGER}, authorization.no");
    upgraded(&target, "/", &[&first, &second, &again], "").await?;
    // A header counts before an item, and an empty header does not.
    let header = format!("function-id: {function}\r\n");
    let wrong = format!("authorization.{key}, function-id.{STRANGER}");
    upgraded(&target, "/", &[&wrong], &header).await?;
    upgraded(
        &target,
        "/",
        &[&one],
        "function-id: \r\nauthorization: \r\n",
    )
    .await?;
    // Exactly one space is dropped: a second one belongs to the key.
    let spaced = format!("authorization.{key},  function-id.{function}");
    let mut raw = Raw::say(&target, &handshake("/", &[&spaced], "")).await?;
    let head = raw.head().await?;
    ensure!(head.starts_with("HTTP/1.1 400"), "two spaces: {head}");
    Ok(())
}

async fn selection(target: Target) -> Checked {
    let ours = own_items(&target);
    let function = format!("function-id.{}", target.world.function);
    let (_raw, head, seen) = upgraded(&target, "/", &[&ours], "").await?;
    let selected = header_of(&head, "sec-websocket-protocol");
    same!(
        selected,
        Some(function.clone()),
        "every item is ours: the function's is echoed"
    );
    let offered = seen.all("sec-websocket-protocol").join(", ");
    ensure!(
        !offered.contains(&target.world.key),
        "no credential reaches the worker: {offered}"
    );
    ensure!(
        !offered.contains("function-id."),
        "nor another item of ours: {offered}"
    );

    let own = format!("{ours}, chat, superchat");
    let (_raw, head, seen) = upgraded(&target, "/?protocol=superchat", &[&own], "").await?;
    let selected = header_of(&head, "sec-websocket-protocol");
    same!(
        selected.as_deref(),
        Some("superchat"),
        "what the worker selects"
    );
    let offered = seen.all("sec-websocket-protocol").join(", ");
    same!(offered, "chat, superchat", "what the worker is offered");

    let (_raw, head, _) = upgraded(&target, "/", &[&own], "").await?;
    let selected = header_of(&head, "sec-websocket-protocol");
    same!(selected, None, "own items, and the worker selects none");
    let (_raw, head, _) = upgraded(&target, "/?protocol=never-offered", &[&own], "").await?;
    let selected = header_of(&head, "sec-websocket-protocol");
    same!(selected, None, "never one that was not offered");

    let headers = format!(
        "authorization: {}\r\nfunction-id: {}\r\n",
        target.world.bearer, target.world.function
    );
    let id = open(&target).await?;
    let (_raw, head, _) = upgraded(&target, "/", &[&format!("nvcf-reqid.{id}")], &headers).await?;
    let selected = header_of(&head, "sec-websocket-protocol");
    same!(
        selected,
        Some(format!("nvcf-reqid.{id}")),
        "without a function's item, the first"
    );
    let (_raw, head, _) = upgraded(&target, "/", &[], &headers).await?;
    same!(
        header_of(&head, "sec-websocket-protocol"),
        None,
        "nothing offered, nothing selected"
    );
    Ok(())
}

async fn resumed(target: Target) -> Checked {
    let (one, two) = (open(&target).await?, open(&target).await?);
    let item = format!("{}, nvcf-reqid.{one}", own_items(&target));
    let (_raw, head, seen) = upgraded(&target, "/", &[&item], "").await?;
    same!(
        header_of(&head, "nvcf-reqid"),
        Some(one.clone()),
        "the item's session"
    );
    same!(
        seen.all("nvcf-reqid"),
        std::slice::from_ref(&one),
        "what the worker is told"
    );
    let cookie = format!("Cookie: nvcf-request-id={two}\r\n");
    let (_raw, head, _) = upgraded(&target, "/", &[&item], &cookie).await?;
    same!(
        header_of(&head, "nvcf-reqid"),
        Some(one),
        "the item wins over the cookie"
    );
    let header = format!("nvcf-reqid: {two}\r\n");
    let (_raw, head, _) = upgraded(&target, "/", &[&item], &header).await?;
    same!(
        header_of(&head, "nvcf-reqid"),
        Some(two),
        "the header wins over the item"
    );
    Ok(())
}

async fn own_session(target: Target) -> Checked {
    let ours = own_items(&target);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (_raw, head, _) = upgraded(&target, "/", &[&ours], "").await?;
        let id = header_of(&head, "nvcf-reqid").ok_or("the 101 carries the id")?;
        let cookie = header_of(&head, "set-cookie").unwrap_or_default();
        same!(
            cookie,
            format!("nvcf-request-id={id}; Path=/; SameSite=Lax"),
            "its cookie"
        );
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    same!(ids.len(), 3, "three WebSockets have three sessions");
    Ok(())
}

async fn echoes(target: Target) -> Checked {
    let (mut raw, head, seen) =
        upgraded(&target, "/chat?room=1", &[&own_items(&target)], "").await?;
    let accept = header_of(&head, "sec-websocket-accept");
    same!(accept, Some(accept_of(KEY)), "the proof of the handshake");
    same!(
        header_of(&head, "upgrade").as_deref(),
        Some("websocket"),
        "the protocol"
    );
    same!(seen.text("path"), "/chat?room=1", "the path");
    same!(seen.all("upgrade"), ["websocket"], "the worker's upgrade");
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let frame = ws::Frame {
            opcode: ws::BINARY,
            payload: vec![7; size],
        };
        let echo = async {
            ws::write(&mut raw.0, &frame, true).await?;
            ws::read(&mut raw.0).await
        };
        let echo = tokio::time::timeout(Duration::from_secs(10), echo).await;
        let echo = echo.map_err(|_| format!("no echo of {size} bytes"))?;
        let echo = echo.map_err(|error| format!("{size} bytes: {error}"))?;
        ensure!(echo == frame, "{size} bytes come back as they were");
    }
    ws::write(&mut raw.0, &ws::Frame::close(1000), true)
        .await
        .map_err(|error| error.to_string())?;
    let close = ws::read(&mut raw.0)
        .await
        .map_err(|error| error.to_string())?;
    same!(close, ws::Frame::close(1000), "the close comes back");
    Ok(())
}

async fn refusals(target: Target) -> Checked {
    let ours = own_items(&target);
    let gone = format!("{ours}, nvcf-reqid.{STRANGER}");
    for (protocols, status) in [
        (gone.as_str(), "404"),
        ("chat", "401"),
        ("authorization.no", "401"),
        (&*format!("authorization.{}", target.world.key), "400"),
    ] {
        let mut raw = Raw::say(&target, &handshake("/", &[protocols], "")).await?;
        let head = raw.head().await?;
        ensure!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{protocols}: {head}"
        );
    }
    // A refusal of the worker's own passes as it is.
    let mut raw = Raw::say(&target, &handshake("/?status=403", &[&ours], "")).await?;
    let head = raw.head().await?;
    ensure!(
        head.starts_with("HTTP/1.1 403"),
        "the worker's refusal: {head}"
    );
    same!(
        header_of(&head, "x-why").as_deref(),
        Some("asked"),
        "its headers"
    );
    Ok(())
}

async fn extended_connect(target: Target) -> Checked {
    let conn = crate::caller::h2::Conn::open(&target.address).await?;
    conn.allows_extended_connect().await?;
    let items = own_items(&target);
    let mut open = conn
        .connect("/over-h2", Protocol::from_static("websocket"), &items)
        .await?;
    let (response, _) = crate::caller::h2::head(open.answer).await?;
    same!(
        response.status().as_u16(),
        200,
        "an extended CONNECT is answered with 200"
    );
    ensure!(
        response.headers().contains_key("nvcf-reqid"),
        "with the session's id"
    );
    ensure!(
        !response.headers().contains_key("sec-websocket-accept"),
        "and no proof (RFC 8441)"
    );
    let mut body = response.into_body();
    let sent = ws::Frame::text("over HTTP/2").bytes(true);
    crate::caller::h2::send(&mut open.out, sent)
        .await
        .map_err(crate::caller::h2::said)?;
    let mut got: Vec<u8> = Vec::new();
    let echo = ws::Frame::text("over HTTP/2").bytes(false);
    let read = async {
        while !got.ends_with(&echo) {
            let data = body.data().await.ok_or("the end instead of an echo")?;
            let data = data.map_err(crate::caller::h2::said)?;
            body.flow_control().release_capacity(data.len()).ok();
            got.extend_from_slice(&data);
        }
        Ok::<(), String>(())
    };
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    read.map_err(|_| "no echo within 10 s")??;
    let unknown = conn
        .connect("/", Protocol::from_static("telnet"), &items)
        .await?;
    let (response, _) = crate::caller::h2::head(unknown.answer).await?;
    same!(response.status().as_u16(), 501, "an unknown :protocol");
    Ok(())
}

#[test]
fn c_wsp_1_the_protocol_list_says_what_headers_would() {
    prove("C-WSP-1");
}

#[test]
fn c_wsp_2_what_is_selected_was_offered_and_is_no_credential() {
    prove("C-WSP-2");
}

#[test]
fn c_rid_1_a_protocol_item_counts_between_header_and_cookie() {
    prove("C-RID-1/item");
}

#[test]
fn c_pin_4_a_websocket_has_a_session_of_its_own_and_its_101_says_which() {
    prove("C-PIN-4/websocket");
}

#[test]
fn c_fwd_6_a_websocket_carries_bytes_both_ways() {
    prove("C-FWD-6");
}

#[test]
fn c_err_6_a_websocket_that_is_refused_is_told_so_by_status() {
    prove("C-ERR-6/websocket");
}

#[test]
fn c_lsn_6_a_websocket_over_http_2() {
    prove("C-LSN-6");
}
