//! C-LSN-1, C-LSN-3, C-FWD-5, C-FWD-6 over HTTP/1.1, byte by byte where it matters.

use crate::caller::{Ask, Conn, ask};
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Behind, Checked, Target};
use crate::twin::Twin;
use crate::wire::base64;
use crate::{check, ensure, same};
use http::HeaderValue;
use pontoon::net::{self, TcpStream};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub const ROWS: &[Row] = &[
    Row {
        id: "C-LSN-1/h1",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(plain),
        twin: Twin::AnswerText(|text| text.replace("HTTP/1.1 200", "HTTP/1.1 505")),
    },
    Row {
        id: "C-LSN-1/h2c",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(upgrade_to_h2),
        twin: Twin::RequestText(|text| text.replace("h2c", "h3c")),
    },
    Row {
        id: "C-LSN-3/h1",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(limits),
        twin: Twin::AnswerText(|text| text.replace("HTTP/1.1 431", "HTTP/1.1 400")),
    },
    Row {
        id: "C-FWD-5/h1",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(bodies),
        twin: Twin::RequestText(|text| {
            text.replace("x-echo-trailer: x-after", "x-echo-trailer: x-lost")
        }),
    },
    Row {
        id: "C-FWD-5/h1-worker",
        wires: Wires::H2,
        needs: Needs::Cluster,
        check: check!(old_worker),
        twin: Twin::Answer(|_, answer| {
            // A bug that takes a worker without HTTP/2 for none.
            answer.status = http::StatusCode::BAD_GATEWAY;
        }),
    },
    Row {
        id: "C-ERR-10/h1",
        wires: Wires::H1,
        needs: Needs::Client,
        check: check!(broken),
        twin: Twin::AnswerText(|text| {
            // A bug that gives a body an end that it did not have.
            text.replace("transfer-encoding: chunked", "connection: close")
        }),
    },
];

/// A connection, byte by byte.
pub struct Raw(pub TcpStream);

impl Raw {
    /// Opens one and writes this.
    pub async fn say(target: &Target, text: &str) -> Result<Raw, String> {
        let dialed = net::dial(&target.address, Duration::from_secs(5)).await;
        let mut stream = dialed.map_err(|error| error.to_string())?;
        stream
            .write_all(text.as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        Ok(Raw(stream))
    }

    /// Reads up to the end of a head, and nothing behind it.
    pub async fn head(&mut self) -> Result<String, String> {
        let mut head = Vec::new();
        let read = async {
            while !head.ends_with(b"\r\n\r\n") {
                match self.0.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(())
        };
        let read = tokio::time::timeout(Duration::from_secs(30), read).await;
        let text = String::from_utf8_lossy(&head).into_owned();
        match read {
            Ok(Ok(())) => Ok(text),
            Ok(Err(error)) => Err(format!("no head ({error}): {text:?}")),
            Err(_) => Err(format!("no head within 30 s: {text:?}")),
        }
    }
}

/// A header of a head as it stands on the wire; the name in any case.
pub fn header_of(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(own, _)| own.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim().to_owned())
}

/// A request's head as text, from what a call says.
pub fn text_of(ask: &Ask, more: &str) -> String {
    let mut text = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\n",
        ask.method, ask.path, ask.authority
    );
    for (name, value) in &ask.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}{more}\r\n")
}

async fn plain(target: Target) -> Checked {
    let mut conn = Conn::open(&target).await?;
    let call = target.ask("POST", "/plain").body("hello");
    for _ in 0..3 {
        let reply = conn.ask(&call).await?;
        same!(reply.status, 200, "HTTP/1.1");
        same!(reply.report()?.0["length"], 5, "the body");
    }
    let head = conn.ask(&target.ask("HEAD", "/head")).await?;
    ensure!(head.status == 200 && head.body.is_empty(), "HEAD: {head:?}");
    let refused = conn.ask(&call.clone().without("authorization")).await?;
    refused.refuses(401, "no authorization was passed in the metadata")?;
    same!(
        conn.ask(&call).await?.status,
        200,
        "the connection goes on behind a refusal"
    );
    let old = target.ask("GET", "/old");
    let text = text_of(&old, "").replace("HTTP/1.1", "HTTP/1.0");
    let mut raw = Raw::say(&target, &text).await?;
    let answer = raw.head().await?;
    ensure!(answer.contains(" 200 "), "HTTP/1.0 is understood: {answer}");
    Ok(())
}

