//! The suite that every store passes, on one member and on three, without and with certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use coffer_store::suite::Subject;
use coffer_store::{EtcdOptions, EtcdStore, StateStore};

use crate::members::Etcd;

struct Below<'etcd> {
    store: EtcdStore,
    etcd: &'etcd Etcd,
}

#[async_trait]
impl Subject for Below<'_> {
    fn store(&self) -> Arc<dyn StateStore> {
        Arc::new(self.store.clone())
    }

    async fn compact(&self) {
        let mut client = self.etcd.client(0).await;
        let newest = client.get("none", None).await.unwrap().header().unwrap().revision();
        client.compact(newest, None).await.unwrap();
    }
}

/// A store below a prefix of its own, so that each case begins with an empty one.
async fn below(etcd: &Etcd) -> Below<'_> {
    static CASE: AtomicU32 = AtomicU32::new(0);
    let prefix = format!("/coffer/case{}", CASE.fetch_add(1, Ordering::Relaxed));
    Below { store: EtcdStore::connect(EtcdOptions { prefix, ..etcd.options() }).await.unwrap(), etcd }
}

coffer_store::conformance!(tokio::test, one_member_conforms, etcd = Etcd::plain(1).await, below(&etcd).await);
coffer_store::conformance!(tokio::test, one_secured_member_conforms, etcd = Etcd::secured(1).await, below(&etcd).await);
coffer_store::conformance!(tokio::test, three_members_conform, etcd = Etcd::plain(3).await, below(&etcd).await);
coffer_store::conformance!(
    tokio::test,
    three_secured_members_conform,
    etcd = Etcd::secured(3).await,
    below(&etcd).await
);
