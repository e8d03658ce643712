//! The state store: one trait, its implementations, one conformance suite.
//!
//! [`StateStore`] is a small part of what etcd offers, chosen so that etcd is a drop-in: versioned keys, consistent
//! pages, all-or-nothing transactions with compares, leases, resumable watches. Implementations: [`EtcdStore`], a
//! cluster for several controllers; [`EmbeddedStore`], one file for one controller; and [`MemoryStore`], for tests and
//! simulation. The last two run the same pure state machine ([`state::State`]); all pass the same suite (feature
//! `suite`).
//!
//! The store knows nothing of jobs, runs or tasks.

pub mod embedded;
pub mod error;
pub mod etcd;
#[cfg(any(test, feature = "suite"))]
pub mod failing;
pub mod keeper;
pub mod keyspace;
pub mod limits;
mod local;
pub mod memory;
pub mod state;
pub mod store;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
pub mod txn;
mod writer;

pub use embedded::EmbeddedStore;
pub use error::Error;
pub use etcd::EtcdStore;
pub use etcd::options::{EtcdIdentity, EtcdOptions, EtcdTimeouts, EtcdTls};
pub use keeper::KeptLease;
pub use keyspace::{Keyspace, Record, Versioned};
pub use memory::MemoryStore;
pub use store::{Event, Events, KeyValue, Lease, LeaseId, Page, RangeRequest, Revision, StateStore, WatchBatch, list};
pub use txn::{Compare, Op, PutLease, Read, Txn, TxnOutcome};
