//! Workers that no tunnel reaches, users who vanish, and pages that call two functions.

use crate::support::client::{Client, keys};
use crate::support::member::free;
use crate::support::ops::series;
use crate::support::process::Process;
use crate::support::raw::Connection;
use crate::support::wait;
use crate::support::worker::{Function, Sidecar, Worker, attached, find};
use crate::{SOON, shared, show, slots_used};
use bytes::Bytes;
use pontoon::net;
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A firewall in front of a worker port: control streams pass, and CONNECTs vanish in it while it is shut.
struct Gate {
    address: String,
}

impl Gate {
    fn start(to: &str, shut: &Arc<AtomicBool>) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (to, shut) = (to.to_owned(), Arc::clone(shut));
        std::thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let (to, shut) = (to.clone(), Arc::clone(&shut));
                std::thread::spawn(move || pass(from, &to, &shut));
            }
        });
        Gate { address }
    }
}

fn pass(mut from: TcpStream, to: &str, shut: &AtomicBool) {
    let mut first = [0];
    let Ok(1) = from.read(&mut first) else {
        return;
    };
    // A control stream begins with HTTP/2's "PRI".
    if first == *b"C" && shut.load(Ordering::SeqCst) {
        // Until the other side gives up.
        std::io::copy(&mut from, &mut std::io::sink()).ok();
        return;
    }
    let Ok(mut above) = TcpStream::connect(to) else {
        return;
    };
    let back = (above.try_clone(), from.try_clone());
    let (Ok(above_too), Ok(from_too)) = back else {
        return;
    };
    if above.write_all(&first).is_ok() {
        std::thread::spawn(move || pump(above_too, from_too));
        pump(from, above);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    std::io::copy(&mut from, &mut to).ok();
    to.shutdown(Shutdown::Write).ok();
}

#[test]
fn h_27_a_worker_whose_dials_vanish_comes_last_and_is_set_aside_until_one_gets_through() {
    let cluster = shared();
    let _witness = cluster.witness();
    let logs = cluster.data().join("logs");
    let Some(client) = Client::start() else {
        return;
    };
    let function = Function::create(cluster, "walled", &["--slots", "32", "--wait", "60s"]);
    let nodes = &cluster.ready().nodes;
    let shut = Arc::new(AtomicBool::new(false));
    let gates: Vec<Gate> = nodes
        .iter()
        .map(|node| Gate::start(&node.worker, &shut))
        .collect();
    let ways: Vec<&str> = gates.iter().map(|gate| &*gate.address).collect();
    let mut number = 0;
    let mut open = || {
        number += 1;
        let channel = format!("open {number}");
        let region = ["us-east", "us-west", "eu-central"][number % 3];
        client.connect(&channel, cluster.client_address(region));
        let call = client.sum(&channel, &function.keys(&[]), 1);
        assert_eq!(call.answer()["sum"], 1, "a session of its own");
        let worker = call.answer()["worker"].as_str().expect("text");
        (worker.to_owned(), call.seconds())
    };
    let (walled, unwalled) = (
        Worker::demo("walled", &logs),
        Worker::demo("unwalled", &logs),
    );
    let _unwalled = Sidecar::attach(cluster, &function, "unwalled", "us-east", &unwalled);
    for _ in 0..3 {
        assert_eq!(open().0, "unwalled");
    }
    let key = &function.worker_key;
    let mut command = Sidecar::knowing(&ways, "walled", "us-east", &walled.address, key);
    let _walled = Process::start("walled-sidecar", &logs, &mut command);
    attached(cluster, "walled", 2);
    assert_eq!(open().0, "walled", "it is the emptiest, and tunnels pass");
    shut.store(true, Ordering::SeqCst);
    assert!(slots_used(cluster, "walled") < slots_used(cluster, "unwalled"));
    // A caller who waits for less than a tunnel may take says nothing of the worker.
    client.connect("hasty", cluster.client_address("us-east"));
    let hasty = json!({
        "do": "unary", "channel": "hasty", "metadata": function.keys(&[]), "x": 1, "timeout": 0.7,
    });
    assert_eq!(client.begin(hasty).call().code(), 4);
    let (worker, first) = open();
    assert_eq!(worker, "unwalled");
    println!("the first open took {first} s");
    // One tunnel that was waited for for 2 s. From then on the walled worker comes last.
    assert!((1.5..5.0).contains(&first), "the first open took {first} s");
    for _ in 0..6 {
        let (worker, took) = open();
        assert_eq!(worker, "unwalled");
        assert!(took < 2.0, "{took} s");
    }
    assert!(slots_used(cluster, "walled") < slots_used(cluster, "unwalled"));

    // With nobody else left it is tried again, and set aside.
    unwalled.process().signal(Signal::KILL);
    client.connect("last", cluster.client_address("us-west"));
    let last = client.begin_sum("last", &function.keys(&[]), 1);
    let state = || find(cluster, "walled").expect("attached")["state"].clone();
    wait::until(SOON, "it is set aside", || {
        (state() == "draining (no link)").then_some(())
    });
    shut.store(false, Ordering::SeqCst);
    wait::until(3 * SOON, "a probe gets through", || {
        (state() == "ready").then_some(())
    });
    assert_eq!(last.call().answer()["worker"], "walled");
}

/// How many users vanish.
const USERS: usize = 300;

#[test]
fn h_32_users_who_sign_in_over_one_connection_and_vanish_give_their_slots_back() {
    let cluster = shared();
    let _witness = cluster.witness();
    let logs = cluster.data().join("logs");
    let (slots, ops) = (USERS.to_string(), free());
    let policy = ["--slots", &slots, "--window", "8s", "--wait", "20s"];
    let function = Function::create(cluster, "portal", &policy);
    let worker = Worker::demo("portal", &logs);
    let more = ["--ops", &ops];
    let _sidecar = Sidecar::attach_with(cluster, &function, "portal", "us-east", &worker, &more);
    let portal = Connection::open(cluster.client_address("eu-central"));
    let keys = function.keys(&[("x-nvcf-absorb", "true")]);
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        for answer in portal.side_by_side(USERS / 3, "POST", "/", &keys) {
            assert_eq!(answer.status, 200, "{answer:?}");
            ids.insert(answer.header("nvcf-reqid").to_owned());
        }
    }
    assert_eq!(ids.len(), USERS, "a session each");
    assert_eq!(slots_used(cluster, "portal"), USERS as u64);
    let carried = || series(&ops, "pontoon_sidecar_tunnels_open");
    assert!(carried() > 0.0);
    let last = ids.last().expect("an id").clone();
    drop(portal);
    wait::until(3 * SOON, "all slots are free", || {
        (slots_used(cluster, "portal") == 0).then_some(())
    });
    assert_eq!(show(cluster, &last)["state"], "ended (expired)");
    wait::until(SOON, "no tunnel is left", || {
        (carried() == 0.0).then_some(())
    });
    let next = Connection::open(cluster.client_address("us-west"));
    assert_eq!(next.exchange("POST", "/", &keys).status, 200);
}

