//! What a caller is told when the answer to a transaction is lost: the truth, and nothing happens twice.

use std::sync::Arc;
use std::time::Duration;

use coffer_store::{Error, EtcdOptions, EtcdStore, EtcdTimeouts, KeyValue, StateStore, Txn, TxnOutcome};

use crate::eventually::eventually;
use crate::members::{Etcd, short, shortest};
use crate::proxy::Proxy;

/// A member, the way to it that loses things, a store on that way, and one that goes straight.
struct World {
    _etcd: Etcd,
    proxy: Proxy,
    store: Arc<EtcdStore>,
    direct: EtcdStore,
}

impl World {
    async fn start() -> Self {
        Self::with(short()).await
    }

    async fn with(timeouts: EtcdTimeouts) -> Self {
        let etcd = Etcd::plain(1).await;
        let proxy = Proxy::start(etcd.address(0)).await;
        let options = EtcdOptions { timeouts, ..EtcdOptions::new([proxy.endpoint()]) };
        let store = Arc::new(EtcdStore::connect(options).await.unwrap());
        let direct = etcd.store().await;
        // From here on there is a mark, so that the next request is the transaction itself.
        store.txn(Txn::new().put("begun", "")).await.unwrap();
        Self { _etcd: etcd, proxy, store, direct }
    }

    fn send(&self, txn: Txn) -> tokio::task::JoinHandle<Result<TxnOutcome, Error>> {
        let store = Arc::clone(&self.store);
        tokio::spawn(async move { store.txn(txn).await })
    }

    async fn entry(&self, key: &str) -> Option<KeyValue> {
        self.direct.get(key).await.unwrap()
    }

    /// Has a transaction carried out whose answer is lost after it took place.
    async fn lose_the_answer(&self, txn: Txn, took_place: impl AsyncFn() -> bool) -> Result<TxnOutcome, Error> {
        self.proxy.lose_answers();
        let call = self.send(txn);
        eventually("the change", || async { took_place().await.then_some(()) }).await;
        assert!(!call.is_finished(), "the answer should be lost");
        self.proxy.cut();
        call.await.unwrap()
    }
}

#[tokio::test]
async fn a_transaction_whose_answer_is_lost_is_reported_as_it_was_and_done_once() {
    let world = World::start().await;
    // A second attempt would find the key there, and report that nothing was done.
    let txn = Txn::new().if_absent("a").put("a", "1");
    let outcome = world.lose_the_answer(txn, async || world.entry("a").await.is_some()).await.unwrap();
    let a = world.entry("a").await.unwrap();
    assert_eq!(outcome, TxnOutcome { succeeded: true, revision: a.mod_revision, reads: Vec::new() });

    // A second attempt would write twice.
    for round in 2..5_u64 {
        let written = async || world.entry("a").await.unwrap().version == round;
        let outcome = world.lose_the_answer(Txn::new().put("a", round.to_string()), written).await.unwrap();
        let a = world.entry("a").await.unwrap();
        assert_eq!((outcome.succeeded, outcome.revision, a.version), (true, a.mod_revision, round));
    }

    // A deletion that is certain to delete something is told from one that others made.
    let a = world.entry("a").await.unwrap();
    let txn = Txn::new().if_mod("a", a.mod_revision).delete("a");
    let outcome = world.lose_the_answer(txn, async || world.entry("a").await.is_none()).await.unwrap();
    assert!(outcome.succeeded && outcome.revision > a.mod_revision, "{outcome:?}");
}

#[tokio::test]
async fn a_deletion_that_nobody_can_tell_from_another_ones_is_reported_as_unknown() {
    let world = World::start().await;
    world.direct.txn(Txn::new().put("a", "")).await.unwrap();
    world.store.get("a").await.unwrap();
    let outcome = world.lose_the_answer(Txn::new().delete("a"), async || world.entry("a").await.is_none()).await;
    let error = outcome.unwrap_err();
    assert!(error.is_unknown() && !error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains(&world.proxy.endpoint()), "{error}");
}

#[tokio::test]
async fn a_refusal_whose_answer_is_lost_is_asked_for_again() {
    let world = World::start().await;
    world.store.txn(Txn::new().put("a", "1").put("seen", "")).await.unwrap();
    world.proxy.lose_answers();
    let call = world.send(Txn::new().if_absent("a").put("a", "2").or_read("a"));
    world.proxy.has_lost_an_answer().await;
    assert!(!call.is_finished());
    world.proxy.cut();
    let outcome = call.await.unwrap().unwrap();
    assert_eq!((outcome.succeeded, outcome.reads), (false, vec![world.entry("a").await]));
    assert_eq!(world.entry("a").await.unwrap().version, 1);
}

#[tokio::test]
async fn a_request_that_arrives_after_its_outcome_was_told_does_nothing() {
    let world = World::start().await;
    world.store.txn(Txn::new().put("a", "first")).await.unwrap();
    world.proxy.hold_requests();
    let call = world.send(Txn::new().put("a", "held back"));
    world.proxy.holds(b"held back").await;
    world.proxy.cut();
    // It is certain that the first request was not done and never will be, so the second one is no blind retry.
    let outcome = call.await.unwrap().unwrap();
    let before = world.entry("a").await.unwrap();
    assert_eq!((outcome.succeeded, before.version, before.mod_revision), (true, 2, outcome.revision));
    world.proxy.deliver_late().await;
    assert_eq!(world.entry("a").await.unwrap(), before, "the late request took place");
}

#[tokio::test]
async fn a_transaction_of_which_nothing_can_be_learned_is_unknown_and_ends_in_time() {
    let world = World::with(shortest()).await;
    world.store.txn(Txn::new().put("a", "first")).await.unwrap();
    world.proxy.block();
    let begun = tokio::time::Instant::now();
    let error = world.store.txn(Txn::new().put("a", "second")).await.unwrap_err();
    assert!(error.is_unknown(), "{error:?}");
    assert!(begun.elapsed() < shortest().call + Duration::from_secs(1), "it took {:?}", begun.elapsed());
    assert!(error.to_string().contains(&world.proxy.endpoint()), "{error}");
}
