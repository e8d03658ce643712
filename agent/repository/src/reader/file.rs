//! Random access to a file of a point.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use coffer_extent::{BlockReader, ExtentError, StreamError};

use crate::content::Layout;
use crate::format::BlobKind;
use crate::repository::Inner;
use crate::{BlobId, Error, FileContent};

/// The chunks read last, shared by all readers of a repository.
#[derive(Debug)]
pub(crate) struct Cache {
    chunks: Mutex<VecDeque<(BlobId, Bytes)>>,
    limit: usize,
}

impl Cache {
    pub(crate) fn new(limit: usize) -> Self {
        Self { chunks: Mutex::default(), limit }
    }

    fn get(&self, id: &BlobId) -> Option<Bytes> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let place = chunks.iter().position(|(of, _)| of == id)?;
        let found = chunks.remove(place)?;
        let bytes = found.1.clone();
        chunks.push_front(found);
        Some(bytes)
    }

    fn put(&self, id: BlobId, bytes: Bytes) {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks.push_front((id, bytes));
        chunks.truncate(self.limit);
    }
}

/// A file of a point, read anywhere.
#[derive(Debug, Clone)]
pub(crate) struct FileReader {
    inner: Arc<Inner>,
    path: String,
    content: FileContent,
    layout: Arc<Layout>,
}

impl FileReader {
    pub(crate) fn new(inner: Arc<Inner>, path: String, content: FileContent) -> Result<Self, Error> {
        let layout = Arc::new(Layout::of(&path, &content, &inner.index.map())?);
        Ok(Self { inner, path, content, layout })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Exactly these bytes, which lie inside the file.
    pub(crate) async fn read(&self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let end = offset + length as u64;
        let mut position = offset;
        let mut whole = BytesMut::new();
        while position < end {
            let number = self.layout.blob_at(position);
            let range = self.layout.range(number);
            let blob = self.blob(number).await?;
            let start = usize::try_from(position - range.start).unwrap_or(usize::MAX);
            let until = usize::try_from(range.end.min(end) - range.start).unwrap_or(usize::MAX);
            if start >= until || until > blob.len() {
                let fault = crate::format::Fault::Size { found: blob.len() as u64, expected: range.end - range.start };
                return Err(Error::damaged(&self.path, fault));
            }
            let part = blob.slice(start..until);
            if part.len() == length {
                return Ok(part);
            }
            whole.extend_from_slice(&part);
            position += part.len() as u64;
        }
        Ok(whole.freeze())
    }

    async fn blob(&self, number: usize) -> Result<Bytes, Error> {
        let range = self.layout.range(number);
        let unreadable = |source| Error::Unreadable {
            path: self.path.clone(),
            start: range.start,
            end: range.end,
            source: Box::new(source),
        };
        let id = self.content.blobs().get(number).copied();
        let id = id.ok_or_else(|| unreadable(Error::damaged(&self.path, crate::format::Fault::Cut)))?;
        if let Some(bytes) = self.inner.cache.get(&id) {
            return Ok(bytes);
        }
        let bytes = self.inner.read_blob((BlobKind::Data, id)).await.map_err(unreadable)?;
        self.inner.cache.put(id, bytes.clone());
        Ok(bytes)
    }
}

#[async_trait]
impl BlockReader for FileReader {
    fn size(&self) -> u64 {
        self.content.size()
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, ExtentError> {
        let size = self.content.size();
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(StreamError::OutsideDisk { offset, len: len as u64, size }.about(&self.path));
        }
        Ok(self.read(offset, len).await?)
    }
}
