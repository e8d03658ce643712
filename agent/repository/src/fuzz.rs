//! What the crate keeps to itself and parses all the same, by bytes alone: for the fuzz targets, and nobody else.

use std::sync::Arc;

use coffer_remote::MemoryRemote;

use crate::format::{
    BlobKind, Codec, Fault, MasterKey, OVERHEAD, PackedBlob, Tree, decoder, encode_unpacked, read_keys, read_tree,
};
use crate::objects::Objects;
use crate::{BlobId, Compression};

/// A JSON file as it stands inside its seal: compressed. Parsers behind the decompression are reached through it.
pub fn packed(json: &[u8]) -> Vec<u8> {
    encode_unpacked(json).expect("zstd compresses whatever fits into memory")
}

/// Reads the plain bytes of a lock.
///
/// # Errors
/// [`Fault`].
pub fn lock(plain: &[u8]) -> Result<(), Fault> {
    crate::lock::parse(plain).map(drop)
}

/// Reads the marks of a prune.
///
/// # Errors
/// [`Fault`].
pub fn marks(json: &[u8]) -> Result<(), Fault> {
    Ok(crate::prune::parse_marks(json).map(drop)?)
}

/// Reads the keys inside a key file that was opened.
///
/// # Errors
/// [`Fault`].
pub fn master_key(json: &[u8]) -> Result<(), Fault> {
    read_keys(json).map(drop)
}

/// Reads a compressed tree of which an index says that it has `plain_bytes`.
///
/// # Errors
/// [`Fault`].
pub fn packed_tree(packed: &[u8], plain_bytes: u32) -> Result<Tree, Fault> {
    read_tree(decoder(packed, plain_bytes.into())?)
}

/// The name of each node of a tree as a component of a path, where it can be one.
pub fn file_names(tree: &Tree) -> Vec<Option<String>> {
    tree.nodes.iter().map(crate::format::Node::file_name).collect()
}

/// The keys and tools of a repository with nothing in it.
#[derive(Debug)]
pub struct Sealed(Arc<Objects>);

impl Default for Sealed {
    fn default() -> Self {
        Self(Arc::new(Objects::new(Arc::new(MemoryRemote::new()), MasterKey::random(), Compression::Fast)))
    }
}

impl Sealed {
    /// Seals bytes.
    pub fn seal(&self, plain: &[u8]) -> Vec<u8> {
        self.0.key().seal(plain)
    }

    /// Opens bytes that somebody says are sealed.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Fault> {
        self.0.open_raw(sealed)
    }

    /// Opens a blob whose seal is right, whatever is in it and whatever an index says of it; its id is that of `plain`.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn open_blob(&self, plain: &[u8], inside: &[u8], uncompressed: Option<u32>) -> Result<Vec<u8>, Fault> {
        let length = u32::try_from(inside.len() + OVERHEAD).unwrap_or(u32::MAX);
        let id = BlobId::of(plain);
        let blob = PackedBlob { id, kind: BlobKind::Data, offset: 0, length, uncompressed };
        self.0.open_blob(&blob, &self.seal(inside))
    }

    /// The compressed form of a blob; `None` when it does not shrink.
    pub fn compressed(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut room = vec![0; plain.len()];
        let packed = Codec::new(Compression::Better).ok()?.compress(plain, &mut room)?;
        room.truncate(packed);
        Some(room)
    }
}