#[test]
fn h_31_a_page_that_calls_two_functions_with_one_cookie_loses_neither_session() {
    let cluster = shared();
    let _witness = cluster.witness();
    let logs = cluster.data().join("logs");
    let f = Function::create(cluster, "page-f", &["--slots", "8"]);
    let g = f.beside(cluster, "page-g", &["--slots", "8"]);
    let (one, two) = (Worker::demo("page-f", &logs), Worker::demo("page-g", &logs));
    let _f = Sidecar::attach(cluster, &f, "page-f", "us-east", &one);
    let _g = Sidecar::attach(cluster, &g, "page-g", "us-west", &two);
    let page = || Connection::open(cluster.client_address("us-east"));
    // One call with the only cookie of the page, as a browser keeps it: the session's id.
    let mut jar = String::new();
    let mut call = |connection: &Connection, of: &Function, header: &str| {
        let cookie = format!("nvcf-request-id={jar}");
        let mut keys = of.keys(&[]);
        if !jar.is_empty() {
            keys.push(("cookie", &cookie));
        }
        if !header.is_empty() {
            keys.push(("nvcf-reqid", header));
        }
        let answer = connection.exchange("GET", "/sessions", &keys);
        let set = answer.all("set-cookie").into_iter().map(str::to_owned);
        for cookie in set {
            assert!(
                !cookie.contains("Max-Age=0"),
                "a live cookie is cleared: {answer:?}"
            );
            let (value, _) = cookie.split_once(';').expect("attributes");
            jar = value.rsplit('=').next().expect("a value").to_owned();
        }
        (
            answer.status.as_u16(),
            answer.header("nvcf-reqid").to_owned(),
            jar.clone(),
        )
    };
    let first = page();
    let (_, of_f, cookie) = call(&first, &f, "");
    assert_eq!(cookie, of_f);
    let (status, of_g, cookie) = call(&first, &g, "");
    assert_eq!(status, 200);
    assert_ne!(of_g, of_f, "a cookie of another function counts as absent");
    assert_eq!(cookie, of_g);
    // The connection knows both, whatever the cookie is.
    for _ in 0..2 {
        assert_eq!(call(&first, &f, ""), (200, of_f.clone(), of_g.clone()));
        assert_eq!(call(&first, &g, ""), (200, of_g.clone(), of_g.clone()));
    }
    // The page again: the one cookie finds one of them; the other one lives, for who has its id.
    let again = page();
    assert_eq!(call(&again, &g, "").1, of_g);
    let (status, new, cookie) = call(&again, &f, "");
    assert_eq!((status, &cookie), (200, &new));
    assert_ne!(new, of_f);
    assert_eq!(call(&again, &f, &of_f).1, of_f);
    assert_eq!(call(&page(), &f, &new), (200, new.clone(), new.clone()));
    // A dead id in the header beside the cookie of a live session.
    cluster.ask(&["session", "end", &of_f]);
    let (status, _, cookie) = call(&again, &f, &of_f);
    assert_eq!((status, &cookie), (404, &new));
    assert_eq!(call(&page(), &f, ""), (200, new.clone(), new));
    let still = show(cluster, &of_g)["state"].clone();
    assert!(
        ["bound", "held"].iter().any(|state| still == *state),
        "{still}"
    );
}

