//! Members that die, stop and lose each other.

use std::sync::Arc;
use std::time::Duration;

use coffer_store::{EtcdOptions, EtcdStore, Revision, StateStore, Txn};
use tokio::time::Instant;

use crate::eventually::eventually;
use crate::members::{Etcd, short, shortest};

/// How long a call may take when its member has just died: an answer that does not come, and an election.
const A_FEW_SECONDS: Duration = Duration::from_secs(5);

/// Moves a counter of its own `rounds` times; each step requires the one before.
async fn count(store: Arc<EtcdStore>, key: String, rounds: u64) -> Duration {
    let (mut revision, mut longest) = (Revision::ZERO, Duration::ZERO);
    for round in 1..=rounds {
        let begun = Instant::now();
        let txn = Txn::new().if_mod(key.as_str(), revision).put(key.as_str(), round.to_string());
        let outcome = store.txn(txn).await.expect("another member should serve");
        assert!(outcome.succeeded, "{key}: somebody else has moved it from {revision} in round {round}");
        revision = outcome.revision;
        longest = longest.max(begun.elapsed());
    }
    longest
}

#[tokio::test]
async fn calls_go_on_at_another_member_when_the_one_that_serves_is_killed_and_nothing_is_done_twice() {
    let etcd = Etcd::plain(3).await;
    let store = Arc::new(etcd.store().await);
    let counters: Vec<_> =
        (0..6).map(|number| tokio::spawn(count(Arc::clone(&store), format!("c{number}"), 120))).collect();
    eventually("the midst of it", || async {
        let counter = store.get("c0").await.unwrap()?;
        (counter.version >= 20).then_some(())
    })
    .await;
    etcd.kill(0);
    let begun = Instant::now();
    store.get("c0").await.unwrap();
    assert!(begun.elapsed() < A_FEW_SECONDS, "a read took {:?}", begun.elapsed());
    for (number, counter) in counters.into_iter().enumerate() {
        let longest = counter.await.unwrap();
        assert!(longest < A_FEW_SECONDS, "a write took {longest:?}");
        let entry = store.get(&format!("c{number}")).await.unwrap().unwrap();
        assert_eq!((entry.value.as_ref(), entry.version), (b"120".as_ref(), 120));
    }
}

#[tokio::test]
async fn a_paused_leader_delays_calls_and_never_hangs_them() {
    let etcd = Etcd::plain(3).await;
    let leader = etcd.leader().await;
    let mut endpoints = etcd.endpoints();
    endpoints.swap(0, leader);
    let options = EtcdOptions { timeouts: short(), ..EtcdOptions::new(endpoints) };
    let store = EtcdStore::connect(options).await.unwrap();
    store.txn(Txn::new().put("a", "1")).await.unwrap();
    etcd.pause(leader);
    let begun = Instant::now();
    let (read, written) = tokio::join!(store.get("a"), store.txn(Txn::new().put("b", "1")));
    assert_eq!(read.unwrap().unwrap().version, 1);
    assert!(written.unwrap().succeeded);
    assert!(begun.elapsed() < short().call, "it took {:?}", begun.elapsed());
    // The one that was paused still has the request, and hears that it is no leader.
    etcd.resume(leader);
    eventually("the old leader's return", || async {
        let mut client = etcd.client(leader).await;
        client.get("none", None).await.ok()
    })
    .await;
    assert_eq!(store.get("b").await.unwrap().unwrap().version, 1);
}

#[tokio::test]
async fn without_a_majority_calls_fail_in_time_and_name_every_endpoint_and_work_again_with_one() {
    let etcd = Etcd::plain(3).await;
    let options = EtcdOptions { timeouts: shortest(), ..etcd.options() };
    let store = EtcdStore::connect(options.clone()).await.unwrap();
    store.txn(Txn::new().put("a", "1")).await.unwrap();
    etcd.kill(0);
    etcd.kill(2);
    let begun = Instant::now();
    let error = store.get("a").await.unwrap_err();
    assert!(begun.elapsed() < shortest().call + Duration::from_secs(1), "it took {:?}", begun.elapsed());
    assert!(error.is_retryable(), "{error:?}");
    for said in etcd.endpoints().iter().map(String::as_str).chain(["more than half of its members"]) {
        assert!(error.to_string().contains(said), "{said:?} is not said: {error}");
    }
    // By now the one that is left knows that it follows nobody, and says so before it begins with anything.
    let (written, begins) = tokio::join!(store.txn(Txn::new().put("a", "2")), EtcdStore::connect(options));
    for error in [written.unwrap_err(), begins.unwrap_err()] {
        assert!(error.is_retryable() && error.to_string().contains(&etcd.endpoint(1)), "{error:?}");
    }
    etcd.run(0);
    eventually("an answer", || async { store.get("a").await.ok() }).await;
    assert!(store.txn(Txn::new().put("a", "3")).await.unwrap().succeeded);
    assert_eq!(store.get("a").await.unwrap().unwrap().version, 2);
}
