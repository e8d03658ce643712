//! What the local stores have in common: reads and watches of the shared state, commands to its writer, the end of
//! leases.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::limits;
use crate::store::{Events, KeyValue, Lease, LeaseId, Page, RangeRequest, Revision};
use crate::txn::{Txn, TxnOutcome};
use crate::writer::{Command, Head, Reply, Shared};

/// About how many events a watcher gets at once.
const BATCH: usize = 512;

/// The way to a writer.
#[async_trait]
pub(crate) trait Submit: Send + Sync + 'static {
    /// Has a command executed.
    async fn submit(&self, command: Command, now: Instant) -> Result<Reply, Error>;
}

/// A store on this machine. Clones are the same store.
#[derive(Clone)]
pub(crate) struct Local {
    shared: Arc<Shared>,
    writer: Arc<dyn Submit>,
}

impl fmt::Debug for Local {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Local").field("head", &*self.shared.head.borrow()).finish_non_exhaustive()
    }
}

impl Local {
    /// Puts reader and writer together, and begins to watch over the leases.
    pub(crate) fn new(shared: Arc<Shared>, writer: Arc<dyn Submit>) -> Self {
        tokio::spawn(end_leases(Arc::downgrade(&writer), shared.next_expiry.subscribe()));
        Self { shared, writer }
    }

    async fn submit(&self, command: Command) -> Result<Reply, Error> {
        self.writer.submit(command, Instant::now()).await
    }

    /// Forgets all history, so that watches have to begin anew.
    pub(crate) fn compact(&self) {
        self.shared.state_mut().compact();
    }

    pub(crate) async fn close(&self) {
        // The only error is that it is closed already.
        drop(self.submit(Command::Close).await);
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        limits::check_key(key)?;
        self.shared.check_open()?;
        Ok(self.shared.state().get(key))
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<Page, Error> {
        self.shared.check_open()?;
        self.shared.state().range(request)
    }

    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        match self.submit(Command::Txn(txn)).await? {
            Reply::Txn(outcome) => Ok(outcome),
            reply => Err(unexpected(&reply)),
        }
    }

    pub(crate) async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        match self.submit(Command::Grant(ttl)).await? {
            Reply::Granted(lease) => Ok(lease),
            reply => Err(unexpected(&reply)),
        }
    }

    pub(crate) async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        match self.submit(Command::KeepAlive(lease)).await? {
            Reply::KeptAlive(ttl) => Ok(ttl),
            reply => Err(unexpected(&reply)),
        }
    }

    pub(crate) async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.submit(Command::Revoke(lease)).await.map(drop)
    }

    /// A watcher has no buffer of its own: it reads the history at its own pace, and is cut off when what it needs is
    /// forgotten.
    pub(crate) fn watch(&self, prefix: &str, from: Revision) -> Result<Events, Error> {
        self.shared.check_open()?;
        let watcher = Watcher {
            shared: Arc::clone(&self.shared),
            head: self.shared.head.subscribe(),
            prefix: prefix.to_owned(),
            next: from,
        };
        Ok(stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next_batch().await {
                Ok(batch) => Some((Ok(batch), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Unknown { reason: format!("the writer answered something else: {reply:?}"), source: None }
}

struct Watcher {
    shared: Arc<Shared>,
    head: watch::Receiver<Head>,
    prefix: String,
    next: Revision,
}

impl Watcher {
    async fn next_batch(&mut self) -> Result<crate::store::WatchBatch, Error> {
        loop {
            // Marked as seen before the state is read, so that a change in between wakes us up again.
            let closed = self.head.borrow_and_update().closed.clone();
            let batch = self.shared.state().changes(&self.prefix, self.next, BATCH)?;
            self.next = self.next.max(batch.revision.next());
            if !batch.events.is_empty() {
                return Ok(batch);
            }
            if let Some(error) = closed {
                return Err(error);
            }
            if self.next <= self.shared.state().revision() {
                continue;
            }
            // The sender lives in `shared`, which we hold.
            self.head.changed().await.map_err(|_| Error::Closed { reason: "the store was dropped".to_owned() })?;
        }
    }
}

/// Asks the writer to end leases when their time is over, for as long as the store is used.
async fn end_leases(writer: Weak<dyn Submit>, mut next: watch::Receiver<Option<Instant>>) {
    loop {
        let due = *next.borrow_and_update();
        let over = async {
            match due {
                Some(instant) => tokio::time::sleep_until(instant).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = next.changed() => if changed.is_err() { return },
            () = over => {
                let Some(writer) = writer.upgrade() else { return };
                if let Err(error) = writer.submit(Command::Expire, Instant::now()).await {
                    tracing::debug!(%error, "leases end no more");
                    return;
                }
            }
        }
    }
}

/// Implements [`StateStore`](crate::StateStore) for a type with a field `local`.
macro_rules! state_store_over_local {
    ($store:ty) => {
        #[async_trait::async_trait]
        impl $crate::StateStore for $store {
            async fn get(&self, key: &str) -> Result<Option<$crate::KeyValue>, $crate::Error> {
                self.local.get(key)
            }
            async fn range(&self, request: $crate::RangeRequest) -> Result<$crate::Page, $crate::Error> {
                self.local.range(&request)
            }
            async fn txn(&self, txn: $crate::Txn) -> Result<$crate::TxnOutcome, $crate::Error> {
                self.local.txn(txn).await
            }
            async fn grant(&self, ttl: std::time::Duration) -> Result<$crate::Lease, $crate::Error> {
                self.local.grant(ttl).await
            }
            async fn keep_alive(&self, lease: $crate::LeaseId) -> Result<std::time::Duration, $crate::Error> {
                self.local.keep_alive(lease).await
            }
            async fn revoke(&self, lease: $crate::LeaseId) -> Result<(), $crate::Error> {
                self.local.revoke(lease).await
            }
            async fn watch(&self, prefix: &str, from: $crate::Revision) -> Result<$crate::Events, $crate::Error> {
                self.local.watch(prefix, from)
            }
        }
    };
}
pub(crate) use state_store_over_local;
