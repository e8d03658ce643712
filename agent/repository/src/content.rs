//! The content of a file: which blobs, in order, make it up.

use std::sync::Arc;

use crate::BlobId;

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
