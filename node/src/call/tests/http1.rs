//! HTTP/1.1 clients, byte for byte; their worker speaks HTTP/2.

use super::world::{F, Plan, World, bounded, until};
use crate::drain::Stage;
use crate::listen::close::CloseReason;
use crate::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    keys: String,
}

/// An answer: its head in lower case, and its body with chunks put together.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Client {
    async fn connect(world: &World) -> Self {
        Client {
            stream: TcpStream::connect(world.address).await.unwrap(),
            read: Vec::new(),
            keys: format!(
                "Host: gateway.test\r\nAuthorization: Bearer {}\r\nFunction-Id: {F}\r\n",
                world.keys.alice
            ),
        }
    }

    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends a request with the usual keys. `rest` is more header lines, the empty one, and a body.
    async fn ask(&mut self, line: &str, rest: &str) -> Answer {
        let text = format!("{line} HTTP/1.1\r\n{}{rest}", self.keys);
        self.write(&text).await;
        self.answer().await
    }

    /// Reads more; false at the end of the connection, however it came.
    async fn more(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let n = bounded(self.stream.read(&mut chunk)).await.unwrap_or(0);
        self.read.extend_from_slice(&chunk[..n]);
        n > 0
    }

    async fn until(&mut self, what: &[u8]) -> Vec<u8> {
        loop {
            let at = self.read.windows(what.len()).position(|w| w == what);
            if let Some(at) = at {
                return self.read.drain(..at + what.len()).collect();
            }
            assert!(self.more().await, "cut: {:?}", self.read.escape_ascii());
        }
    }

    async fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.read.len() < n {
            assert!(self.more().await, "cut: {:?}", self.read.escape_ascii());
        }
        self.read.drain(..n).collect()
    }

    async fn answer(&mut self) -> Answer {
        let head = self.until(b"\r\n\r\n").await;
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let mut body = Vec::new();
        if head.contains("transfer-encoding: chunked") {
            loop {
                let size = String::from_utf8(self.until(b"\r\n").await).unwrap();
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                body.extend(self.exactly(size).await);
                self.until(b"\r\n").await;
                if size == 0 {
                    break;
                }
            }
        } else if let Some((_, rest)) = head.split_once("content-length: ") {
            let size = rest.split("\r\n").next().unwrap().parse().unwrap();
            body = self.exactly(size).await;
        }
        Answer { head, body }
    }
}

fn session(answer: &Answer) -> &str {
    let (_, rest) = answer.head.split_once("nvcf-reqid: ").expect("an id");
    rest.split("\r\n").next().unwrap()
}

#[tokio::test]
async fn c_lsn_1_c_pin_1_requests_of_one_connection_share_a_session_and_get_its_cookie_once() {
    let world = World::new().await;
    let mut client = Client::connect(&world).await;
    let first = client
        .ask("POST /unary", "Content-Length: 5\r\n\r\nhello")
        .await;
    assert!(first.head.starts_with("http/1.1 200 ok\r\n"));
    assert_eq!(first.body, b"hello");
    let cookie = format!(
        "set-cookie: nvcf-request-id={}; path=/; samesite=lax",
        session(&first)
    );
    assert!(first.head.contains(&cookie), "{}", first.head);
    let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let second = client.ask("POST /unary", chunked).await;
    assert_eq!(second.body, b"abcde");
    assert_eq!(session(&second), session(&first));
    assert!(!second.head.contains("set-cookie"));
    let head = world.seen().last_head();
    assert_eq!(head.uri(), "http://gateway.test/unary");
    assert!(!head.headers().contains_key("transfer-encoding"));
    assert!(!head.headers().contains_key("host"));
}

