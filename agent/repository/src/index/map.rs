//! The index in memory: 48 bytes a blob in sorted buckets, plus at most an eighth of growth.

use std::collections::{HashMap, HashSet};

use crate::format::{BlobKind, IndexedPack, PackedBlob, header_bytes};
use crate::objects::BlobKey;
use crate::{BlobId, PackId};

/// Ids are hashes, hence evenly spread over their first bits: 4096 buckets hold 256 blobs each for 1 TiB in chunks of 1
/// MiB.
const BUCKETS: usize = 4096;
/// Marks a tree in [`Entry::pack`].
const TREE: u32 = 1 << 31;

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: [u8; 32],
    pack: u32,
    offset: u32,
    length: u32,
    /// 0: not compressed.
    uncompressed: u32,
}

const _: () = assert!(size_of::<Entry>() == 48);

/// A pack that an index lists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackRecord {
    pub(crate) id: PackId,
    /// Bytes of the file, as they follow from what the index lists.
    pub(crate) size: u64,
    /// Bytes of its blobs, header apart.
    pub(crate) blob_bytes: u64,
    /// Whether anything new may build on it.
    pub(crate) trust: Trust,
}

/// What may build on a pack; of several copies of a blob, the one in the pack of greater trust counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trust {
    /// Nothing: it was found damaged or missing.
    Damaged,
    /// Nothing new: it will be deleted.
    Marked,
    /// Everything.
    Full,
}

/// Packs that nothing new may build on, whether the map has them or not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doubts {
    /// They will be deleted.
    pub(crate) marked: HashSet<PackId>,
    /// They were found damaged or missing.
    pub(crate) damaged: HashSet<PackId>,
}

impl Doubts {
    fn trust(&self, pack: &PackId) -> Trust {
        if self.damaged.contains(pack) {
            Trust::Damaged
        } else if self.marked.contains(pack) {
            Trust::Marked
        } else {
            Trust::Full
        }
    }
}

/// Where a blob stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) pack: PackId,
    /// Number of the pack in this map.
    pub(crate) pack_number: u32,
    pub(crate) blob: PackedBlob,
}

/// Blobs by kind and id; of several copies in packs of the same [`Trust`] the first added counts.
#[derive(Debug, Clone)]
pub(crate) struct IndexMap {
    buckets: Vec<Vec<Entry>>,
    packs: Vec<PackRecord>,
    numbers: HashMap<PackId, u32>,
    doubts: Doubts,
}

impl Default for IndexMap {
    fn default() -> Self {
        Self {
            buckets: vec![Vec::new(); BUCKETS],
            packs: Vec::new(),
            numbers: HashMap::new(),
            doubts: Doubts::default(),
        }
    }
}

fn bucket(id: &[u8; 32]) -> usize {
    usize::from(id[0]) << 4 | usize::from(id[1]) >> 4
}

impl IndexMap {
    /// An empty map that knows what not to build on.
    pub(crate) fn doubting(doubts: Doubts) -> Self {
        Self { doubts, ..Self::default() }
    }

    /// Packs that nothing new may build on.
    pub(crate) fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    /// Replaces what is known of which packs not to build on. Which of several copies counts stays as it was: for that
    /// the map must be made anew.
    pub(crate) fn set_doubts(&mut self, doubts: Doubts) {
        self.doubts = doubts;
        for pack in &mut self.packs {
            pack.trust = self.doubts.trust(&pack.id);
        }
    }

    /// Adds a pack, unless it is known.
    pub(crate) fn add(&mut self, pack: &IndexedPack) {
        let Some(number) = u32::try_from(self.packs.len()).ok().filter(|number| number & TREE == 0) else { return };
        if self.numbers.contains_key(&pack.id) {
            return;
        }
        self.numbers.insert(pack.id, number);
        let bytes: u64 = pack.blobs.iter().map(|blob| u64::from(blob.0.length)).sum();
        let size = bytes + header_bytes(pack.blobs.iter().map(|blob| &blob.0)) as u64;
        let trust = self.doubts.trust(&pack.id);
        self.packs.push(PackRecord { id: pack.id, size, blob_bytes: bytes, trust });
        for blob in &pack.blobs {
            let PackedBlob { id, kind, offset, length, uncompressed } = blob.0;
            let flag = if kind == BlobKind::Tree { TREE } else { 0 };
            let entry =
                Entry { id: id.0, pack: number | flag, offset, length, uncompressed: uncompressed.unwrap_or(0) };
            let bucket = &mut self.buckets[bucket(&id.0)];
            match bucket.binary_search_by_key(&(id.0, kind), key_of) {
                Ok(place) => {
                    let known = &mut bucket[place];
                    if trust > self.packs[(known.pack & !TREE) as usize].trust {
                        *known = entry;
                    }
                }
                Err(place) => {
                    if bucket.len() == bucket.capacity() {
                        bucket.reserve_exact(bucket.len() / 8 + 4);
                    }
                    bucket.insert(place, entry);
                }
            }
        }
    }

    /// Gives back the room for growth.
    pub(crate) fn shrink(&mut self) {
        self.buckets.iter_mut().for_each(Vec::shrink_to_fit);
    }

    pub(crate) fn get(&self, (kind, id): &BlobKey) -> Option<Location> {
        let bucket = &self.buckets[bucket(&id.0)];
        let place = bucket.binary_search_by_key(&(id.0, *kind), key_of).ok()?;
        self.location(bucket.get(place)?)
    }

