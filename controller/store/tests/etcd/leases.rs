//! Leases: kept over the death of a member, given up when they cannot be kept.

use std::sync::Arc;
use std::time::Duration;

use coffer_store::{Error, EtcdOptions, EtcdStore, KeptLease, PutLease, StateStore, Txn};
use tokio::time::{Instant, sleep, timeout};

use crate::eventually::PATIENCE;
use crate::members::{Etcd, short};
use crate::proxy::Proxy;

#[tokio::test]
async fn a_lease_is_kept_when_the_member_that_serves_is_killed() {
    let etcd = Etcd::plain(3).await;
    let store = Arc::new(etcd.store().await);
    let ttl = Duration::from_secs(3);
    let kept = KeptLease::grant(store.clone(), ttl).await.unwrap();
    store.txn(Txn::new().put_with("k", "", PutLease::Attach(kept.id()))).await.unwrap();
    etcd.kill(0);
    // A new leader gives every lease its full time once more; only then does it count.
    let watched = timeout(ttl * 2 + Duration::from_millis(500), kept.lost()).await;
    assert!(watched.is_err() && kept.is_alive(), "the lease was lost");
    assert!(store.get("k").await.unwrap().is_some());
    kept.release().await.unwrap();
    assert!(store.get("k").await.unwrap().is_none());
}

#[tokio::test]
async fn a_lease_that_cannot_be_confirmed_counts_as_lost_before_etcd_ends_it() {
    let etcd = Etcd::plain(1).await;
    let proxy = Proxy::start(etcd.address(0)).await;
    let options = EtcdOptions { timeouts: short(), ..EtcdOptions::new([proxy.endpoint()]) };
    let (store, direct) = (Arc::new(EtcdStore::connect(options).await.unwrap()), etcd.store().await);
    let ttl = Duration::from_secs(3);
    let kept = KeptLease::grant(store.clone(), ttl).await.unwrap();
    store.txn(Txn::new().put_with("k", "", PutLease::Attach(kept.id()))).await.unwrap();
    // Longer than it lives by itself, so that it was certainly kept.
    sleep(ttl + Duration::from_millis(500)).await;
    assert!(kept.is_alive());
    proxy.block();
    let blocked = Instant::now();
    timeout(PATIENCE, kept.lost()).await.unwrap();
    assert!(blocked.elapsed() <= ttl && !kept.is_alive(), "it took {:?}", blocked.elapsed());
    assert!(direct.get("k").await.unwrap().is_some(), "etcd ended the lease first");
    crate::eventually::eventually("the end of the lease in etcd", || async {
        direct.get("k").await.unwrap().is_none().then_some(())
    })
    .await;
    let error = direct.keep_alive(kept.id()).await.unwrap_err();
    assert!(matches!(error, Error::LeaseNotFound { lease } if lease == kept.id()), "{error:?}");
}
