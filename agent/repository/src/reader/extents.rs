//! A disk of a point from its first byte to its last, as fast as the remote and the processors can.
//!
//! Chunks that stand near one another in a pack are read in one piece; pieces are read and opened in parallel, ahead of
//! the consumer by at most the read-ahead, and given in order. Zero chunks are known by their id and cost nothing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coffer_extent::{BufferPool, DEFAULT_BUFFER_BYTES, Extent, ExtentError, ExtentSource, is_zero};
use tokio::task::JoinHandle;

use crate::content::Layout;
use crate::format::{BlobKind, PackedBlob};
use crate::objects::{blocking, range_of};
use crate::repository::Inner;
use crate::{BlobId, Error, FileContent, PackId};

/// Chunks read in one piece.
const PIECE_CHUNKS: usize = 4;
/// Bytes read in one piece.
const PIECE_BYTES: u64 = 4 << 20;
/// Bytes between two chunks that are read for nothing, so that they come in one piece. Chunks that were packed in
/// parallel stand in a slightly different order than on the disk.
const MAX_GAP: u64 = 512 << 10;

/// A disk in order.
#[derive(Debug)]
pub(crate) struct DiskExtents {
    inner: Arc<Inner>,
    path: String,
    content: FileContent,
    layout: Layout,
    zero_tail: Option<BlobId>,
    next: usize,
    ahead: VecDeque<Step>,
    ahead_bytes: usize,
    ready: VecDeque<Extent>,
    buffers: BufferPool,
}

#[derive(Debug)]
enum Step {
    Zero(Range<u64>),
    Piece { bytes: usize, task: JoinHandle<Result<Vec<(u64, Bytes)>, Error>> },
}

/// A chunk of a piece.
#[derive(Debug, Clone)]
struct Part {
    range: Range<u64>,
    blob: PackedBlob,
}

impl DiskExtents {
    pub(crate) fn new(inner: Arc<Inner>, path: String, content: FileContent) -> Result<Self, Error> {
        let layout = Layout::of(&path, &content, &inner.index.map())?;
        let tail = content.size() % inner.chunk_bytes as u64;
        let zero_tail = usize::try_from(tail).ok().filter(|tail| *tail > 0).map(|tail| BlobId::of(&vec![0; tail]));
        let buffers = BufferPool::new(inner.options.readahead_bytes, inner.chunk_bytes);
        Ok(Self {
            inner,
            path,
            content,
            layout,
            zero_tail,
            next: 0,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            ready: VecDeque::new(),
            buffers,
        })
    }

    fn is_zero_chunk(&self, number: usize) -> bool {
        let length = self.layout.range(number);
        self.content.blobs().get(number).is_some_and(|id| {
            *id == self.inner.zero_chunk || (Some(*id) == self.zero_tail && length.end == self.content.size())
        })
    }

    fn part(&self, number: usize) -> Result<(PackId, Part), Error> {
        let range = self.layout.range(number);
        let id = self.content.blobs().get(number).copied().unwrap_or(self.inner.zero_chunk);
        match self.inner.index.get(&(BlobKind::Data, id)) {
            Some(found) => Ok((found.pack, Part { range, blob: found.blob })),
            None => Err(self.unreadable(range, Error::BlobMissing { blob: id })),
        }
    }

    fn unreadable(&self, range: Range<u64>, source: Error) -> Error {
        Error::Unreadable { path: self.path.clone(), start: range.start, end: range.end, source: Box::new(source) }
    }

    /// Begins to read until the read-ahead is used up.
    fn look_ahead(&mut self) -> Result<(), Error> {
        while self.next < self.content.blobs().len()
            && (self.ahead.is_empty() || self.ahead_bytes < self.inner.options.readahead_bytes)
        {
            if self.is_zero_chunk(self.next) {
                let start = self.layout.range(self.next).start;
                let mut end = start;
                while self.next < self.content.blobs().len() && self.is_zero_chunk(self.next) {
                    end = self.layout.range(self.next).end;
                    self.next += 1;
                }
                self.ahead.push_back(Step::Zero(start..end));
            } else {
                let piece = self.piece()?;
                self.ahead_bytes += piece.0;
                let task = tokio::spawn(piece.1);
                self.ahead.push_back(Step::Piece { bytes: piece.0, task });
            }
        }
        Ok(())
    }