async fn upgrade_to_h2(target: Target) -> Checked {
    let settings = base64(&[0, 3, 0, 0, 0, 100]).replace('=', "");
    let upgrade = format!(
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: {settings}\r\n"
    );
    let call = target.ask("GET", "/upgraded");
    let mut raw = Raw::say(&target, &text_of(&call, &upgrade)).await?;
    let head = raw.head().await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "101 for h2c: {head}");
    same!(
        header_of(&head, "upgrade").as_deref(),
        Some("h2c"),
        "the protocol"
    );
    let mut hello = pontoon_proto::connect::PREFACE.to_vec();
    hello.extend_from_slice(&crate::support::raw::frame(4, 0, 0, &[]));
    raw.0
        .write_all(&hello)
        .await
        .map_err(|error| error.to_string())?;
    // The answer of the upgraded request comes on stream 1.
    let read = async {
        loop {
            let mut head = [0; 9];
            raw.0
                .read_exact(&mut head)
                .await
                .map_err(|error| error.to_string())?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            raw.0
                .read_exact(&mut payload)
                .await
                .map_err(|error| error.to_string())?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let text = String::from_utf8_lossy(&payload).into_owned();
            if head[3] == 0 && stream == 1 && text.contains("/upgraded") {
                return Ok::<(), String>(());
            }
            ensure!(head[3] != 7, "GOAWAY instead of an answer on stream 1");
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    read.map_err(|_| "no answer on stream 1 within 10 s")??;
    // With a body there is no upgrade, but an answer.
    let body = format!("{upgrade}Content-Length: 2\r\n");
    let call = target.ask("POST", "/kept");
    let mut raw = Raw::say(&target, &(text_of(&call, &body) + "hi")).await?;
    let head = raw.head().await?;
    ensure!(
        head.starts_with("HTTP/1.1 200"),
        "a body keeps HTTP/1.1: {head}"
    );
    Ok(())
}

async fn limits(target: Target) -> Checked {
    let large = target
        .ask("GET", "/large")
        .with("x-wide", &"w".repeat(80 << 10));
    let mut raw = Raw::say(&target, &text_of(&large, "")).await?;
    let head = raw.head().await?;
    ensure!(head.starts_with("HTTP/1.1 431"), "a head of 80 KiB: {head}");
    let within = target
        .ask("GET", "/within")
        .with("x-wide", &"w".repeat(32 << 10));
    same!(ask(&target, &within).await?.status, 200, "a head of 32 KiB");
    // A head that never ends has 10 s.
    let mut raw = Raw::say(&target, "GET / HTTP/1.1\r\nHost: slow\r\n").await?;
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(15), raw.0.read_to_end(&mut rest)).await;
    ensure!(end.is_ok(), "half a head is kept for more than 15 s");
    // Two lengths are an attack on whoever is behind (RFC 9112, 6.3).
    for smuggled in [
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: gzip\r\n",
    ] {
        let call = target.ask("POST", "/smuggled");
        let mut raw = Raw::say(&target, &text_of(&call, smuggled)).await?;
        let head = raw.head().await?;
        let refused = head.starts_with("HTTP/1.1 400") || head.starts_with("HTTP/1.1 501");
        ensure!(refused, "{smuggled:?}: {head}");
    }
    // Of a length and chunks the chunks count, and the connection ends (RFC 9112, 6.1).
    let both = "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n";
    let call = target.ask("POST", "/both");
    let text = text_of(&call, both) + "5\r\nhello\r\n0\r\n\r\nGET /second HTTP/1.1\r\n\r\n";
    let mut raw = Raw::say(&target, &text).await?;
    let head = raw.head().await?;
    ensure!(
        head.starts_with("HTTP/1.1 200"),
        "chunks beside a length: {head}"
    );
    let mut rest = String::new();
    let end = tokio::time::timeout(Duration::from_secs(5), raw.0.read_to_string(&mut rest));
    ensure!(end.await.is_ok(), "the connection outlives both lengths");
    ensure!(
        !rest.contains("HTTP/1.1") && !rest.contains("content-length"),
        "both lengths: {rest}"
    );
    Ok(())
}

