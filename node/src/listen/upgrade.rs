//! HTTP/2 by `Upgrade: h2c` (RFC 7540 3.2): the request that asked for it becomes stream 1.
//!
//! Neither h2 nor hyper has the server's side of it, but h2 needs no more than a client's bytes. So
//! [`injected`] gives it the client's preface and first SETTINGS, then a HEADERS frame of stream 1 made
//! of the HTTP/1.1 request, then whatever follows. The settings of the header `HTTP2-Settings` are
//! checked for their form and not used: the client sends the same in its first frame, and a SETTINGS
//! frame that we made up would be acknowledged, which the client does not expect.

use bytes::{Buf as _, Bytes};
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Method};
use pontoon_proto::connect::PREFACE;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The settings of the request that asks.
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The largest frame that every HTTP/2 endpoint takes (RFC 9113 4.2).
const FRAME_MAX: usize = 16 * 1024;

/// A frame header's length.
const HEADER: usize = 9;

/// The preface and the header of the first frame.
const BEGINNING: usize = PREFACE.len() + HEADER;

/// Why a request can't become stream 1: it is answered in HTTP/1.1, as if it had not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadUpgrade {
    /// Not exactly one `HTTP2-Settings`, or not the payload of a SETTINGS frame in base64url.
    #[error("HTTP2-Settings is not there once and well-formed")]
    Settings,
    /// The client would have to send its body in HTTP/1.1 first.
    #[error("the request has a body")]
    Body,
    /// A CONNECT has no path, and its stream would be a tunnel.
    #[error("the request is a CONNECT")]
    Connect,
    /// Not exactly one host.
    #[error("the request does not name one host")]
    Host,
}

/// The upgraded connection, with the frames of [`stream_1`] put in. Our 101 was sent before.
pub(super) fn injected<IO>(io: IO, frames: Bytes) -> Injected<IO> {
    Injected {
        io,
        phase: Phase::Beginning([0; BEGINNING], 0),
        frames,
    }
}

/// What of the client's bytes comes next.
enum Phase {
    /// Its preface and the header of its first frame, of which so much is there.
    Beginning([u8; BEGINNING], usize),
    /// The rest of its first frame, so many bytes.
    Settings(usize),
    /// Our frames.
    Ours,
    /// All that follows.
    Rest,
}

