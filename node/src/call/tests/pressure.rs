//! Back-pressure, and many streams at once.

use super::super::h2_settings::STREAM_WINDOW;
use super::world::{World, bounded, frame, read, until};
use bytes::Bytes;
use futures::future::join_all;
use h2::SendStream;
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::Poll;

/// What lies between a writer and a reader that stands still: a window of ours, one of the other
/// side's, and what h2 and the sockets buffer. More than this per stream is no back-pressure.
const IN_BETWEEN: usize = 4 * STREAM_WINDOW as usize;

/// Writes until nothing is taken any more for a while; returns how much was.
async fn write_until_stopped(stream: &mut SendStream<Bytes>, piece: usize) -> usize {
    let mut taken = 0;
    loop {
        stream.reserve_capacity(piece);
        let room = tokio::time::timeout(
            std::time::Duration::from_millis(300),
            poll_fn(|cx| match stream.capacity() {
                0 => stream.poll_capacity(cx),
                room => Poll::Ready(Some(Ok(room))),
            }),
        );
        let Ok(Some(Ok(room))) = room.await else {
            return taken;
        };
        let len = room.min(piece);
        stream.send_data(Bytes::from(vec![1; len]), false).unwrap();
        taken += len;
        assert!(taken <= 2 * IN_BETWEEN, "nothing stops the writer");
    }
}

#[tokio::test]
async fn c_fwd_7_a_worker_that_stops_reading_stops_its_client_and_nobody_else() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/stall");
    let (response, mut stream) = client.start(request, false).await;
    let taken = write_until_stopped(&mut stream, 16 * 1024).await;
    assert!(taken <= IN_BETWEEN, "{taken}");

    let others = join_all((0..8).map(|_| {
        let mut client = client.twin();
        async move { client.unary(&[]).await.body }
    }));
    for body in bounded(others).await {
        assert_eq!(body, "hello");
    }

    world.seen().unstall.cancel();
    stream.send_data(Bytes::new(), true).unwrap();
    let answer = bounded(read(response)).await.unwrap();
    assert_eq!(answer.body, taken.to_string());
}

#[tokio::test]
async fn c_fwd_7_a_client_that_stops_reading_stops_its_worker() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/flood");
    let (response, _stream) = client.start(request, true).await;
    let mut body = bounded(response).await.unwrap().into_body();
    // What was carried stands still well below the 64 MiB that the worker wants to write.
    let mut before = usize::MAX;
    let mut len = 0;
    until("the worker stands still", || {
        let now = body.flow_control().used_capacity();
        let still = now == before && now > 0;
        before = now;
        still
    })
    .await;
    assert!(before <= STREAM_WINDOW as usize);
    assert_eq!(client.unary(&[]).await.body, "hello");
    while let Some(frame) = bounded(frame(&mut body)).await {
        len += frame.unwrap().len();
    }
    assert!(len > 16 * 1024 * 1024, "{len}");
}

#[tokio::test]
async fn c_fwd_7_64_stalled_streams_of_tiny_messages_leave_the_others_alone() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let request = client.request("/stall");
        let (response, stream) = client.start(request, false).await;
        stalled.push((response, stream));
    }
    until("the worker has them all", || {
        world.seen().heads.lock().unwrap().len() == 64
    })
    .await;
    for (_, stream) in &mut stalled {
        // 4,000 messages of ten bytes: 256,000 in all, more than h2 would keep as single frames.
        for _ in 0..4_000 {
            stream
                .send_data(Bytes::from_static(b"ten bytes!"), false)
                .unwrap();
        }
    }
    for _ in 0..5 {
        assert_eq!(client.unary(&[]).await.body, "hello");
    }
    world.seen().unstall.cancel();
    for (response, mut stream) in stalled {
        stream.send_data(Bytes::new(), true).unwrap();
        let answer = bounded(read(response)).await.unwrap();
        assert_eq!(answer.body, "40000");
    }
}

#[tokio::test]
async fn c_fwd_5_100_unary_and_100_bidi_calls_at_once_on_one_connection() {
    let world = World::new().await;
    let mut client = world.connect().await;
    client.unary(&[]).await;
    let bidi = (0..100_u8).map(|n| {
        let mut client = client.twin();
        async move {
            let request = client.request("/bidi");
            let (response, mut stream) = client.start(request, false).await;
            let mut body = response.await.unwrap().into_body();
            for m in 0..20_u8 {
                let message = Bytes::from(vec![n ^ m; 1000]);
                stream.send_data(message.clone(), false).unwrap();
                let mut echo = Vec::new();
                while echo.len() < message.len() {
                    echo.extend_from_slice(&frame(&mut body).await.unwrap().unwrap());
                }
                assert_eq!(echo, message);
            }
            stream.send_data(Bytes::new(), true).unwrap();
            assert!(frame(&mut body).await.is_none());
        }
    });
    let unary = (0..100).map(|_| {
        let mut client = client.twin();
        async move { assert_eq!(client.unary(&[]).await.body, "hello") }
    });
    bounded(async { tokio::join!(join_all(bidi), join_all(unary)) }).await;
    assert_eq!(world.seen().dials.load(Ordering::Relaxed), 1);
    until("the gauge is back", || world.counters.calls.get() == 0).await;
}

#[tokio::test]
async fn c_lsn_2_a_large_body_crosses_both_ways_in_constant_memory() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let request = client.request("/bidi");
    let (response, mut stream) = client.start(request, false).await;
    let total = 32 * 1024 * 1024;
    let write = async {
        let mut left = total;
        while left > 0 {
            stream.reserve_capacity(64 * 1024);
            let room = poll_fn(|cx| match stream.capacity() {
                0 => stream.poll_capacity(cx),
                room => Poll::Ready(Some(Ok(room))),
            });
            let room = room.await.unwrap().unwrap().min(left);
            stream
                .send_data(Bytes::from(vec![3; room]), room == left)
                .unwrap();
            left -= room;
        }
    };
    let (answer, ()) = bounded(async { tokio::join!(read(response), write) }).await;
    assert_eq!(answer.unwrap().body.len(), total);
    until("both ways are counted", || {
        world.counters.bytes_up.get() == total as u64
            && world.counters.bytes_down.get() == total as u64
    })
    .await;
}
