//! The repository on a remote, in restic format version 2: written by extents, read as block devices, and open to every
//! stock program.
//!
//! This crate owns what stands below `repository/` on a remote, the marks of prune below `coffer/prune/`, and the notes
//! of damaged packs below `coffer/damaged/`. It never decides which point is
//! kept, which snapshot is a restore point (the commit record says so), or where a remote is.
//!
//! # Invariants
//!
//! - A listed snapshot *must* refer only to blobs that an index file on the remote lists, in packs that are there:
//!   packs are written before index files, those before the snapshot, and a backup looks again at everything it reused
//!   before it is sealed.
//! - Before a backup, a publication, a deletion, a prune, and whenever what is not found would mean something, the
//!   repository on the remote *must* be [confirmed](Repository::confirm) to be the one that was opened.
//! - Nothing is changed in place. Only prune removes anything but snapshots, and only what was marked a grace earlier.
//! - Whatever is read is checked against its hash; bytes that do not fit are an error that names the object, and the
//!   disk and range.
//! - Memory is bounded by [`RepositoryOptions`], whatever the size of disks, but for 48 bytes a blob of index and 32
//!   bytes a chunk of each open disk.

mod check;
mod content;
mod damage;
mod error;
pub mod format;
#[doc(hidden)]
pub mod fuzz;
mod id;
mod identity;
mod index;
mod lock;
mod meta;
mod objects;
mod options;
mod pipeline;
mod prune;
mod reader;
mod repository;
mod session;
mod walk;

pub use check::CheckReport;
pub use content::FileContent;
pub use error::Error;
pub use id::{BlobId, IndexId, InvalidId, KeyId, LockId, PackId, RepositoryId, SnapshotId};
pub use meta::{DiskStats, FileInfo, PointInfo, SnapshotMeta, TAG};
pub use options::{
    BackupOptions, CheckLevel, Compression, DEFAULT_CHUNK_BYTES, KeyCost, PACK_TARGET, Permission, PruneOptions,
    RepositoryOptions,
};
pub use prune::{PrunePlan, PruneReport};
pub use reader::Point;
pub use repository::Repository;
pub use session::{BackupSession, ClosedDisk, DiskWriter, SealedPoint};