/// See [`injected`].
pub(super) struct Injected<IO> {
    io: IO,
    phase: Phase,
    frames: Bytes,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Injected<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let io = Pin::new(&mut this.io);
        match &mut this.phase {
            Phase::Beginning(seen, filled) => {
                let read = ready!(take(io, cx, buf, BEGINNING - *filled))?;
                let new = &buf.filled()[buf.filled().len() - read..];
                seen[*filled..][..read].copy_from_slice(new);
                *filled += read;
                if *filled == BEGINNING {
                    this.phase = match first_frame(seen) {
                        Some(0) => Phase::Ours,
                        Some(length) => Phase::Settings(length),
                        None => {
                            return Poll::Ready(Err(io::Error::new(
                                io::ErrorKind::InvalidData,
                                "no HTTP/2 preface and SETTINGS behind the upgrade",
                            )));
                        }
                    };
                }
            }
            Phase::Settings(left) => {
                *left -= ready!(take(io, cx, buf, *left))?;
                if *left == 0 {
                    this.phase = Phase::Ours;
                }
            }
            Phase::Ours => {
                let part = this.frames.len().min(buf.remaining());
                buf.put_slice(&this.frames[..part]);
                this.frames.advance(part);
                if this.frames.is_empty() {
                    this.frames = Bytes::new();
                    this.phase = Phase::Rest;
                }
            }
            Phase::Rest => return io.poll_read(cx, buf),
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads at most so many bytes; gives how many it were.
fn take<IO: AsyncRead>(
    io: Pin<&mut IO>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
    most: usize,
) -> Poll<io::Result<usize>> {
    let most = most.min(buf.remaining());
    let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
    ready!(io.poll_read(cx, &mut part))?;
    let read = part.filled().len();
    buf.advance(read);
    Poll::Ready(Ok(read))
}

/// The payload's length of a client's first frame; `None` where it is no SETTINGS.
fn first_frame(seen: &[u8; BEGINNING]) -> Option<usize> {
    let header = seen.strip_prefix(PREFACE)?;
    let [a, b, c, 4, flags, 0, 0, 0, 0] = *header.first_chunk::<HEADER>()? else {
        return None;
    };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    (flags & 0x1 == 0 && length <= FRAME_MAX && length.is_multiple_of(6)).then_some(length)
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Injected<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The frames of stream 1: HEADERS, and CONTINUATION where one is not enough.
pub(super) fn stream_1(head: &Parts) -> Result<Bytes, BadUpgrade> {
    let block = header_block(head)?;
    let mut frames = Vec::with_capacity(block.len() + 5 * HEADER);
    let mut parts = block.chunks(FRAME_MAX).peekable();
    // HEADERS with END_STREAM, then CONTINUATION; END_HEADERS on the last.
    let mut begin = [1, 0x1];
    while let Some(part) = parts.next() {
        let [kind, flags] = std::mem::replace(&mut begin, [9, 0]);
        let last = if parts.peek().is_none() { 0x4 } else { 0 };
        frames.extend_from_slice(&(part.len() as u32).to_be_bytes()[1..]);
        frames.extend_from_slice(&[kind, flags | last, 0, 0, 0, 1]);
        frames.extend_from_slice(part);
    }
    Ok(frames.into())
}

/// The head as HPACK literals without indexing and without Huffman coding (RFC 7541 6.2.2): the
/// decoder's table stays empty, so that the client's own first block meets it as it must.
fn header_block(head: &Parts) -> Result<Vec<u8>, BadUpgrade> {
    judge(head)?;
    let authority = authority(head)?;
    let path = match head.uri.path_and_query() {
        Some(path) if !path.as_str().is_empty() => path.as_str(),
        _ => "/",
    };
    let mut block = Vec::new();
    for (name, value) in [
        (":method", head.method.as_str()),
        (":scheme", "http"),
        (":authority", authority),
        (":path", path),
    ] {
        literal(&mut block, name, value.as_bytes());
    }
    for (name, value) in &head.headers {
        let trailers = *name == header::TE && value.as_bytes().eq_ignore_ascii_case(b"trailers");
        if trailers || !is_hop_by_hop(name, &head.headers) {
            literal(&mut block, name.as_str(), value.as_bytes());
        }
    }
    Ok(block)
}

fn judge(head: &Parts) -> Result<(), BadUpgrade> {
    let mut settings = head.headers.get_all(HTTP2_SETTINGS).iter();
    match (settings.next(), settings.next()) {
        (Some(one), None) if is_settings_payload(one.as_bytes()) => {}
        _ => return Err(BadUpgrade::Settings),
    }
    if head.method == Method::CONNECT {
        return Err(BadUpgrade::Connect);
    }
    let lengths = head.headers.get_all(header::CONTENT_LENGTH);
    if head.headers.contains_key(header::TRANSFER_ENCODING)
        || lengths.iter().any(|length| length.as_bytes() != b"0")
    {
        return Err(BadUpgrade::Body);
    }
    Ok(())
}

/// Whether this is base64url without padding of settings, 6 bytes each: 8 digits for every one.
fn is_settings_payload(text: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.len().is_multiple_of(8) && text.iter().all(digit)
}

/// The host that is called: of a target in absolute form, else of `Host` (RFC 9112 3.2.2).
fn authority(head: &Parts) -> Result<&str, BadUpgrade> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| BadUpgrade::Host)?,
        _ => return Err(BadUpgrade::Host),
    };
    match head.uri.authority() {
        Some(authority) => Ok(authority.as_str()),
        None if host.is_empty() => Err(BadUpgrade::Host),
        None => Ok(host),
    }
}

