//! What a VHD stream will hold, decided before its first byte: the block table comes first, and a PUT to a pool must
//! announce its length.

use super::format::{BLOCK_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, Header, MAX_SIZE, SECTOR, UNUSED, VhdKind};
use super::format::{bat_bytes, bitmap_bytes};
use crate::VhdError;
use coffer_extent::RangeSet;
use std::ops::Range;
use uuid::Uuid;

/// The blocks of a stream and where they stand in it.
#[derive(Debug, Clone)]
pub struct VhdPlan {
    /// Size of the disk in bytes, before rounding.
    disk_size: u64,
    footer: Footer,
    header: Header,
    /// Disk bytes of the blocks that are in the stream.
    blocks: RangeSet,
}

impl VhdPlan {
    /// A stream for a disk of `size` bytes that holds every block that `content` touches. For a complete disk that is
    /// what may differ from zero; for a delta all that is not unchanged, zeros too. The size is rounded up to a whole
    /// sector of 512 bytes, as any VHD.
    pub fn from_ranges(size: u64, content: &RangeSet, kind: VhdKind) -> Result<VhdPlan, VhdError> {
        if size > MAX_SIZE {
            return Err(VhdError::TooLarge { size, limit: MAX_SIZE });
        }
        let disk_size = size;
        let size = disk_size.next_multiple_of(SECTOR);
        let entries = u32::try_from(size.div_ceil(BLOCK_BYTES)).expect("at most 2040 GiB / 2 MiB blocks");
        let header_offset = FOOTER_BYTES as u64;
        let table_offset = header_offset + HEADER_BYTES as u64;
        let parent = if kind == VhdKind::Differencing { Uuid::new_v4() } else { Uuid::nil() };
        Ok(VhdPlan {
            disk_size,
            footer: Footer { kind, size, header_offset, uuid: Uuid::new_v4() },
            header: Header { table_offset, entries, block_bytes: BLOCK_BYTES, parent },
            blocks: content.align(BLOCK_BYTES, size),
        })
    }

    /// Size of the disk in the stream, in bytes.
    pub fn size(&self) -> u64 {
        self.footer.size
    }

    /// A complete disk, or a delta.
    pub fn kind(&self) -> VhdKind {
        self.footer.kind
    }

    /// Blocks in the stream.
    pub fn block_count(&self) -> u64 {
        self.blocks.iter().map(|range| (range.end - range.start).div_ceil(BLOCK_BYTES)).sum()
    }

    /// Exact length of the stream in bytes: the Content-Length of the request that carries it.
    pub fn content_length(&self) -> u64 {
        let footprint = bitmap_bytes(BLOCK_BYTES) + BLOCK_BYTES;
        self.blocks_offset() + self.block_count() * footprint + FOOTER_BYTES as u64
    }

    /// Bytes of extents that the sink must be given.
    pub(super) fn disk_size(&self) -> u64 {
        self.disk_size
    }

    /// True when all of `range` of the disk is in blocks of the stream.
    pub(super) fn holds(&self, range: &Range<u64>) -> bool {
        self.blocks.contains(range)
    }

    pub(super) fn footer(&self) -> [u8; FOOTER_BYTES] {
        self.footer.encode()
    }

    /// Everything before the first block.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.footer.encode());
        bytes.extend_from_slice(&self.header.encode());
        let mut sector = u32::try_from(self.blocks_offset() / SECTOR).expect("the table has at most 4 MiB");
        let step = u32::try_from((bitmap_bytes(BLOCK_BYTES) + BLOCK_BYTES) / SECTOR).expect("a block has 2 MiB");
        for (range, inside) in self.blocks.pieces(self.footer.size) {
            for _ in 0..(range.end - range.start).div_ceil(BLOCK_BYTES) {
                let word = if inside { sector } else { UNUSED };
                bytes.extend_from_slice(&word.to_be_bytes());
                sector += if inside { step } else { 0 };
            }
        }
        // Padding of the table to whole sectors, which must read as blocks that are not there.
        bytes.resize(usize::try_from(self.blocks_offset()).expect("the table has at most 4 MiB"), 0xff);
        bytes
    }

    fn blocks_offset(&self) -> u64 {
        self.header.table_offset + bat_bytes(self.header.entries)
    }
}
