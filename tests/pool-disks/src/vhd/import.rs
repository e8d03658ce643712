//! Reads VHD streams as hosts do: type and parent ignored, sector bitmaps honoured, gaps skipped, written in place.

use std::ops::Range;

use tokio::io::AsyncRead;

use super::format::{BITMAP, BLOCK_SECTORS, FOOTER, Footer, HEADER, Header, UNUSED, VhdFault};
use crate::BLOCK;
use crate::disk::{Disk, usize_of};
use crate::error::{Error, Result};
use crate::pump::{Progress, WriteBehind, blocking, fraction};
use crate::source::Source;

/// Writes a VHD stream onto a disk in place; blocks and sectors absent from the stream keep the disk's content. With
/// `content_length` the stream ends there, else at its end of file.
///
/// # Errors
/// When the stream is not a valid VHD, ends early, or the disk cannot be written.
pub async fn import<R: AsyncRead + Send + Unpin>(
    reader: &mut R,
    content_length: Option<u64>,
    disk: &Disk,
    progress: Progress<'_>,
) -> Result<()> {
    let source_disk = disk.clone();
    let size = blocking(move || source_disk.size()).await?;
    let mut source = Source::new(reader, "VHD", content_length);

    let footer = Footer::parse(&source.array("the leading footer").await?, "leading footer")?;
    if footer.size > size {
        return Err(VhdFault::TooLarge { found: footer.size, size }.into());
    }
    skip(&mut source, footer.data_offset, "header").await?;
    let header = Header::parse(&source.array::<HEADER>("the header").await?, footer.size)?;
    skip(&mut source, header.table_offset, "block table").await?;
    let mut table = vec![0; usize_of(u64::from(header.entries)) * 4];
    source.fill(&mut table, "the block table").await?;
    let blocks = in_stream_order(&table, footer.size)?;

    let mut writer = WriteBehind::new(disk.clone());
    let mut buffer = Vec::new();
    let total = blocks.len() as u64;
    for (done, (sector, block)) in (1..).zip(blocks) {
        skip(&mut source, u64::from(sector) * 512, "block").await?;
        buffer.resize(BITMAP + usize_of(BLOCK), 0);
        source.fill(&mut buffer, "a block").await?;
        let start = u64::from(block) * BLOCK;
        buffer = writer
            .submit(buffer, move |disk, bytes| {
                let (bitmap, data) = bytes.split_at(BITMAP);
                present(bitmap).try_for_each(|run| {
                    let bytes = data.get(run.start * 512..run.end * 512).unwrap_or_default();
                    disk.write_at(start + run.start as u64 * 512, bytes)
                })
            })
            .await?;
        progress(fraction(done, total));
    }
    writer.settle().await?;

    let trailing = trailing_footer(&mut source, content_length).await?;
    if Footer::parse(&trailing, "trailing footer")?.id != footer.id {
        return Err(VhdFault::ForeignFooter.into());
    }
    Ok(())
}

async fn skip<R: AsyncRead + Unpin>(source: &mut Source<'_, R>, to: u64, what: &'static str) -> Result<()> {
    if source.skip_to(to, what).await? { Ok(()) } else { Err(VhdFault::OutOfOrder { structure: what }.into()) }
}

/// The blocks of a table as `(sector, block)`, ascending in the stream.
fn in_stream_order(table: &[u8], size: u64) -> Result<Vec<(u32, u32)>, VhdFault> {
    let mut blocks = Vec::new();
    for (block, entry) in (0..).zip(table.chunks_exact(4)) {
        let sector = entry.iter().fold(0, |sector, byte| sector << 8 | u32::from(*byte));
        if sector == UNUSED {
            continue;
        }
        if u64::from(block) * BLOCK >= size {
            return Err(VhdFault::BlockOutside { block });
        }
        blocks.push((sector, block));
    }
    blocks.sort_unstable();
    let overlap = |pair: &[(u32, u32)]| matches!(pair, [(a, _), (b, _)] if b - a < BLOCK_SECTORS);
    if blocks.windows(2).any(overlap) {
        return Err(VhdFault::OutOfOrder { structure: "block" });
    }
    Ok(blocks)
}

/// The runs of set bits of a sector bitmap, MSB first.
fn present(bitmap: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let set = |sector: &usize| bitmap.get(sector / 8).is_some_and(|byte| byte & (0x80 >> (sector % 8)) != 0);
    let end = bitmap.len() * 8;
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = (at..end).find(set)?;
        at = (start..end).find(|sector| !set(sector)).unwrap_or(end);
        Some(start..at)
    })
}

/// The footer that ends the stream; of old writers it has 511 bytes.
async fn trailing_footer<R: AsyncRead + Unpin>(
    source: &mut Source<'_, R>,
    content_length: Option<u64>,
) -> Result<[u8; FOOTER]> {
    let missing = Error::StreamTooShort { stream: "VHD", missing: "the trailing footer" };
    if let Some(length) = content_length {
        skip(source, length.saturating_sub(1) & !511, "trailing footer").await?;
    } else if !skip_gap(source).await? {
        return Err(missing);
    }
    let mut last = [0; FOOTER];
    let mut got = source.read(&mut last).await?;
    // Without an announced length, whatever stands between the blocks and the last footer is a gap.
    while content_length.is_none() && got == FOOTER {
        let mut next = [0; FOOTER];
        let more = source.read(&mut next).await?;
        if more == 0 {
            break;
        }
        (last, got) = (next, more);
    }
    if got < FOOTER - 1 { Err(missing) } else { Ok(last) }
}

/// Aligns the position to whole sectors after an odd table; `false` when the stream ends there.
async fn skip_gap<R: AsyncRead + Unpin>(source: &mut Source<'_, R>) -> Result<bool> {
    let to = source.at().next_multiple_of(512);
    source.skip_to(to, "the trailing footer").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_a_bitmap_count_from_the_most_significant_bit() {
        let runs: Vec<_> = present(&[0b1100_0001, 0b1000_0000, 0xFF]).collect();
        assert_eq!(runs, [0..2, 7..9, 16..24]);
    }

    #[test]
    fn a_table_with_blocks_on_top_of_each_other_is_refused() {
        let table: Vec<u8> = [8u32, 8 + BLOCK_SECTORS - 1].iter().flat_map(|s| s.to_be_bytes()).collect();
        assert_eq!(in_stream_order(&table, 4 << 20), Err(VhdFault::OutOfOrder { structure: "block" }));
    }

    #[test]
    fn a_block_beyond_the_disk_is_refused() {
        let table: Vec<u8> = [UNUSED, 8].iter().flat_map(|s| s.to_be_bytes()).collect();
        assert_eq!(in_stream_order(&table, 2 << 20), Err(VhdFault::BlockOutside { block: 1 }));
    }
}
