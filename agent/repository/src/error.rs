//! What can go wrong with a repository, with its subject and what to do next.

use std::sync::Arc;

use coffer_extent::ExtentError;

use crate::format::Fault;
use crate::objects::pack_name;
use crate::{BlobId, PackId, RepositoryId, SnapshotId};

/// A failed operation on a repository.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The remote failed.
    #[error("the remote failed")]
    Remote(#[from] coffer_remote::Error),
    /// There is no repository on the remote.
    #[error("{remote} holds no repository")]
    NoRepository {
        /// The remote.
        remote: String,
    },
    /// A repository that is known is not there.
    #[error("{remote} does not hold repository {wanted} any more: there is none")]
    RepositoryGone {
        /// The remote.
        remote: String,
        /// The repository that should be there.
        wanted: RepositoryId,
    },
    /// Another repository stands where a known one should.
    #[error("{remote} does not hold repository {wanted} but another one")]
    OtherRepository {
        /// The remote.
        remote: String,
        /// The repository that should be there.
        wanted: RepositoryId,
    },
    /// There is one already.
    #[error("{remote} holds a repository already")]
    RepositoryExists {
        /// The remote.
        remote: String,
    },
    /// There is data, but no `config`: making a repository would give the data up.
    #[error("{remote} holds data of a repository without its config file")]
    ConfigLost {
        /// The remote.
        remote: String,
    },
    /// No key file opens with the password.
    #[error("wrong password for {remote}: it opens none of {keys} key files")]
    WrongPassword {
        /// The remote.
        remote: String,
        /// Key files tried.
        keys: usize,
    },
    /// The last key file would go, and with it every way to read the repository.
    #[error("the last password of a repository cannot be removed")]
    LastKey,
    /// A chunk size that is not a power of two from 64 KiB to 8 MiB.
    #[error("a chunk of {bytes} bytes is not a power of two from 64 KiB to 8 MiB")]
    ChunkSize {
        /// What was asked for.
        bytes: usize,
    },
    /// An object does not hold what its name promises.
    #[error("{object} is damaged")]
    Damaged {
        /// The object, as it is called on the remote.
        object: String,
        /// What is wrong with it.
        source: Fault,
    },
    /// A pack does not hold what an index says.
    #[error("{} is damaged", place(pack, blob.as_ref()))]
    PackDamaged {
        /// The pack.
        pack: PackId,
        /// The blob in it that was read.
        blob: Option<BlobId>,
        /// What is wrong with it.
        source: Fault,
    },
    /// No index knows a blob that is needed.
    #[error("blob {blob} is in no index")]
    BlobMissing {
        /// The blob.
        blob: BlobId,
    },
    /// A pack that an index lists is not there.
    #[error("pack {pack} is missing")]
    PackMissing {
        /// The pack.
        pack: PackId,
    },
    /// A part of a disk or file cannot be read.
    #[error("bytes {start} to {end} of {path} cannot be read")]
    Unreadable {
        /// The file inside the point.
        path: String,
        /// First byte.
        start: u64,
        /// First byte behind.
        end: u64,
        /// Why.
        source: Box<Error>,
    },
    /// No such file in the point.
    #[error("point {point} has no file {path}")]
    NoFile {
        /// The point.
        point: SnapshotId,
        /// What was asked for.
        path: String,
    },
    /// A file is larger than the caller can take.
    #[error("{path} has {size} bytes, more than the {max} asked for")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The caller's limit in bytes.
        max: u64,
    },
    /// A path, tag or name that cannot be stored.
    #[error("{value:?} cannot be stored: {reason}")]
    Invalid {
        /// The value.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// The extents given to a disk do not follow one another, or leave it.
    #[error("{path}: {what} at byte {offset}")]
    Misuse {
        /// The disk.
        path: String,
        /// What is wrong.
        what: &'static str,
        /// Where.
        offset: u64,
    },
    /// A pack could not be stored, so no backup of that time can be complete.
    #[error("a pack could not be stored")]
    NotStored {
        /// Why; shared by all backups that it hits.
        source: Arc<Error>,
    },
    /// The backup was cancelled.
    #[error("the backup was cancelled")]
    Cancelled,
    /// A key could not be derived from the password.
    #[error("a key cannot be derived: {reason}")]
    KeyDerivation {
        /// Why.
        reason: String,
    },
    /// Prune found the repository damaged and deleted nothing.
    #[error("nothing is pruned in a damaged repository: {found}")]
    PruneRefused {
        /// The damage.
        found: String,
    },
}

