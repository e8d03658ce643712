//! Writing one disk: extents in, chunk ids out.
//!
//! Where chunks and extents coincide, data is passed on without being copied, unchanged chunks are taken from the
//! parent's list without reading anything, and zero chunks cost no hash. Where they do not, the chunk is put together
//! first (from the parent's bytes, if a part of it is unchanged).

use async_trait::async_trait;
use bytes::Bytes;
use coffer_extent::{Extent, ExtentError, ExtentSink, is_zero};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::sync::Arc;
use tokio::task::JoinHandle;

use super::Shared;
use crate::content::Layout;
use crate::format::BlobKind;
use crate::objects::joined;
use crate::pipeline::Stored;
use crate::reader::FileReader;
use crate::{BlobId, DiskStats, Error, FileContent};

/// A chunk on its way into the repository: its number, its bytes, and what became of it.
type Storing = JoinHandle<Result<(usize, u64, Stored), Error>>;

/// Takes one disk, from its first byte to its last; then [`Self::close`].
#[derive(Debug)]
pub struct DiskWriter {
    shared: Arc<Shared>,
    path: String,
    size: u64,
    chunk: u64,
    parent: Option<Parent>,
    position: u64,
    /// One for each chunk behind `position`; those of `in_flight` are not valid yet.
    ids: Vec<BlobId>,
    in_flight: FuturesUnordered<Storing>,
    partial: Option<Vec<u8>>,
    zero: Zeros,
    stats: DiskStats,
    /// An extent was refused, or given up half-way: what follows would be in the wrong place.
    broken: bool,
}

/// A disk that is complete.
#[derive(Debug, Clone)]
pub struct ClosedDisk {
    /// Its content: the parent of the next backup.
    pub content: FileContent,
    /// What it took.
    pub stats: DiskStats,
}

#[derive(Debug)]
struct Parent {
    content: FileContent,
    reader: FileReader,
    /// Chunks are where ours are.
    is_aligned: bool,
}

/// Ids of zero chunks, once they are known to be stored.
#[derive(Debug, Default)]
struct Zeros {
    full: Option<BlobId>,
    tail: Option<BlobId>,
}

impl DiskWriter {
    pub(super) fn new(
        shared: Arc<Shared>,
        path: String,
        size: u64,
        parent: Option<FileContent>,
    ) -> Result<Self, Error> {
        let chunk = shared.inner.chunk_bytes as u64;
        let parent = parent.map(|content| {
            let reader = FileReader::new(shared.inner.clone(), path.clone(), content.clone())?;
            let is_aligned = match reader.layout() {
                Layout::Fixed { chunk: of, .. } => {
                    *of == chunk || content.blobs().len() <= 1 && content.size() <= chunk
                }
                Layout::Ends(_) => false,
            };
            Ok::<_, Error>(Parent { content, reader, is_aligned })
        });
        Ok(Self {
            parent: parent.transpose()?,
            shared,
            path,
            size,
            chunk,
            position: 0,
            ids: Vec::new(),
            in_flight: FuturesUnordered::new(),
            partial: None,
            zero: Zeros::default(),
            stats: DiskStats::default(),
            broken: false,
        })
    }

    /// What it took so far.
    pub fn stats(&self) -> DiskStats {
        self.stats
    }

    /// Ends the disk: it must have been given whole.
    ///
    /// # Errors
    /// [`Error::Misuse`] when it was not; [`Error::NotStored`] and [`Error::Cancelled`].
    pub async fn close(mut self) -> Result<ClosedDisk, Error> {
        self.complete().await?;
        let content = FileContent::new(self.size, std::mem::take(&mut self.ids));
        self.shared.done(&self.path, content.clone());
        Ok(ClosedDisk { content, stats: self.stats })
    }

    async fn complete(&mut self) -> Result<(), Error> {
        if self.broken {
            return Err(self.misuse("the disk was given up"));
        }
        if self.position != self.size {
            return Err(self.misuse("the disk ends too early"));
        }
        while self.settle_one().await? {}
        self.shared.check()
    }

    fn misuse(&self, what: &'static str) -> Error {
        Error::Misuse { path: self.path.clone(), what, offset: self.position }
    }

    async fn take(&mut self, extent: Extent) -> Result<(), Error> {
        if extent.offset() != self.position || extent.len() == 0 {
            return Err(self.misuse("an extent does not follow the one before"));
        }
        if extent.end() > self.size {
            return Err(self.misuse("an extent reaches beyond the end of the disk"));
        }
        self.shared.check()?;
        match &extent {
            Extent::Data { bytes, .. } => self.stats.read += bytes.len() as u64,
            Extent::Zero { len, .. } => self.stats.zero += len,
            Extent::Unchanged { len, .. } => self.stats.unchanged += len,
        }
        let mut rest = extent;
        loop {
            let left_in_chunk = self.chunk_end() - self.position;
            match rest.split_front(left_in_chunk) {
                Some(front) => self.take_in_chunk(front).await?,
                None => return self.take_in_chunk(rest).await,
            }
        }
    }

    fn chunk_start(&self) -> u64 {
        self.position - self.position % self.chunk
    }

    fn chunk_end(&self) -> u64 {
        (self.chunk_start() + self.chunk).min(self.size)
    }

    /// Takes an extent that lies inside one chunk.
    async fn take_in_chunk(&mut self, extent: Extent) -> Result<(), Error> {
        let (start, end) = (self.chunk_start(), self.chunk_end());
        let is_whole = extent.offset() == start && extent.end() == end;
        match extent {
            Extent::Data { bytes, .. } if is_whole => self.store(bytes).await?,
            Extent::Zero { .. } if is_whole => self.zero_chunk(end - start).await?,
            Extent::Unchanged { .. } if is_whole => self.unchanged_chunk(start, end).await?,
            part => return self.take_part(part).await,
        }
        self.position = end;
        Ok(())
    }