#[tokio::test]
async fn c_err_1_a_fault_is_plain_text_and_the_connection_goes_on() {
    let world = World::new().await;
    let mut client = Client::connect(&world).await;
    client
        .write("GET / HTTP/1.1\r\nHost: x\r\nOrigin: https://page.test\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(answer.head.starts_with("http/1.1 401 unauthorized\r\n"));
    assert_eq!(answer.body, b"no authorization was passed in the metadata");
    assert!(
        answer
            .head
            .contains("access-control-allow-origin: https://page.test")
    );
    let next = client.ask("GET /trailers-only", "\r\n").await;
    assert!(next.head.starts_with("http/1.1 200 ok\r\n"));
}

#[tokio::test]
async fn c_err_10_an_answer_that_breaks_is_cut_and_never_looks_complete() {
    let world = World::new().await;
    for path in ["/die-after", "/reset-after"] {
        let mut client = Client::connect(&world).await;
        let text = format!(
            "POST {path} HTTP/1.1\r\n{}Content-Length: 2\r\n\r\nxx",
            client.keys
        );
        client.write(&text).await;
        while client.more().await {}
        let all = String::from_utf8_lossy(&client.read).into_owned();
        assert!(all.starts_with("HTTP/1.1 200 OK"), "{all}");
        assert!(!all.ends_with("0\r\n\r\n"), "{path}: {all}");
    }
}

#[tokio::test]
async fn a_request_without_a_host_opens_no_session() {
    let world = World::new().await;
    let mut client = Client::connect(&world).await;
    client.keys = client.keys.replace("Host: gateway.test\r\n", "");
    let answer = client.ask("GET /unary", "\r\n").await;
    assert!(answer.head.starts_with("http/1.1 501"), "{}", answer.head);
    assert_eq!(world.sessions.open_starts.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn c_fwd_8_a_client_that_leaves_is_seen_by_the_worker() {
    let world = World::new().await;
    let mut client = Client::connect(&world).await;
    let text = format!("GET /hang HTTP/1.1\r\n{}\r\n", client.keys);
    client.write(&text).await;
    until("the worker has it", || {
        !world.seen().heads.lock().unwrap().is_empty()
    })
    .await;
    drop(client);
    until("the worker sees the end", || {
        !world.seen().resets.lock().unwrap().is_empty()
    })
    .await;
}

#[tokio::test]
async fn c_lsn_3_a_head_that_never_ends_is_given_up_also_behind_a_good_request() {
    let mut plan = Plan::default();
    plan.limits.handshake = Duration::from_millis(200);
    let world = World::with(plan).await;
    let mut slow = Client::connect(&world).await;
    slow.ask("POST /unary", "Content-Length: 2\r\n\r\nhi").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    // A pause between two requests is no slow head.
    slow.ask("POST /unary", "Content-Length: 2\r\n\r\nhi").await;
    slow.write("GET / HTTP/1.1\r\nHost: gateway").await;
    while slow.more().await {}
    assert!(slow.read.is_empty());
    until("it is counted", || {
        world.counters.closes(CloseReason::Mute) == 1
    })
    .await;
}

#[tokio::test]
async fn c_lsn_4_a_connection_without_requests_is_closed() {
    let mut plan = Plan::default();
    plan.limits.idle = Duration::from_millis(200);
    let world = World::with(plan).await;
    let mut idle = Client::connect(&world).await;
    idle.ask("POST /unary", "Content-Length: 2\r\n\r\nhi").await;
    assert!(!idle.more().await);
}

#[tokio::test]
async fn c_err_12_a_draining_node_closes_after_the_answer_and_says_so() {
    let world = World::new().await;
    let mut client = Client::connect(&world).await;
    let text = format!(
        "POST /unary HTTP/1.1\r\n{}Content-Length: 2\r\n\r\n",
        client.keys
    );
    client.write(&text).await;
    until("the call is in", || world.counters.calls.get() == 1).await;
    world.drain.enter(Stage::Draining);
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.write("hi").await;
    let answer = client.answer().await;
    assert_eq!(answer.body, b"hi");
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    assert!(!client.more().await);
}

#[tokio::test]
async fn c_err_12_a_call_that_still_waits_when_the_grace_is_over_hears_why() {
    let world = World::with(Plan {
        opens: 0,
        ..Plan::default()
    })
    .await;
    let mut plain = Client::connect(&world).await;
    let text = format!("GET /unary HTTP/1.1\r\n{}\r\n", plain.keys);
    plain.write(&text).await;
    let mut grpc = world.connect().await;
    let request = grpc.request("/unary");
    let (response, _stream) = grpc.start(request, true).await;
    until("both wait", || world.counters.calls.get() == 2).await;
    world.drain.enter(Stage::Draining);
    world.drain.enter(Stage::Stopped);
    let answer = bounded(super::world::read(response)).await.unwrap();
    assert_eq!(answer.fault(), ("14", "node is draining"));
    let answer = plain.answer().await;
    assert!(answer.head.starts_with("http/1.1 503 "), "{}", answer.head);
    assert_eq!(answer.body, b"node is draining");
    until("the listener is done", || world.served.is_finished()).await;
}

#[tokio::test]
async fn conflicting_lengths_and_bare_line_ends_smuggle_nothing() {
    let world = World::new().await;
    for rest in [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "Content-Length: 5, 6\r\n\r\nhello",
        "Content-Length: +5\r\n\r\nhello",
        "Transfer-Encoding: gzip\r\n\r\nhello",
        "X-A: b\rX-C: d\r\n\r\n",
        "X A: b\r\n\r\n",
    ] {
        let mut client = Client::connect(&world).await;
        let answer = client.ask("POST /unary", rest).await;
        assert!(
            answer.head.starts_with("http/1.1 400 "),
            "{rest:?}: {}",
            answer.head
        );
    }
    assert!(world.seen().heads.lock().unwrap().is_empty());
    // Both lengths said: the chunks count, and the other one goes no further (RFC 9112 6.3).
    let mut client = Client::connect(&world).await;
    let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let answer = client.ask("POST /unary", both).await;
    assert_eq!(answer.body, b"hello");
    let head = world.seen().last_head();
    assert!(!head.headers().contains_key("content-length"));
}
