//! A disk written as a VHD stream.

use super::format::{BLOCK_BYTES, FOOTER_BYTES, SECTOR, VhdKind, bitmap_bytes};
use super::plan::VhdPlan;
use crate::{Error, VhdError};
use async_trait::async_trait;
use bytes::Bytes;
use coffer_extent::{Extent, ExtentError, ExtentSink};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Writes extents as the VHD stream that its [`VhdPlan`] announced, byte for byte as long.
///
/// In a delta the sectors of data and of zero extents are marked present (they overwrite what the base holds), in a
/// complete disk only those of data (a new disk reads as zeros anyway). The sink holds one block of memory of its own
/// and never keeps a buffer of the pool. `finish` writes the trailing footer and flushes; closing the stream is for its
/// owner. Calls that are dropped half-way spoil the sink, and it says so.
#[derive(Debug)]
pub struct VhdSink<W> {
    writer: W,
    plan: VhdPlan,
    stream: String,
    /// Place on the disk.
    position: u64,
    /// Place in the stream.
    written: u64,
    /// Bitmap and content of the block at `position`.
    block: Vec<u8>,
    busy: bool,
}

const BITMAP_BYTES: usize = 512;

impl<W: AsyncWrite + Unpin + Send> VhdSink<W> {
    /// A sink that writes the stream of `plan` to `writer`; errors name `stream`.
    pub fn new(writer: W, plan: VhdPlan, stream: impl Into<String>) -> VhdSink<W> {
        let footprint = bitmap_bytes(BLOCK_BYTES) + BLOCK_BYTES;
        let block = vec![0; usize::try_from(footprint).expect("a block has 2 MiB")];
        VhdSink { writer, plan, stream: stream.into(), position: 0, written: 0, block, busy: false }
    }

    /// Gives back the writer, to be closed.
    pub fn into_inner(self) -> W {
        self.writer
    }

    /// Bytes of the stream written so far.
    pub fn stream_position(&self) -> u64 {
        self.written
    }

    async fn take(&mut self, mut extent: Extent) -> Result<(), VhdError> {
        let (found, len, size) = (extent.offset(), extent.len(), self.plan.disk_size());
        if found != self.position || len == 0 || extent.end() > size {
            return Err(VhdError::OutOfOrder { expected: self.position, found, len, size });
        }
        self.start().await?;
        loop {
            let block_end = (self.position - self.position % BLOCK_BYTES + BLOCK_BYTES).min(size);
            match extent.split_front(block_end - self.position) {
                Some(front) => self.put(front, block_end).await?,
                None => return self.put(extent, block_end).await,
            }
        }
    }

    /// Puts an extent that lies inside one block.
    async fn put(&mut self, extent: Extent, block_end: u64) -> Result<(), VhdError> {
        let (start, end) = (extent.offset(), extent.end());
        let planned = self.plan.holds(&(start..end));
        let dynamic = self.plan.kind() == VhdKind::Dynamic;
        match extent {
            Extent::Unchanged { offset, .. } if dynamic => return Err(VhdError::UnexpectedUnchanged { offset }),
            Extent::Data { bytes, .. } if planned => self.put_bytes(start, &bytes),
            Extent::Zero { .. } if planned && !dynamic => self.mark(start, end),
            Extent::Zero { .. } if dynamic => {}
            Extent::Unchanged { .. } => {}
            Extent::Data { .. } | Extent::Zero { .. } => {
                return Err(VhdError::OutsidePlan { offset: start, len: end - start });
            }
        }
        self.position = end;
        if end == block_end && planned {
            write(&mut self.writer, &mut self.written, &self.block).await?;
            self.block.fill(0);
        }
        Ok(())
    }

    fn put_bytes(&mut self, start: u64, bytes: &Bytes) {
        let within = usize::try_from(start % BLOCK_BYTES).expect("a block has 2 MiB") + BITMAP_BYTES;
        self.block[within..within + bytes.len()].copy_from_slice(bytes);
        self.mark(start, start + bytes.len() as u64);
    }

    /// Marks the sectors of `[start, end)` of the disk, which lie in the current block, as present.
    fn mark(&mut self, start: u64, end: u64) {
        let first = start % BLOCK_BYTES / SECTOR;
        let count = (end - (start - start % SECTOR)).div_ceil(SECTOR);
        for sector in first..first + count {
            let at = usize::try_from(sector / 8).expect("a block has 4096 sectors");
            self.block[at] |= 0x80 >> (sector % 8);
        }
    }

    async fn start(&mut self) -> Result<(), VhdError> {
        if self.written == 0 {
            let head = self.plan.head();
            write(&mut self.writer, &mut self.written, &head).await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), VhdError> {
        let size = self.plan.disk_size();
        if self.position != size {
            return Err(VhdError::OutOfOrder { expected: self.position, found: size, len: 0, size });
        }
        self.start().await?;
        let footer: [u8; FOOTER_BYTES] = self.plan.footer();
        write(&mut self.writer, &mut self.written, &footer).await?;
        self.writer.flush().await.map_err(|source| VhdError::Io { position: self.written, source })
    }

    fn error(&self, source: VhdError) -> ExtentError {
        Error::VhdWrite { stream: self.stream.clone(), source }.into()
    }

    fn begin(&mut self) -> Result<(), ExtentError> {
        if std::mem::replace(&mut self.busy, true) {
            return Err(self.error(VhdError::Interrupted));
        }
        Ok(())
    }
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, written: &mut u64, bytes: &[u8]) -> Result<(), VhdError> {
    writer.write_all(bytes).await.map_err(|source| VhdError::Io { position: *written, source })?;
    *written += bytes.len() as u64;
    Ok(())
}

#[async_trait]
impl<W: AsyncWrite + Unpin + Send> ExtentSink for VhdSink<W> {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        self.begin()?;
        self.take(extent).await.map_err(|source| self.error(source))?;
        self.busy = false;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        self.begin()?;
        self.end().await.map_err(|source| self.error(source))
    }
}
