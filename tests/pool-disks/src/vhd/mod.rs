//! VHD streams as `export_raw_vdi` sends and `import_raw_vdi` takes them.
#![allow(clippy::todo, unused_variables, reason = "skeleton, filled in within the hour")]
use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

use crate::disk::Disk;
use crate::error::Result;
use crate::pump::Progress;

/// What is wrong with a VHD stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VhdFault {
    /// A structure does not begin with its magic.
    #[error("the {0} does not begin with its magic")]
    BadMagic(&'static str),
}

/// Sends a disk as a VHD: dynamic, or with `base` differencing. The caller sends the HTTP header before and closes the
/// connection after.
///
/// # Errors
/// When the disk cannot be read or the peer is gone.
pub async fn export<W: AsyncWrite + Send + Unpin>(
    disk: &Disk,
    base: Option<Uuid>,
    writer: &mut W,
    progress: Progress<'_>,
) -> Result<u64> {
    todo!()
}

/// Writes a VHD stream onto a disk in place; blocks absent from the stream keep the disk's content.
///
/// # Errors
/// When the stream is not a valid VHD, ends early, or the disk cannot be written.
pub async fn import<R: AsyncRead + Send + Unpin>(
    reader: &mut R,
    content_length: Option<u64>,
    disk: &Disk,
    progress: Progress<'_>,
) -> Result<()> {
    todo!()
}
