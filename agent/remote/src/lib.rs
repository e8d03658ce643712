//! Remotes: where backups live, and how something is published there exactly once.
//!
//! This crate owns the trait [`Remote`], its kinds ([`LocalRemote`], [`MemoryRemote`]), the failure-injecting wrapper
//! ([`FailingRemote`]) and the commit record of a restore point ([`commit`]). It never looks into what is stored:
//! packs, indexes and snapshots are bytes under a name. Which remote it is, is said by the repository on it.
//!
//! # Layout of a remote
//!
//! | folder | holds | written by |
//! | --- | --- | --- |
//! | `repository/` | a plain restic repository | coffer-repository |
//! | `coffer/commits/<vm>/<task>.json` | verdicts, created once, never changed | [`commit`] |
//! | `coffer/tmp/` | half-written files: never listed, swept | [`LocalRemote`] |
//!
//! # Invariants
//!
//! - An object *must* be complete and durable before its name exists; a name, once published, *must* never get other
//!   bytes.
//! - An error of [`Remote::create`] other than [`Error::AlreadyExists`] leaves it open whether the object exists: the
//!   caller *must* read back (as [`commit::decide`] does) or use a name that it will not use again.

pub mod commit;
mod error;
mod failing;
mod local;
mod memory;
mod name;
mod presence;

use std::fmt::Debug;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::{Error, Operation};
pub use failing::{FailingRemote, Fault};
pub use local::{LocalRemote, Swept};
pub use memory::MemoryRemote;
pub use name::{InvalidName, ObjectName};
pub use presence::read_if_present;

/// The most that [`Remote::read`] returns: 64 MiB. Larger objects are read by range.
pub const MAX_WHOLE_READ: u64 = 64 << 20;

/// What a kind of remote promises. Declared, never assumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Of two racing creates of one name at most one succeeds. Commit records need it.
    pub create_exclusive: bool,
    /// When `create` has returned, the object survives a loss of power.
    pub durable: bool,
}

/// A published object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub size: u64,
    /// When it was published, by the clock of the remote.
    pub modified: SystemTime,
}

/// Room on a remote, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What this process may still use.
    pub available: u64,
}

/// A place where backups live: named objects that are created once, read by range, listed and deleted.
///
/// Every method may be cancelled by dropping its future: the operation is then undecided, as after an error.
#[async_trait]
pub trait Remote: Send + Sync + Debug {
    /// What an operator would recognise it by, e.g. `local /srv/backup`. Holds no secret.
    fn describe(&self) -> String;

    /// What this kind of remote promises.
    fn capabilities(&self) -> Capabilities;

    /// Makes `body` (its parts in order) durable and publishes it under `name`, without replacing.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the name is taken. After any other error the object may exist or not.
    async fn create(&self, name: &ObjectName, body: Vec<Bytes>) -> Result<(), Error>;

    /// Reads a whole object of at most [`MAX_WHOLE_READ`] bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::TooLarge`] before anything is read.
    async fn read(&self, name: &ObjectName) -> Result<Bytes, Error>;

    /// Reads exactly the bytes of `range`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::OutOfRange`] when the object is shorter than `range.end`.
    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, Error>;

    /// Size and time of an object.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    async fn stat(&self, name: &ObjectName) -> Result<ObjectInfo, Error>;

    /// Every object below the folder `prefix`, at any depth, sorted by name; empty when there is no such folder.
    ///
    /// # Errors
    /// Whatever the remote reports.
    async fn list(&self, prefix: &ObjectName) -> Result<Vec<ObjectInfo>, Error>;

    /// Removes an object. Removing what is not there is a success, so that it can be repeated.
    ///
    /// # Errors
    /// Whatever the remote reports.
    async fn delete(&self, name: &ObjectName) -> Result<(), Error>;

    /// Room left, where the remote can tell.
    ///
    /// # Errors
    /// Whatever the remote reports.
    async fn space(&self) -> Result<Option<Space>, Error>;
}
