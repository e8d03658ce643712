//! What a disk can be read from and written to.

use crate::{Extent, ExtentError};
use async_trait::async_trait;
use bytes::Bytes;

/// Yields a disk from its first byte to its last.
///
/// Extents come in order, are contiguous, never empty, and together cover `[0, size)` exactly;
/// [`Validated`](crate::Validated) checks that of any source. A data extent is at most one pool buffer and aligned to
/// [`ALIGNMENT`](crate::ALIGNMENT) where the disk allows it.
#[async_trait]
pub trait ExtentSource: Send {
    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// The next extent, `None` after the last. After an error the source is spent.
    async fn next(&mut self) -> Result<Option<Extent>, ExtentError>;
}

/// Takes a disk from its first byte to its last.
///
/// A sink may keep the bytes it is given for as long as it needs them, but must not wait for further extents to let go
/// of more than a few of them: they come from the one [`BufferPool`](crate::BufferPool) that also feeds the source.
#[async_trait]
pub trait ExtentSink: Send {
    /// Takes the next extent; returns when the sink is ready for another one (this is the back-pressure).
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError>;

    /// Makes complete and durable what was accepted. A sink that is dropped without it leaves nothing that looks
    /// complete.
    async fn finish(&mut self) -> Result<(), ExtentError>;
}

/// Random access to a disk of fixed size: restore points, files, NBD exports.
#[async_trait]
pub trait BlockReader: Send + Sync {
    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// Exactly `len` bytes at `offset`; a range that is not inside the disk is an error.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, ExtentError>;
}

#[async_trait]
impl<S: ExtentSource + ?Sized> ExtentSource for Box<S> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        (**self).next().await
    }
}

#[async_trait]
impl<S: ExtentSource + ?Sized> ExtentSource for &mut S {
    fn size(&self) -> u64 {
        (**self).size()
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        (**self).next().await
    }
}

#[async_trait]
impl<S: ExtentSink + ?Sized> ExtentSink for Box<S> {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        (**self).accept(extent).await
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        (**self).finish().await
    }
}

#[async_trait]
impl<R: BlockReader + ?Sized> BlockReader for std::sync::Arc<R> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, ExtentError> {
        (**self).read_at(offset, len).await
    }
}
