//! Connections: their bounds, their silence, their end.

use super::world::{Event, Plan, World, bounded, read, until};
use crate::drain::Stage;
use crate::listen::close::CloseReason;
use crate::listen::limits::Limits;
use crate::net::TcpStream;
use bytes::Bytes;
use h2::Reason;
use pontoon_proto::connect::PREFACE;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn quick(change: impl FnOnce(&mut Limits)) -> Plan {
    let mut plan = Plan::default();
    change(&mut plan.limits);
    plan
}

/// Reads until the peer closes; an error is a close, too.
async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _or_reset = bounded(stream.read_to_end(&mut all)).await;
    all
}

#[tokio::test]
async fn c_lsn_3_connections_beyond_the_limit_are_closed_at_once_and_counted() {
    let world = World::with(quick(|limits| limits.connections_max = 1)).await;
    let mut first = world.connect().await;
    first.unary(&[]).await;
    let mut second = TcpStream::connect(world.address).await.unwrap();
    assert!(read_to_end(&mut second).await.is_empty());
    assert_eq!(world.counters.closes(CloseReason::TooMany), 1);
    assert_eq!(first.unary(&[]).await.body, "hello");
    drop(first);
    until("the place is free again", || {
        world.counters.connections.get() == 0
    })
    .await;
    let mut third = world.connect().await;
    assert_eq!(third.unary(&[]).await.body, "hello");
}

#[tokio::test]
async fn c_lsn_3_a_peer_that_says_nothing_is_closed() {
    let world = World::with(quick(|limits| {
        limits.handshake = Duration::from_millis(100);
    }))
    .await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    read_to_end(&mut silent).await;
    let mut other = TcpStream::connect(world.address).await.unwrap();
    other
        .write_all(b"hello? is this HTTP?\r\n\r\n")
        .await
        .unwrap();
    read_to_end(&mut other).await;
    until("both are counted", || {
        world.counters.closes(CloseReason::Mute) == 2
    })
    .await;
}

#[tokio::test]
async fn c_lsn_3_streams_beyond_the_limit_are_refused_and_the_others_live() {
    let world = World::with(quick(|limits| limits.streams_max = 2)).await;
    let mut client = world.connect().await;
    client.unary(&[]).await;
    let request = client.request("/hang");
    let (_one, _s) = client.start(request, true).await;
    let request = client.request("/hang");
    let (_two, mut last) = client.start(request, true).await;
    until("both are in", || world.counters.calls.get() == 2).await;
    // Our h2 client knows the limit and waits.
    let request = client.request("/unary");
    let (third, _s) = client.start(request, true).await;
    last.send_reset(Reason::CANCEL);
    assert_eq!(bounded(read(third)).await.unwrap().get("grpc-status"), "0");
}

#[tokio::test]
async fn c_lsn_3_a_header_list_that_is_too_long_is_431() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let mut request = client.request("/unary");
    for n in 0..70 {
        request = request.header(format!("x-{n}"), "x".repeat(1000));
    }
    let answer = client.send(request, b"").await;
    match answer {
        Ok(answer) => assert_eq!(answer.head.status(), 431),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert_eq!(client.unary(&[]).await.body, "hello");
}

#[tokio::test]
async fn c_lsn_3_the_limit_of_header_lists_is_the_configured_one() {
    let world = World::with(quick(|limits| limits.header_list = 8 * 1024)).await;
    let mut client = world.connect().await;
    let mut request = client.request("/unary");
    for n in 0..9 {
        request = request.header(format!("x-{n}"), "x".repeat(1000));
    }
    match client.send(request, b"").await {
        Ok(answer) => assert_eq!(answer.head.status(), 431),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert_eq!(client.unary(&[]).await.body, "hello");
}

#[tokio::test]
async fn c_lsn_3_a_client_that_resets_without_end_is_told_to_calm_down() {
    let world = World::with(quick(|limits| limits.resets_max = 50)).await;
    let client = world.connect().await;
    let mut other = world.connect().await;
    assert_eq!(other.unary(&[]).await.body, "hello");
    for _ in 0..60 {
        let request = client.request("/hang");
        let Ok(mut sender) = client.sender.clone().ready().await else {
            break;
        };
        let Ok((_response, mut stream)) = sender.send_request(request.body(()).unwrap(), true)
        else {
            break;
        };
        tokio::task::yield_now().await;
        stream.send_reset(Reason::CANCEL);
    }
    until("it is over", || client.ended.is_finished()).await;
    assert_eq!(other.unary(&[]).await.body, "hello");
}

#[tokio::test]
async fn c_lsn_4_a_connection_without_a_call_is_told_to_go_and_closes_cleanly() {
    let world = World::with(quick(|limits| limits.idle = Duration::from_millis(200))).await;
    let mut client = world.connect().await;
    let id = client.unary(&[]).await.session();
    until("it is over", || client.ended.is_finished()).await;
    until("the session is left cleanly", || {
        world.sessions.events().contains(&Event::Left(id, true))
    })
    .await;
}

#[tokio::test]
async fn c_lsn_4_an_open_call_keeps_its_connection() {
    let world = World::with(quick(|limits| limits.idle = Duration::from_millis(100))).await;
    let mut client = world.connect().await;
    let request = client.request("/bidi");
    let (response, mut stream) = client.start(request, false).await;
    let mut body = bounded(response).await.unwrap().into_body();
    tokio::time::sleep(Duration::from_millis(400)).await;
    stream
        .send_data(Bytes::from_static(b"still"), true)
        .unwrap();
    let echo = bounded(super::world::frame(&mut body)).await;
    assert_eq!(echo.unwrap().unwrap(), "still");
}

#[tokio::test]
async fn c_lsn_4_a_peer_that_answers_no_ping_is_found() {
    let world = World::with(quick(|limits| {
        limits.ping_every = Duration::from_millis(100);
        limits.ping_answer = Duration::from_millis(100);
    }))
    .await;
    // A preface and an empty SETTINGS, and then nothing more, not even an answer.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    read_to_end(&mut stream).await;
    // One that answers lives on.
    let mut client = world.connect().await;
    assert_eq!(client.unary(&[]).await.body, "hello");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(client.unary(&[]).await.body, "hello");
}

#[tokio::test]
async fn c_lsn_4_a_drain_lets_open_calls_finish_and_then_closes() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/bidi");
    let (response, mut stream) = client.start(request, false).await;
    let mut body = bounded(response).await.unwrap().into_body();
    let id = world.sessions.events();
    world.drain.enter(Stage::Draining);
    for n in 0..10_u8 {
        stream.send_data(Bytes::from(vec![n; 10]), false).unwrap();
        let echo = bounded(super::world::frame(&mut body)).await;
        assert_eq!(echo.unwrap().unwrap(), vec![n; 10]);
    }
    assert!(!world.served.is_finished());
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(bounded(super::world::frame(&mut body)).await.is_none());
    until("the listener is done", || world.served.is_finished()).await;
    let Event::Opened(id) = id[0] else {
        panic!("the first thing is an open");
    };
    let left = Event::Left(id, false);
    assert!(
        world.sessions.events().contains(&left),
        "the client did not want to go"
    );
}

#[tokio::test]
async fn a_stopped_node_cuts_what_is_left() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/hang");
    let (response, _stream) = client.start(request, true).await;
    until("the call is in", || world.counters.calls.get() == 1).await;
    world.drain.enter(Stage::Stopped);
    assert!(bounded(read(response)).await.is_err());
    until("the listener is done", || world.served.is_finished()).await;
}
