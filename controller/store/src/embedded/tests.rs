//! The embedded store passes the suite, and keeps what it acknowledged.

use super::*;
use crate::suite::Subject;
use crate::{PutLease, StateStore, Txn};
use futures::StreamExt;

struct InFile {
    store: EmbeddedStore,
    _folder: tempfile::TempDir,
}

#[async_trait]
impl Subject for InFile {
    fn store(&self) -> Arc<dyn StateStore> {
        Arc::new(self.store.clone())
    }

    async fn compact(&self) {
        self.store.compact();
    }
}

async fn subject() -> InFile {
    let folder = tempfile::tempdir().unwrap();
    InFile { store: EmbeddedStore::open(&folder.path().join("store")).await.unwrap(), _folder: folder }
}

crate::conformance!(tokio::test, super::subject().await);

fn path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("store")
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_it_was_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&path(&folder)).await.unwrap();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store.txn(Txn::new().put("a", "1").put("b", "1").put_with("c", "1", PutLease::Attach(lease.id))).await.unwrap();
    let revision = store.txn(Txn::new().put("a", "2").delete("b")).await.unwrap().revision;
    let before = [store.get("a").await.unwrap(), store.get("b").await.unwrap(), store.get("c").await.unwrap()];
    store.close().await;
    assert!(matches!(store.get("a").await, Err(Error::Closed { .. })));
    assert!(matches!(store.txn(Txn::new().put("a", "3")).await, Err(Error::Closed { .. })));

    let store = EmbeddedStore::open(&path(&folder)).await.unwrap();
    let after = [store.get("a").await.unwrap(), store.get("b").await.unwrap(), store.get("c").await.unwrap()];
    assert_eq!(after, before);
    assert_eq!(store.txn(Txn::new().put("d", "1")).await.unwrap().revision, revision.next());
    assert_eq!(store.keep_alive(lease.id).await.unwrap(), lease.ttl);
    assert!(store.grant(lease.ttl).await.unwrap().id > lease.id, "a lease's id came twice");
    store.revoke(lease.id).await.unwrap();
    assert_eq!(store.get("c").await.unwrap(), None);
    // History does not survive: watchers list anew.
    let first = store.watch("a", revision).await.unwrap().next().await.unwrap();
    assert!(matches!(first, Err(Error::Compacted { .. })), "{first:?}");
    store.close().await;
}

#[tokio::test]
async fn a_lease_gets_its_full_time_again_when_the_store_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&path(&folder)).await.unwrap();
    let lease = store.grant(Duration::from_secs(2)).await.unwrap();
    store.txn(Txn::new().put_with("k", "", PutLease::Attach(lease.id))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    store.close().await;
    let store = EmbeddedStore::open(&path(&folder)).await.unwrap();
    let opened = Instant::now();
    let revision = store.range(crate::RangeRequest::prefix("k", 1)).await.unwrap().revision;
    let mut events = store.watch("k", revision.next()).await.unwrap();
    let batch = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(batch.events.len(), 1);
    assert!(opened.elapsed() >= Duration::from_millis(1900), "{:?}", opened.elapsed());
    store.close().await;
}

#[tokio::test]
async fn a_second_user_of_the_file_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&path(&folder)).await.unwrap();
    let second = EmbeddedStore::open(&path(&folder)).await.unwrap_err();
    assert!(matches!(second, Error::InUse { .. }), "{second:?}");
    assert!(second.to_string().starts_with("another controller uses "), "{second}");
    store.close().await;
    EmbeddedStore::open(&path(&folder)).await.unwrap().close().await;
}

#[tokio::test]
async fn only_its_owner_may_read_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&path(&folder)).await.unwrap();
    assert_eq!(std::fs::metadata(path(&folder)).unwrap().permissions().mode() & 0o777, 0o600);
    store.close().await;
}

#[tokio::test]
async fn files_that_are_no_store_of_ours_or_newer_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(path(&folder), "not a store, but text that somebody wants to keep").unwrap();
    let error = EmbeddedStore::open(&path(&folder)).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(std::fs::read(path(&folder)).unwrap().starts_with(b"not a store"));

    let newer = folder.path().join("newer");
    EmbeddedStore::open(&newer).await.unwrap().close().await;
    {
        let database = Database::open(&newer).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(META).unwrap().insert("format", FORMAT + 1).unwrap();
        txn.commit().unwrap();
    }
    let error = EmbeddedStore::open(&newer).await.unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 2, known: 1, .. }), "{error:?}");

    let gone = EmbeddedStore::open(&folder.path().join("no/such/folder")).await.unwrap_err();
    assert!(matches!(gone, Error::Storage { .. }), "{gone:?}");
}

#[test]
fn a_short_entry_is_damage_not_a_panic() {
    for length in 0..HEADER {
        assert!(decode(&vec![1; length]).is_none());
    }
    assert_eq!(decode(&[0; HEADER]).unwrap().value, Bytes::new());
}
