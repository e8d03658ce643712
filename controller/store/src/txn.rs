//! Transactions: what they compare, what they change, what they answer.

use bytes::Bytes;

use crate::store::{KeyValue, LeaseId, Revision};

/// What must hold for a transaction to take place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written by exactly this revision; [`Revision::ZERO`]: it does not exist.
    ModRevision {
        /// The key.
        key: String,
        /// The revision.
        is: Revision,
    },
    /// The key was created by exactly this revision; [`Revision::ZERO`]: it does not exist.
    CreateRevision {
        /// The key.
        key: String,
        /// The revision.
        is: Revision,
    },
    /// The key does not exist (its version is 0).
    Absent {
        /// The key.
        key: String,
    },
    /// The key exists (its version is not 0).
    Present {
        /// The key.
        key: String,
    },
    /// No key begins so.
    PrefixEmpty {
        /// The prefix.
        prefix: String,
    },
}

/// What becomes of a key's lease when it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PutLease {
    /// The key has no lease from now on.
    #[default]
    None,
    /// The key ends with this lease.
    Attach(LeaseId),
    /// The key, which must exist, keeps the lease that it has, if any.
    Keep,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// What becomes of its lease.
        lease: PutLease,
    },
    /// Deletes a key; deleting what does not exist changes nothing.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A key to read when the transaction does not take place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The key.
    pub key: String,
}

/// A transaction: if all compares hold, do all of `then`, else read `otherwise`. Each list has at most
/// [`MAX_OPERATIONS`](crate::limits::MAX_OPERATIONS) entries, no key occurs twice in `then`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// What is then changed.
    pub then: Vec<Op>,
    /// What is read otherwise.
    pub otherwise: Vec<Read>,
}

impl Txn {
    /// A transaction that does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that the key was last written by this revision ([`Revision::ZERO`]: does not exist).
    #[must_use]
    pub fn if_mod(mut self, key: impl Into<String>, is: Revision) -> Self {
        self.compares.push(Compare::ModRevision { key: key.into(), is });
        self
    }

    /// Requires that the key was created by this revision ([`Revision::ZERO`]: does not exist).
    #[must_use]
    pub fn if_created(mut self, key: impl Into<String>, is: Revision) -> Self {
        self.compares.push(Compare::CreateRevision { key: key.into(), is });
        self
    }

    /// Requires that the key does not exist.
    #[must_use]
    pub fn if_absent(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Absent { key: key.into() });
        self
    }

    /// Requires that the key exists.
    #[must_use]
    pub fn if_present(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Present { key: key.into() });
        self
    }

    /// Requires that no key begins with the prefix.
    #[must_use]
    pub fn if_empty(mut self, prefix: impl Into<String>) -> Self {
        self.compares.push(Compare::PrefixEmpty { prefix: prefix.into() });
        self
    }

    /// Writes a key, without a lease.
    #[must_use]
    pub fn put(self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.put_with(key, value, PutLease::None)
    }

    /// Writes a key.
    #[must_use]
    pub fn put_with(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: PutLease) -> Self {
        self.then.push(Op::Put { key: key.into(), value: value.into(), lease });
        self
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.then.push(Op::Delete { key: key.into() });
        self
    }

    /// Reads a key when a compare does not hold.
    #[must_use]
    pub fn or_read(mut self, key: impl Into<String>) -> Self {
        self.otherwise.push(Read { key: key.into() });
        self
    }
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnOutcome {
    /// True: every compare held and `then` was done.
    pub succeeded: bool,
    /// The state after it: of a transaction that changed something, its own revision; of another one, the newest, which
    /// need not be one that changed a key here.
    pub revision: Revision,
    /// What `otherwise` read, in its order; empty when the transaction took place.
    pub reads: Vec<Option<KeyValue>>,
}
