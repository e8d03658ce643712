//! What keeps an agent from running at all. What goes wrong inside a task is a `Problem` of that task instead.

use std::io;
use std::path::PathBuf;

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No controller was named.
    #[error("no controller is configured: name at least one address")]
    NoController,
    /// The address of a controller cannot be used.
    #[error("controller {address:?} is not an address such as http://127.0.0.1:7420")]
    Address {
        /// What was configured.
        address: String,
        /// Why it is none.
        source: tonic::codegen::http::uri::InvalidUri,
    },
    /// The token cannot be sent.
    #[error("the agent's token has characters that cannot be sent in a header")]
    Token,
    /// The folder of the agent's state cannot be used.
    #[error("cannot use {}", path.display())]
    StateDir {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process works with this folder.
    #[error("another agent runs with the state folder {}: stop it, or give this one a folder of its own", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The id in the state folder is not one.
    #[error("{} does not hold an agent id: remove it to get a new one", path.display())]
    AgentId {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: coffer_model::IdError,
    },
}

impl Error {
    /// True when the same start may succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Locked { .. })
    }
}
