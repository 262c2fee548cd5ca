//! The client listeners as clients, load balancers and attackers meet them.

mod support;

use rustix::net::{AddressFamily, SocketType};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use support::client::{Client, keys};
use support::cluster::{self, Cluster, PONTOON};
use support::process::send;
use support::raw::frame;
use support::worker::{Function, Sidecar, Worker};
use support::{cli, python, wait};

/// The load balancer of these tests: its connections begin with a PROXY header.
const BALANCER: [u8; 4] = [127, 0, 0, 2];

/// The bound on first bytes and heads, so that tests don't wait for the default of 10 s.
const HANDSHAKE_MS: &str = "1500";

/// How long a node may take for what it does at once, and for what the bound above is for.
const SOON: Duration = Duration::from_secs(20);

const PREFACE: &[u8] = pontoon_proto::connect::PREFACE;

/// A cluster whose nodes show clients a certificate of a CA that is nobody else's.
struct Edge {
    cluster: Cluster,
    folder: PathBuf,
}

impl Edge {
    fn shared() -> &'static Edge {
        static SHARED: OnceLock<Edge> = OnceLock::new();
        SHARED.get_or_init(|| {
            let folder = cluster::folder();
            let edge = folder.join("edge");
            make(&["ca", "--out", text(&folder.join("ca")), "--cluster", "edge"]);
            issue(&folder);
            let list = format!("[\"{}\"]", std::net::Ipv4Addr::from(BALANCER));
            let (cert, key) = (edge.join("node.pem"), edge.join("node.key"));
            let environment = [
                ("PONTOON__TLS__CLIENT_CERT_FILE", text(&cert)),
                ("PONTOON__TLS__CLIENT_KEY_FILE", text(&key)),
                ("PONTOON__LISTEN__CLIENT_PROXY_FROM", &list),
                ("PONTOON__LISTEN__CLIENT_TLS_PROXY_FROM", &list),
                ("PONTOON__LIMITS__HANDSHAKE_MS", HANDSHAKE_MS),
            ];
            let cluster = Cluster::start_with(&folder, &["--slots", "64"], &environment);
            Edge { cluster, folder }
        })
    }

    fn ca(&self) -> PathBuf {
        self.folder.join("ca/ca.pem")
    }

    /// The first node's listeners for clients, in clear text and with TLS.
    fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let node = self.cluster.ready().node("us-east-1");
        let path = self.cluster.data().join("config/us-east-1.toml");
        let config = fs::read_to_string(path).expect("a configuration");
        let line = config
            .lines()
            .find_map(|line| line.strip_prefix("client_tls = "));
        let tls = line.expect("a port with TLS").trim_matches('"');
        (
            node.client.parse().expect("an address"),
            tls.parse().expect("an address"),
        )
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a printable path")
}

fn make(arguments: &[&str]) {
    let mut command = Command::new(PONTOON);
    cli::run(command.arg("cert").args(arguments));
}

/// Makes, or makes anew, the certificate for clients.
fn issue(folder: &Path) {
    let (ca, out) = (folder.join("ca"), folder.join("edge"));
    let (ca, out) = (text(&ca), text(&out));
    make(&[
        "node", "--ca", ca, "--name", "edge", "--out", out, "--force",
    ]);
}

/// HEADERS of a request for `/` of `x` (HPACK's static table).
fn head(flags: u8, stream: u32) -> Vec<u8> {
    frame(1, flags, stream, &[0x82, 0x86, 0x84, 0x41, 1, b'x'])
}

fn dial(address: SocketAddr) -> TcpStream {
    bounded(TcpStream::connect(address).expect("a connection"))
}

fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(SOON)).expect("a bound");
    stream.set_write_timeout(Some(SOON)).expect("a bound");
    stream
}

/// A connection from the balancer's address.
fn dial_as_balancer(address: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
    let socket = socket.expect("a socket");
    rustix::net::bind(&socket, &SocketAddr::from((BALANCER, 0))).expect("a loopback address");
    rustix::net::connect(&socket, &address).expect("a connection");
    bounded(TcpStream::from(socket))
}

/// Sends this, and reads until the other side ends the connection.
fn said_to(mut stream: TcpStream, bytes: Vec<u8>) -> Vec<u8> {
    let mut writing = stream.try_clone().expect("a second handle");
    let writer = std::thread::spawn(move || writing.write_all(&bytes).is_ok());
    let mut said = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(read) => said.extend(&part[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection was not ended: {error}"),
        }
    }
    drop(stream);
    writer.join().expect("no panic");
    said
}

/// The reason of the last GOAWAY.
fn goodbye(mut said: &[u8]) -> Option<u32> {
    let mut reason = None;
    while let Some(([a, b, c, kind, ..], rest)) = said.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = rest.get(..length)?;
        if *kind == 7 {
            reason = payload.get(4..8)?.try_into().ok().map(u32::from_be_bytes);
        }
        said = &rest[length..];
    }
    reason
}

/// ENHANCE_YOUR_CALM (RFC 9113 7).
const CALM: Option<u32> = Some(11);

