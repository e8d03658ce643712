//! Sets of byte ranges: what to read, what changed, what is allocated.

use crate::StreamError;
use std::ops::Range;

/// Bytes of a disk that one bit of a changed-block bitmap stands for: 64 KiB.
pub const CBT_BLOCK: u64 = 64 * 1024;

/// A set of bytes of a disk, kept as sorted ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range<u64>>,
}

impl RangeSet {
    /// No bytes.
    pub fn new() -> RangeSet {
        RangeSet::default()
    }

    /// All bytes of a disk of `size` bytes.
    pub fn full(size: u64) -> RangeSet {
        RangeSet::from(0..size)
    }

    /// The ranges that a changed-block bitmap marks, for a disk of `size` bytes.
    ///
    /// Bit `i` is `0x80 >> (i % 8)` of byte `i / 8` and stands for [`CBT_BLOCK`] bytes; the bitmap must have exactly
    /// the bytes that the disk needs, set bits beyond its end are ignored. Ranges are widened to multiples of
    /// `granularity` (0 and 1: not at all): when whole chunks are read anyway, this bounds the size of the set whatever
    /// the bitmap looks like.
    pub fn from_cbt_bitmap(bitmap: &[u8], size: u64, granularity: u64) -> Result<RangeSet, StreamError> {
        let expected = size.div_ceil(CBT_BLOCK).div_ceil(8);
        if bitmap.len() as u64 != expected {
            return Err(StreamError::BitmapLength { found: bitmap.len(), expected, size });
        }
        let mut changed = RangeSet::new();
        let mut block_start = 0u64;
        for &byte in bitmap {
            let mut bits = byte;
            while bits != 0 {
                let index = bits.leading_zeros();
                bits &= !(0x80 >> index);
                let start = block_start.saturating_add(u64::from(index) * CBT_BLOCK);
                if start >= size {
                    return Ok(changed);
                }
                changed.insert(widen(start..start.saturating_add(CBT_BLOCK), granularity, size));
            }
            block_start = block_start.saturating_add(8 * CBT_BLOCK);
        }
        Ok(changed)
    }

