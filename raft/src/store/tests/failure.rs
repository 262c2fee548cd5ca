//! After a failed write or sync nothing is acknowledged, everybody is told, and nothing is lost.

use super::*;

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_ever_after() {
    let platter = Platter::default();
    let store = over(&platter);
    let mut failures = store.failures();
    let (log, _) = store.log(GROUP).await.unwrap();
    append(&log, vec![record(0, 10)]).await.unwrap();
    assert_eq!(store.failure(), None);
    platter.fail(true);
    assert!(append(&log, vec![record(1, 10)]).await.is_err());
    platter.fail(false);
    assert!(append(&log, vec![record(2, 10)]).await.is_err());
    assert!(log.mark(VOTE, Bytes::new()).await.is_err());
    assert!(log.read(0, 1, 1).await.is_err());
    assert!(store.wipe(GROUP).await.is_err());
    let why = failures.wait_for(Option::is_some).await.unwrap().clone();
    assert!(why.unwrap().contains("restart this process"));
    assert_eq!(found(&platter).await.unwrap().count, 1);
}

#[tokio::test]
async fn a_full_disk_stops_the_store_and_says_what_to_do() {
    let platter = Platter::default();
    let store = over(&platter);
    let (log, _) = store.log(GROUP).await.unwrap();
    platter.limit(Some(10_000));
    let mut acknowledged = 0;
    while append(&log, vec![record(acknowledged, 100)]).await.is_ok() {
        acknowledged += 1;
    }
    let why = store.failure().unwrap();
    assert!(why.contains("make room"), "{why}");
    assert!(acknowledged > 10);
    platter.limit(None);
    assert_eq!(found(&platter).await.unwrap().count, acknowledged);
}

#[tokio::test]
async fn an_append_that_would_leave_a_hole_is_refused() {
    let platter = Platter::default();
    let store = over(&platter);
    let (log, _) = store.log(GROUP).await.unwrap();
    append(&log, vec![record(0, 10)]).await.unwrap();
    assert!(append(&log, vec![record(2, 10)]).await.is_err());
    assert_eq!(found(&platter).await.unwrap().count, 1);
}
