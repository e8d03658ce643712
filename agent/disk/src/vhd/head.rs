//! The head of a VHD stream: footer copy, header, block table. It says which blocks follow, before any of them comes.

use super::format::{
    FOOTER_BYTES, Footer, HEADER_BYTES, Header, SECTOR, UNUSED, VhdKind, bat_bytes, bitmap_bytes, http_line,
};
use crate::{Error, VhdError};
use coffer_extent::RangeSet;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};
use uuid::Uuid;

/// What the head of a VHD stream says. Reading it takes a few KiB (4 bytes per block) and stops before the first
/// block, so that a caller who only wants the map can drop the stream there.
#[derive(Debug, Clone)]
pub struct VhdHead {
    pub(super) footer: Footer,
    pub(super) header: Header,
    pub(super) blocks: Vec<Block>,
}

/// A block that the stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) index: u32,
    pub(super) sector: u32,
}

impl VhdHead {
    /// Reads the head from the start of a stream; errors name `stream`.
    pub async fn read<R: AsyncRead + Unpin + Send>(reader: R, stream: &str) -> Result<VhdHead, Error> {
        let mut input = Input::new(reader);
        VhdHead::read_from(&mut input).await.map_err(|source| Error::VhdRead { stream: stream.to_owned(), source })
    }

    pub(super) async fn read_from<R: AsyncRead + Unpin>(input: &mut Input<R>) -> Result<VhdHead, VhdError> {
        let mut first = [0; FOOTER_BYTES];
        let got = input.fill(&mut first).await?;
        if got < FOOTER_BYTES {
            return Err(match http_line(first.get(..got).unwrap_or_default()) {
                Some(line) => VhdError::HttpText { part: "footer", line },
                None => input.truncated("footer"),
            });
        }
        let footer = Footer::parse(&first, 0)?;
        input.skip_to(footer.header_offset, "space before the header").await?;
        let mut bytes = [0; HEADER_BYTES];
        input.exact(&mut bytes, "header").await?;
        let header = Header::parse(&bytes, &footer)?;
        input.skip_to(header.table_offset, "space before the block table").await?;
        let blocks = read_table(input, &header).await?;
        Ok(VhdHead { footer, header, blocks })
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.footer.size
    }

    /// A complete disk, or a delta.
    pub fn kind(&self) -> VhdKind {
        self.footer.kind
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> u64 {
        self.header.block_bytes
    }

    /// Identity of this VHD (random at each export of a pool).
    pub fn uuid(&self) -> Uuid {
        self.footer.uuid
    }

    /// Identity of the VHD that a delta is against, if it says so.
    pub fn parent(&self) -> Option<Uuid> {
        Some(self.header.parent).filter(|parent| !parent.is_nil())
    }

    /// The bytes of the disk whose blocks are in the stream: all that can differ from zero (complete disk) or from the
    /// base (delta).
    pub fn allocated(&self) -> RangeSet {
        let ranges = self.blocks.iter().map(|block| {
            let start = u64::from(block.index) * self.header.block_bytes;
            start.min(self.size())..(start + self.header.block_bytes).min(self.size())
        });
        ranges.collect()
    }

    /// Bytes of the whole stream as a pool writes it, both footers included.
    pub fn stream_bytes(&self) -> u64 {
        let behind_table = self.header.table_offset + bat_bytes(self.header.entries);
        let behind_blocks = self.blocks.last().map_or(0, |block| self.behind(*block));
        behind_table.max(behind_blocks) + FOOTER_BYTES as u64
    }

    /// The first byte of the stream behind a block.
    pub(super) fn behind(&self, block: Block) -> u64 {
        u64::from(block.sector) * SECTOR + bitmap_bytes(self.header.block_bytes) + self.header.block_bytes
    }
}

/// Reads the table. Blocks must stand in the stream in the order of the disk, apart from each other.
async fn read_table<R: AsyncRead + Unpin>(input: &mut Input<R>, header: &Header) -> Result<Vec<Block>, VhdError> {
    let footprint = bitmap_bytes(header.block_bytes) + header.block_bytes;
    let mut free_from = header.table_offset + bat_bytes(header.entries);
    let mut blocks = Vec::new();
    let mut bytes = [0; 4096];
    let mut index = 0;
    while index < header.entries {
        let words = usize::try_from(header.entries - index).unwrap_or(usize::MAX).min(bytes.len() / 4);
        let part = bytes.get_mut(..words * 4).expect("the number of words is bounded by the buffer");
        input.exact(part, "block table").await?;
        if index == 0
            && let Some(line) = http_line(part)
        {
            return Err(VhdError::HttpText { part: "block table", line });
        }
        let (words, _) = part.as_chunks::<4>();
        for word in words {
            let sector = u32::from_be_bytes(*word);
            if sector != UNUSED {
                let start = u64::from(sector) * SECTOR;
                if start < free_from {
                    return Err(VhdError::BadBlock { block: index.into(), sector });
                }
                free_from = start + footprint;
                blocks.push(Block { index, sector });
            }
            index += 1;
        }
    }
    Ok(blocks)
}

/// A stream and the place in it.
#[derive(Debug)]
pub(super) struct Input<R> {
    reader: R,
    pub(super) position: u64,
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub(super) fn new(reader: R) -> Input<R> {
        Input { reader, position: 0 }
    }

    /// Fills the buffer as far as the stream goes.
    async fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, VhdError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest).await {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(source) => return Err(VhdError::Io { position: self.position, source }),
            }
        }
        Ok(filled)
    }

    /// Fills the whole buffer with `part`; an earlier end of the stream is an error.
    pub(super) async fn exact(&mut self, buffer: &mut [u8], part: &'static str) -> Result<(), VhdError> {
        let got = self.fill(buffer).await?;
        if got == buffer.len() {
            return Ok(());
        }
        Err(match http_line(buffer.get(..got).unwrap_or_default()) {
            Some(line) => VhdError::HttpText { part, line },
            None => self.truncated(part),
        })
    }

    /// Reads on to `position` of the stream, which is not before the current one.
    pub(super) async fn skip_to(&mut self, position: u64, part: &'static str) -> Result<(), VhdError> {
        let mut scratch = [0; 4096];
        while self.position < position {
            let left = usize::try_from(position - self.position).unwrap_or(usize::MAX).min(scratch.len());
            let piece = scratch.get_mut(..left).expect("the length is bounded by the buffer");
            self.exact(piece, part).await?;
        }
        Ok(())
    }

    fn truncated(&self, part: &'static str) -> VhdError {
        VhdError::Truncated { position: self.position, part }
    }
}
