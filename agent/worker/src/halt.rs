//! Why a task stops before its end, in words for people and a reason for programs.

use std::error::Error as StdError;
use std::fmt;

use coffer_proto::v1::Problem;

/// Why a task stops before its end.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Somebody else holds the task: nothing of it may be touched any more.
    Fenced,
    /// It was cancelled: undo, then complete as cancelled.
    Cancelled,
    /// It failed: undo, then complete as failed.
    Failed(Trouble),
}

/// The result of a part of a task.
pub(crate) type Outcome<T> = Result<T, Halt>;

/// Something went wrong: becomes a [`Problem`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    reason: &'static str,
    message: String,
    advice: String,
    retryable: bool,
}

impl Trouble {
    /// Trouble that stays until somebody changes something.
    pub(crate) fn new(reason: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { reason, message: message.into(), advice: advice.into(), retryable: false }
    }

    /// The same, passing by itself.
    #[must_use]
    pub(crate) fn passing(self) -> Self {
        Self { retryable: true, ..self }
    }

    /// The same, with what was being done put before what happened.
    #[must_use]
    pub(crate) fn during(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// The same, with other advice: for who knows more of the circumstances.
    #[must_use]
    pub(crate) fn advising(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }

    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    pub(crate) fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Names the storage that is full: the pool's own error only says that some is.
    #[must_use]
    pub(crate) fn on_storage(self, label: &str) -> Self {
        if self.reason == SR_FULL { self.during(format_args!("no room on {label}")) } else { self }
    }

    /// Whether something in the pool is gone that was there before.
    pub(crate) fn is_gone(&self) -> bool {
        self.reason == OBJECT_GONE
    }

    /// Whether it says that data on a remote is lost. What may pass says nothing about the data.
    pub(crate) fn is_loss(&self) -> bool {
        let reasons = ["REPOSITORY_DAMAGED", "REMOTE_OBJECT_MISSING", "REMOTE_DAMAGED", "RESTORE_POINT_DAMAGED"];
        !self.retryable && reasons.contains(&self.reason)
    }

    /// For the wire.
    pub(crate) fn to_problem(&self) -> Problem {
        Problem {
            reason: self.reason.to_owned(),
            message: self.message.clone(),
            advice: self.advice.clone(),
            retryable: self.retryable,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Trouble> for Halt {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(trouble)
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced => f.write_str("the task is held by somebody else"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Failed(trouble) => trouble.fmt(f),
        }
    }
}

/// An error with everything that caused it, in one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors repeat what they wrap.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl From<&coffer_xapi::Error> for Trouble {
    fn from(error: &coffer_xapi::Error) -> Self {
        Self {
            reason: pool_reason(error),
            message: chain(error),
            advice: error.advice().unwrap_or("look at the pool's log around this time").to_owned(),
            retryable: error.is_retryable(),
        }
    }
}

impl From<coffer_xapi::Error> for Trouble {
    fn from(error: coffer_xapi::Error) -> Self {
        Self::from(&error)
    }
}

impl From<coffer_remote::Error> for Trouble {
    fn from(error: coffer_remote::Error) -> Self {
        Self {
            reason: remote_reason(&error),
            message: chain(&error),
            advice: error.advice().to_owned(),
            retryable: error.is_retryable(),
        }
    }
}

impl From<coffer_repository::Error> for Trouble {
    fn from(error: coffer_repository::Error) -> Self {
        Self {
            reason: repository_reason(&error),
            message: chain(&error),
            advice: error.advice().to_owned(),
            retryable: error.is_retryable(),
        }
    }
}

impl From<coffer_extent::ExtentError> for Halt {
    fn from(error: coffer_extent::ExtentError) -> Self {
        if error.is_cancelled() {
            return Self::Cancelled;
        }
        Self::Failed(error.into())
    }
}

impl From<coffer_extent::ExtentError> for Trouble {
    fn from(error: coffer_extent::ExtentError) -> Self {
        let (reason, advice) = if let Some(pool) = error.downcast_ref::<coffer_xapi::Error>() {
            (pool_reason(pool), pool.advice().unwrap_or("look at the pool's log around this time"))
        } else if let Some(remote) = error.downcast_ref::<coffer_remote::Error>() {
            (remote_reason(remote), remote.advice())
        } else if let Some(repository) = error.downcast_ref::<coffer_repository::Error>() {
            (repository_reason(repository), repository.advice())
        } else {
            ("TRANSFER_FAILED", "try again; if it stays, look at the host's log and the network in between")
        };
        let (advice, retryable) = (advice.to_owned(), error.is_retryable());
        Self { reason, message: chain(&error), advice, retryable }
    }
}

macro_rules! halts {
    ($($error:ty),+) => {$(
        impl From<$error> for Halt {
            fn from(error: $error) -> Self {
                Self::Failed(error.into())
            }
        }
    )+};
}

halts!(coffer_xapi::Error, coffer_remote::Error);

impl From<coffer_repository::Error> for Halt {
    fn from(error: coffer_repository::Error) -> Self {
        match error {
            coffer_repository::Error::Cancelled => Self::Cancelled,
            error => Self::Failed(error.into()),
        }
    }
}

/// There is no room on a storage repository.
const SR_FULL: &str = "SR_FULL";
/// An object of the pool is gone.
const OBJECT_GONE: &str = "OBJECT_GONE";

fn pool_reason(error: &coffer_xapi::Error) -> &'static str {
    use coffer_xapi::{Error, FailureClass as C};
    match error {
        Error::Xapi(failure) => match failure.class() {
            C::Busy => "POOL_BUSY",
            C::Gone => OBJECT_GONE,
            C::Space => SR_FULL,
            C::ChainTooLong => "SNAPSHOT_CHAIN_TOO_LONG",
            C::Permission => "PERMISSION_DENIED",
            C::HostDown | C::Starting | C::NotCoordinator | C::Session => "POOL_UNREACHABLE",
            C::Unsupported => "NOT_SUPPORTED_BY_POOL",
            C::InputOutput => "DISK_IO_ERROR",
            C::Refused => "REFUSED_BY_POOL",
            C::Cancelled => "CANCELLED_ON_POOL",
            C::ChangedBlocks | C::Other => "POOL_ERROR",
        },
        Error::CertificateChanged { .. } => "CERTIFICATE_CHANGED",
        Error::Connect { .. } | Error::Tls { .. } | Error::Timeout { .. } | Error::EventsStopped => "POOL_UNREACHABLE",
        Error::UnknownHost { .. } | Error::UnknownCoordinator { .. } => "HOST_NOT_TRUSTED",
        Error::Address { .. } | Error::Fingerprint { .. } => "POOL_MISCONFIGURED",
        Error::NoHostForSr { .. } => "SR_NOT_ATTACHED",
        Error::Transport { .. }
        | Error::Cut { .. }
        | Error::Stalled { .. }
        | Error::ErrorInBody { .. }
        | Error::UploadRefused { .. } => "TRANSFER_FAILED",
        _ => "POOL_ERROR",
    }
}

fn remote_reason(error: &coffer_remote::Error) -> &'static str {
    use coffer_remote::Error;
    match error {
        Error::NoSpace { .. } => "REMOTE_FULL",
        Error::ReadOnly { .. } => "REMOTE_READ_ONLY",
        Error::PermissionDenied { .. } => "REMOTE_PERMISSION_DENIED",
        Error::FolderMissing { .. } => "REMOTE_FOLDER_MISSING",
        Error::FolderReplaced { .. } => "REMOTE_REPLACED",
        Error::NotFound { .. } => "REMOTE_OBJECT_MISSING",
        Error::Damaged { .. } | Error::OutOfRange { .. } | Error::TooLarge { .. } => "REMOTE_DAMAGED",
        Error::UnknownVersion { .. } => "REMOTE_TOO_NEW",
        _ => "REMOTE_ERROR",
    }
}

