//! What can go wrong on a remote, with its subject and what to do next.

use std::fmt;
use std::io;
use std::ops::Range;

use crate::{InvalidName, ObjectName};

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Publishing an object.
    Create,
    /// Reading one, whole or in part.
    Read,
    /// Asking for its size.
    Stat,
    /// Listing a folder.
    List,
    /// Removing an object.
    Delete,
    /// Asking for free space.
    Space,
    /// Opening the remote itself.
    Open,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Space => "ask the free space of",
            Self::Open => "open",
        })
    }
}

/// A failed operation on a remote. `remote` is [`Remote::describe`](crate::Remote::describe), `subject` an object or
/// folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name outside the alphabet of names.
    #[error("invalid object name")]
    Name(#[from] InvalidName),
    /// The folder of the remote itself is not there.
    #[error("{remote}: the folder is missing")]
    FolderMissing {
        /// The remote.
        remote: String,
        /// What the system said.
        source: io::Error,
    },
    /// Where the remote was opened, another folder stands now.
    #[error("{remote}: another folder stands there than when it was opened")]
    FolderReplaced {
        /// The remote.
        remote: String,
    },
    /// There is no such object.
    #[error("{remote}: {name} does not exist")]
    NotFound {
        /// The remote.
        remote: String,
        /// What was asked for.
        name: ObjectName,
    },
    /// The name is taken: somebody published there before.
    #[error("{remote}: {name} already exists")]
    AlreadyExists {
        /// The remote.
        remote: String,
        /// The name that is taken.
        name: ObjectName,
    },
    /// The remote (or a quota on it) is full.
    #[error("{remote} is full: cannot {operation} {subject}")]
    NoSpace {
        /// The remote.
        remote: String,
        /// What was being done.
        operation: Operation,
        /// To what.
        subject: String,
        /// What the system said.
        source: io::Error,
    },
    /// The remote cannot be written to.
    #[error("{remote} is read-only: cannot {operation} {subject}")]
    ReadOnly {
        /// The remote.
        remote: String,
        /// What was being done.
        operation: Operation,
        /// To what.
        subject: String,
        /// What the system said.
        source: io::Error,
    },
    /// This process may not do that.
    #[error("{remote}: not allowed to {operation} {subject}")]
    PermissionDenied {
        /// The remote.
        remote: String,
        /// What was being done.
        operation: Operation,
        /// To what.
        subject: String,
        /// What the system said.
        source: io::Error,
    },
    /// More than a whole read returns.
    #[error("{remote}: {name} has {size} bytes, more than the {max} that are read at once")]
    TooLarge {
        /// The remote.
        remote: String,
        /// The object.
        name: ObjectName,
        /// Its size in bytes.
        size: u64,
        /// The most that is read, in bytes.
        max: u64,
    },
    /// The object ends before the range does: it was cut, or is not what an index says.
    #[error("{remote}: {name} has {size} bytes, wanted are {}..{}", wanted.start, wanted.end)]
    OutOfRange {
        /// The remote.
        remote: String,
        /// The object.
        name: ObjectName,
        /// Its size in bytes.
        size: u64,
        /// The bytes asked for.
        wanted: Range<u64>,
    },
    /// Anything else the system reports.
    #[error("{remote}: cannot {operation} {subject}")]
    Io {
        /// The remote.
        remote: String,
        /// What was being done.
        operation: Operation,
        /// To what.
        subject: String,
        /// What the system said.
        source: io::Error,
    },
    /// A record of ours does not read as one.
    #[error("{remote}: {name} is damaged: {reason}")]
    Damaged {
        /// The remote.
        remote: String,
        /// The record.
        name: ObjectName,
        /// What is wrong with it.
        reason: String,
    },
    /// A record of a format that a newer version wrote.
    #[error("{remote}: {name} has format version {found}, this program knows {known}")]
    UnknownVersion {
        /// The remote.
        remote: String,
        /// The record.
        name: ObjectName,
        /// The version it has.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The outcome of publishing a commit record could not be learnt.
    #[error("{remote}: whether {name} was published is not known")]
    Undecided {
        /// The remote.
        remote: String,
        /// The record.
        name: ObjectName,
        /// Why publishing failed.
        source: Box<Error>,
    },
}

impl Error {
    /// Sorts what the system said about `operation` on `subject`.
    pub(crate) fn io(remote: &str, operation: Operation, subject: impl fmt::Display, source: io::Error) -> Self {
        let (remote, subject) = (remote.to_owned(), subject.to_string());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { remote, operation, subject, source }
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { remote, operation, subject, source },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { remote, operation, subject, source },
            _ => Self::Io { remote, operation, subject, source },
        }
    }

    /// Whether the same call can succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Io { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::IsADirectory
                    | io::ErrorKind::Unsupported
            ),
            Self::FolderMissing { .. } | Self::FolderReplaced { .. } => true,
            Self::Undecided { source, .. } => source.is_retryable(),
            _ => false,
        }
    }

    /// What an operator can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Name(_) => "rename the object to letters, digits, dots, dashes and underscores",
            Self::FolderMissing { .. } => "is it mounted? mount it, or make the folder on the agent's machine",
            Self::FolderReplaced { .. } => "is it mounted? look which file system is at the remote's path",
            Self::NotFound { .. } => {
                "check the remote's path and that it is mounted; if an object was lost, verify the restore points"
            }
            Self::AlreadyExists { .. } => "another writer was first; read what it published",
            Self::NoSpace { .. } => "free space on the remote or raise its quota, then prune or run again",
            Self::ReadOnly { .. } => "mount the remote read-write; a file system that turned read-only needs a check",
            Self::PermissionDenied { .. } => "give the agent's user read and write access to the whole remote",
            Self::TooLarge { .. } | Self::OutOfRange { .. } | Self::Damaged { .. } => {
                "verify the restore points; restore the object from another copy if there is one"
            }
            Self::Io { .. } => "see what the system said; check the disk or the network of the remote, then run again",
            Self::UnknownVersion { .. } => "use a newer version of this program with this remote",
            Self::Undecided { .. } => "run the recovery of this task when the remote answers again",
        }
    }
}