    /// Puts together what is read next in one go: its plain bytes, and the work.
    fn piece(&mut self) -> Result<(usize, impl Future<Output = Result<Vec<(u64, Bytes)>, Error>> + use<>), Error> {
        let (pack, first) = self.part(self.next)?;
        let mut span = range_of(&first.blob);
        let mut parts = vec![first];
        self.next += 1;
        while parts.len() < PIECE_CHUNKS && self.next < self.content.blobs().len() && !self.is_zero_chunk(self.next) {
            let (of, part) = self.part(self.next)?;
            let range = range_of(&part.blob);
            let gap = range.start.saturating_sub(span.end).max(span.start.saturating_sub(range.end));
            let wider = span.start.min(range.start)..span.end.max(range.end);
            if of != pack || gap > MAX_GAP || wider.end - wider.start > PIECE_BYTES + PIECE_BYTES / 4 {
                break;
            }
            span = wider;
            parts.push(part);
            self.next += 1;
        }
        let bytes = parts.iter().map(|part| part.blob.plain_bytes() as usize).sum();
        let (inner, buffers, path) = (self.inner.clone(), self.buffers.clone(), self.path.clone());
        let whole = parts.first().map_or(0, |part| part.range.start)..parts.last().map_or(0, |part| part.range.end);
        let work = async move {
            let sealed = inner.objects.read_pack(&pack, span.clone()).await.map_err(|source| Error::Unreadable {
                path: path.clone(),
                start: whole.start,
                end: whole.end,
                source: Box::new(source),
            })?;
            blocking(move || {
                let open = |part| open_part(&inner, &buffers, &path, pack, span.start, &sealed, part);
                parts.into_iter().map(open).collect()
            })
            .await
        };
        Ok((bytes, work))
    }

    async fn advance(&mut self) -> Result<Option<Extent>, Error> {
        loop {
            if let Some(extent) = self.ready.pop_front() {
                return Ok(Some(extent));
            }
            self.look_ahead()?;
            let opened = match self.ahead.front_mut() {
                None => return Ok(None),
                Some(Step::Zero(range)) => {
                    self.ready.push_back(Extent::Zero { offset: range.start, len: range.end - range.start });
                    self.ahead.pop_front();
                    continue;
                }
                // The step stays in front until it is done, so that this future can be dropped.
                Some(Step::Piece { bytes, task }) => {
                    let bytes = *bytes;
                    let opened = task.await;
                    self.ahead_bytes -= bytes;
                    opened
                }
            };
            self.ahead.pop_front();
            let opened = match opened {
                Ok(opened) => opened?,
                Err(stopped) => match stopped.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(Error::Cancelled),
                },
            };
            for (offset, bytes) in opened {
                self.deliver(offset, bytes);
            }
        }
    }

    /// Foreign chunks may be larger than an extent.
    fn deliver(&mut self, mut offset: u64, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(DEFAULT_BUFFER_BYTES));
            let len = part.len() as u64;
            self.ready.push_back(if is_zero(&part) {
                Extent::Zero { offset, len }
            } else {
                Extent::Data { offset, bytes: part }
            });
            offset += len;
        }
    }
}

fn open_part(
    inner: &Inner,
    buffers: &BufferPool,
    path: &str,
    pack: PackId,
    start: u64,
    sealed: &[u8],
    part: Part,
) -> Result<(u64, Bytes), Error> {
    let place = range_of(&part.blob);
    let unreadable = |fault| Error::Unreadable {
        path: path.to_owned(),
        start: part.range.start,
        end: part.range.end,
        source: Box::new(Error::damaged_blob(&pack, &part.blob.id, fault)),
    };
    let begin = usize::try_from(place.start - start).unwrap_or(usize::MAX);
    let sealed = sealed.get(begin..).and_then(|rest| rest.get(..part.blob.length as usize));
    let sealed = sealed.ok_or_else(|| unreadable(crate::format::Fault::Cut))?;
    let length = part.blob.plain_bytes() as usize;
    let bytes = match buffers.try_take().filter(|buffer| buffer.len() >= length) {
        Some(mut buffer) => {
            let room = buffer.get_mut(..length).unwrap_or_default();
            inner.objects.open_blob_into(&part.blob, sealed, room).map_err(unreadable)?;
            buffer.freeze(length)
        }
        // The consumer holds on to what it was given: its memory, not ours.
        None => Bytes::from(inner.objects.open_blob(&part.blob, sealed).map_err(unreadable)?),
    };
    Ok((part.range.start, bytes))
}

#[async_trait]
impl ExtentSource for DiskExtents {
    fn size(&self) -> u64 {
        self.content.size()
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        Ok(self.advance().await?)
    }
}