    /// Adds the bytes of `range`; an empty or reversed range adds nothing. Appending behind the last range is cheap.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.end < range.start => self.ranges.push(range),
            Some(last) if last.start <= range.start => last.end = last.end.max(range.end),
            None => self.ranges.push(range),
            Some(_) => {
                let first = self.ranges.partition_point(|held| held.end < range.start);
                let behind = self.ranges.partition_point(|held| held.start <= range.end);
                let mut merged = range;
                if let Some(touched) = self.ranges.get(first..behind)
                    && let (Some(low), Some(high)) = (touched.first(), touched.last())
                {
                    merged = merged.start.min(low.start)..merged.end.max(high.end);
                }
                self.ranges.splice(first..behind, [merged]);
            }
        }
    }

    /// The bytes that are in either set.
    pub fn union(&self, other: &RangeSet) -> RangeSet {
        let mut result = RangeSet::new();
        let (mut left, mut right) = (self.iter().peekable(), other.iter().peekable());
        loop {
            let next = match (left.peek(), right.peek()) {
                (Some(one), Some(two)) if two.start < one.start => right.next(),
                (Some(_), _) => left.next(),
                (None, _) => right.next(),
            };
            match next {
                Some(range) => result.insert(range),
                None => return result,
            }
        }
    }

    /// The bytes that are in both sets.
    pub fn intersect(&self, other: &RangeSet) -> RangeSet {
        let mut result = RangeSet::new();
        let (mut left, mut right) = (self.iter().peekable(), other.iter().peekable());
        while let (Some(one), Some(two)) = (left.peek(), right.peek()) {
            result.insert(one.start.max(two.start)..one.end.min(two.end));
            if one.end < two.end {
                left.next()
            } else {
                right.next()
            };
        }
        result
    }

    /// The bytes of `[0, size)` that are not in this set.
    pub fn complement(&self, size: u64) -> RangeSet {
        let mut result = RangeSet::new();
        let mut position = 0;
        for range in self.iter().take_while(|range| range.start < size) {
            result.insert(position..range.start);
            position = range.end;
        }
        result.insert(position..size);
        result
    }

    /// The bytes of this set that are not in `other`.
    pub fn subtract(&self, other: &RangeSet) -> RangeSet {
        let end = self.ranges.last().map_or(0, |last| last.end);
        self.intersect(&other.complement(end))
    }

    /// This set widened to multiples of `granularity`, cut at `size`.
    pub fn align(&self, granularity: u64, size: u64) -> RangeSet {
        let mut result = RangeSet::new();
        for range in self.iter() {
            result.insert(widen(range, granularity, size));
        }
        result
    }

    /// The bytes of this set below `size`.
    pub fn clamp(&self, size: u64) -> RangeSet {
        self.align(1, size)
    }

    /// True when every byte of `range` is in the set (also when `range` is empty).
    pub fn contains(&self, range: &Range<u64>) -> bool {
        let index = self.ranges.partition_point(|held| held.end <= range.start);
        range.is_empty()
            || self.ranges.get(index).is_some_and(|held| held.start <= range.start && range.end <= held.end)
    }

    /// True when a byte of `range` is in the set.
    pub fn intersects(&self, range: &Range<u64>) -> bool {
        let index = self.ranges.partition_point(|held| held.end <= range.start);
        !range.is_empty() && self.ranges.get(index).is_some_and(|held| held.start < range.end)
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.ranges.iter().cloned()
    }

    /// The whole of `[0, size)` cut at the borders of this set, in order: each piece with whether it is in the set.
    pub fn pieces(&self, size: u64) -> impl Iterator<Item = (Range<u64>, bool)> + '_ {
        let mut position = 0;
        std::iter::from_fn(move || {
            let piece = self.piece_at(position, size)?;
            position = piece.0.end;
            Some(piece)
        })
    }

    /// The longest range from `position` on, below `size`, that is all in the set (`true`) or all outside. `None` when
    /// `position` is not below `size`.
    pub fn piece_at(&self, position: u64, size: u64) -> Option<(Range<u64>, bool)> {
        let next = self.ranges.get(self.ranges.partition_point(|held| held.end <= position));
        let (end, inside) = match next {
            Some(range) if range.start <= position => (range.end, true),
            Some(range) => (range.start, false),
            None => (size, false),
        };
        (position < size).then(|| (position..end.min(size), inside))
    }

    /// How many bytes are in the set.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// True when no byte is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl From<Range<u64>> for RangeSet {
    fn from(range: Range<u64>) -> RangeSet {
        let mut set = RangeSet::new();
        set.insert(range);
        set
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> RangeSet {
        let mut set = RangeSet::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

fn widen(range: Range<u64>, granularity: u64, size: u64) -> Range<u64> {
    let granularity = granularity.max(1);
    let start = range.start - range.start % granularity;
    let end = range.end.checked_next_multiple_of(granularity).unwrap_or(u64::MAX);
    start.min(size)..end.min(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 64;

    /// The same set as bits, the obvious way.
    fn bits(set: &RangeSet) -> u128 {
        set.iter().flatten().fold(0, |bits, byte| bits | 1u128 << byte)
    }

    fn any_set() -> impl Strategy<Value = RangeSet> {
        prop::collection::vec((0..SIZE, 0..10u64), 0..12)
            .prop_map(|parts| parts.into_iter().map(|(start, len)| start..start + len).collect())
    }

    fn invariant_sorted_and_apart(set: &RangeSet) {
        assert!(set.iter().all(|range| range.start < range.end));
        assert!(set.ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    }

    proptest! {
        #[test]
        fn sets_behave_like_bits(one in any_set(), two in any_set(), granularity in 0..9u64, low in 0..SIZE, len in 0..9u64) {
            let everything = (1u128 << SIZE) - 1;
            for set in [&one, &one.union(&two), &one.intersect(&two), &one.subtract(&two), &one.complement(SIZE)] {
                invariant_sorted_and_apart(set);
            }
            prop_assert_eq!(bits(&one.union(&two)), bits(&one) | bits(&two));
            prop_assert_eq!(bits(&one.intersect(&two)), bits(&one) & bits(&two));
            prop_assert_eq!(bits(&one.subtract(&two)), bits(&one) & !bits(&two));
            prop_assert_eq!(bits(&one.complement(SIZE)), !bits(&one) & everything);
            prop_assert_eq!(bits(&one.clamp(SIZE)), bits(&one) & everything);
            prop_assert_eq!(one.total(), u64::from(bits(&one).count_ones()));
            prop_assert_eq!(one.is_empty(), bits(&one) == 0);

            let window = (low..low + len).fold(0, |bits, byte| bits | 1u128 << byte);
            prop_assert_eq!(one.contains(&(low..low + len)), bits(&one) & window == window);
            prop_assert_eq!(one.intersects(&(low..low + len)), bits(&one) & window != 0);

            let aligned = one.align(granularity, SIZE);
            invariant_sorted_and_apart(&aligned);
            let step = granularity.max(1);
            let expected = (0..SIZE)
                .filter(|byte| one.intersects(&(byte - byte % step..byte - byte % step + step)))
                .fold(0, |bits, byte| bits | 1u128 << byte);
            prop_assert_eq!(bits(&aligned), expected);
        }

        #[test]
        fn pieces_cover_the_disk_and_alternate(set in any_set()) {
            let pieces: Vec<_> = set.pieces(SIZE).collect();
            prop_assert_eq!(pieces.iter().map(|(range, _)| range.end - range.start).sum::<u64>(), SIZE);
            prop_assert!(pieces.windows(2).all(|pair| pair[0].0.end == pair[1].0.start && pair[0].1 != pair[1].1));
            let inside: RangeSet = pieces.into_iter().filter(|piece| piece.1).map(|piece| piece.0).collect();
            prop_assert_eq!(inside, set.clamp(SIZE));
        }

        #[test]
        fn a_bitmap_marks_exactly_its_blocks(
            bitmap in prop::collection::vec(any::<u8>(), 1..20),
            short in 0..8 * CBT_BLOCK,
            widening in 0..4u32,
        ) {
            let size = bitmap.len() as u64 * 8 * CBT_BLOCK - short;
            let changed = RangeSet::from_cbt_bitmap(&bitmap, size, 0).unwrap();
            invariant_sorted_and_apart(&changed);
            for block in 0..size.div_ceil(CBT_BLOCK) {
                let start = block * CBT_BLOCK;
                let range = start..(start + CBT_BLOCK).min(size);
                let bit = bitmap[usize::try_from(block / 8).unwrap()] & (0x80 >> (block % 8)) != 0;
                prop_assert_eq!(changed.contains(&range), bit);
                prop_assert_eq!(changed.intersects(&range), bit);
            }
            let granularity = CBT_BLOCK << widening;
            let wide = RangeSet::from_cbt_bitmap(&bitmap, size, granularity).unwrap();
            prop_assert_eq!(wide, changed.align(granularity, size));
        }

        #[test]
        fn a_bitmap_of_another_length_is_refused(len in 0usize..40, size in 0u64..(1 << 25)) {
            let needed = size.div_ceil(CBT_BLOCK).div_ceil(8);
            let result = RangeSet::from_cbt_bitmap(&vec![0xff; len], size, 0);
            prop_assert_eq!(result.is_ok(), len as u64 == needed);
        }
    }

    #[test]
    fn the_bitmap_of_64_gib_has_131072_bytes() {
        assert!(RangeSet::from_cbt_bitmap(&vec![0; 131_072], 64 << 30, 0).unwrap().is_empty());
    }

    #[test]
    fn a_bit_beyond_the_end_is_not_widened_into_the_disk() {
        let changed = RangeSet::from_cbt_bitmap(&[0b0001_0000], 3 * CBT_BLOCK, 2 * CBT_BLOCK).unwrap();
        assert!(changed.is_empty());
    }

    #[test]
    fn ranges_at_the_end_of_the_number_space_do_not_wrap() {
        let set = RangeSet::from(u64::MAX - 1..u64::MAX);
        assert_eq!(set.align(1 << 20, u64::MAX).iter().next().unwrap().end, u64::MAX);
        assert_eq!(set.complement(u64::MAX).total(), u64::MAX - 1);
    }
}