async fn bodies(target: Target) -> Checked {
    let call = target.ask("POST", "/bodies").with("te", "trailers");
    let trailers = call.clone().with("x-echo-trailer", "x-after: kept");
    // HTTP/1.1 carries those trailers that the head has announced.
    let trailers = trailers.with("x-echo-header", "trailer: x-after");
    let reply = ask(&target, &trailers.body("x").trailer("x-client", "too")).await?;
    let behind = reply.trailers.clone().unwrap_or_default();
    same!(
        behind.get("x-after"),
        Some(&HeaderValue::from_static("kept")),
        "a trailer"
    );
    let seen = reply.report()?;
    same!(
        seen.0["trailers"].to_string(),
        r#"[["x-client","too"]]"#,
        "the client's trailers"
    );
    let expect = target.ask("POST", "/expect");
    let more = "Expect: 100-continue\r\nContent-Length: 2\r\n";
    let mut raw = Raw::say(&target, &text_of(&expect, more)).await?;
    let early = raw.head().await?;
    ensure!(
        early.starts_with("HTTP/1.1 100"),
        "100 before the body: {early}"
    );
    raw.0
        .write_all(b"hi")
        .await
        .map_err(|error| error.to_string())?;
    let head = raw.head().await?;
    ensure!(
        head.starts_with("HTTP/1.1 200"),
        "the answer behind it: {head}"
    );
    let large = ask(
        &target,
        &target.ask("POST", "/long").body(vec![b'x'; 8 << 20]),
    )
    .await?;
    same!(large.report()?.0["length"], 8 << 20, "8 MiB");
    Ok(())
}

async fn old_worker(target: Target) -> Checked {
    let own = target.world.own_cluster()?;
    let old = own.function("only-h1", &["--slots", "200"], Behind::OnlyH1);
    let call = target
        .ask_of(&old.function, "POST", "/old-worker")
        .body("hello");
    let reply = ask(&target, &call).await?;
    same!(reply.status, 200, "a worker that speaks HTTP/1.1 only");
    let seen = reply.report()?;
    same!(seen.text("protocol"), "HTTP/1.1", "its protocol");
    same!(seen.text("authority"), "conformance.test", "its Host");
    same!(seen.0["length"], 5, "the body");
    Ok(())
}

async fn broken(target: Target) -> Checked {
    let call = target.ask("POST", "/broken").with("x-echo-messages", "10");
    let call = call
        .with("x-echo-size", "1000")
        .with("x-echo-reset-after", "3")
        .with("x-echo-late", "1");
    let chunked = text_of(&call, "Transfer-Encoding: chunked\r\n");
    let mut raw = Raw::say(&target, &chunked).await?;
    let head = raw.head().await?;
    let end = raw.0.write_all(b"0\r\n\r\n").await;
    ensure!(end.is_ok(), "the request's end is taken: {end:?}");
    ensure!(
        head.starts_with("HTTP/1.1 200"),
        "the answer begins: {head}"
    );
    let coding = header_of(&head, "transfer-encoding").unwrap_or_default();
    same!(
        coding,
        "chunked",
        "a body whose end can be told from a break"
    );
    let mut rest = Vec::new();
    let read = raw.0.read_to_end(&mut rest);
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    ensure!(read.is_ok(), "a broken answer's connection goes on");
    ensure!(!rest.ends_with(b"0\r\n\r\n"), "a broken answer has no end");
    Ok(())
}

#[test]
fn c_lsn_1_http_1_1_on_the_same_port() {
    prove("C-LSN-1/h1");
}

#[test]
fn c_lsn_1_h2c_by_upgrade_on_the_same_port() {
    prove("C-LSN-1/h2c");
}

#[test]
fn c_lsn_3_heads_over_http_1_1_are_bounded_in_size_time_and_ambiguity() {
    prove("C-LSN-3/h1");
}

#[test]
fn c_fwd_5_bodies_and_trailers_cross_over_http_1_1() {
    prove("C-FWD-5/h1");
}

#[test]
fn c_fwd_5_a_worker_may_speak_http_1_1_only() {
    prove("C-FWD-5/h1-worker");
}

#[test]
fn c_err_10_a_broken_answer_over_http_1_1_has_no_end() {
    prove("C-ERR-10/h1");
}
