//! Which sectors a node holds: VHD's block table and sector bitmaps, in memory. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{BLOCK, SECTOR};

/// Sectors of one block.
const SECTORS: u64 = BLOCK / SECTOR;
/// Words of a block's sector bitmap.
const WORDS: usize = 64;

/// The sectors of one allocated block; at least one is present.
#[derive(Debug, Clone)]
enum Sectors {
    All,
    Some(Box<[u64; WORDS]>),
}

/// A set of sectors, kept per 2 MiB block. Positions are sector numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockMap {
    blocks: BTreeMap<u32, Sectors>,
}

impl BlockMap {
    /// Whether nothing was ever written.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Number of allocated blocks.
    pub(crate) fn block_count(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// The allocated blocks, ascending.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks.keys().copied()
    }

    /// Whether a block is allocated.
    pub(crate) fn has_block(&self, block: u32) -> bool {
        self.blocks.contains_key(&block)
    }

    /// Blocks that marking `range` would allocate.
    pub(crate) fn missing_blocks(&self, range: &Range<u64>) -> u64 {
        blocks_of(range).filter(|block| !self.has_block(*block)).count() as u64
    }

    /// Whether every sector of `range` is present.
    pub(crate) fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.run(range.clone()) == (range.end, true)
    }

    /// Adds sectors.
    pub(crate) fn mark(&mut self, range: Range<u64>) {
        for block in blocks_of(&range) {
            let start = u64::from(block) * SECTORS;
            let first = range.start.max(start) - start;
            let last = range.end.min(start + SECTORS) - start;
            if last - first == SECTORS {
                self.blocks.insert(block, Sectors::All);
                continue;
            }
            let sectors = self.blocks.entry(block).or_insert_with(|| Sectors::Some(Box::new([0; WORDS])));
            if let Sectors::Some(words) = sectors {
                for (index, word) in words.iter_mut().enumerate() {
                    *word |= word_mask(index as u64, first, last);
                }
                if words.iter().all(|word| *word == u64::MAX) {
                    *sectors = Sectors::All;
                }
            }
        }
    }

    /// Forgets every block from sector `end` on, which is the start of one.
    pub(crate) fn cut(&mut self, end: u64) {
        self.blocks.split_off(&block_of(end));
    }

    /// The run that begins at `range.start`, within `range`: where it ends, and whether it is present.
    pub(crate) fn run(&self, range: Range<u64>) -> (u64, bool) {
        let mut at = range.start;
        let present = self.state_at(at).1;
        while at < range.end {
            let (end, state) = self.state_at(at);
            if state != present {
                return (at, present);
            }
            at = end;
        }
        (range.end, present)
    }

    /// The runs of `range`, in order, each with whether it is present.
    pub(crate) fn runs(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, bool)> + '_ {
        let Range { mut start, end } = range;
        std::iter::from_fn(move || {
            (start < end).then(|| {
                let (stop, present) = self.run(start..end);
                let run = start..stop;
                start = stop;
                (run, present)
            })
        })
    }

    /// All present runs, in order.
    pub(crate) fn present(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let end = self.blocks.last_key_value().map_or(0, |(block, _)| (u64::from(*block) + 1) * SECTORS);
        self.runs(0..end).filter_map(|(run, present)| present.then_some(run))
    }

    /// The state of sector `at`, and an end up to which it holds at least.
    fn state_at(&self, at: u64) -> (u64, bool) {
        let block = block_of(at);
        match self.blocks.get(&block) {
            Some(Sectors::All) => ((u64::from(block) + 1) * SECTORS, true),
            Some(Sectors::Some(words)) => {
                let within = at % SECTORS;
                let index = crate::disk::usize_of(within / 64);
                let shift = within % 64;
                let word = words.get(index).copied().unwrap_or_default() >> shift;
                let present = word & 1 == 1;
                let length = u64::from(if present { word.trailing_ones() } else { word.trailing_zeros() });
                (at + length.min(64 - shift), present)
            }
            None => {
                let next = self.blocks.range(block..).next();
                (next.map_or(u64::MAX, |(next, _)| u64::from(*next) * SECTORS), false)
            }
        }
    }
}

fn block_of(sector: u64) -> u32 {
    u32::try_from(sector / SECTORS).expect("disks are at most 2040 GiB, checked when they are made")
}

fn blocks_of(range: &Range<u64>) -> impl Iterator<Item = u32> + use<> {
    let blocks = if range.is_empty() { 0..0 } else { block_of(range.start)..block_of(range.end - 1) + 1 };
    blocks.into_iter()
}

/// The bits of word `index` that lie in sectors `first..last` of its block.
fn word_mask(index: u64, first: u64, last: u64) -> u64 {
    let from = first.saturating_sub(index * 64).min(64);
    let to = last.saturating_sub(index * 64).min(64);
    if from >= to {
        return 0;
    }
    let ones = if to - from == 64 { u64::MAX } else { (1 << (to - from)) - 1 };
    ones << from
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACE: u64 = 3 * SECTORS;

    proptest! {
        #[test]
        fn a_map_holds_exactly_the_sectors_that_were_marked(
            marks in prop::collection::vec((0..SPACE, 0..SECTORS + 100), 0..20),
            window in (0..SPACE, 0..SPACE),
        ) {
            let mut map = BlockMap::default();
            let mut model = vec![false; usize::try_from(SPACE).unwrap()];
            for (start, len) in marks {
                let range = start..(start + len).min(SPACE);
                for sector in range.clone() {
                    model[usize::try_from(sector).unwrap()] = true;
                }
                map.mark(range);
            }
            let window = window.0.min(window.1)..window.0.max(window.1);
            let mut at = window.start;
            let mut before = None;
            for (run, present) in map.runs(window.clone()) {
                prop_assert_eq!(run.start, at);
                prop_assert!(run.end > run.start);
                prop_assert_ne!(before, Some(present), "runs are maximal");
                for sector in run.clone() {
                    prop_assert_eq!(model[usize::try_from(sector).unwrap()], present);
                }
                prop_assert_eq!(map.covers(&run), present);
                before = Some(present);
                at = run.end;
            }
            prop_assert_eq!(at, window.end);
            let expected: Vec<u32> = (0..3u32)
                .filter(|block| {
                    let start = usize::try_from(u64::from(*block) * SECTORS).unwrap();
                    model[start..start + usize::try_from(SECTORS).unwrap()].iter().any(|p| *p)
                })
                .collect();
            prop_assert_eq!(map.blocks().collect::<Vec<_>>(), expected);
            prop_assert_eq!(map.present().map(|r| r.end - r.start).sum::<u64>(), model.iter().filter(|p| **p).count() as u64);
        }
    }
}