fn repository_reason(error: &coffer_repository::Error) -> &'static str {
    use coffer_repository::Error;
    match error {
        Error::Remote(error) => remote_reason(error),
        Error::NotStored { source } => repository_reason(source),
        Error::Unreadable { source, .. } => repository_reason(source),
        Error::NoRepository { .. } | Error::ConfigLost { .. } | Error::RepositoryGone { .. } => "REPOSITORY_MISSING",
        Error::OtherRepository { .. } => "REPOSITORY_OTHER",
        Error::WrongPassword { .. } => "WRONG_PASSWORD",
        Error::Damaged { .. }
        | Error::PackDamaged { .. }
        | Error::BlobMissing { .. }
        | Error::PackMissing { .. }
        | Error::NoFile { .. } => "REPOSITORY_DAMAGED",
        Error::PruneRefused { .. } => "PRUNE_REFUSED",
        _ => "REPOSITORY_ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_whole_chain_is_told_once() {
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
        let failure = coffer_xapi::Failure::new("VM.snapshot", "SR_BACKEND_FAILURE_44", vec!["".into(), "full".into()]);
        let trouble = Trouble::from(coffer_xapi::Error::from(failure.clone()));
        assert_eq!(trouble.reason(), "SR_FULL");
        assert_eq!(trouble.to_string(), failure.to_string());
        assert!(!trouble.is_retryable() && !trouble.to_problem().advice.is_empty());
    }

    #[test]
    fn a_cancelled_transfer_is_not_a_failure() {
        let error = coffer_extent::StreamError::Cancelled.about("xvda");
        assert!(matches!(Halt::from(error), Halt::Cancelled));
    }
}
