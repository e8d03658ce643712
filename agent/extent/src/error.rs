//! What goes wrong with a stream of extents: one opaque error that carries any crate's own error between sources and
//! sinks ([`ExtentError`]), and the errors of this crate ([`StreamError`]).

use std::error::Error as StdError;
use std::fmt;

/// Why a source, a sink or a reader failed: the subject it was about, whether trying again may help, and the error of
/// the crate that failed, as source.
///
/// A crate converts its own error with `impl From<Error> for ExtentError`, so that `?` works in its trait methods.
pub struct ExtentError(Box<Inner>);

struct Inner {
    subject: String,
    retryable: bool,
    source: Box<dyn StdError + Send + Sync>,
}

impl ExtentError {
    /// An error about `subject` (a file, an export, a disk: what an operator would look for).
    pub fn new(
        subject: impl Into<String>,
        retryable: bool,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> ExtentError {
        ExtentError(Box::new(Inner { subject: subject.into(), retryable, source: source.into() }))
    }

    /// What it is about: a file, an export, a disk.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// True when the same operation may succeed if it is tried again from the start.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The error of the crate that failed, if it is an `E`.
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.source.downcast_ref()
    }

    /// True when the transfer was stopped by its cancellation token.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.downcast_ref(), Some(StreamError::Cancelled))
    }
}

impl fmt::Display for ExtentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk transfer failed at {}", self.0.subject)
    }
}

impl fmt::Debug for ExtentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtentError")
            .field("subject", &self.0.subject)
            .field("retryable", &self.0.retryable)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for ExtentError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0.source)
    }
}

/// What this crate itself finds wrong: a stream that breaks the contract of [`ExtentSource`](crate::ExtentSource), a
/// transfer that was cancelled, a changed-block bitmap that does not fit its disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// An extent does not start where the previous one ended.
    #[error("extent starts at byte {found}, expected {expected}: the source is broken, report this")]
    OutOfOrder {
        /// Where the previous extent ended.
        expected: u64,
        /// Where this extent starts.
        found: u64,
    },
    /// An extent of length zero.
    #[error("empty extent at byte {offset}: the source is broken, report this")]
    Empty {
        /// Where it stands.
        offset: u64,
    },
    /// An extent reaches beyond the end of the disk.
    #[error("extent of {len} bytes at byte {offset} reaches beyond the disk of {size} bytes")]
    BeyondEnd {
        /// Where it starts.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// The source ended before the end of the disk.
    #[error("stream ends at byte {end} of a disk of {size} bytes")]
    Short {
        /// Where it ended.
        end: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// A read outside the disk.
    #[error("read of {len} bytes at byte {offset} is outside the disk of {size} bytes")]
    OutsideDisk {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// The changed-block bitmap has another length than a disk of this size needs.
    #[error("changed-block bitmap has {found} bytes, a disk of {size} bytes needs {expected}: read the whole disk")]
    BitmapLength {
        /// Bytes found.
        found: usize,
        /// Bytes needed.
        expected: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// The sink needs whole disks and was given an unchanged range.
    #[error(
        "{len} unchanged bytes at byte {offset} given to a sink that has nothing to compare with: copy the full disk"
    )]
    UnexpectedUnchanged {
        /// Where the range starts.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// The transfer was cancelled.
    #[error("transfer was cancelled")]
    Cancelled,
}

impl StreamError {
    /// Wraps this error with the subject it is about.
    pub fn about(self, subject: impl Into<String>) -> ExtentError {
        let retryable = self.is_retryable();
        ExtentError::new(subject, retryable, self)
    }

    /// True for a stream that ended early (its producer may have been cut); the others are the same next time.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StreamError::Short { .. })
    }
}