/// What is said to the next hop only, and what HTTP/2 has no place for (RFC 9113 8.2.2).
fn is_hop_by_hop(name: &HeaderName, headers: &HeaderMap) -> bool {
    let fixed = [
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::TRANSFER_ENCODING,
        header::TE,
        HTTP2_SETTINGS,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    let named = || {
        let lists = headers.get_all(header::CONNECTION).iter();
        lists
            .filter_map(|list| list.to_str().ok())
            .flat_map(|list| list.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(name.as_str()))
    };
    fixed.contains(name) || named()
}

fn literal(block: &mut Vec<u8>, name: &str, value: &[u8]) {
    block.push(0);
    for text in [name.as_bytes(), value] {
        length(block, text.len());
        block.extend_from_slice(text);
    }
}

/// An integer with a prefix of seven bits (RFC 7541 5.1), the eighth being "no Huffman coding".
fn length(block: &mut Vec<u8>, value: usize) {
    const PREFIX: usize = 127;
    let Some(mut rest) = value.checked_sub(PREFIX) else {
        block.push(value as u8);
        return;
    };
    block.push(PREFIX as u8);
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::super::frames::tests::frame;
    use super::*;
    use crate::tasks::{self, Kind};
    use h2::{RecvStream, server};
    use http::Request;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A request that asks for the upgrade well.
    fn asking() -> http::request::Builder {
        Request::builder()
            .uri("/a/path?with=query")
            .header("host", "example.com:81")
            .header("connection", "Upgrade, HTTP2-Settings, X-Mine")
            .header("upgrade", "h2c")
            .header("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA")
    }

    fn parts(builder: http::request::Builder) -> Parts {
        builder.body(()).unwrap().into_parts().0
    }

    /// What the server's side sees of an upgraded client that sends `client`, and then calls by itself.
    async fn seen(head: &Parts, pieces: usize) -> Vec<Request<RecvStream>> {
        let (mut client, io) = tokio::io::duplex(256 * 1024);
        let io = injected(io, stream_1(head).unwrap());
        let server = tasks::spawn(Kind::Worker, "server", async move {
            let mut builder = server::Builder::new();
            builder.max_header_list_size(256 * 1024);
            let mut h2 = builder.handshake::<_, Bytes>(io).await.unwrap();
            let mut all = Vec::new();
            while all.len() < 2 {
                let (request, mut respond) = h2.accept().await.unwrap().unwrap();
                respond
                    .send_response(http::Response::new(()), true)
                    .unwrap();
                all.push(request);
            }
            all
        });
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]));
        bytes.extend(frame(8, 0, 0, &[0, 0, 1, 0]));
        // ":method: GET, :scheme: http, :path: /" and ":authority: x" with indexing.
        bytes.extend(frame(1, 0x5, 3, &[0x82, 0x86, 0x84, 0x41, 1, b'x']));
        for piece in bytes.chunks(pieces) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let all = server.await.unwrap();
        let mut said = [0; 9];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(said[3], 4, "the server's preface is SETTINGS");
        all
    }

    #[tokio::test]
    async fn c_lsn_1_the_request_that_asked_for_h2c_is_stream_1_and_others_follow() {
        let head = parts(
            asking()
                .method("DELETE")
                .header("te", "trailers")
                .header("keep-alive", "timeout=5")
                .header("x-mine", "mine")
                .header("x-long", "v".repeat(300))
                .header("content-length", "0")
                .header("cookie", "a=1")
                .header("cookie", "b=2"),
        );
        for pieces in [1, 7, 33, 4096] {
            let all = seen(&head, pieces).await;
            let first = &all[0];
            assert_eq!(first.method(), Method::DELETE);
            assert_eq!(first.uri(), "http://example.com:81/a/path?with=query");
            let mut names: Vec<_> = first.headers().keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["content-length", "cookie", "te", "x-long"]);
            assert_eq!(first.headers()["x-long"].len(), 300);
            assert_eq!(first.headers().get_all("cookie").iter().count(), 2);
            assert!(first.body().is_end_stream());
            assert_eq!(all[1].uri(), "http://x/");
        }
    }

    #[tokio::test]
    async fn c_lsn_1_a_head_that_does_not_fit_one_frame_goes_on_in_others() {
        let mut request = asking();
        for n in 0..60 {
            request = request.header(format!("x-{n}"), "x".repeat(1000));
        }
        let all = seen(&parts(request), 4096).await;
        assert_eq!(all[0].headers().len(), 60);
        let absolute = asking().uri("http://other.example/p").method("OPTIONS");
        let all = seen(&parts(absolute), 4096).await;
        assert_eq!(all[0].uri(), "http://other.example/p");
        let all = seen(&parts(asking().uri("*").method("OPTIONS")), 4096).await;
        assert_eq!(all[0].uri().path(), "*");
    }

    #[test]
    fn c_lsn_1_requests_that_cannot_be_stream_1_say_why() {
        let without = |name: &str| {
            let mut head = parts(asking());
            head.headers.remove(name);
            head
        };
        let with = |name: &str, value: &str| parts(asking().header(name, value));
        for (head, why) in [
            (without("http2-settings"), BadUpgrade::Settings),
            (with("http2-settings", ""), BadUpgrade::Settings),
            (without("host"), BadUpgrade::Host),
            (with("host", "other"), BadUpgrade::Host),
            (with("content-length", "1"), BadUpgrade::Body),
            (with("transfer-encoding", "chunked"), BadUpgrade::Body),
            (
                parts(asking().method("CONNECT").uri("h:1")),
                BadUpgrade::Connect,
            ),
        ] {
            assert_eq!(stream_1(&head).unwrap_err(), why);
        }
        for (text, good) in [
            ("", true),
            ("AAMAAABk", true),
            ("AAMAAABk====", false),
            ("AAMAAAB", false),
            ("AAMAAAB+", false),
            ("AAMAAABkAAQA", false),
        ] {
            assert_eq!(is_settings_payload(text.as_bytes()), good, "{text}");
        }
    }

    #[tokio::test]
    async fn c_lsn_1_what_follows_the_upgrade_must_be_http_2() {
        for bytes in [
            [b'G'; BEGINNING].to_vec(),
            [&PREFACE[..], &frame(4, 1, 0, &[])].concat(),
            [&PREFACE[..], &frame(6, 0, 0, &[0; 8])].concat(),
            [&PREFACE[..], &frame(4, 0, 1, &[])].concat(),
        ] {
            let (mut client, io) = tokio::io::duplex(1024);
            client.write_all(&bytes).await.unwrap();
            let mut io = injected(io, stream_1(&parts(asking())).unwrap());
            let error = io.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
