//! Changed-block logs: one per tracked disk, chained from snapshot to snapshot. Pure.

use std::ops::Range;

use uuid::Uuid;

use crate::CBT_BLOCK;
use crate::disk::usize_of;

/// What changed on a disk since its parent in the chain of logs (64 KiB per bit, MSB first).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CbtLog {
    /// The disk whose log precedes this one.
    pub(crate) parent: Option<Uuid>,
    /// The disk whose log follows.
    pub(crate) child: Option<Uuid>,
    size: u64,
    bitmap: Vec<u8>,
}

impl CbtLog {
    /// An empty log of a disk of `size` bytes.
    pub(crate) fn new(size: u64, parent: Option<Uuid>) -> Self {
        Self { parent, child: None, size, bitmap: vec![0; bitmap_len(size)] }
    }

    /// A log as it was saved; `None` when the bitmap does not fit the size.
    pub(crate) fn restore(parent: Option<Uuid>, child: Option<Uuid>, size: u64, bitmap: Vec<u8>) -> Option<Self> {
        (bitmap.len() == bitmap_len(size)).then_some(Self { parent, child, size, bitmap })
    }

    /// Size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The bits.
    pub(crate) fn bitmap(&self) -> &[u8] {
        &self.bitmap
    }

    /// Whether every bit of a byte range is set.
    pub(crate) fn covers(&self, range: &Range<u64>) -> bool {
        bits(range).all(|bit| self.bitmap.get(usize_of(bit / 8)).is_some_and(|byte| byte & mask(bit) != 0))
    }

    /// Sets the bits of a byte range.
    pub(crate) fn mark(&mut self, range: &Range<u64>) {
        for bit in bits(range) {
            if let Some(byte) = self.bitmap.get_mut(usize_of(bit / 8)) {
                *byte |= mask(bit);
            }
        }
    }

    /// Grows the log with its disk; what is new counts as changed.
    pub(crate) fn grow(&mut self, size: u64) {
        self.bitmap.resize(bitmap_len(size).max(self.bitmap.len()), 0);
        let old = std::mem::replace(&mut self.size, size);
        self.mark(&(old..size));
    }

    /// Cuts the log with its disk.
    pub(crate) fn cut(&mut self, size: u64) {
        self.bitmap.truncate(bitmap_len(size));
        self.size = size;
    }

    /// Takes over the changes of the log before this one, which is about to go.
    pub(crate) fn absorb(&mut self, earlier: &Self) {
        merge(&mut self.bitmap, &earlier.bitmap);
    }
}

/// ORs `from` into `into`; bits beyond `into` are dropped.
pub(crate) fn merge(into: &mut [u8], from: &[u8]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into |= from;
    }
}

/// Bytes of a bitmap for a disk of `size` bytes.
pub(crate) fn bitmap_len(size: u64) -> usize {
    usize_of(size.div_ceil(CBT_BLOCK).div_ceil(8))
}

fn bits(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / CBT_BLOCK..(range.end - 1) / CBT_BLOCK + 1 }
}

fn mask(bit: u64) -> u8 {
    0x80 >> (bit % 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_count_from_the_most_significant_one() {
        let mut log = CbtLog::new(4 << 20, None);
        assert_eq!(log.bitmap().len(), 8);
        log.mark(&(0..1));
        log.mark(&(9 * CBT_BLOCK - 1..9 * CBT_BLOCK + 1));
        assert_eq!(log.bitmap(), [0x80, 0xC0, 0, 0, 0, 0, 0, 0]);
        assert!(log.covers(&(8 * CBT_BLOCK..10 * CBT_BLOCK)) && !log.covers(&(0..CBT_BLOCK + 1)));
    }

    #[test]
    fn what_a_disk_grew_by_counts_as_changed() {
        let mut log = CbtLog::new(2 << 20, None);
        log.grow(4 << 20);
        assert_eq!(log.bitmap(), [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    }

    #[test]
    fn sixty_four_gibibytes_take_131072_bytes() {
        assert_eq!(bitmap_len(64 << 30), 131_072);
    }
}
