//! Index files: which blobs stand where in which packs.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::pack::OVERHEAD_U32;
use super::{BlobKind, Fault, MAX_INDEX, PackedBlob, decode_unpacked, encode_unpacked};
use crate::{BlobId, IndexId, PackId};

/// Blobs of one index file that we write: keeps it below 8 MiB, as the format asks.
pub(crate) const MAX_BLOBS: usize = 40_000;

/// The content of an index file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFile {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) supersedes: Vec<IndexId>,
    pub(crate) packs: Vec<IndexedPack>,
}

/// A pack in an index file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexedPack {
    pub(crate) id: PackId,
    pub(crate) blobs: Vec<IndexedBlob>,
}

/// A blob in an index file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BlobJson", into = "BlobJson")]
pub(crate) struct IndexedBlob(pub(crate) PackedBlob);

#[derive(Serialize, Deserialize)]
struct BlobJson {
    id: BlobId,
    #[serde(rename = "type")]
    kind: BlobKind,
    offset: u32,
    length: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uncompressed_length: Option<u32>,
}

impl From<IndexedBlob> for BlobJson {
    fn from(IndexedBlob(blob): IndexedBlob) -> Self {
        let PackedBlob { id, kind, offset, length, uncompressed } = blob;
        Self { id, kind, offset, length, uncompressed_length: uncompressed }
    }
}

impl TryFrom<BlobJson> for IndexedBlob {
    type Error = &'static str;

    fn try_from(json: BlobJson) -> Result<Self, Self::Error> {
        let BlobJson { id, kind, offset, length, uncompressed_length } = json;
        if length < OVERHEAD_U32 || offset.checked_add(length).is_none() {
            return Err("a blob is shorter than its seal or reaches beyond the end of any pack");
        }
        // Some writers give the length of blobs that are not compressed as 0.
        let uncompressed = uncompressed_length.filter(|bytes| *bytes != 0);
        Ok(Self(PackedBlob { id, kind, offset, length, uncompressed }))
    }
}

impl IndexFile {
    /// Reads the plain bytes of an index file.
    ///
    /// # Errors
    /// [`Fault::Json`], [`Fault::Compression`] or [`Fault::Malformed`].
    pub fn parse(plain: &[u8]) -> Result<Self, Fault> {
        decode_unpacked(plain, MAX_INDEX, |reader: &mut dyn Read| {
            Ok(serde_json::from_reader(std::io::BufReader::with_capacity(64 << 10, reader))?)
        })
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, Fault> {
        encode_unpacked(&serde_json::to_vec(self)?).map_err(Fault::Compression)
    }
}

/// Portions packs into index files of bounded size.
#[derive(Debug, Default)]
pub(crate) struct IndexWriter {
    packs: Vec<IndexedPack>,
    blobs: usize,
}

impl IndexWriter {
    /// Adds a pack; returns an index file when one is full.
    pub(crate) fn add(&mut self, pack: IndexedPack) -> Option<IndexFile> {
        self.blobs += pack.blobs.len();
        self.packs.push(pack);
        if self.blobs >= MAX_BLOBS { self.finish() } else { None }
    }

    /// What is left.
    pub(crate) fn finish(&mut self) -> Option<IndexFile> {
        self.blobs = 0;
        let packs = std::mem::take(&mut self.packs);
        (!packs.is_empty()).then(|| IndexFile { supersedes: Vec::new(), packs })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_index_of_the_formats_manual_is_read() {
        let id = "73d04e6125cf3c28a299cc2f3cca3b78ceac396e4fcf9575e34536b26782413c";
        let json = format!(
            r#"{{"packs":[{{"id":"{id}","blobs":[{{"id":"{id}","type":"data","offset":38,"length":112,"uncompressed_length":511}}]}}]}}"#
        );
        let index = IndexFile::parse(json.as_bytes()).unwrap();
        let blob = index.packs[0].blobs[0].0;
        assert_eq!((blob.kind, blob.offset, blob.length, blob.plain_bytes()), (BlobKind::Data, 38, 112, 511));
        assert_eq!(IndexFile::parse(&index.encode().unwrap()).unwrap(), index);
        assert!(IndexFile::parse(json.replace("112", "31").as_bytes()).is_err());
        assert!(IndexFile::parse(json.replace("112", "4294967290").as_bytes()).is_err());
        assert!(IndexFile::parse(json.replace("112", "-1").as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_index_or_refused(text in ".{0,100}") {
            let _ = IndexFile::parse(text.as_bytes());
            let _ = IndexFile::parse(format!("{{\"packs\":[{text}]}}").as_bytes());
        }
    }
}