    async fn unchanged_chunk(&mut self, start: u64, end: u64) -> Result<(), Error> {
        let number = usize::try_from(start / self.chunk).unwrap_or(usize::MAX);
        let parent = self.parent.as_ref().ok_or_else(|| self.misuse("an unchanged range without a parent"))?;
        let id = parent.content.blobs().get(number).copied();
        if let Some(id) = id.filter(|_| parent.is_aligned && parent.reader.layout().range(number) == (start..end)) {
            self.ids.push(id);
            return Ok(());
        }
        let bytes = self.read_parent(start, end).await?;
        self.store(bytes).await
    }

    async fn read_parent(&self, start: u64, end: u64) -> Result<Bytes, Error> {
        let parent = self.parent.as_ref().ok_or_else(|| self.misuse("an unchanged range without a parent"))?;
        if end > parent.content.size() {
            return Err(self.misuse("an unchanged range behind the end of the parent"));
        }
        let length = usize::try_from(end - start).map_err(|_| self.misuse("a chunk is too long"))?;
        let read = parent.reader.read(start, length).await;
        if let Some(pack) = read.as_ref().err().and_then(Error::lost_pack) {
            // The backup cannot be built on this parent; one that begins anew stores the chunk again.
            self.shared.inner.note_damaged(vec![pack]).await?;
        }
        read
    }

    /// Takes an extent that is a part of a chunk.
    async fn take_part(&mut self, extent: Extent) -> Result<(), Error> {
        let mut chunk = self.partial.take().unwrap_or_default();
        let (position, end) = (extent.end(), self.chunk_end());
        match extent {
            Extent::Data { bytes, .. } => chunk.extend_from_slice(&bytes),
            Extent::Zero { len, .. } => {
                let length = usize::try_from(len).map_err(|_| self.misuse("a chunk is too long"))?;
                chunk.resize(chunk.len() + length, 0);
            }
            Extent::Unchanged { offset, len } => {
                chunk.extend_from_slice(&self.read_parent(offset, offset + len).await?)
            }
        }
        if position == end {
            self.store(Bytes::from(chunk)).await?;
        } else {
            self.partial = Some(chunk);
        }
        self.position = position;
        Ok(())
    }

    /// The chunk at `position` is zero.
    async fn zero_chunk(&mut self, length: u64) -> Result<(), Error> {
        let known = if length == self.chunk { self.zero.full } else { self.zero.tail };
        let id = match known {
            Some(id) => id,
            None => {
                let id = self.store_zero(length).await?;
                *(if length == self.chunk { &mut self.zero.full } else { &mut self.zero.tail }) = Some(id);
                id
            }
        };
        self.ids.push(id);
        Ok(())
    }

    /// Stores a chunk of zeros: once for each disk, and only when the repository has none yet.
    async fn store_zero(&mut self, length: u64) -> Result<BlobId, Error> {
        let inner = &self.shared.inner;
        if length == self.chunk && inner.index.map().is_reusable(&(BlobKind::Data, inner.zero_chunk)) {
            return Ok(inner.zero_chunk);
        }
        let length = usize::try_from(length).map_err(|_| self.misuse("a chunk is too long"))?;
        let permit = inner.pipeline.permit().await;
        let store = inner.pipeline.clone().store(BlobKind::Data, Bytes::from(vec![0; length]), permit);
        let stored = joined(tokio::spawn(store)).await?;
        self.count(length as u64, stored);
        Ok(stored.id)
    }

    /// Stores the chunk at `position`.
    async fn store(&mut self, bytes: Bytes) -> Result<(), Error> {
        if is_zero(&bytes) {
            return self.zero_chunk(bytes.len() as u64).await;
        }
        // A permit is given back when the chunk is in a pack, before this disk hears of it: more of them than there are
        // never wait here.
        while self.in_flight.len() >= self.shared.inner.options.workers * 2 {
            self.settle_one().await?;
        }
        let permit = self.shared.inner.pipeline.permit().await;
        let (number, length) = (self.ids.len(), bytes.len() as u64);
        self.ids.push(BlobId([0; 32]));
        let store = self.shared.inner.pipeline.clone().store(BlobKind::Data, bytes, permit);
        self.in_flight.push(tokio::spawn(async move { Ok((number, length, store.await?)) }));
        Ok(())
    }

    /// Waits for one chunk; false when there is none to wait for.
    async fn settle_one(&mut self) -> Result<bool, Error> {
        let Some(done) = self.in_flight.next().await else { return Ok(false) };
        let (number, length, stored) = match done {
            Ok(stored) => stored?,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(Error::Cancelled),
            },
        };
        self.count(length, stored);
        if let Some(id) = self.ids.get_mut(number) {
            *id = stored.id;
        }
        Ok(true)
    }

    fn count(&mut self, length: u64, stored: Stored) {
        if let Some(bytes) = stored.new_bytes {
            self.stats.new_chunks += 1;
            self.stats.new_bytes += length;
            self.stats.stored_bytes += bytes;
        }
    }
}

#[async_trait]
impl ExtentSink for DiskWriter {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        // Stays set when this future is dropped half-way, or fails.
        if std::mem::replace(&mut self.broken, true) {
            return Err(self.misuse("the disk was given up").into());
        }
        self.take(extent).await?;
        self.broken = false;
        Ok(())
    }

    /// Waits until every chunk is packed. Durable is the disk when its session is sealed.
    async fn finish(&mut self) -> Result<(), ExtentError> {
        Ok(self.complete().await?)
    }
}