/// Whether an HTTP/2 server answers: its first frame is SETTINGS.
fn answers_http_2(mut stream: TcpStream, before: &[u8]) -> bool {
    let hello = [before, PREFACE, &frame(4, 0, 0, &[])].concat();
    stream.write_all(&hello).expect("sent");
    let mut first = [0; 9];
    stream.read_exact(&mut first).is_ok() && first[3] == 4
}

#[test]
fn c_lsn_3_floods_end_their_own_connection_and_hurt_no_other() {
    let edge = Edge::shared();
    let _witness = edge.cluster.witness();
    let (address, _) = edge.addresses();
    let client = Client::start();
    let call = || {
        if let Some(client) = &client {
            client.sum("other", &keys(&edge.cluster, &[]), 1).answer();
        }
    };
    if let Some(client) = &client {
        client.connect("other", &address.to_string());
    }
    call();
    let begin = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let repeated = |first: Vec<u8>, again: &dyn Fn(u32) -> Vec<u8>, times: u32| {
        let mut bytes = [begin.clone(), first].concat();
        (0..times).for_each(|n| bytes.extend(again(n)));
        bytes
    };
    let same = |one: Vec<u8>| move |_: u32| one.clone();
    let floods: [(&str, Vec<u8>); 7] = [
        (
            "PING",
            repeated(vec![], &same(frame(6, 0, 0, &[0; 8])), 15_000),
        ),
        (
            "SETTINGS",
            repeated(vec![], &same(frame(4, 0, 0, &[])), 15_000),
        ),
        (
            "PRIORITY",
            repeated(vec![], &same(frame(2, 0, 1, &[0, 0, 0, 0, 7])), 15_000),
        ),
        (
            "unknown frames",
            repeated(vec![], &same(frame(99, 0, 0, b"")), 15_000),
        ),
        (
            "empty DATA",
            repeated(head(0x4, 1), &same(frame(0, 0, 1, b"")), 15_000),
        ),
        (
            "CONTINUATION",
            repeated(head(0, 1), &same(frame(9, 0, 1, b"")), 15_000),
        ),
        (
            "resets",
            repeated(
                vec![],
                &|n| [head(0x5, 2 * n + 1), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat(),
                20_000,
            ),
        ),
    ];
    for (what, bytes) in floods {
        let flood = std::thread::spawn(move || said_to(dial(address), bytes));
        call();
        let said = flood.join().expect("the flood was ended");
        assert_eq!(goodbye(&said), CALM, "{what}");
        call();
    }
}

#[test]
fn c_lsn_3_pings_of_a_client_that_works_never_count() {
    let edge = Edge::shared();
    let _witness = edge.cluster.witness();
    let (address, _) = edge.addresses();
    let mut stream = dial(address);
    let begin = [PREFACE, &frame(4, 0, 0, &[])].concat();
    stream.write_all(&begin).expect("taken");
    let (mut pongs, mut answers, mut rest) = (0, 0, Vec::new());
    let mut part = [0; 4096];
    // 12,000 in all, and never 10,000 without an answered call in between. A real client has one PING
    // under way; these come by the hundred.
    for batch in 1..=120_u32 {
        let mut bytes = frame(6, 0, 0, &[7; 8]).repeat(100);
        if batch % 40 == 0 {
            bytes.extend(head(0x5, batch / 20 - 1));
        }
        stream.write_all(&bytes).expect("taken");
        while pongs < 100 * batch || answers < batch / 40 {
            let read = stream.read(&mut part).expect("the connection goes on");
            assert!(read > 0, "ended after {pongs} pings, {answers} answers");
            rest.extend(&part[..read]);
            while let Some(([a, b, c, kind, flags, ..], behind)) = rest.split_first_chunk::<9>() {
                let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                if behind.len() < length {
                    break;
                }
                assert_ne!(*kind, 7, "GOAWAY after {pongs} pings, {answers} answers");
                pongs += u32::from((*kind, *flags) == (6, 1));
                answers += u32::from(matches!(*kind, 0 | 1) && flags & 1 == 1);
                rest.drain(..9 + length);
            }
        }
    }
}

#[test]
fn c_lsn_3_who_says_nothing_or_half_a_head_is_closed() {
    let edge = Edge::shared();
    let _witness = edge.cluster.witness();
    let (clear, tls) = edge.addresses();
    for (address, half) in [
        (clear, &b""[..]),
        (clear, b"PRI * HTT"),
        (tls, b""),
        (tls, b"\x16\x03\x01\x02\x00"),
        (tls, b"GET / HTTP/1.1\r\n\r\n"),
    ] {
        let said = said_to(dial(address), half.to_vec());
        assert_eq!(goodbye(&said), None, "{half:?}");
    }
    let begin = [PREFACE, &frame(4, 0, 0, &[])].concat();
    for half in [head(0x1, 1), head(0x5, 1)[..12].to_vec()] {
        let said = said_to(dial(clear), [begin.clone(), half].concat());
        assert_eq!(goodbye(&said), CALM);
    }
}

#[test]
fn c_lsn_5_a_listed_balancer_sends_a_header_and_nobody_else_may() {
    let edge = Edge::shared();
    let _witness = edge.cluster.witness();
    let (clear, tls) = edge.addresses();
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
    let six = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f".to_vec();
    v2.extend([192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb, 4, 0, 0]);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    for header in [&v1[..], six, &v2, local, b"PROXY UNKNOWN\r\n"] {
        assert!(answers_http_2(dial_as_balancer(clear), header));
        let said = said_to(dial(clear), [header, PREFACE].concat());
        assert_eq!(said, b"", "{header:?}");
    }
    assert!(answers_http_2(dial(clear), b""));
    let begin = [PREFACE, &frame(4, 0, 0, &[])].concat();
    for bad in [
        begin,
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x31".to_vec(),
    ] {
        let said = said_to(dial_as_balancer(clear), bad);
        assert_eq!(said, b"");
    }
    // In front of TLS: the handshake comes behind the header.
    let Some(python) = python::interpreter() else {
        return;
    };
    let script = format!(
        "import socket, ssl\n\
         context = ssl.create_default_context(cafile={ca:?})\n\
         context.set_alpn_protocols(['h2'])\n\
         raw = socket.create_connection(('127.0.0.1', {port}), 20, ('127.0.0.2', 0))\n\
         raw.sendall(b'PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\\r\\n')\n\
         tls = context.wrap_socket(raw, server_hostname='localhost')\n\
         print(tls.selected_alpn_protocol(), tls.version())\n",
        ca = text(&edge.ca()),
        port = tls.port(),
    );
    let said = cli::run(Command::new(python).args(["-c", &script]));
    assert_eq!(said.trim(), "h2 TLSv1.3");
}

/// The certificate that a new connection is shown, and the protocol that ALPN or its absence gives.
fn shown(python: &Path, address: SocketAddr, ca: &Path, alpn: &str, version: &str) -> String {
    let script = format!(
        "import socket, ssl\n\
         context = ssl.create_default_context(cafile={ca:?})\n\
         context.maximum_version = ssl.TLSVersion.{version}\n\
         {alpn}\n\
         raw = socket.create_connection(('127.0.0.1', {port}), 20)\n\
         tls = context.wrap_socket(raw, server_hostname='localhost')\n\
         tls.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes([0,0,0,4,0,0,0,0,0]))\n\
         first = tls.recv(9)\n\
         print(tls.getpeercert()['serialNumber'], tls.selected_alpn_protocol(), first[3])\n",
        ca = text(ca),
        port = address.port(),
    );
    cli::run(Command::new(python).args(["-c", &script]))
}

#[test]
fn c_lsn_1_clients_over_tls_keep_their_streams_when_the_certificate_changes() {
    let edge = Edge::shared();
    let _witness = edge.cluster.witness();
    let (_, tls) = edge.addresses();
    let (Some(client), Some(python)) = (Client::start(), python::interpreter()) else {
        return;
    };
    let ca = edge.ca();
    let see = |alpn, version| {
        let said = shown(&python, tls, &ca, alpn, version);
        let words: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
        <[String; 3]>::try_from(words).expect("three words")
    };
    let h2 = "context.set_alpn_protocols(['h2', 'http/1.1'])";
    let [before, alpn, first] = see(h2, "TLSv1_3");
    assert_eq!((alpn.as_str(), first.as_str()), ("h2", "4"));
    // Without ALPN the first bytes tell; TLS 1.2 is good enough for a client.
    let [_, alpn, first] = see("", "TLSv1_2");
    assert_eq!((alpn.as_str(), first.as_str()), ("None", "4"));

    let function = Function::create(&edge.cluster, "held-open", &["--slots", "4"]);
    let worker = Worker::start("held-open", &edge.folder).expect("there is Python");
    let _sidecar = Sidecar::attach(&edge.cluster, &function, "held-open", "us-east", &worker);
    client.connect_tls("tls", &format!("localhost:{}", tls.port()), &ca);
    client.run(json!({
        "do": "stream_open", "stream": "held", "channel": "tls",
        "method": "/test.Echo/Bidi", "metadata": function.keys(&[]),
    }));
    let echo = |message: &str| {
        client.run(json!({"do": "stream_send", "stream": "held", "message": message}));
        let said = client.run(json!({"do": "stream_next", "stream": "held"}));
        let text = said["message"].as_str().expect("an answer");
        assert!(text.contains(message), "{said}");
    };
    echo("before");
    let mut serials = vec![before];
    for by_signal in [false, true] {
        issue(&edge.folder);
        if by_signal {
            let pid = edge.cluster.ready().node("us-east-1").pid;
            send(pid, Signal::HUP);
        }
        let now = wait::until(SOON, "a new connection sees the new certificate", || {
            let [now, ..] = see(h2, "TLSv1_3");
            (!serials.contains(&now)).then_some(now)
        });
        serials.push(now);
        echo("after");
    }
}
