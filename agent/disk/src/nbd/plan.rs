//! What to read of a disk, decided before anything is read. Pure.

use coffer_extent::{ALIGNMENT, RangeSet};
use std::ops::Range;

/// What becomes of each byte of a disk: read, known to be zero, or known to be unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPlan {
    size: u64,
    read: RangeSet,
    zero: RangeSet,
}

/// What the ranges are that are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Zeros.
    Zero,
    /// The same as on the disk that this is a delta against.
    Unchanged,
}

impl ReadPlan {
    /// Reads everything.
    pub fn full(size: u64) -> ReadPlan {
        ReadPlan { size, read: RangeSet::full(size), zero: RangeSet::new() }
    }

    /// Reads the given ranges, widened to multiples of 64 KiB; all else is `rest`.
    pub fn ranges(size: u64, read: &RangeSet, rest: Rest) -> ReadPlan {
        let read = read.align(ALIGNMENT, size);
        let zero = if rest == Rest::Zero { read.complement(size) } else { RangeSet::new() };
        ReadPlan { size, read, zero }
    }

    /// Reads only what is allocated as well; the rest of what was to be read is zero.
    pub fn only_allocated(self, allocated: &RangeSet) -> ReadPlan {
        let allocated = allocated.align(ALIGNMENT, self.size);
        let mut zero = self.zero;
        self.read.subtract(&allocated).iter().for_each(|range| zero.insert(range));
        ReadPlan { size: self.size, read: self.read.intersect(&allocated), zero }
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that will be read.
    pub fn bytes_to_read(&self) -> u64 {
        self.read.total()
    }

    /// The piece of the disk at `position`; data pieces end at multiples of `step` at the latest. `None` at the end.
    pub(super) fn piece_at(&self, position: u64, step: u64) -> Option<Piece> {
        let (range, read) = self.read.piece_at(position, self.size)?;
        if read {
            let end = (range.start - range.start % step).saturating_add(step).min(range.end);
            return Some(Piece::Read(range.start..end));
        }
        let (known, zero) = self.zero.piece_at(position, range.end)?;
        Some(if zero { Piece::Zero(known) } else { Piece::Unchanged(known) })
    }
}

/// A piece of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Read(Range<u64>),
    Zero(Range<u64>),
    Unchanged(Range<u64>),
}

impl Piece {
    pub(super) fn range(&self) -> Range<u64> {
        match self {
            Piece::Read(range) | Piece::Zero(range) | Piece::Unchanged(range) => range.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 40 * ALIGNMENT + 512;

    fn any_ranges() -> impl Strategy<Value = RangeSet> {
        prop::collection::vec((0..SIZE, 1..3 * ALIGNMENT), 0..10)
            .prop_map(|parts| parts.into_iter().map(|(start, len)| start..(start + len).min(SIZE)).collect())
    }

    fn pieces(plan: &ReadPlan, step: u64) -> Vec<Piece> {
        let mut position = 0;
        std::iter::from_fn(|| {
            let piece = plan.piece_at(position, step)?;
            assert_eq!(piece.range().start, position);
            position = piece.range().end;
            Some(piece)
        })
        .collect()
    }

    proptest! {
        #[test]
        fn a_plan_covers_the_disk_and_reads_what_it_must(changed in any_ranges(), allocated in any_ranges(), factor in 1u64..20) {
            let step = factor * ALIGNMENT;
            let plan = ReadPlan::ranges(SIZE, &changed, Rest::Unchanged).only_allocated(&allocated);
            let mut position = 0;
            let mut read = 0;
            for piece in pieces(&plan, step) {
                let range = piece.range();
                prop_assert!(range.start < range.end);
                position = range.end;
                match piece {
                    Piece::Read(_) => {
                        prop_assert!(range.start % ALIGNMENT == 0 && range.end - range.start <= step);
                        prop_assert_eq!(range.start / step, (range.end - 1) / step);
                        read += range.end - range.start;
                    }
                    Piece::Zero(_) => prop_assert!(!allocated.intersects(&range)),
                    Piece::Unchanged(_) => prop_assert!(!changed.intersects(&range)),
                }
            }
            prop_assert_eq!(position, SIZE);
            prop_assert_eq!(read, plan.bytes_to_read());
        }
    }

    #[test]
    fn what_is_not_read_is_what_was_said() {
        let read = RangeSet::from(ALIGNMENT..2 * ALIGNMENT);
        let size = 4 * ALIGNMENT;
        let (front, back) = (0..ALIGNMENT, 2 * ALIGNMENT..size);
        let data = Piece::Read(ALIGNMENT..2 * ALIGNMENT);
        let zero = ReadPlan::ranges(size, &read, Rest::Zero);
        assert_eq!(pieces(&zero, 1 << 20), [Piece::Zero(front.clone()), data.clone(), Piece::Zero(back.clone())]);
        let same = ReadPlan::ranges(size, &read, Rest::Unchanged);
        assert_eq!(pieces(&same, 1 << 20), [Piece::Unchanged(front), data, Piece::Unchanged(back)]);
    }
}
