//! The pump between a source and a sink.

use crate::{Extent, ExtentError, ExtentSink, ExtentSource, StreamError, Validated};
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// Counts what has gone through a transfer; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    data: AtomicU64,
    zero: AtomicU64,
    unchanged: AtomicU64,
}

impl Progress {
    /// Counters at zero.
    pub fn new() -> Progress {
        Progress::default()
    }

    /// Counts `more` on top.
    pub fn add(&self, more: Transferred) {
        self.data.fetch_add(more.data, Ordering::Relaxed);
        self.zero.fetch_add(more.zero, Ordering::Relaxed);
        self.unchanged.fetch_add(more.unchanged, Ordering::Relaxed);
    }

    /// What has been counted so far.
    pub fn transferred(&self) -> Transferred {
        Transferred {
            data: self.data.load(Ordering::Relaxed),
            zero: self.zero.load(Ordering::Relaxed),
            unchanged: self.unchanged.load(Ordering::Relaxed),
        }
    }
}

/// Bytes of a disk by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Bytes that came as data.
    pub data: u64,
    /// Bytes that came as zero ranges.
    pub zero: u64,
    /// Bytes that came as unchanged ranges.
    pub unchanged: u64,
}

impl Transferred {
    /// The bytes of one extent.
    pub fn of(extent: &Extent) -> Transferred {
        let mut one = Transferred::default();
        let counter = match extent {
            Extent::Data { .. } => &mut one.data,
            Extent::Zero { .. } => &mut one.zero,
            Extent::Unchanged { .. } => &mut one.unchanged,
        };
        *counter = extent.len();
        one
    }

    /// All bytes of the disk that have been dealt with.
    pub fn total(&self) -> u64 {
        self.data + self.zero + self.unchanged
    }
}

impl AddAssign for Transferred {
    fn add_assign(&mut self, more: Transferred) {
        self.data += more.data;
        self.zero += more.zero;
        self.unchanged += more.unchanged;
    }
}

/// Pumps the whole of `source` into `sink` and finishes the sink; `subject` names the disk in errors.
///
/// The next extent is read while the sink takes the last one. The source is checked against its contract, so a stream
/// that ends early is an error and never a short disk. `progress` counts what the sink has accepted. Cancelling stops
/// at the next point where either side waits; the sink is then not finished and both must be dropped, which is also
/// safe if this future itself is dropped.
pub async fn copy(
    subject: &str,
    source: &mut dyn ExtentSource,
    sink: &mut dyn ExtentSink,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Transferred, ExtentError> {
    let pump = async {
        let mut source = Validated::new(source, subject);
        let mut total = Transferred::default();
        let mut next = source.next().await?;
        while let Some(extent) = next {
            let passed = Transferred::of(&extent);
            let ((), following) = tokio::try_join!(sink.accept(extent), source.next())?;
            progress.add(passed);
            total += passed;
            next = following;
        }
        sink.finish().await?;
        Ok(total)
    };
    match cancel.run_until_cancelled(pump).await {
        Some(result) => result,
        None => Err(StreamError::Cancelled.about(subject)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemorySink, MemorySource};
    use async_trait::async_trait;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// A source that never answers.
    struct Silent;

    #[async_trait]
    impl ExtentSource for Silent {
        fn size(&self) -> u64 {
            1
        }

        async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn cancelling_stops_a_silent_source() {
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        let mut sink = MemorySink::new(vec![0]);
        let stop = async {
            tokio::task::yield_now().await;
            cancel.cancel();
        };
        let mut silent = Silent;
        let (result, ()) = tokio::join!(copy("disk", &mut silent, &mut sink, &progress, &cancel), stop);
        assert!(result.unwrap_err().is_cancelled());
        assert!(!sink.is_finished());
    }

    #[tokio::test]
    async fn a_source_that_ends_early_never_finishes_its_sink() {
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        let mut sink = MemorySink::new(vec![0; 8]);
        let mut source = MemorySource::from_extents(8, [Extent::Zero { offset: 0, len: 4 }]);
        let error = copy("disk", &mut source, &mut sink, &progress, &cancel).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&StreamError::Short { end: 4, size: 8 }));
        assert!(error.is_retryable());
        assert!(!sink.is_finished());
    }

    #[tokio::test]
    async fn every_kind_of_extent_is_counted_apart() {
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        let mut sink = MemorySink::new(b"previous".to_vec());
        let mut source = MemorySource::from_extents(
            8,
            [
                Extent::Zero { offset: 0, len: 1 },
                Extent::Unchanged { offset: 1, len: 3 },
                Extent::Data { offset: 4, bytes: Bytes::from_static(b"DATA") },
            ],
        );
        let moved = copy("disk", &mut source, &mut sink, &progress, &cancel).await.unwrap();
        assert_eq!(moved, Transferred { data: 4, zero: 1, unchanged: 3 });
        assert_eq!(progress.transferred(), moved);
        assert_eq!(sink.content(), b"\0revDATA");
        assert!(sink.is_finished());
    }

    proptest! {
        #[test]
        fn any_disk_arrives_as_it_left(
            pieces in prop::collection::vec((any::<bool>(), 1usize..50), 0..50),
            step in 1usize..64,
        ) {
            let content: Vec<u8> = pieces
                .iter()
                .enumerate()
                .flat_map(|(index, &(zero, len))| vec![if zero { 0 } else { u8::try_from(index).unwrap() }; len])
                .collect();
            let mut sink = MemorySink::new(vec![0xee; content.len()]);
            let mut source = MemorySource::from_content(&content, step);
            let (progress, cancel) = (Progress::new(), CancellationToken::new());
            let moved = run(copy("disk", &mut source, &mut sink, &progress, &cancel)).unwrap();
            prop_assert_eq!(sink.content(), &content[..]);
            prop_assert_eq!(moved.total(), content.len() as u64);
        }
    }
}