    /// Whether a new snapshot may refer to the blob: it is here, as far as is known whole, and will stay.
    pub(crate) fn is_reusable(&self, key: &BlobKey) -> bool {
        self.trust(key) == Some(Trust::Full)
    }

    /// How far the blob can be trusted, if it is here.
    pub(crate) fn trust(&self, key: &BlobKey) -> Option<Trust> {
        let found = self.get(key)?;
        Some(self.packs.get(found.pack_number as usize)?.trust)
    }

    /// Where each bucket begins in the order of [`Self::blobs`]; for [`Self::ordinal`], until the next change.
    pub(crate) fn bucket_starts(&self) -> Vec<usize> {
        let start = |sum: &mut usize, bucket: &Vec<Entry>| {
            let start = *sum;
            *sum += bucket.len();
            Some(start)
        };
        self.buckets.iter().scan(0, start).collect()
    }

    /// The place of a blob in the order of [`Self::blobs`].
    pub(crate) fn ordinal(&self, starts: &[usize], (kind, id): &BlobKey) -> Option<usize> {
        let number = bucket(&id.0);
        let place = self.buckets[number].binary_search_by_key(&(id.0, *kind), key_of).ok()?;
        Some(starts.get(number)? + place)
    }

    fn location(&self, entry: &Entry) -> Option<Location> {
        let number = entry.pack & !TREE;
        let blob = PackedBlob {
            id: BlobId(entry.id),
            kind: key_of(entry).1,
            offset: entry.offset,
            length: entry.length,
            uncompressed: (entry.uncompressed != 0).then_some(entry.uncompressed),
        };
        Some(Location { pack: self.packs.get(number as usize)?.id, pack_number: number, blob })
    }

    /// Every blob, sorted by id.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = Location> + '_ {
        self.buckets.iter().flatten().filter_map(|entry| self.location(entry))
    }

    /// How many blobs there are.
    pub(crate) fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    /// Every pack, by number.
    pub(crate) fn packs(&self) -> &[PackRecord] {
        &self.packs
    }

    pub(crate) fn pack(&self, id: &PackId) -> Option<PackRecord> {
        self.packs.get(*self.numbers.get(id)? as usize).copied()
    }
}

fn key_of(entry: &Entry) -> ([u8; 32], BlobKind) {
    (entry.id, if entry.pack & TREE == 0 { BlobKind::Data } else { BlobKind::Tree })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::format::IndexedBlob;

    #[test]
    fn of_several_copies_the_most_trusted_counts() {
        let blob = PackedBlob { id: BlobId([9; 32]), kind: BlobKind::Data, offset: 0, length: 40, uncompressed: None };
        let id = |number| PackId([number; 32]);
        let pack = |number| IndexedPack { id: id(number), blobs: vec![IndexedBlob(blob)] };
        let key = (BlobKind::Data, blob.id);
        let doubts = Doubts { marked: HashSet::from([id(1), id(2)]), damaged: HashSet::from([id(1)]) };
        let mut map = IndexMap::doubting(doubts);
        for (number, counts, trust) in
            [(1, 1, Trust::Damaged), (2, 2, Trust::Marked), (3, 3, Trust::Full), (4, 3, Trust::Full)]
        {
            map.add(&pack(number));
            assert_eq!((map.get(&key).unwrap().pack, map.trust(&key)), (id(counts), Some(trust)));
            assert_eq!(map.is_reusable(&key), trust == Trust::Full);
        }
        map.set_doubts(Doubts { damaged: HashSet::from([id(3)]), ..Doubts::default() });
        assert!(!map.is_reusable(&key));
    }

    proptest! {
        #[test]
        fn every_added_blob_is_found_at_its_first_place(
            packs in proptest::collection::vec(proptest::collection::vec((0_u8..40, any::<bool>(), 32_u32..99), 0..20), 0..10)
        ) {
            let (mut map, mut model) = (IndexMap::default(), HashMap::new());
            for (number, blobs) in packs.iter().enumerate() {
                let pack = PackId([u8::try_from(number).unwrap(); 32]);
                let mut offset = 0;
                let blobs = blobs.iter().map(|&(id, tree, length)| {
                    let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
                    let blob = PackedBlob { id: BlobId([id; 32]), kind, offset, length, uncompressed: None };
                    offset += length;
                    model.entry((kind, blob.id)).or_insert((pack, blob));
                    IndexedBlob(blob)
                }).collect();
                let pack = IndexedPack { id: pack, blobs };
                map.add(&pack);
                map.add(&pack);
            }
            map.shrink();
            prop_assert_eq!(map.len(), model.len());
            let starts = map.bucket_starts();
            for (place, found) in map.blobs().enumerate() {
                prop_assert_eq!(map.ordinal(&starts, &(found.blob.kind, found.blob.id)), Some(place));
            }
            prop_assert_eq!(map.blobs().count(), model.len());
            for (key, (pack, blob)) in &model {
                let found = map.get(key).unwrap();
                prop_assert_eq!((found.pack, found.blob), (*pack, *blob));
                prop_assert!(map.is_reusable(key));
            }
            prop_assert!(map.get(&(BlobKind::Data, BlobId([200; 32]))).is_none());
        }
    }
}
