//! The worker over HTTP/1.1, by hand: nothing is added or tidied up.

use super::Notes;
use super::asked::{Asked, Body, message};
use crate::wire::{accept_of, ws};
use http::{HeaderMap, HeaderName, HeaderValue};
use pontoon::net::TcpStream;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

type Stream = BufReader<TcpStream>;

/// The most that a head may have: above the 64 KiB that Pontoon lets through.
const HEAD_MAX: usize = 256 << 10;

/// Serves one connection, request after request.
pub(super) async fn serve(stream: TcpStream, notes: Arc<Notes>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = head(&mut stream).await? {
        notes.add(asked.tag(), "began");
        let upgrade = header(&asked.headers, "upgrade").eq_ignore_ascii_case("websocket");
        let end = if upgrade {
            websocket(&asked, &mut stream).await
        } else {
            exchange(&asked, &mut stream, &notes).await
        };
        notes.add(asked.tag(), if end.is_ok() { "ended" } else { "gone" });
        end?;
        if upgrade {
            break;
        }
    }
    Ok(())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

async fn head(stream: &mut Stream) -> io::Result<Option<Asked>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut bytes).await? == 0 || bytes.len() > HEAD_MAX {
            return Ok(None);
        }
    }
    let mut slots = vec![httparse::EMPTY_HEADER; 512];
    let mut parsed = httparse::Request::new(&mut slots);
    parsed.parse(&bytes).map_err(io::Error::other)?;
    let mut headers = HeaderMap::new();
    for found in parsed.headers.iter() {
        let name = HeaderName::from_bytes(found.name.as_bytes()).map_err(io::Error::other)?;
        let value = HeaderValue::from_bytes(found.value).map_err(io::Error::other)?;
        headers.append(name, value);
    }
    Ok(Some(Asked {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: parsed.path.unwrap_or_default().to_owned(),
        authority: header(&headers, "host").to_owned(),
        scheme: String::new(),
        protocol: "HTTP/1.1",
        headers,
    }))
}

async fn exchange(asked: &Asked, stream: &mut Stream, notes: &Notes) -> io::Result<()> {
    if !asked.told("hold").is_empty() {
        let gone = stream.read(&mut [0; 1]).await?;
        return if gone == 0 {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        };
    }
    if let Some(code) = asked.number("informational") {
        let early = format!("HTTP/1.1 {code} Early\r\nx-early: yes\r\n\r\n");
        stream.write_all(early.as_bytes()).await?;
    } else if header(&asked.headers, "expect").eq_ignore_ascii_case("100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut taken = Body::default();
    let mut trailers = None;
    if header(&asked.headers, "transfer-encoding").eq_ignore_ascii_case("chunked") {
        trailers = Some(chunks(stream, &mut taken).await?);
    } else if let Ok(length) = header(&asked.headers, "content-length").parse::<u64>() {
        let mut rest = length;
        let mut buffer = vec![0; 64 << 10];
        while rest > 0 {
            let most = buffer
                .len()
                .min(usize::try_from(rest).unwrap_or(usize::MAX));
            let read = stream.read(&mut buffer[..most]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            taken.take(&buffer[..read]);
            rest -= read as u64;
        }
    }
    notes.add(asked.tag(), "heard");
    answer(asked, stream, &taken, trailers.as_ref()).await
}

/// The head of an answer up to the line that says how its body ends.
fn opening(asked: &Asked) -> String {
    let answer = asked.head();
    let mut head = format!("HTTP/1.1 {} Echo\r\n", answer.status().as_u16());
    for (name, value) in answer.headers() {
        head.push_str(&format!(
            "{name}: {}\r\n",
            value.to_str().unwrap_or_default()
        ));
    }
    head
}

async fn answer(
    asked: &Asked,
    stream: &mut Stream,
    taken: &Body,
    trailers: Option<&HeaderMap>,
) -> io::Result<()> {
    let mut pieces = vec![asked.answer(taken, trailers)];
    if let Some(count) = asked.number("messages") {
        let one = message(&vec![b'x'; asked.number("size").unwrap_or(1) as usize]);
        pieces = vec![one; count as usize];
    }
    let mut behind = asked.trailers();
    if asked.is_grpc_web() {
        pieces.push(asked.web_trailers());
        behind.clear();
    }
    let mut head = opening(asked);
    if asked.method == "HEAD" || matches!(asked.number("status"), Some(204 | 304)) {
        head.push_str("\r\n");
        return stream.write_all(head.as_bytes()).await;
    }
    if behind.is_empty() && asked.number("messages").is_none() {
        let length: usize = pieces.iter().map(Vec::len).sum();
        head.push_str(&format!("content-length: {length}\r\n\r\n"));
        stream.write_all(head.as_bytes()).await?;
        for piece in pieces {
            stream.write_all(&piece).await?;
        }
        return Ok(());
    }
    head.push_str("transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for (sent, piece) in pieces.iter().enumerate() {
        if asked.number("reset-after") == Some(sent as u64) {
            stream.get_mut().shutdown().await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        stream
            .write_all(format!("{:x}\r\n", piece.len()).as_bytes())
            .await?;
        stream.write_all(piece).await?;
        stream.write_all(b"\r\n").await?;
    }
    let mut end = "0\r\n".to_owned();
    for (name, value) in &behind {
        end.push_str(&format!(
            "{name}: {}\r\n",
            value.to_str().unwrap_or_default()
        ));
    }
    end.push_str("\r\n");
    stream.write_all(end.as_bytes()).await
}

async fn chunks(stream: &mut Stream, taken: &mut Body) -> io::Result<HeaderMap> {
    loop {
        let line = line(stream).await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 {
            break;
        }
        let mut piece = vec![0; size + 2];
        stream.read_exact(&mut piece).await?;
        taken.take(&piece[..size]);
    }
    let mut trailers = HeaderMap::new();
    loop {
        let line = line(stream).await?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok(trailers);
        };
        let name = name.parse::<HeaderName>().map_err(io::Error::other)?;
        trailers.append(
            name,
            HeaderValue::from_str(value.trim()).map_err(io::Error::other)?,
        );
    }
}

async fn line(stream: &mut Stream) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

async fn websocket(asked: &Asked, stream: &mut Stream) -> io::Result<()> {
    let mut head =
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            .to_owned();
    if let Some(status) = asked.parameter("status") {
        let head = format!("HTTP/1.1 {status} No\r\ncontent-length: 2\r\nx-why: asked\r\n\r\nno");
        return stream.write_all(head.as_bytes()).await;
    }
    let accept = accept_of(header(&asked.headers, "sec-websocket-key"));
    head.push_str(&format!("sec-websocket-accept: {accept}\r\n"));
    if let Some(protocol) = asked.parameter("protocol") {
        head.push_str(&format!("sec-websocket-protocol: {protocol}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    let report = asked.report(&Body::default(), None).to_string();
    ws::write(stream, &ws::Frame::text(&report), false).await?;
    if let Some(code) = asked.parameter("close").and_then(|code| code.parse().ok()) {
        return ws::write(stream, &ws::Frame::close(code), false).await;
    }
    loop {
        let mut frame = ws::read(stream).await?;
        if frame.opcode == ws::PING {
            frame.opcode = ws::PONG;
        }
        ws::write(stream, &frame, false).await?;
        if frame.opcode == ws::CLOSE {
            return Ok(());
        }
    }
}
