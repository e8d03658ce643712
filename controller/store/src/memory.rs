//! A store in memory.

use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::store::{Events, KeyValue, Lease, LeaseId, Page, RangeRequest, Revision, StateStore};
use crate::txn::{Txn, TxnOutcome};

/// A store in memory: for tests and simulation. Clones share one store.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    inner: Arc<()>,
}

impl MemoryStore {
    /// An empty store. To be called inside a tokio runtime, whose clock its leases follow.
    #[must_use]
    pub fn new() -> Self {
        Self { inner: Arc::new(()) }
    }
}

#[async_trait]
impl StateStore for MemoryStore {
    async fn get(&self, _: &str) -> Result<Option<KeyValue>, Error> {
        unimplemented!("{:?}", self.inner)
    }
    async fn range(&self, _: RangeRequest) -> Result<Page, Error> {
        unimplemented!()
    }
    async fn txn(&self, _: Txn) -> Result<TxnOutcome, Error> {
        unimplemented!()
    }
    async fn grant(&self, _: Duration) -> Result<Lease, Error> {
        unimplemented!()
    }
    async fn keep_alive(&self, _: LeaseId) -> Result<Duration, Error> {
        unimplemented!()
    }
    async fn revoke(&self, _: LeaseId) -> Result<(), Error> {
        unimplemented!()
    }
    async fn watch(&self, _: &str, _: Revision) -> Result<Events, Error> {
        unimplemented!()
    }
}
