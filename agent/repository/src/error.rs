//! What can go wrong with a repository.

/// A failed operation on a repository.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The remote failed.
    #[error("the remote failed")]
    Remote(#[from] coffer_remote::Error),
}

impl Error {
    /// Whether the same call can succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        false
    }
    /// What an operator can do about it.
    pub fn advice(&self) -> &'static str {
        ""
    }
}
impl From<Error> for coffer_extent::ExtentError {
    fn from(error: Error) -> Self {
        Self::new("repository", error.is_retryable(), error)
    }
}
