//! Why the simulated pool itself could not do its work (never what it answers to XAPI clients).

use std::path::{Path, PathBuf};

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration contradicts itself.
    #[error("the configuration is not possible: {0}")]
    Configuration(String),
    /// A file of the state folder could not be used.
    #[error("{action} {} failed; is the state folder writable, and has the disk room?", path.display())]
    State {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The state was left by something else.
    #[error("{} is not the saved state of a simulated pool: {detail}", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A listener could not be opened.
    #[error("listening on {address} failed; choose another port")]
    Listen {
        /// Address and port.
        address: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("making the certificate of host {host} failed")]
    Certificate {
        /// Host number.
        host: usize,
        /// Cause.
        #[source]
        source: rcgen::Error,
    },
    /// The saved certificate or key is damaged.
    #[error("a saved certificate or key is damaged; delete the .crt and .key files of the state folder")]
    BadCertificate,
    /// Storage failed.
    #[error("the storage of SR {sr} failed")]
    Storage {
        /// The SR's UUID.
        sr: String,
        /// Cause.
        #[source]
        source: pool_disks::Error,
    },
    /// What the configuration asks for could not be made.
    #[error("making {subject} failed: {detail}")]
    Setup {
        /// SR or VM.
        subject: String,
        /// What was answered.
        detail: String,
    },
}

impl Error {
    pub(crate) fn state(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::State { action, path: path.to_owned(), source }
    }

    /// Whether the same start may succeed later without anything being changed by hand.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Listen { .. })
    }
}
