//! Writes VHD streams exactly as hosts do: no batmap, no locator data, every sector bitmap full, blocks in order.

use std::sync::Arc;

use tokio::io::AsyncWrite;
use uuid::Uuid;

use super::format::{self, BITMAP, BLOCK_SECTORS, FOOTER, MAX_BLOCKS, TABLE_OFFSET, UNUSED};
use crate::BLOCK;
use crate::disk::{Disk, usize_of};
use crate::error::{Error, Result};
use crate::pump::{Progress, ReadAhead, blocking, fraction, send};

/// Bytes of the stream for a disk of `size` bytes that sends `blocks` blocks.
pub fn export_len(size: u64, blocks: u64) -> u64 {
    let table = (size.div_ceil(BLOCK) * 4).next_multiple_of(512);
    TABLE_OFFSET + table + blocks * u64::from(BLOCK_SECTORS) * 512 + FOOTER as u64
}

/// Sends a disk as a VHD: dynamic, or with `base` differencing (see [`crate::SrStore::allocated`] for the blocks).
/// Returns the bytes sent. The caller sends the HTTP header before and closes the connection after.
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
    let entries = u32::try_from(size.div_ceil(BLOCK))
        .ok()
        .filter(|entries| *entries <= MAX_BLOCKS)
        .ok_or(Error::BadSize { disk: disk.id(), size, why: "a VHD holds at most 2040 GiB" })?;

    let footer = format::footer(size, base.is_some(), Uuid::new_v4());
    let mut head = Vec::with_capacity(usize_of(TABLE_OFFSET));
    head.extend_from_slice(&footer);
    head.extend_from_slice(&format::header(entries, base));
    head.resize(usize_of(TABLE_OFFSET), 0);
    let table = table(entries, &blocks);
    send(writer, "VHD", &head).await?;
    send(writer, "VHD", &table).await?;

    let total = blocks.len() as u64;
    let wanted = blocks.into_iter().map(|block| (u64::from(block) * BLOCK, usize_of(BLOCK)));
    let mut reader = ReadAhead::new(Arc::new(disk.clone()), wanted, BITMAP, Vec::new());
    let mut done = 0;
    while let Some(mut piece) = reader.next().await? {
        piece.buffer[..BITMAP].fill(0xFF);
        send(writer, "VHD", &piece.buffer).await?;
        reader.recycle(piece);
        done += 1;
        progress(fraction(done, total));
    }
    send(writer, "VHD", &footer).await?;
    Ok(export_len(size, total))
}

/// The block table, padded to whole sectors.
fn table(entries: u32, blocks: &[u32]) -> Vec<u8> {
    let length = (usize_of(u64::from(entries)) * 4).next_multiple_of(512);
    let mut table = vec![0; length];
    for (entry, slot) in (0..entries).zip(table.chunks_exact_mut(4)) {
        let rank = blocks.binary_search(&entry).ok().and_then(|rank| u32::try_from(rank).ok());
        let first = u32::try_from((TABLE_OFFSET + length as u64) / 512).expect("a table has at most 4 MiB");
        let sector = rank.map_or(UNUSED, |rank| first + rank * BLOCK_SECTORS);
        slot.copy_from_slice(&sector.to_be_bytes());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_sectors_in_block_order() {
        let table = table(130, &[0, 129]);
        assert_eq!(table.len(), 1024);
        assert_eq!(table[..8], [0, 0, 0, 6, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(table[129 * 4..130 * 4], (6 + BLOCK_SECTORS).to_be_bytes());
    }
}
