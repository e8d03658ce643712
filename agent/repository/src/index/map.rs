//! The index in memory: 48 bytes a blob in sorted buckets, plus at most an eighth of growth.

use std::collections::{HashMap, HashSet};

use crate::format::{BlobKind, IndexedPack, PackedBlob, header_bytes};
use crate::objects::BlobKey;
use crate::{BlobId, PackId};

/// Ids are hashes, hence evenly spread over their first bits: 4096 buckets hold 256 blobs each for 1 TiB in chunks of 1 MiB.
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
    /// It will be deleted: nothing new may refer to it.
    pub(crate) is_marked: bool,
}

/// Where a blob stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) pack: PackId,
    /// Number of the pack in this map.
    pub(crate) pack_number: u32,
    pub(crate) blob: PackedBlob,
}

/// Blobs by kind and id; of several copies the first added counts, but one in a pack that is not marked beats one in a pack that is.
#[derive(Debug, Clone)]
pub(crate) struct IndexMap {
    buckets: Vec<Vec<Entry>>,
    packs: Vec<PackRecord>,
    numbers: HashMap<PackId, u32>,
    marked: HashSet<PackId>,
}

impl Default for IndexMap {
    fn default() -> Self {
        Self { buckets: vec![Vec::new(); BUCKETS], packs: Vec::new(), numbers: HashMap::new(), marked: HashSet::new() }
    }
}

fn bucket(id: &[u8; 32]) -> usize {
    usize::from(id[0]) << 4 | usize::from(id[1]) >> 4
}

impl IndexMap {
    /// An empty map that knows which packs will be deleted.
    pub(crate) fn with_marked(marked: HashSet<PackId>) -> Self {
        Self { marked, ..Self::default() }
    }

    /// Packs that will be deleted, whether they are in this map or not.
    pub(crate) fn marked(&self) -> &HashSet<PackId> {
        &self.marked
    }

    /// Replaces what is known of which packs will be deleted.
    pub(crate) fn set_marked(&mut self, marked: HashSet<PackId>) {
        self.marked = marked;
        for pack in &mut self.packs {
            pack.is_marked = self.marked.contains(&pack.id);
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
        let is_marked = self.marked.contains(&pack.id);
        self.packs.push(PackRecord { id: pack.id, size, blob_bytes: bytes, is_marked });
        for blob in &pack.blobs {
            let PackedBlob { id, kind, offset, length, uncompressed } = blob.0;
            let flag = if kind == BlobKind::Tree { TREE } else { 0 };
            let entry =
                Entry { id: id.0, pack: number | flag, offset, length, uncompressed: uncompressed.unwrap_or(0) };
            let bucket = &mut self.buckets[bucket(&id.0)];
            match bucket.binary_search_by_key(&(id.0, kind), key_of) {
                Ok(place) => {
                    let known = &mut bucket[place];
                    let is_better = !is_marked && self.packs[(known.pack & !TREE) as usize].is_marked;
                    if is_better {
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

    /// Whether a new snapshot may refer to the blob: it is here, and will stay.
    pub(crate) fn is_reusable(&self, key: &BlobKey) -> bool {
        self.get(key).is_some_and(|found| !self.packs[found.pack_number as usize].is_marked)
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
    fn a_copy_that_will_stay_beats_one_that_will_go() {
        let blob = PackedBlob { id: BlobId([9; 32]), kind: BlobKind::Data, offset: 0, length: 40, uncompressed: None };
        let pack = |id| IndexedPack { id: PackId([id; 32]), blobs: vec![IndexedBlob(blob)] };
        let key = (BlobKind::Data, blob.id);
        let mut map = IndexMap::with_marked(HashSet::from([PackId([1; 32])]));
        map.add(&pack(1));
        assert!(!map.is_reusable(&key));
        map.add(&pack(2));
        map.add(&pack(3));
        assert_eq!(map.get(&key).unwrap().pack, PackId([2; 32]));
        assert!(map.is_reusable(&key));
        map.set_marked(HashSet::from([PackId([2; 32])]));
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
