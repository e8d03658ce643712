//! Packs: sealed blobs one after another, then a sealed header that names them, then the header's length.

use serde::{Deserialize, Serialize};

use super::{Fault, OVERHEAD};
use crate::BlobId;

/// Bytes of the header's length at the end of a pack.
pub(crate) const LENGTH_BYTES: usize = 4;
const PLAIN_ENTRY: usize = 1 + 4 + 32;
const COMPRESSED_ENTRY: usize = PLAIN_ENTRY + 4;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A folder, in JSON.
    Tree,
}

/// A blob inside a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedBlob {
    /// SHA-256 of its plain bytes.
    pub id: BlobId,
    /// What it holds.
    pub kind: BlobKind,
    /// Where it begins in the pack, in bytes.
    pub offset: u32,
    /// Its sealed length in bytes.
    pub length: u32,
    /// Its plain length in bytes, if it is compressed.
    pub uncompressed: Option<u32>,
}

impl PackedBlob {
    /// Its plain length in bytes.
    pub(crate) fn plain_bytes(&self) -> u32 {
        self.uncompressed.unwrap_or(self.length.saturating_sub(OVERHEAD_U32))
    }
}

pub(crate) const OVERHEAD_U32: u32 = 32;
const _: () = assert!(OVERHEAD_U32 as usize == OVERHEAD);

/// Bytes that header and length take at the end of a pack with these blobs.
pub(crate) fn header_bytes<'blobs>(blobs: impl IntoIterator<Item = &'blobs PackedBlob>) -> usize {
    let entry = |blob: &PackedBlob| if blob.uncompressed.is_some() { COMPRESSED_ENTRY } else { PLAIN_ENTRY };
    blobs.into_iter().map(entry).sum::<usize>() + OVERHEAD + LENGTH_BYTES
}

/// The plain header of a pack.
pub(crate) fn encode_pack_header(blobs: &[PackedBlob]) -> Vec<u8> {
    let mut header = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY);
    for blob in blobs {
        let kind = match blob.kind {
            BlobKind::Data => 0,
            BlobKind::Tree => 1,
        };
        header.push(if blob.uncompressed.is_some() { kind | 2 } else { kind });
        header.extend_from_slice(&blob.length.to_le_bytes());
        if let Some(bytes) = blob.uncompressed {
            header.extend_from_slice(&bytes.to_le_bytes());
        }
        header.extend_from_slice(blob.id.as_bytes());
    }
    header
}

/// Reads the plain header of a pack.
///
/// # Errors
/// [`Fault::Cut`]; [`Fault::Malformed`] for unknown kinds and for blobs that do not fit into a pack.
pub fn parse_pack_header(mut header: &[u8]) -> Result<Vec<PackedBlob>, Fault> {
    fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], Fault> {
        let (taken, rest) = from.split_first_chunk().ok_or(Fault::Cut)?;
        *from = rest;
        Ok(*taken)
    }
    let mut blobs = Vec::with_capacity(header.len() / PLAIN_ENTRY);
    let mut offset = 0_u32;
    while !header.is_empty() {
        let [kind] = take(&mut header)?;
        let length = u32::from_le_bytes(take(&mut header)?);
        let uncompressed = match kind {
            0 | 1 => None,
            2 | 3 => Some(u32::from_le_bytes(take(&mut header)?)),
            _ => return Err(Fault::Malformed("it names a kind of blob that is not known")),
        };
        let id = BlobId(take(&mut header)?);
        let kind = if kind & 1 == 0 { BlobKind::Data } else { BlobKind::Tree };
        if length < OVERHEAD_U32 {
            return Err(Fault::Malformed("it names a blob shorter than its seal"));
        }
        blobs.push(PackedBlob { id, kind, offset, length, uncompressed });
        offset = offset.checked_add(length).ok_or(Fault::Malformed("it names blobs beyond the end of any pack"))?;
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_comes_back(given in proptest::collection::vec((any::<[u8; 32]>(), any::<bool>(), 32_u32..1 << 20, any::<Option<u32>>()), 0..20)) {
            let mut offset = 0;
            let blobs: Vec<PackedBlob> = given.into_iter().map(|(id, tree, length, uncompressed)| {
                let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
                let blob = PackedBlob { id: BlobId(id), kind, offset, length, uncompressed };
                offset += length;
                blob
            }).collect();
            let header = encode_pack_header(&blobs);
            prop_assert_eq!(header_bytes(&blobs), header.len() + OVERHEAD + LENGTH_BYTES);
            prop_assert_eq!(parse_pack_header(&header).unwrap(), blobs);
        }

        #[test]
        fn any_header_is_read_or_refused(header in proptest::collection::vec(0_u8..5, 0..200)) {
            let _ = parse_pack_header(&header);
        }
    }
}