/// A bare HTTP/2 connection to a node, for calls whose requests stay open.
async fn bare(address: &str) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<()>) {
    let stream = net::dial(address, SOON).await.expect("a connection");
    // When it is dropped, the kernel resets it, as it does when a process is killed with bytes unread.
    stream.set_zero_linger().expect("an option");
    let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
    let running = tokio::runtime::Handle::current().spawn(async move {
        connection.await.ok();
    });
    (sender, running)
}

/// One call of the demo function with an empty message; gives the session and the answer's body. With
/// `end`, the request is complete.
async fn begin(
    sender: &h2::client::SendRequest<Bytes>,
    rpc: &str,
    keys: &[(&str, &str)],
    end: bool,
) -> (String, h2::SendStream<Bytes>, h2::RecvStream) {
    let uri = format!("http://demo/inference.GRPCInferenceService/{rpc}");
    let mut request = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in keys {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("a request");
    let mut sender = sender.clone().ready().await.expect("room for a stream");
    let (answer, mut send) = sender.send_request(request, false).expect("sent");
    send.send_data(Bytes::from_static(&[0; 5]), end)
        .expect("sent");
    let answer = answer.await.expect("an answer");
    let id = answer.headers()["nvcf-reqid"]
        .to_str()
        .expect("text")
        .to_owned();
    (id, send, answer.into_body())
}

#[test]
fn h_35_a_client_that_is_killed_with_256_streams_open_hurts_nobody_else_in_its_session() {
    let cluster = shared();
    let _witness = cluster.witness();
    let address = cluster.client_address("us-west");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let hurt = runtime.block_on(async {
        let (killed, running) = bare(address).await;
        let (id, ..) = begin(&killed, "ServerLive", &keys(cluster, &[]), true).await;
        let by_id = keys(cluster, &[("nvcf-reqid", &id)]);
        let mut streams = Vec::new();
        for _ in 0..256 {
            let (other, send, mut body) = begin(&killed, "ModelStreamInfer", &by_id, false).await;
            assert_eq!(other, id);
            body.data()
                .await
                .expect("a message")
                .expect("of the worker");
            streams.push((send, body));
        }
        let (neighbour, _running) = bare(address).await;
        let mut calls = 0;
        let mut running = Some(running);
        while calls < 400 {
            let (other, _, mut body) = begin(&neighbour, "ServerLive", &by_id, true).await;
            assert_eq!(other, id);
            while let Some(data) = body.data().await {
                let data = data.expect("the whole answer");
                body.flow_control()
                    .release_capacity(data.len())
                    .expect("released");
            }
            let trailers = body
                .trailers()
                .await
                .expect("a good end")
                .expect("trailers");
            assert_eq!(trailers["grpc-status"], "0", "call {calls}");
            calls += 1;
            if calls == 100 {
                // It dies with all of its streams open.
                running.take().expect("once").abort();
            }
        }
        // The neighbour's calls went on long enough to see it.
        let mut hurt = 0;
        for (_, body) in &mut streams {
            hurt += usize::from(!matches!(body.data().await, Some(Ok(_))));
        }
        cluster.ask(&["session", "end", &id]);
        hurt
    });
    assert_eq!(hurt, 256, "every stream of the killed one ended");
}
