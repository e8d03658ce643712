//! The content of a file: which blobs, in order, make it up, and which byte stands in which blob.

use std::ops::Range;
use std::sync::Arc;

use crate::format::BlobKind;
use crate::index::IndexMap;
use crate::{BlobId, Error};

/// A file's blobs in order. Cheap to clone; 32 bytes a chunk, shared by clones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    size: u64,
    blobs: Arc<Vec<BlobId>>,
}

impl FileContent {
    pub(crate) fn new(size: u64, blobs: Vec<BlobId>) -> Self {
        Self { size, blobs: Arc::new(blobs) }
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its blobs.
    pub fn blobs(&self) -> &[BlobId] {
        &self.blobs
    }
}

/// Where the blobs of a file begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// All have this many bytes, but the last, which may be shorter.
    Fixed { chunk: u64, size: u64 },
    /// Blob `n` ends before byte `ends[n]`: files of programs that cut by content.
    Ends(Vec<u64>),
}

impl Layout {
    /// Looks the lengths up. Fails with the first range that no index knows, or when they do not add up to the file.
    pub(crate) fn of(path: &str, content: &FileContent, map: &IndexMap) -> Result<Self, Error> {
        let unreadable =
            |start, end, source| Error::Unreadable { path: path.to_owned(), start, end, source: Box::new(source) };
        let size = content.size();
        let mut end = 0_u64;
        let (mut chunk, mut ends) = (None, None::<Vec<u64>>);
        for (number, id) in content.blobs().iter().enumerate() {
            let Some(found) = map.get(&(BlobKind::Data, *id)) else {
                let until = chunk.map_or(size, |chunk| size.min(end.saturating_add(chunk)));
                return Err(unreadable(end, until, Error::BlobMissing { blob: *id }));
            };
            let length = u64::from(found.blob.plain_bytes());
            end = end.saturating_add(length);
            let first = *chunk.get_or_insert(length);
            let is_last = number + 1 == content.blobs().len();
            match &mut ends {
                Some(ends) => ends.push(end),
                None if length == first || (is_last && length < first) => {}
                None => {
                    let equal = u64::try_from(number).unwrap_or(u64::MAX);
                    let mut list: Vec<u64> = (1..=equal).map(|number| number * first).collect();
                    list.push(end);
                    ends = Some(list);
                }
            }
        }
        if end != size {
            let fault = crate::format::Fault::Size { found: end, expected: size };
            return Err(unreadable(end.min(size), end.max(size), Error::damaged(path, fault)));
        }
        Ok(ends.map_or(Self::Fixed { chunk: chunk.unwrap_or(1).max(1), size }, Self::Ends))
    }

    /// The blob that holds byte `offset` of the file.
    pub(crate) fn blob_at(&self, offset: u64) -> usize {
        match self {
            Self::Fixed { chunk, .. } => usize::try_from(offset / chunk).unwrap_or(usize::MAX),
            Self::Ends(ends) => ends.partition_point(|end| *end <= offset),
        }
    }

    /// The bytes of the file that blob `number` holds; empty behind the last.
    pub(crate) fn range(&self, number: usize) -> Range<u64> {
        match self {
            Self::Fixed { chunk, size } => {
                let number = u64::try_from(number).unwrap_or(u64::MAX);
                let start = number.saturating_mul(*chunk).min(*size);
                start..start.saturating_add(*chunk).min(*size)
            }
            Self::Ends(ends) => {
                let last = ends.last().copied().unwrap_or(0);
                let end = ends.get(number).copied().unwrap_or(last);
                let start = number.checked_sub(1).map_or(0, |before| ends.get(before).copied().unwrap_or(last));
                start..end
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::PackId;
    use crate::format::{IndexedBlob, IndexedPack, PackedBlob};

    proptest! {
        #[test]
        fn every_byte_is_found_in_its_blob(lengths in proptest::collection::vec(1_u32..5, 1..12), equal in any::<bool>()) {
            let lengths: Vec<u32> = if equal { vec![3; lengths.len()] } else { lengths };
            let ids: Vec<BlobId> = (0..lengths.len()).map(|n| BlobId([u8::try_from(n).unwrap(); 32])).collect();
            let blobs = ids.iter().zip(&lengths).map(|(id, length)| IndexedBlob(PackedBlob {
                id: *id, kind: BlobKind::Data, offset: 0, length: 40, uncompressed: Some(*length),
            })).collect();
            let mut map = IndexMap::default();
            map.add(&IndexedPack { id: PackId([0; 32]), blobs });
            let size: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
            let layout = Layout::of("x", &FileContent::new(size, ids.clone()), &map).unwrap();
            let is_fixed = matches!(layout, Layout::Fixed { chunk: 3, .. });
            prop_assert!(!equal || is_fixed);
            let mut start = 0;
            for (number, length) in lengths.iter().enumerate() {
                let end = start + u64::from(*length);
                prop_assert_eq!(layout.range(number), start..end);
                prop_assert!((start..end).all(|offset| layout.blob_at(offset) == number));
                start = end;
            }
            prop_assert!(layout.range(lengths.len()).is_empty());
            prop_assert!(Layout::of("x", &FileContent::new(size + 1, ids), &map).is_err());
        }
    }
}
