//! Raw streams of `export_raw_vdi` and `import_raw_vdi`.
#![allow(clippy::todo, unused_variables, reason = "skeleton, filled in within the hour")]
use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

use crate::disk::Disk;
use crate::error::Result;
use crate::pump::Progress;

/// Sends every byte of a disk; with `base`, areas that did not change are zeros.
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

/// Writes a raw stream onto a disk; returns the bytes read. Zeros are not written where a thin disk holds none.
///
/// # Errors
/// When the stream ends before `content_length`, is longer than the disk, or the disk cannot be written.
pub async fn import<R: AsyncRead + Send + Unpin>(
    reader: &mut R,
    content_length: Option<u64>,
    disk: &Disk,
    progress: Progress<'_>,
) -> Result<u64> {
    todo!()
}

/// As [`import`], for bodies with `chunked=true`: 12-byte little-endian headers (u64 offset, u32 length) before each
/// piece, ended by a header of zeros.
///
/// # Errors
/// When a piece lies outside the disk, the end header is missing, or the disk cannot be written.
pub async fn import_chunked<R: AsyncRead + Send + Unpin>(reader: &mut R, disk: &Disk) -> Result<u64> {
    todo!()
}
