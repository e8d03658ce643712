//! Why a controller cannot be started or has to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a controller cannot be started or has to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is reachable from other machines.
    #[error(
        "refusing to listen on {address}: this version has no mutual TLS yet and listens on loopback only; use \
         127.0.0.1 or [::1]"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; stop what runs there, or choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token that clients show cannot be read or made.
    #[error("cannot read or create the API token {}", path.display())]
    Token {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token file has a content that cannot be a token.
    #[error("the API token {} is not 64 hexadecimal digits; delete the file to get a new one", path.display())]
    BadToken {
        /// Where.
        path: PathBuf,
    },
    /// The key that seals passwords cannot be read or made.
    #[error("cannot read or create the sealing key {}", path.display())]
    SealingKey {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The key file has a content that cannot be keys.
    #[error(
        "the sealing key file {} does not hold keys of 64 hexadecimal digits, one a line; put a copy of it back",
        path.display()
    )]
    BadSealingKey {
        /// Where.
        path: PathBuf,
    },
    /// Passwords are sealed with a key that is not there.
    #[error(
        "the passwords in the store are sealed with key {key}, which is not in {}; copy that file from another controller or \
         a backup. If the key is lost for good, start once with --forget-passwords and set all passwords anew",
        path.display()
    )]
    SealingKeyMissing {
        /// Where it was looked for.
        path: PathBuf,
        /// Name of the key.
        key: String,
    },
    /// A password does not open.
    #[error("the password in {key} is damaged; start once with --forget-passwords and set all passwords anew")]
    Unsealed {
        /// Key of the store.
        key: String,
    },
    /// The timings contradict each other.
    #[error("the timings are not usable: {0}")]
    Timings(&'static str),
    /// The store did not answer.
    #[error("the state store failed while {doing}")]
    Store {
        /// What for.
        doing: &'static str,
        /// Why.
        #[source]
        source: coffer_store::Error,
    },
    /// The store holds what this version cannot read.
    #[error("the state store cannot be read")]
    Record(#[from] coffer_core::RecordError),
    /// The state folder cannot be used.
    #[error("cannot write in the state folder {}", path.display())]
    StateFolder {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The reflection service cannot be built.
    #[error("the reflection service cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server stopped.
    #[error("the server stopped")]
    Server(#[from] tonic::transport::Error),
    /// A part of the controller ended by itself.
    #[error("a part of the controller ended by itself: {0}")]
    Part(String),
}

impl Error {
    /// True when the same thing may succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.is_retryable())
    }
}
