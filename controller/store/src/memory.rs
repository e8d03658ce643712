//! A store in memory: nothing survives the process.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::error::Error;
use crate::local::{Local, Submit, state_store_over_local};
use crate::state::{Delta, History, State};
use crate::writer::{Command, Journal, Reply, Shared, Writer};

/// A store in memory, for tests and simulation. Clones are the same store.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    local: Local,
}

impl MemoryStore {
    /// An empty store. To be called inside a tokio runtime, whose clock its leases follow.
    #[must_use]
    pub fn new() -> Self {
        Self::with_history(History::default())
    }

    /// An empty store that keeps this much history; little makes watchers list anew often.
    #[must_use]
    pub fn with_history(history: History) -> Self {
        let shared = Shared::new(State::new(history));
        let writer = Writer::new(Nowhere, shared.clone(), Instant::now());
        Self { local: Local::new(shared, std::sync::Arc::new(Inline(Mutex::new(writer)))) }
    }

    /// Forgets all history: watches and pages of earlier states have to begin anew.
    pub fn compact(&self) {
        self.local.compact();
    }

    /// Closes the store: every later call gives [`Error::Closed`].
    pub async fn close(&self) {
        self.local.close().await;
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

state_store_over_local!(MemoryStore);

/// Memory is all the durability there is.
struct Nowhere;

impl Journal for Nowhere {
    fn commit(&mut self, _: &Delta) -> Result<(), Error> {
        Ok(())
    }
}

/// Executes commands in the caller's own task: nothing in them waits.
struct Inline(Mutex<Writer<Nowhere>>);

#[async_trait]
impl Submit for Inline {
    async fn submit(&self, command: Command, now: Instant) -> Result<Reply, Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).execute(command, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Subject;
    use crate::{Revision, StateStore, Txn};
    use futures::StreamExt;
    use std::sync::Arc;

    struct InMemory(MemoryStore);

    #[async_trait]
    impl Subject for InMemory {
        fn store(&self) -> Arc<dyn StateStore> {
            Arc::new(self.0.clone())
        }

        async fn compact(&self) {
            self.0.compact();
        }
    }

    async fn subject() -> InMemory {
        InMemory(MemoryStore::new())
    }

    crate::conformance!(tokio::test(start_paused = true), super::subject().await);

    #[tokio::test]
    async fn a_slow_watcher_is_cut_off_and_costs_no_memory() {
        let store = MemoryStore::with_history(History { changes: 10, bytes: 1 << 20 });
        let mut events = store.watch("k", Revision(1)).await.unwrap();
        for number in 0..11 {
            store.txn(Txn::new().put(format!("k{number}"), "")).await.unwrap();
        }
        let first = events.next().await.unwrap();
        assert!(matches!(first, Err(Error::Compacted { requested: Revision(1), oldest: Revision(2) })), "{first:?}");
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watch_ends_when_the_store_is_closed_or_dropped() {
        for closes in [true, false] {
            let store = MemoryStore::new();
            let mut events = store.watch("k", Revision(1)).await.unwrap();
            store.txn(Txn::new().put("k", "")).await.unwrap();
            assert_eq!(events.next().await.unwrap().unwrap().events.len(), 1);
            if closes {
                store.close().await;
            }
            drop(store);
            assert!(matches!(events.next().await, Some(Err(Error::Closed { .. }))));
            assert!(events.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn history_is_bounded_in_bytes_too() {
        let store = MemoryStore::with_history(History { changes: 1000, bytes: 10_000 });
        for number in 0..10 {
            store.txn(Txn::new().put(format!("k{number}"), vec![0; 3_000])).await.unwrap();
        }
        let too_early = store.watch("k", Revision(7)).await.unwrap().next().await.unwrap();
        assert!(matches!(too_early, Err(Error::Compacted { .. })));
        let batch = store.watch("k", Revision(8)).await.unwrap().next().await.unwrap().unwrap();
        assert_eq!(batch.events.len(), 3);
    }
}