impl Error {
    pub(crate) fn damaged(object: impl ToString, source: impl Into<Fault>) -> Self {
        Self::Damaged { object: object.to_string(), source: source.into() }
    }

    pub(crate) fn damaged_pack(pack: &PackId, source: Fault) -> Self {
        Self::PackDamaged { pack: *pack, blob: None, source }
    }

    pub(crate) fn damaged_blob(pack: &PackId, blob: &BlobId, source: Fault) -> Self {
        Self::PackDamaged { pack: *pack, blob: Some(*blob), source }
    }

    /// Whether data that was stored is lost: missing, short, or not what its hash says.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::PackDamaged { .. } | Self::BlobMissing { .. } | Self::PackMissing { .. } => {
                true
            }
            Self::Unreadable { source, .. } => source.is_damage(),
            _ => false,
        }
    }

    /// The pack that is damaged or missing.
    pub(crate) fn lost_pack(&self) -> Option<PackId> {
        match self {
            Self::PackDamaged { pack, .. } | Self::PackMissing { pack } => Some(*pack),
            Self::Unreadable { source, .. } => source.lost_pack(),
            _ => None,
        }
    }

    /// Whether the same call can succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Remote(error) => error.is_retryable(),
            Self::Unreadable { source, .. } => source.is_retryable(),
            Self::NotStored { source } => source.is_retryable(),
            // The right disk may be mounted again.
            Self::RepositoryGone { .. } | Self::OtherRepository { .. } => true,
            _ => false,
        }
    }

    /// What an operator can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Remote(error) => error.advice(),
            Self::NotStored { source } => source.advice(),
            Self::Unreadable { source, .. } => source.advice(),
            Self::RepositoryGone { .. } | Self::OtherRepository { .. } => {
                "is it mounted? put the right file system or folder back at the remote's path; to begin anew, register another remote"
            }
            Self::NoRepository { .. } => "make one, or check that the remote is mounted and is the right one",
            Self::RepositoryExists { .. } => "open it instead; to begin anew, use an empty folder",
            Self::ConfigLost { .. } => {
                "copy `config` back from another copy of this repository; do not make a new one here"
            }
            Self::WrongPassword { .. } => "give the password this repository was made with, or another one added to it",
            Self::LastKey => "add another password first",
            Self::ChunkSize { .. } => "choose 1 MiB unless you know better",
            Self::Damaged { .. } | Self::PackDamaged { .. } | Self::BlobMissing { .. } | Self::PackMissing { .. } => {
                "verify the restore point, so that the next backup stores again what is lost of it; then look at the remote's disk (\"A damaged repository\" in docs/operations.md)"
            }
            Self::NoFile { .. } => "list the files of the point",
            Self::TooLarge { .. } => "read it in parts",
            Self::Invalid { .. } => "use letters, digits, dots, dashes and underscores",
            Self::Misuse { .. } => "report this: it is an error in the program",
            Self::Cancelled => "run it again when you want it",
            Self::KeyDerivation { .. } => {
                "look at the key file with `restic key list`; use another password of this repository"
            }
            Self::PruneRefused { .. } => {
                "look at the remote with `restic check`; delete the points that cannot be read, then prune again"
            }
        }
    }
}

/// How a pack, or a blob in it, is called on the remote.
fn place(pack: &PackId, blob: Option<&BlobId>) -> String {
    let pack = pack_name(pack);
    blob.map_or_else(|| pack.to_string(), |blob| format!("blob {blob} in {pack}"))
}

impl From<Error> for ExtentError {
    fn from(error: Error) -> Self {
        let subject = match &error {
            Error::Unreadable { path, .. } | Error::Misuse { path, .. } => path.clone(),
            _ => "repository".to_owned(),
        };
        Self::new(subject, error.is_retryable(), error)
    }
}
