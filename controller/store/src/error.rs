//! What a store answers when it cannot do as asked.

use std::path::PathBuf;
use std::sync::Arc;

use crate::store::{LeaseId, Revision};

/// Why a store did not do as asked. Clonable, because one broken store ends many calls.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nobody knows whether the change took place. Read again before deciding anything.
    #[error("the outcome of a transaction is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
        /// Why.
        #[source]
        source: Option<Source>,
    },
    /// The state or the changes asked for are not kept any more. List anew.
    #[error("revision {requested} is not kept any more; the oldest kept is {oldest}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The oldest one that is there.
        oldest: Revision,
    },
    /// The state asked for has not come yet: a token of another store?
    #[error("revision {requested} has not come yet; the newest is {newest}")]
    FutureRevision {
        /// The revision asked for.
        requested: Revision,
        /// The newest one.
        newest: Revision,
    },
    /// The lease has ended, or never was.
    #[error("lease {lease} does not exist (any more)")]
    LeaseNotFound {
        /// The lease.
        lease: LeaseId,
    },
    /// A key that was to keep its lease does not exist.
    #[error("key {key:?} does not exist, so it has no lease to keep")]
    KeyNotFound {
        /// The key.
        key: String,
    },
    /// A list of a transaction is too long.
    #[error("a transaction has {count} {list}; at most {most} are allowed")]
    TooManyOperations {
        /// Which list.
        list: &'static str,
        /// Its length.
        count: usize,
        /// Its greatest length.
        most: usize,
    },
    /// A transaction is too large.
    #[error("a transaction of {bytes} bytes is too large; at most {most} bytes are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The greatest size.
        most: usize,
    },
    /// A key is written twice in one transaction.
    #[error("a transaction changes key {key:?} twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A key is empty or too long, a limit is zero: a mistake of the caller.
    #[error("invalid request: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// Another process uses the file.
    #[error("another controller uses {}; stop it first, or give this one another state folder", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error("{} has format {found}; this version reads up to {known}: use a newer version of Coffer", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// The file is not one of ours or is damaged.
    #[error("{} is damaged: {what}; restore it from a copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file cannot be opened, read or written.
    #[error("cannot {action} the store in {}", path.display())]
    Storage {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Source,
    },
    /// The store cannot be reached now; nothing changed.
    #[error("the store cannot be reached: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// The store does not let us in, or we do not trust it; nothing changed. An operator has to mend it.
    #[error("the store does not let this program in, or cannot be trusted: {reason}")]
    Refused {
        /// By which endpoint, why, and what to do.
        reason: String,
    },
    /// The store has no room left; nothing changed. An operator has to make some.
    #[error("the store is full: {reason}")]
    Full {
        /// Which, and what to do.
        reason: String,
    },
    /// A certificate or key that the store is to be reached with cannot be used.
    #[error("the certificate or key in {} cannot be used: {reason}", path.display())]
    Credential {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store was closed, or broke before.
    #[error("the store is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
    /// A record is not what this program writes.
    #[error("the record in key {key:?} cannot be read: {reason}")]
    Record {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// Cause of an [`Error`].
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

impl Error {
    /// True when the same call may succeed later without a change. False for [`Error::Unknown`]: read first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// True when nobody knows whether the change took place.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}
