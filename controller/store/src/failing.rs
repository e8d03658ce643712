//! A store that fails on demand, in the ways that a store across a network fails, for tests of whoever uses one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Error;
use crate::store::{Events, KeyValue, Lease, LeaseId, Page, RangeRequest, Revision, StateStore};
use crate::txn::{Txn, TxnOutcome};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not.
    None,
    /// The store cannot be reached; nothing happens.
    Unavailable,
    /// The answer is lost, and the transaction did not take place.
    LostBefore,
    /// The answer is lost, but the transaction was tried, and took place if its compares held.
    LostAfter,
}

/// A store over another one that fails as it is told. Faults are used up by transactions, one each, in order; reads
/// fail only while the store is cut off.
#[derive(Debug)]
pub struct FailingStore {
    inner: Arc<dyn StateStore>,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    next: VecDeque<Fault>,
    cut_off: bool,
}

impl FailingStore {
    /// A store that does not fail yet.
    #[must_use]
    pub fn new(inner: Arc<dyn StateStore>) -> Self {
        Self { inner, faults: Mutex::default() }
    }

    /// Lets the next transactions fail so, after those that were named before.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).next.extend(faults);
    }

    /// Cuts the store off (every call fails) or connects it again.
    pub fn cut_off(&self, cut_off: bool) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).cut_off = cut_off;
    }

    fn check(&self) -> Result<(), Error> {
        if self.faults.lock().unwrap_or_else(PoisonError::into_inner).cut_off { Err(unavailable()) } else { Ok(()) }
    }
}

fn unavailable() -> Error {
    Error::Unavailable { reason: "a test cut it off".to_owned() }
}

fn lost() -> Error {
    Error::Unknown { reason: "a test lost the answer".to_owned(), source: None }
}

#[async_trait]
impl StateStore for FailingStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        self.check()?;
        self.inner.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<Page, Error> {
        self.check()?;
        self.inner.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.check()?;
        let fault = self.faults.lock().unwrap_or_else(PoisonError::into_inner).next.pop_front();
        match fault.unwrap_or(Fault::None) {
            Fault::None => self.inner.txn(txn).await,
            Fault::Unavailable => Err(unavailable()),
            Fault::LostBefore => Err(lost()),
            Fault::LostAfter => self.inner.txn(txn).await.and(Err(lost())),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.check()?;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.check()?;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.check()?;
        self.inner.revoke(lease).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, Error> {
        self.check()?;
        self.inner.watch(prefix, from).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;
    use crate::suite::Subject;

    struct Wrapped(MemoryStore);

    #[async_trait]
    impl Subject for Wrapped {
        fn store(&self) -> Arc<dyn StateStore> {
            Arc::new(FailingStore::new(Arc::new(self.0.clone())))
        }

        async fn compact(&self) {
            self.0.compact();
        }
    }

    async fn subject() -> Wrapped {
        Wrapped(MemoryStore::new())
    }

    crate::conformance!(tokio::test(start_paused = true), super::subject().await);

    #[tokio::test]
    async fn a_lost_answer_hides_whether_the_transaction_took_place() {
        let memory = MemoryStore::new();
        let store = FailingStore::new(Arc::new(memory.clone()));
        store.fail_next([Fault::LostBefore, Fault::LostAfter, Fault::Unavailable, Fault::None]);
        let put = |value: &'static str| store.txn(Txn::new().put("k", value));
        assert!(put("1").await.unwrap_err().is_unknown());
        assert_eq!(memory.get("k").await.unwrap(), None);
        assert!(put("2").await.unwrap_err().is_unknown());
        assert_eq!(memory.get("k").await.unwrap().unwrap().value.as_ref(), b"2");
        assert!(put("3").await.unwrap_err().is_retryable());
        assert!(put("4").await.is_ok() && put("5").await.is_ok());
        store.cut_off(true);
        assert!(store.get("k").await.unwrap_err().is_retryable());
        store.cut_off(false);
        assert_eq!(store.get("k").await.unwrap().unwrap().value.as_ref(), b"5");
    }
}
