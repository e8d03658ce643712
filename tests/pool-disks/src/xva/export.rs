//! Writes archives as hosts do: chunks of 1 MiB, zeros left out but for the first and last, a checksum after each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncWrite;

use super::pack::Packer;
use super::tar::{self, UNIT};
use super::{CHUNK, Checksum, ExportOptions, KeepAlive};
use crate::BLOCK;
use crate::disk::{Disk, usize_of};
use crate::error::Result;
use crate::pump::{Progress, ReadAhead, blocking, fraction};
use crate::store::is_zero;

/// Sends a VM: `ova.xml`, then each disk under its reference name (`Ref:12`), in lexicographic order. Returns the
/// bytes sent.
///
/// # Errors
/// When a disk cannot be read or the peer is gone.
pub async fn export<W: AsyncWrite + Send + Unpin>(
    ova_xml: &[u8],
    disks: &BTreeMap<String, Disk>,
    options: ExportOptions,
    writer: &mut W,
    progress: Progress<'_>,
) -> Result<u64> {
    let mut archive = Archive { out: Packer::new(writer, options.compression)?, options };
    archive.member("ova.xml", ova_xml).await?;
    let count = disks.len() as u64;
    for (index, (reference, disk)) in (0..).zip(disks) {
        #[expect(clippy::cast_precision_loss, reason = "a VM has few disks")]
        let share = |part: f64| progress((index as f64 + part) / count as f64);
        archive.disk(reference, disk, &share).await?;
    }
    archive.finish().await
}

/// Sends one disk as `export_raw_vdi?format=tar` does: the members of a disk under `vdi/`. Returns the bytes sent.
///
/// # Errors
/// When the disk cannot be read or the peer is gone.
pub async fn export_vdi_tar<W: AsyncWrite + Send + Unpin>(
    disk: &Disk,
    writer: &mut W,
    progress: Progress<'_>,
) -> Result<u64> {
    let options = ExportOptions::default();
    let mut archive = Archive { out: Packer::new(writer, options.compression)?, options };
    archive.disk("vdi", disk, progress).await?;
    archive.finish().await
}

struct Archive<'a, W> {
    out: Packer<'a, W>,
    options: ExportOptions,
}

/// Where a disk's numbering stands.
struct Numbers {
    next: u64,
    /// Chunks left out since the last member.
    omitted: u32,
    last_member: Instant,
}

impl<W: AsyncWrite + Send + Unpin> Archive<'_, W> {
    async fn member(&mut self, name: &str, data: &[u8]) -> Result<()> {
        self.out.write(&tar::header(name, data.len() as u64)).await?;
        self.out.write(data).await?;
        self.pad(data.len() as u64).await
    }

    async fn pad(&mut self, size: u64) -> Result<()> {
        let zeros = [0; UNIT];
        self.out.write(&zeros[..usize_of(tar::padding(size))]).await
    }

    async fn disk(&mut self, reference: &str, disk: &Disk, progress: Progress<'_>) -> Result<()> {
        let source = disk.clone();
        let (size, blocks) = blocking(move || Ok((source.size()?, source.allocated(None)?))).await?;
        let last = size.div_ceil(CHUNK).saturating_sub(1);
        let wanted = wanted(&blocks, last);
        let pieces = wanted.into_iter().map(move |chunk| {
            let offset = chunk * CHUNK;
            (offset, usize_of(CHUNK.min(size - offset)))
        });
        let mut reader = ReadAhead::new(Arc::new(disk.clone()), pieces, UNIT, Vec::new());
        let mut numbers = Numbers { next: 0, omitted: 0, last_member: Instant::now() };
        let mut done = 0;
        while let Some(mut piece) = reader.next().await? {
            let chunk = piece.offset / CHUNK;
            let (head, data) = piece.buffer.split_at_mut(UNIT);
            if chunk != 0 && chunk != last && is_zero(data) {
                reader.recycle(piece);
                continue;
            }
            self.leave_out(reference, &mut numbers, chunk - done).await?;
            let name = numbers.name(reference);
            let length = data.len() as u64;
            let sum = self.options.checksum.of(data);
            head.copy_from_slice(&tar::header(&name, length));
            self.out.write(&piece.buffer).await?;
            self.pad(length).await?;
            self.checksum(&name, &sum).await?;
            numbers.written();
            done = chunk + 1;
            reader.recycle(piece);
            progress(fraction(done, last + 1));
        }
        Ok(())
    }

    /// Counts chunks of zeros, with a zero-length member when it is time for one. It takes a number, but no place.
    async fn leave_out(&mut self, reference: &str, numbers: &mut Numbers, chunks: u64) -> Result<()> {
        for _ in 0..chunks {
            numbers.next += 1;
            numbers.omitted += 1;
            let due = match self.options.keep_alive {
                KeepAlive::Idle(idle) => numbers.last_member.elapsed() >= idle,
                KeepAlive::OmittedChunks(count) => numbers.omitted >= count,
            };
            if due {
                let name = numbers.name(reference);
                self.member(&name, &[]).await?;
                self.checksum(&name, &self.options.checksum.of(&[])).await?;
                numbers.written();
            }
        }
        Ok(())
    }

    async fn checksum(&mut self, name: &str, sum: &str) -> Result<()> {
        let suffix = Checksum::suffix(self.options.checksum);
        self.member(&format!("{name}{suffix}"), sum.as_bytes()).await
    }

    async fn finish(mut self) -> Result<u64> {
        self.out.write(&[0; 2 * UNIT]).await?;
        self.out.finish().await
    }
}

impl Numbers {
    fn name(&self, reference: &str) -> String {
        format!("{reference}/{:08}", self.next)
    }

    fn written(&mut self) {
        self.next += 1;
        self.omitted = 0;
        self.last_member = Instant::now();
    }
}

/// The chunks to look at, ascending: all in allocated blocks, and always the first and the last.
fn wanted(blocks: &[u32], last: u64) -> Vec<u64> {
    let per_block = BLOCK / CHUNK;
    let mut chunks: Vec<u64> = blocks
        .iter()
        .flat_map(|block| u64::from(*block) * per_block..(u64::from(*block) + 1) * per_block)
        .filter(|chunk| *chunk <= last)
        .chain([0, last])
        .collect();
    chunks.sort_unstable();
    chunks.dedup();
    chunks
}
