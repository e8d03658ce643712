//! Why the simulated pool itself could not do its work (never what it answers to XAPI clients).

/// The crate's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Skeleton only.
    #[error("the simulated pool is not ready")]
    NotReady,
}
