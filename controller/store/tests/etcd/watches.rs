//! Watches: they outlive their member, and say when history is gone.

use std::time::Duration;

use coffer_store::{Error, EtcdOptions, EtcdStore, Event, RangeRequest, Revision, StateStore, Txn, list};
use futures::StreamExt;

use crate::eventually::PATIENCE;
use crate::members::{Etcd, short};

#[tokio::test]
async fn a_watch_goes_on_at_another_member_and_neither_misses_nor_repeats_a_change() {
    let etcd = Etcd::plain(3).await;
    let store = etcd.store().await;
    let mut events = store.watch("k/", Revision(1)).await.unwrap();
    let (kill, mut killed) = (40_u32, false);
    let writer = async {
        for number in 0..120_u32 {
            // Two keys at once, so that a revision that is torn apart would be noticed.
            let txn = Txn::new().put(format!("k/{number:03}/a"), "").put(format!("k/{number:03}/b"), "");
            assert!(store.txn(txn).await.unwrap().succeeded);
        }
    };
    let watcher = async {
        let mut seen = Vec::new();
        while seen.len() < 240 {
            let batch = tokio::time::timeout(PATIENCE, events.next()).await.expect("changes should come");
            let batch = batch.expect("the watch should go on").expect("the watch should not fail");
            assert!(batch.events.len() % 2 == 0, "a revision is torn apart: {batch:?}");
            assert_eq!(batch.events.last().map(Event::revision), Some(batch.revision));
            seen.extend(batch.events.iter().map(|event| event.key().to_owned()));
            if !killed && seen.len() >= kill as usize * 2 {
                etcd.kill(0);
                killed = true;
            }
        }
        seen
    };
    let ((), seen) = tokio::join!(writer, watcher);
    let expected: Vec<String> =
        (0..120).flat_map(|number| [format!("k/{number:03}/a"), format!("k/{number:03}/b")]).collect();
    assert_eq!(seen, expected);
    let quiet = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
    assert!(quiet.is_err(), "a change came twice: {quiet:?}");
}

#[tokio::test]
async fn a_watch_waits_through_an_outage_and_then_shows_what_it_would_have_missed() {
    let etcd = Etcd::plain(1).await;
    let store = etcd.store().await;
    let mut events = store.watch("k", Revision(1)).await.unwrap();
    store.txn(Txn::new().put("k", "1")).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().events.len(), 1);
    etcd.kill(0);
    // Polled while nobody serves, for longer than a call may take.
    let waiting = tokio::time::timeout(short().call / 4, events.next()).await;
    assert!(waiting.is_err(), "the watch should wait: {waiting:?}");
    etcd.run(0);
    let written =
        crate::eventually::eventually("a write", || async { store.txn(Txn::new().put("k", "2")).await.ok() }).await;
    let batch = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((batch.revision, batch.events.len()), (written.revision, 1));
}

#[tokio::test]
async fn history_that_is_compacted_is_said_to_be_gone_with_the_oldest_that_is_kept() {
    let etcd = Etcd::plain(1).await;
    let store = etcd.store().await;
    let mut revisions = Vec::new();
    for number in 0..10 {
        revisions.push(store.txn(Txn::new().put("k", number.to_string())).await.unwrap().revision);
    }
    let (first, kept) = (revisions[0], revisions[7]);
    etcd.client(0).await.compact(i64::try_from(kept.0).unwrap(), None).await.unwrap();
    let mut events = store.watch("k", first).await.unwrap();
    let error = events.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Compacted { requested, oldest } if (requested, oldest) == (first, kept)),
        "{error:?}"
    );
    assert!(events.next().await.is_none());
    let error = store.range(RangeRequest { at: Some(first), ..RangeRequest::prefix("k", 1) }).await.unwrap_err();
    assert!(
        matches!(error, Error::Compacted { requested, oldest } if (requested, oldest) == (first, kept)),
        "{error:?}"
    );
    let mut events = store.watch("k", kept.next()).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().events[0].revision(), revisions[8]);
}

#[tokio::test]
async fn a_watch_leaves_a_member_that_is_paused_though_nobody_calls() {
    let etcd = Etcd::plain(3).await;
    let store = etcd.store().await;
    let mut events = store.watch("k", Revision(1)).await.unwrap();
    store.txn(Txn::new().put("k", "1")).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().events.len(), 1);
    etcd.pause(0);
    let other =
        EtcdStore::connect(EtcdOptions { timeouts: short(), ..EtcdOptions::new(etcd.endpoints()) }).await.unwrap();
    let written = other.txn(Txn::new().put("k", "2")).await.unwrap();
    let batch = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((batch.revision, batch.events.len()), (written.revision, 1));
}

#[tokio::test]
async fn what_is_too_large_for_one_answer_comes_in_several_or_has_to_be_listed_anew() {
    let etcd = Etcd::plain(1).await;
    let store = etcd.store().await;
    let (count, size) = (50, 1_400_000);
    for number in 0..count {
        store.txn(Txn::new().put(format!("k/{number:02}"), vec![7; size])).await.unwrap();
    }
    let page = store.range(RangeRequest::prefix("k/", 1000)).await.unwrap();
    assert!(!page.entries.is_empty() && page.entries.len() < count && page.next.is_some());
    let (entries, revision) = list(&store, "k/").await.unwrap();
    assert!(entries.iter().enumerate().all(|(number, entry)| entry.key == format!("k/{number:02}")));
    assert_eq!(entries.len(), count);
    let mut events = store.watch("k/", Revision(1)).await.unwrap();
    let error = events.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Compacted { requested: Revision(1), .. }), "{error:?}");
    let mut events = store.watch("k/", revision.next()).await.unwrap();
    store.txn(Txn::new().delete("k/00")).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().events.len(), 1);
}
