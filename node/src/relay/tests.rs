//! Two ends of a relay over queues in memory, as the nodes have them over gRPC.

use super::stream::{WINDOW, outgoing};
use super::*;
use crate::tasks;
use tokio::io::duplex;

/// Both ends, connected.
fn relay() -> (Relayed, Relayed) {
    let ((to_b, at_b), (to_a, at_a)) = (outgoing(), outgoing());
    let frames = |queue| ReceiverStream::new(queue).map(Ok).boxed();
    (
        Relayed::new(frames(at_a), to_b),
        Relayed::new(frames(at_b), to_a),
    )
}

#[tokio::test]
async fn bytes_cross_unchanged_both_ways_and_each_way_ends_by_itself() {
    let (mut a, mut b) = relay();
    let many: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let sent = many.clone();
    let task = tasks::spawn(tasks::Kind::Worker, "test", async move {
        a.write_all(&sent).await.unwrap();
        a.shutdown().await.unwrap();
        let mut back = Vec::new();
        a.read_to_end(&mut back).await.unwrap();
        back
    });
    let mut got = Vec::new();
    b.read_to_end(&mut got).await.unwrap();
    assert!(got == many, "{} of {} bytes", got.len(), many.len());
    b.write_all(&many).await.unwrap();
    drop(b);
    assert!(task.await.unwrap() == many);
}

#[tokio::test]
async fn a_reset_never_looks_like_an_end() {
    let (mut a, b) = relay();
    b.reset();
    let broken = a.read_u8().await.unwrap_err();
    assert_eq!(broken.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn who_reads_nothing_is_sent_no_more_than_the_window() {
    let (mut a, _b) = relay();
    let mut sent = 0;
    let bytes = vec![0; DATA_MAX];
    let write = async {
        loop {
            sent += a.write(&bytes).await.unwrap();
        }
    };
    timeout(Duration::from_millis(200), write)
        .await
        .unwrap_err();
    assert_eq!(sent, WINDOW * DATA_MAX);
}

#[tokio::test]
async fn who_sends_more_than_it_may_is_cut() {
    let ((to, _kept), (send, at)) = (outgoing(), outgoing());
    let mut relayed = Relayed::new(ReceiverStream::new(at).map(Ok).boxed(), to);
    tasks::spawn(tasks::Kind::Worker, "test", async move {
        for _ in 0..WINDOW + 3 {
            let data = Frame::Data(vec![0].into());
            let _or_cut = send.send(frame(data)).await;
        }
    });
    let mut all = Vec::new();
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = relayed.read_to_end(&mut all).await.unwrap_err();
    assert!(error.to_string().contains("more than it may"), "{error}");
}

#[tokio::test]
async fn what_is_carried_ends_as_it_ended_at_the_other_side() {
    let stop = CancellationToken::new();
    let (near, mut entry) = relay();
    let (mut sidecar, mut socket) = duplex(1024);
    let task = tasks::spawn(tasks::Kind::Worker, "test", async move {
        carry(&mut socket, near, &stop).await
    });
    sidecar.write_all(b"from the worker").await.unwrap();
    sidecar.shutdown().await.unwrap();
    let mut got = String::new();
    entry.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "from the worker");
    entry.write_all(b"to it").await.unwrap();
    drop(entry);
    got.clear();
    sidecar.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "to it");
    let carried = task.await.unwrap();
    assert_eq!(carried.end, End::Finished);
    assert_eq!((carried.to_worker, carried.from_worker), (5, 15));
}

#[tokio::test]
async fn an_entry_node_that_breaks_it_is_told_apart() {
    let stop = CancellationToken::new();
    let (near, entry) = relay();
    let (_sidecar, mut socket) = duplex(1024);
    entry.reset();
    let carried = carry(&mut socket, near, &stop).await;
    assert_eq!(carried.end, End::EntryBroke);
    assert!(carried.text.contains("the relay ended"), "{}", carried.text);
}
