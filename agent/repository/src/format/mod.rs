//! The restic repository format, version 2: bytes to values and back, without a remote.
//!
//! Every `parse` takes bytes that anybody may have made: it answers with a [`Fault`], never panics, and allocates no
//! more than a small multiple of what it is given (decompression has its own limits).

mod compress;
mod config;
mod crypto;
mod index;
mod key;
mod pack;
mod polynomial;
mod snapshot;
mod tree;

pub(crate) use compress::{Codec, MAX_INDEX, MAX_SMALL, decode_unpacked, decoder, encode_unpacked};
pub use config::Config;
pub(crate) use crypto::{IV_BYTES, MasterKey, OVERHEAD};
pub use index::IndexFile;
pub(crate) use index::{IndexWriter, IndexedBlob, IndexedPack, MAX_BLOBS as MAX_INDEX_BLOBS};
pub use key::KeyFile;
pub(crate) use key::read_keys;
pub use pack::{BlobKind, PackedBlob, parse_pack_header};
pub(crate) use pack::{encode_pack_header, header_bytes};
pub use snapshot::Snapshot;
pub use tree::{Node, NodeKind, Tree};
pub(crate) use tree::{TreeWriter, read_tree};

use std::io;

/// What is wrong with the bytes of an object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It is shorter than it can be.
    #[error("it is cut")]
    Cut,
    /// It ends before what an index says it holds.
    #[error("it has {found} bytes, at least {needed} are needed")]
    Short {
        /// Bytes found.
        found: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The authentication code does not match: changed bytes, or another repository's.
    #[error("it fails authentication")]
    Authentication,
    /// Its content has another hash than its id.
    #[error("its content does not match its id")]
    Hash,
    /// Its size is not what it has to be.
    #[error("it has {found} bytes instead of {expected}")]
    Size {
        /// Bytes found.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// It does not decompress.
    #[error("it does not decompress")]
    Compression(#[source] io::Error),
    /// It is not the JSON that it has to be.
    #[error("its JSON does not fit")]
    Json(#[from] serde_json::Error),
    /// A version of the format that this program does not know.
    #[error("it has format version {found}, known is version 2")]
    Version {
        /// The version it has.
        found: u32,
    },
    /// Any other contradiction in it.
    #[error("{0}")]
    Malformed(&'static str),
}
