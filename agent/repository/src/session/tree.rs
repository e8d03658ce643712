//! The folders of a snapshot: from a flat list of files to nested trees, written as streams.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::format::{BlobKind, Fault, IV_BYTES, OVERHEAD, TreeWriter};
use crate::objects::blocking;
use crate::repository::Inner;
use crate::{BlobId, Error, FileContent};

/// Level of zstd for trees: they are hexadecimal digits, which shrink to half at any level.
const LEVEL: i32 = 1;

/// A folder that is being put together.
#[derive(Debug, Default)]
pub(super) struct Folder {
    folders: BTreeMap<String, Folder>,
    files: BTreeMap<String, FileContent>,
}

impl Folder {
    pub(super) fn add(&mut self, path: &str, content: FileContent) {
        match path.split_once('/') {
            Some((folder, rest)) => self.folders.entry(folder.to_owned()).or_default().add(rest, content),
            None => {
                self.files.insert(path.to_owned(), content);
            }
        }
    }

    /// Stores the folder and all below; appends the ids of all trees to `trees` and returns its own.
    pub(super) async fn store(self, inner: &Arc<Inner>, trees: &mut Vec<BlobId>) -> Result<BlobId, Error> {
        let mut folders = BTreeMap::new();
        for (name, folder) in self.folders {
            folders.insert(name, Box::pin(folder.store(inner, trees)).await?);
        }
        let (files, objects) = (self.files, inner.objects.clone());
        let sealed = blocking(move || {
            let mut tree = SealedTree::encode(&folders, &files)?;
            objects.key().seal_in_place(&mut tree.sealed);
            Ok(tree)
        });
        let tree = sealed.await.map_err(|error| Error::damaged("a new tree", Fault::Compression(error)))?;
        let uncompressed = u32::try_from(tree.plain_bytes);
        let uncompressed =
            uncompressed.map_err(|_| Error::damaged("a new tree", Fault::Malformed("it is too large")))?;
        let stored = inner.pipeline.store_sealed((BlobKind::Tree, tree.id), &tree.sealed, Some(uncompressed)).await;
        trees.push(stored.id);
        Ok(stored.id)
    }
}

/// A tree, compressed, with room for its seal.
struct SealedTree {
    id: BlobId,
    sealed: Vec<u8>,
    plain_bytes: u64,
}

/// Hashes and counts what passes.
struct Hashing<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl SealedTree {
    fn encode(folders: &BTreeMap<String, BlobId>, files: &BTreeMap<String, FileContent>) -> io::Result<Self> {
        let packed = zstd::stream::Encoder::new(vec![0; IV_BYTES], LEVEL)?;
        let hashing = Hashing { out: packed, hash: Sha256::new(), bytes: 0 };
        // JSON is written in tiny pieces.
        let mut tree = TreeWriter::new(io::BufWriter::with_capacity(64 << 10, hashing))?;
        let mut names: Vec<&String> = folders.keys().chain(files.keys()).collect();
        names.sort_unstable();
        for name in names {
            match (folders.get(name), files.get(name)) {
                (Some(subtree), _) => tree.folder(name, *subtree)?,
                (None, Some(content)) => tree.file(name, content.size(), content.blobs())?,
                (None, None) => {}
            }
        }
        let hashing = tree.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        let mut sealed = hashing.out.finish()?;
        sealed.resize(sealed.len() + OVERHEAD - IV_BYTES, 0);
        Ok(Self { id: BlobId(hashing.hash.finalize().into()), sealed, plain_bytes: hashing.bytes })
    }
}
