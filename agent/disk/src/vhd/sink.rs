//! A disk written as a VHD stream.

use std::io;

use super::format::{BLOCK_BYTES, FOOTER_BYTES, SECTOR, VhdKind, bitmap_bytes};
use super::plan::VhdPlan;
use crate::{Error, VhdError};
use async_trait::async_trait;
use bytes::Bytes;
use coffer_extent::{Buffer, BufferPool, Extent, ExtentError, ExtentSink};

/// Pieces that a [`PieceWriter`] may have under way at once: more than any has, so that it is the writer that waits for
/// the other end, and notices when nothing moves.
pub const PIECES_HELD_BACK: usize = 8;

/// Where a stream goes, piece by piece.
#[async_trait]
pub trait PieceWriter: Send {
    /// Takes the next piece of the stream, whole, without copying it; waits while the other end is behind, at the
    /// latest when it has [`PIECES_HELD_BACK`] pieces that the other end did not take.
    ///
    /// # Errors
    /// What the other end says. Nothing more can be written then.
    async fn write(&mut self, piece: Bytes) -> io::Result<()>;
}

#[async_trait]
impl PieceWriter for Vec<u8> {
    async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        self.extend_from_slice(&piece);
        Ok(())
    }
}

/// Writes extents as the VHD stream that its [`VhdPlan`] announced, byte for byte as long.
///
/// In a delta the sectors of data and of zero extents are marked present (they overwrite what the base holds), in a
/// complete disk only those of data (a new disk reads as zeros anyway). The sink holds a few blocks of memory of its
/// own, used again and again, and never keeps a buffer of the pool. `finish` writes the trailing footer; closing the
/// stream is for its owner. Calls that are dropped half-way spoil the sink, and it says so.
#[derive(Debug)]
pub struct VhdSink<W> {
    writer: W,
    plan: VhdPlan,
    stream: String,
    /// Place on the disk.
    position: u64,
    /// Place in the stream.
    written: u64,
    blocks: BufferPool,
    /// Bitmap and content of the block at `position`, once a part of it is there. All before `position` is set.
    block: Option<Buffer>,
    busy: bool,
}

const BITMAP_BYTES: usize = 512;
/// Those under way, and the one that is being put together. Memory is taken only for as many as there are at once.
const BLOCKS_IN_MEMORY: usize = PIECES_HELD_BACK + 1;

impl<W: PieceWriter> VhdSink<W> {
    /// A sink that writes the stream of `plan` to `writer`; errors name `stream`.
    pub fn new(writer: W, plan: VhdPlan, stream: impl Into<String>) -> VhdSink<W> {
        let block = usize::try_from(bitmap_bytes(BLOCK_BYTES) + BLOCK_BYTES).expect("a block has 2 MiB");
        let blocks = BufferPool::new(BLOCKS_IN_MEMORY * block, block);
        VhdSink { writer, plan, stream: stream.into(), position: 0, written: 0, blocks, block: None, busy: false }
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
        let (bytes, is_present) = match extent {
            Extent::Unchanged { offset, .. } if dynamic => return Err(VhdError::UnexpectedUnchanged { offset }),
            Extent::Data { bytes, .. } if planned => (Some(bytes), true),
            Extent::Zero { .. } if planned => (None, !dynamic),
            Extent::Unchanged { .. } => (None, false),
            Extent::Zero { .. } if dynamic => (None, false),
            Extent::Data { .. } | Extent::Zero { .. } => {
                return Err(VhdError::OutsidePlan { offset: start, len: end - start });
            }
        };
        self.position = end;
        if !planned {
            return Ok(());
        }
        let mut block = self.open_block().await;
        let within = in_block(start)..in_block(start) + usize::try_from(end - start).expect("inside one block");
        let place = &mut block[BITMAP_BYTES..][within.clone()];
        match bytes {
            Some(bytes) => place.copy_from_slice(&bytes),
            None => place.fill(0),
        }
        if is_present {
            mark(&mut block[..BITMAP_BYTES], within.start, within.end);
        }
        if end == block_end {
            block[BITMAP_BYTES + within.end..].fill(0);
            let len = block.len();
            return self.write(block.freeze(len)).await;
        }
        self.block = Some(block);
        Ok(())
    }

    /// The block at `position`, or a new one with an empty bitmap. There is always memory for one: the writer waits
    /// before it has all.
    async fn open_block(&mut self) -> Buffer {
        if let Some(block) = self.block.take() {
            return block;
        }
        let mut block = self.blocks.take().await;
        block[..BITMAP_BYTES].fill(0);
        block
    }

    async fn start(&mut self) -> Result<(), VhdError> {
        if self.written == 0 {
            self.write(self.plan.head().into()).await?;
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
        self.write(Bytes::copy_from_slice(&footer)).await
    }

    async fn write(&mut self, piece: Bytes) -> Result<(), VhdError> {
        let len = piece.len() as u64;
        self.writer.write(piece).await.map_err(|source| VhdError::Io { position: self.written, source })?;
        self.written += len;
        Ok(())
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

/// Where a place on the disk stands in its block.
fn in_block(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_BYTES).expect("a block has 2 MiB")
}

/// Marks the sectors of a part of a block as present.
fn mark(bitmap: &mut [u8], start: usize, end: usize) {
    let sector_bytes = usize::try_from(SECTOR).expect("a sector has 512 bytes");
    for sector in start / sector_bytes..end.div_ceil(sector_bytes) {
        bitmap[sector / 8] |= 0x80 >> (sector % 8);
    }
}

#[async_trait]
impl<W: PieceWriter> ExtentSink for VhdSink<W> {
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
