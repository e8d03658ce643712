//! A VHD stream as a source of extents, read once from front to back.

use super::format::{FOOTER_BYTES, Footer, SECTOR, VhdKind, bitmap_bytes};
use super::head::{Input, VhdHead};
use crate::{Error, VhdError};
use async_trait::async_trait;
use coffer_extent::{Buffer, BufferPool, Extent, ExtentError, ExtentSource, is_zero};
use tokio::io::AsyncRead;

/// Yields the disk that a VHD stream holds.
///
/// Blocks that are not in the stream, and sectors whose bit is clear, are zero in a complete disk and unchanged in a
/// delta. The stream is complete only when its trailing footer has been read and equals the one at the front: the
/// last extent is yielded before that, the end (`None`) only after. Calls of `next` that are dropped half-way spoil the
/// source, and it says so.
#[derive(Debug)]
pub struct VhdSource<R> {
    input: Input<R>,
    head: VhdHead,
    stream: String,
    pool: BufferPool,
    /// Place on the disk.
    position: u64,
    /// The block of the head's list that comes next, or that is being read.
    next_block: usize,
    /// Sector bitmap of the block being read.
    bitmap: Option<Vec<u8>>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Busy,
    Over,
}

impl<R: AsyncRead + Unpin + Send> VhdSource<R> {
    /// Reads the head of the stream and is then ready to yield extents in buffers of `pool`; errors name `stream`.
    pub async fn open(reader: R, stream: impl Into<String>, pool: BufferPool) -> Result<VhdSource<R>, Error> {
        let stream = stream.into();
        let mut input = Input::new(reader);
        match VhdHead::read_from(&mut input).await {
            Ok(head) => Ok(VhdSource {
                input,
                head,
                stream,
                pool,
                position: 0,
                next_block: 0,
                bitmap: None,
                state: State::Ready,
            }),
            Err(source) => Err(Error::VhdRead { stream, source }),
        }
    }

    /// What the head of the stream said.
    pub fn head(&self) -> &VhdHead {
        &self.head
    }

    /// Bytes of the stream consumed so far.
    pub fn stream_position(&self) -> u64 {
        self.input.position
    }

    async fn advance(&mut self) -> Result<Option<Extent>, VhdError> {
        let size = self.head.size();
        if self.position == size {
            self.end_of_stream().await?;
            return Ok(None);
        }
        let block_bytes = self.head.block_bytes();
        let block = self.head.blocks.get(self.next_block).copied();
        let start = block.map_or(size, |block| (u64::from(block.index) * block_bytes).min(size));
        if let Some(block) = block
            && start <= self.position
        {
            let end = (start + block_bytes).min(size);
            let bitmap = match self.bitmap.take() {
                Some(bitmap) => bitmap,
                None => {
                    self.input.skip_to(u64::from(block.sector) * SECTOR, "space between blocks").await?;
                    let mut bitmap = vec![0; usize::try_from(bitmap_bytes(block_bytes)).unwrap_or_default()];
                    self.input.exact(&mut bitmap, "sector bitmap").await?;
                    bitmap
                }
            };
            let extent = self.piece(start, end, &bitmap).await?;
            self.position = extent.end();
            if self.position == end {
                self.next_block += 1;
            } else {
                self.bitmap = Some(bitmap);
            }
            return Ok(Some(extent));
        }
        let extent = self.absent(self.position, start - self.position);
        self.position = extent.end();
        Ok(Some(extent))
    }

    /// The next extent inside the block that covers `[start, end)` of the disk.
    async fn piece(&mut self, start: u64, end: u64, bitmap: &[u8]) -> Result<Extent, VhdError> {
        let position = self.position;
        let most = (self.pool.buffer_bytes() as u64 / SECTOR * SECTOR).max(SECTOR);
        let whole = most.min(end - position);
        let first = (position - start) / SECTOR;
        let sectors = whole.div_ceil(SECTOR);
        let present = |sector: u64| {
            let byte = usize::try_from(sector / 8).ok().and_then(|at| bitmap.get(at)).copied().unwrap_or_default();
            byte & (0x80 >> (sector % 8)) != 0
        };
        let leading = present(first);
        let run = (first..first + sectors).take_while(|&sector| present(sector) == leading).count() as u64;
        // A delta must keep present and absent sectors apart; in a complete disk both are content.
        let uniform = run == sectors;
        let len = if uniform || self.head.kind() == VhdKind::Dynamic { whole } else { run * SECTOR };
        if !leading && (uniform || self.head.kind() == VhdKind::Differencing) {
            let behind = self.input.position + len;
            self.input.skip_to(behind, "block").await?;
            return Ok(self.absent(position, len));
        }
        let mut buffer = self.pool.take().await;
        let bytes = usize::try_from(len).ok().and_then(|len| buffer.get_mut(..len));
        let bytes = bytes.ok_or(VhdError::BadField { field: "piece length", value: len })?;
        self.input.exact(bytes, "block").await?;
        if !uniform && self.head.kind() == VhdKind::Dynamic {
            for (sector, bytes) in (first..).zip(bytes.chunks_mut(512)) {
                if !present(sector) {
                    bytes.fill(0);
                }
            }
        }
        Ok(content(buffer, position, len))
    }

    fn absent(&self, offset: u64, len: u64) -> Extent {
        match self.head.kind() {
            VhdKind::Dynamic => Extent::Zero { offset, len },
            VhdKind::Differencing => Extent::Unchanged { offset, len },
        }
    }

    /// Reads what is left behind the last extent: the padding of the last block, and the footer.
    async fn end_of_stream(&mut self) -> Result<(), VhdError> {
        let footer_at = self.head.stream_bytes() - FOOTER_BYTES as u64;
        self.input.skip_to(footer_at, "last block").await?;
        let mut bytes = [0; FOOTER_BYTES];
        self.input.exact(&mut bytes, "trailing footer").await?;
        if Footer::parse(&bytes, footer_at)? != self.head.footer {
            return Err(VhdError::FootersDiffer);
        }
        Ok(())
    }
}

fn content(buffer: Buffer, offset: u64, len: u64) -> Extent {
    let used = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
    if buffer.get(..used).is_some_and(is_zero) {
        Extent::Zero { offset, len }
    } else {
        Extent::Data { offset, bytes: buffer.freeze(used) }
    }
}

#[async_trait]
impl<R: AsyncRead + Unpin + Send> ExtentSource for VhdSource<R> {
    fn size(&self) -> u64 {
        self.head.size()
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        let error = |stream: &str, source| Error::VhdRead { stream: stream.to_owned(), source };
        match self.state {
            State::Over => return Ok(None),
            State::Busy => return Err(error(&self.stream, VhdError::Interrupted).into()),
            State::Ready => self.state = State::Busy,
        }
        let next = self.advance().await.map_err(|source| error(&self.stream, source))?;
        self.state = if next.is_some() { State::Ready } else { State::Over };
        Ok(next)
    }
}
