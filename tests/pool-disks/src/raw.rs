//! Raw streams of `export_raw_vdi` and `import_raw_vdi`.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

use crate::BLOCK;
use crate::disk::{Disk, usize_of};
use crate::error::{Error, Result};
use crate::pump::{Progress, ReadAhead, WriteBehind, blocking, fraction, send};
use crate::source::Source;
use crate::store::{Provisioning, is_zero};

/// The largest piece of a chunked body, in bytes.
const MAX_CHUNK: u32 = 64 * 1024 * 1024;

/// Sends every byte of a disk; with `base`, areas that did not change are zeros. Returns the bytes sent.
///
/// # Errors
/// When a disk cannot be read or the peer is gone.
pub async fn export<W: AsyncWrite + Send + Unpin>(
    disk: &Disk,
    base: Option<Uuid>,
    writer: &mut W,
    progress: Progress<'_>,
) -> Result<u64> {
    let source = disk.clone();
    let (size, blocks) = blocking(move || Ok((source.size()?, source.allocated(base)?))).await?;
    let zeros = vec![0; usize_of(BLOCK)];
    let wanted = blocks.clone().into_iter().map(|block| (u64::from(block) * BLOCK, usize_of(BLOCK)));
    let mut reader = ReadAhead::new(Arc::new(disk.clone()), wanted, 0, Vec::new());
    let mut at = 0;
    while let Some(piece) = reader.next().await? {
        at = send_zeros(writer, &zeros, at, piece.offset, size, progress).await?;
        send(writer, "raw", &piece.buffer).await?;
        at += BLOCK;
        reader.recycle(piece);
        progress(fraction(at, size));
    }
    send_zeros(writer, &zeros, at, size, size, progress).await
}

/// Sends zeros up to a position, which it returns.
async fn send_zeros<W: AsyncWrite + Unpin>(
    writer: &mut W,
    zeros: &[u8],
    mut at: u64,
    to: u64,
    size: u64,
    progress: Progress<'_>,
) -> Result<u64> {
    while at < to {
        let len = (to - at).min(zeros.len() as u64);
        send(writer, "raw", &zeros[..usize_of(len)]).await?;
        at += len;
        progress(fraction(at, size));
    }
    Ok(at)
}

/// Writes a raw stream onto a disk; returns the bytes read. On a thin SR zeros are only written where the disk held
/// something. With `content_length` the stream ends there, else at its end of file.
///
/// # Errors
/// When the stream ends before `content_length`, is longer than the disk, or the disk cannot be written.
pub async fn import<R: AsyncRead + Send + Unpin>(
    reader: &mut R,
    content_length: Option<u64>,
    disk: &Disk,
    progress: Progress<'_>,
) -> Result<u64> {
    let source_disk = disk.clone();
    let size = blocking(move || source_disk.size()).await?;
    if content_length.is_some_and(|length| length > size) {
        return Err(Error::StreamTooLong { size });
    }
    let mut source = Source::new(reader, "raw", content_length);
    let mut writer = WriteBehind::new(disk.clone());
    let mut buffer = Vec::new();
    loop {
        let at = source.at();
        buffer.resize(usize_of(BLOCK), 0);
        let got = source.read(&mut buffer).await?;
        if got == 0 {
            break;
        }
        if at + got as u64 > size {
            return Err(Error::StreamTooLong { size });
        }
        buffer.truncate(got);
        buffer = writer.submit(buffer, move |disk, data| write_sparse(disk, at, data)).await?;
        progress(fraction(source.at(), content_length.unwrap_or(size)));
    }
    writer.settle().await?;
    match content_length {
        Some(length) if source.at() < length => {
            Err(Error::StreamTooShort { stream: "raw", missing: "the rest of the announced length" })
        }
        _ => Ok(source.at()),
    }
}

/// As [`import`], for bodies with `chunked=true`: 12-byte little-endian headers (u64 offset, u32 length) before each
/// piece, ended by a header of zeros. Returns the bytes of data.
///
/// # Errors
/// When a piece lies outside the disk, the end header is missing, or the disk cannot be written.
pub async fn import_chunked<R: AsyncRead + Send + Unpin>(reader: &mut R, disk: &Disk) -> Result<u64> {
    let source_disk = disk.clone();
    let size = blocking(move || source_disk.size()).await?;
    let mut source = Source::new(reader, "raw", None);
    let mut writer = WriteBehind::new(disk.clone());
    let mut buffer = Vec::new();
    let mut total = 0;
    loop {
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = source.array("the header of a piece").await?;
        let offset = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if (offset, length) == (0, 0) {
            break;
        }
        let fits = offset.checked_add(u64::from(length)).is_some_and(|end| end <= size);
        if !fits || length > MAX_CHUNK {
            return Err(Error::OutOfRange { disk: disk.id(), offset, len: u64::from(length), size });
        }
        buffer.resize(usize_of(u64::from(length)), 0);
        source.fill(&mut buffer, "a piece").await?;
        buffer = writer.submit(buffer, move |disk, data| disk.write_at(offset, data)).await?;
        total += u64::from(length);
    }
    writer.settle().await?;
    Ok(total)
}

/// Writes data, but on a thin SR not the runs of 64 KiB of zeros that the disk reads as anyway.
fn write_sparse(disk: &Disk, offset: u64, data: &[u8]) -> Result<()> {
    const GRAIN: usize = 64 * 1024;
    if disk.store().params().provisioning == Provisioning::Thick {
        return disk.write_at(offset, data);
    }
    let mut at = 0;
    while at < data.len() {
        let grain = |at: usize| data.get(at..data.len().min(at + GRAIN)).unwrap_or_default();
        let zero = is_zero(grain(at));
        let mut end = at;
        while end < data.len() && is_zero(grain(end)) == zero {
            end = data.len().min(end + GRAIN);
        }
        let run = &data[at..end];
        let start = offset + at as u64;
        if zero {
            disk.zero_at(start, run.len() as u64)?
        } else {
            disk.write_at(start, run)?
        }
        at = end;
    }
    Ok(())
}
