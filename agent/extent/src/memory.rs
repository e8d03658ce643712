//! A source and a sink in memory: the twins that tests of other crates use.

use crate::{Extent, ExtentError, ExtentSink, ExtentSource, StreamError};
use async_trait::async_trait;
use std::collections::VecDeque;

/// Yields extents that were given beforehand, right or wrong.
#[derive(Debug, Clone)]
pub struct MemorySource {
    size: u64,
    extents: VecDeque<Extent>,
}

impl MemorySource {
    /// Yields exactly these extents and says it has `size` bytes, without checking either.
    pub fn from_extents(size: u64, extents: impl IntoIterator<Item = Extent>) -> MemorySource {
        MemorySource { size, extents: extents.into_iter().collect() }
    }

    /// Yields the content as data and zero extents of at most `step` bytes.
    pub fn from_content(content: &[u8], step: usize) -> MemorySource {
        let mut offset = 0;
        let extents = content.chunks(step.max(1)).map(|piece| {
            let (start, len) = (offset, piece.len() as u64);
            offset += len;
            if crate::is_zero(piece) {
                Extent::Zero { offset: start, len }
            } else {
                Extent::Data { offset: start, bytes: bytes::Bytes::copy_from_slice(piece) }
            }
        });
        MemorySource::from_extents(content.len() as u64, extents.collect::<Vec<_>>())
    }
}

#[async_trait]
impl ExtentSource for MemorySource {
    fn size(&self) -> u64 {
        self.size
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        Ok(self.extents.pop_front())
    }
}

/// Collects a small disk in memory. Unchanged ranges keep the content it was created with.
#[derive(Debug, Clone)]
pub struct MemorySink {
    content: Vec<u8>,
    finished: bool,
}

impl MemorySink {
    /// Starts from `previous`, whose length is the size of the disk.
    pub fn new(previous: Vec<u8>) -> MemorySink {
        MemorySink { content: previous, finished: false }
    }

    /// What was collected.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// True after `finish`.
    pub fn is_finished(&self) -> bool {
        self.finished
    }
}

#[async_trait]
impl ExtentSink for MemorySink {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        let size = self.content.len() as u64;
        let range = usize::try_from(extent.offset()).and_then(|start| Ok(start..usize::try_from(extent.end())?)).ok();
        let Some(place) = range.and_then(|range| self.content.get_mut(range)) else {
            let beyond = StreamError::BeyondEnd { offset: extent.offset(), len: extent.len(), size };
            return Err(beyond.about("memory"));
        };
        match extent {
            Extent::Data { bytes, .. } => place.copy_from_slice(&bytes),
            Extent::Zero { .. } => place.fill(0),
            Extent::Unchanged { .. } => {}
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        self.finished = true;
        Ok(())
    }
}
