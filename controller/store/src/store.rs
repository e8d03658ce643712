//! The trait that every store implements, and the values that it speaks in.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::txn::{Txn, TxnOutcome};

/// Number of a state of the store: each transaction that changes something makes the next; where others use the same
/// cluster, theirs lie in between. 0 is the empty store, and, compared with a key's revision, a key that does not
/// exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// Before the first change; the revision of a key that does not exist.
    pub const ZERO: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Names a lease. Never reused within a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// How long it lives without a keep-alive; may be longer than asked for (whole seconds, at least two), never
    /// shorter.
    pub ttl: Duration,
}

/// A key with its value and its history in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key (anew, if it was deleted in between).
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
    /// How often it was written since it was created, from 1.
    pub version: u64,
    /// The lease whose end deletes it.
    pub lease: Option<LeaseId>,
}

/// Which keys [`StateStore::range`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRequest {
    /// Only keys that begin so.
    pub prefix: String,
    /// Only this key and those after it: [`Page::next`] of the page before. `None`: from the first.
    pub from: Option<String>,
    /// Most keys to return, at least 1; a page may hold fewer, also when it is not the last.
    pub limit: usize,
    /// The state to read: [`Page::revision`] of the first page, so that all pages show one state. `None`: the newest.
    pub at: Option<Revision>,
}

impl RangeRequest {
    /// The first page of a prefix in the newest state.
    pub fn prefix(prefix: impl Into<String>, limit: usize) -> Self {
        Self { prefix: prefix.into(), from: None, limit, at: None }
    }

    /// The page after `page`, in the same state; `None` when that was the last.
    #[must_use]
    pub fn after(&self, page: &Page) -> Option<Self> {
        let from = page.next.clone()?;
        Some(Self { from: Some(from), at: Some(page.revision), ..self.clone() })
    }
}

/// A part of a prefix, sorted by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The keys.
    pub entries: Vec<KeyValue>,
    /// The state that was read.
    pub revision: Revision,
    /// Where the next page begins; `None` on the last.
    pub next: Option<String>,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was written.
    Put(KeyValue),
    /// It was deleted, by a transaction or by the end of its lease.
    Delete {
        /// The key.
        key: String,
        /// The revision that deleted it.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision that changed it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Changes under a prefix, oldest first. Holds whole revisions: what one transaction changed is never torn apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Everything up to this revision has been seen: resume with the next one.
    pub revision: Revision,
    /// The changes; never empty.
    pub events: Vec<Event>,
}

/// Changes as they come. Ends only with an error: with [`Error::Compacted`] when the watcher was too slow or began too
/// early (list anew, then watch from the list's revision), with another one when the store is gone.
pub type Events = BoxStream<'static, Result<WatchBatch, Error>>;

/// A store of versioned keys, shaped as a subset of etcd.
///
/// Every answer is linearizable: it reflects everything that was acknowledged before the call. Every method is
/// cancellation-safe in the sense that a dropped future leaves the store consistent; whether a dropped [`txn`] took
/// place is then unknown, as with [`Error::Unknown`].
///
/// [`txn`]: StateStore::txn
#[async_trait]
pub trait StateStore: Send + Sync + fmt::Debug + 'static {
    /// Reads one key.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error>;

    /// Reads a page of keys.
    ///
    /// # Errors
    /// [`Error::Compacted`] when the state asked for is not kept any more: begin again without `at`.
    /// [`Error::FutureRevision`] when it has not come yet.
    async fn range(&self, request: RangeRequest) -> Result<Page, Error>;

    /// Does all of `then` when every compare holds, and nothing when one does not; then reads `otherwise`.
    ///
    /// The change is durable when this returns.
    ///
    /// # Errors
    /// [`Error::Unknown`] when nobody knows whether it took place: read again before deciding. Everything else means
    /// that nothing changed.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error>;

    /// Makes a lease. Keys are put under it by [`PutLease::Attach`](crate::txn::PutLease::Attach) and deleted when it
    /// ends.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn grant(&self, ttl: Duration) -> Result<Lease, Error>;

    /// Extends a lease to its full time from now, and returns that time.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] when it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error>;

    /// Ends a lease and deletes its keys, in one revision.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] when it has ended.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// Follows the keys that begin with `prefix`, from the changes of revision `from` on. To miss nothing and see
    /// nothing twice: `from` is [`Page::revision`]`.next()` of a list.
    ///
    /// # Errors
    /// When the store cannot answer. That `from` is too old is said by the stream.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, Error>;
}

/// How often [`list`] begins again when the state it reads is compacted away under it.
const LIST_ATTEMPTS: u32 = 5;

/// Reads a whole prefix, in pages of one state, and says which state that was.
///
/// # Errors
/// As [`StateStore::range`]; [`Error::Compacted`] only after several attempts.
pub async fn list(store: &dyn StateStore, prefix: &str) -> Result<(Vec<KeyValue>, Revision), Error> {
    let mut attempt = 1;
    loop {
        match list_once(store, prefix).await {
            Err(Error::Compacted { .. }) if attempt < LIST_ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

async fn list_once(store: &dyn StateStore, prefix: &str) -> Result<(Vec<KeyValue>, Revision), Error> {
    let mut request = RangeRequest::prefix(prefix, 1000);
    let mut entries = Vec::new();
    loop {
        let mut page = store.range(request.clone()).await?;
        entries.append(&mut page.entries);
        match request.after(&page) {
            Some(next) => request = next,
            None => return Ok((entries, page.revision)),
        }
    }
}
