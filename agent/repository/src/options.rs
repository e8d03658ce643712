//! What callers choose: every limit of memory and parallelism of this crate is one of these numbers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

/// How a repository is made, and how this process works with it.
#[derive(Debug, Clone)]
pub struct RepositoryOptions {
    /// Bytes of a chunk, a power of two from 64 KiB to 8 MiB. Fixed when the repository is made; ignored by `open`
    /// unless another program made the repository.
    pub chunk_bytes: usize,
    /// How hard new keys are to guess.
    pub key_cost: KeyCost,
    /// Chunks that are hashed, compressed and encrypted at one time. Each holds up to three chunks of memory.
    pub workers: usize,
    /// Packs of [`PACK_TARGET`] bytes in memory: one being filled, the others on their way to the remote.
    pub packs_in_memory: usize,
    /// How zstd compresses; see [`Compression`].
    pub compression: Compression,
    /// Decoded chunks that a random-access reader keeps.
    pub cached_chunks: usize,
    /// Bytes that one sequential reader may have read ahead.
    pub readahead_bytes: usize,
    /// A backup writes its index at least so often, so that what it has stored survives it.
    pub index_interval: Duration,
}

/// Size at which a pack is closed: 16 MiB.
pub const PACK_TARGET: usize = 16 << 20;
/// Bytes of a chunk unless chosen otherwise: 1 MiB.
pub const DEFAULT_CHUNK_BYTES: usize = 1 << 20;

impl Default for RepositoryOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            chunk_bytes: DEFAULT_CHUNK_BYTES,
            key_cost: KeyCost::default(),
            workers: (cores + 1).clamp(2, 16),
            packs_in_memory: 3,
            compression: Compression::default(),
            cached_chunks: 16,
            readahead_bytes: 12 << 20,
            index_interval: Duration::from_secs(60),
        }
    }
}

/// How zstd is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Level 1, and not at all where a sample of the chunk does not shrink.
    #[default]
    Fast,
    /// Level 3 for everything that shrinks.
    Better,
}

/// Cost of scrypt for a new key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCost {
    /// As hard as this machine can do in the given time, never below 2^15 rounds.
    Calibrated(Duration),
    /// 2^15 rounds with one lane: the least that is sound.
    Least,
    /// Two rounds: worth nothing, and hence for tests alone, which open thousands of repositories.
    Worthless,
}

impl Default for KeyCost {
    fn default() -> Self {
        Self::Calibrated(Duration::from_millis(500))
    }
}

/// How a backup session works.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// The session is given up when this is cancelled.
    pub cancel: tokio_util::sync::CancellationToken,
}

/// What prune may do.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Packs that nothing needs are deleted this long after they were found so: longer than any backup that may have
    /// known them runs.
    pub grace: Duration,
    /// Packs of which at least this share (0 to 1) is garbage are written anew without it.
    pub repack_waste: f64,
    /// At most so many bytes are written anew in one run.
    pub max_repack_bytes: u64,
    /// Asked before each act that cannot be taken back.
    pub permission: Permission,
}

/// The right to do what cannot be taken back. It may be lost while a prune runs, so it is waited for before every mark
/// and every deletion.
#[derive(Clone)]
pub struct Permission(Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>);

impl Permission {
    /// A permission that is there whenever the future of `wait` is done.
    pub fn new(wait: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(wait))
    }

    pub(crate) async fn wait(&self) {
        (self.0)().await;
    }
}

impl Default for Permission {
    /// Always there.
    fn default() -> Self {
        Self::new(|| Box::pin(std::future::ready(())))
    }
}

impl fmt::Debug for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permission")
    }
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(48 * 3600),
            repack_waste: 0.3,
            max_repack_bytes: 64 << 30,
            permission: Permission::default(),
        }
    }
}

/// How deep a check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckLevel {
    /// Every snapshot's trees and every blob's place: packs exist with the size that the index says.
    Structure,
    /// All packs are read, decrypted and hashed as well.
    ReadData,
}
