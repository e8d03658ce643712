//! The repository on a remote, in restic format version 2.
mod check;
mod content;
mod error;
pub mod format;
mod id;
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
pub use id::{BlobId, IndexId, InvalidId, KeyId, PackId, RepositoryId, SnapshotId};
pub use meta::{DiskStats, FileInfo, PointInfo, SnapshotMeta, TAG};
pub use options::{
    BackupOptions, CheckLevel, Compression, DEFAULT_CHUNK_BYTES, KeyCost, PACK_TARGET, PruneOptions, RepositoryOptions,
};
pub use prune::{PrunePlan, PruneReport};
pub use reader::Point;
pub use repository::Repository;
pub use session::{BackupSession, ClosedDisk, DiskWriter, SealedPoint};
