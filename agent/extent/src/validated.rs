//! The contract of [`ExtentSource`], enforced.

use crate::{Extent, ExtentError, ExtentSource, StreamError};
use async_trait::async_trait;

/// Passes a source through and fails when it breaks its contract: a gap, an overlap, an empty extent, a wrong end.
/// Once it has failed or ended it yields nothing more from the source.
#[derive(Debug)]
pub struct Validated<S> {
    source: S,
    subject: String,
    position: u64,
    over: bool,
}

impl<S: ExtentSource> Validated<S> {
    /// Wraps `source`; errors name `subject`.
    pub fn new(source: S, subject: impl Into<String>) -> Validated<S> {
        Validated { source, subject: subject.into(), position: 0, over: false }
    }

    /// The first byte that has not been yielded yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn check(&self, extent: &Extent) -> Result<u64, StreamError> {
        let (offset, len, size) = (extent.offset(), extent.len(), self.source.size());
        if offset != self.position {
            return Err(StreamError::OutOfOrder { expected: self.position, found: offset });
        }
        if len == 0 {
            return Err(StreamError::Empty { offset });
        }
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(end),
            _ => Err(StreamError::BeyondEnd { offset, len, size }),
        }
    }
}

#[async_trait]
impl<S: ExtentSource> ExtentSource for Validated<S> {
    fn size(&self) -> u64 {
        self.source.size()
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        let short = StreamError::Short { end: self.position, size: self.source.size() };
        if self.over {
            return if self.position == self.source.size() { Ok(None) } else { Err(short.about(&self.subject)) };
        }
        let next = self.source.next().await.inspect_err(|_| self.over = true)?;
        let Some(extent) = next else {
            self.over = true;
            return if self.position == self.source.size() { Ok(None) } else { Err(short.about(&self.subject)) };
        };
        match self.check(&extent) {
            Ok(end) => self.position = end,
            Err(error) => {
                self.over = true;
                return Err(error.about(&self.subject));
            }
        }
        Ok(Some(extent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemorySource;
    use bytes::Bytes;

    async fn drain(size: u64, extents: Vec<Extent>) -> Result<u64, ExtentError> {
        let mut source = Validated::new(MemorySource::from_extents(size, extents), "the disk");
        while source.next().await?.is_some() {}
        Ok(source.position())
    }

    fn violation(result: Result<u64, ExtentError>) -> StreamError {
        let error = result.unwrap_err();
        assert_eq!(error.subject(), "the disk");
        error.downcast_ref::<StreamError>().unwrap().clone()
    }

    fn zero(offset: u64, len: u64) -> Extent {
        Extent::Zero { offset, len }
    }

    #[tokio::test]
    async fn a_complete_stream_passes() {
        let data = Extent::Data { offset: 4, bytes: Bytes::from_static(b"data") };
        let same = Extent::Unchanged { offset: 8, len: 2 };
        assert_eq!(drain(10, vec![zero(0, 4), data, same]).await.unwrap(), 10);
        assert_eq!(drain(0, vec![]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn every_broken_stream_is_refused() {
        let out_of_order = |expected, found| StreamError::OutOfOrder { expected, found };
        assert_eq!(violation(drain(10, vec![zero(1, 9)]).await), out_of_order(0, 1));
        assert_eq!(violation(drain(10, vec![zero(0, 4), zero(5, 5)]).await), out_of_order(4, 5));
        assert_eq!(violation(drain(10, vec![zero(0, 4), zero(3, 7)]).await), out_of_order(4, 3));
        assert_eq!(violation(drain(10, vec![zero(0, 0)]).await), StreamError::Empty { offset: 0 });
        let beyond = StreamError::BeyondEnd { offset: 4, len: 7, size: 10 };
        assert_eq!(violation(drain(10, vec![zero(0, 4), zero(4, 7)]).await), beyond);
        let wraps = StreamError::BeyondEnd { offset: 4, len: u64::MAX, size: 10 };
        assert_eq!(violation(drain(10, vec![zero(0, 4), zero(4, u64::MAX)]).await), wraps);
        assert_eq!(violation(drain(10, vec![zero(0, 4)]).await), StreamError::Short { end: 4, size: 10 });
    }

    #[tokio::test]
    async fn a_failed_stream_never_looks_complete_afterwards() {
        let mut source = Validated::new(MemorySource::from_extents(8, vec![zero(0, 4), zero(5, 1), zero(4, 4)]), "d");
        source.next().await.unwrap();
        source.next().await.unwrap_err();
        source.next().await.unwrap_err();
    }
}
