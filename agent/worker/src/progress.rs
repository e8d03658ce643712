//! How far a task is: counted by its workers, read by Sync about once a second. Never durable.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coffer_proto::v1::{DiskTransfer, Transfer};
use tokio::time::Instant;

/// Rates are averages over this long.
const WINDOW: Duration = Duration::from_secs(5);

/// The progress of one task. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskProgress(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    step: &'static str,
    disks: Vec<Arc<DiskProgress>>,
    is_over: bool,
}

impl TaskProgress {
    /// The step under way.
    pub(crate) fn enter(&self, step: &'static str) {
        self.lock().step = step;
    }

    /// Notes that all work is over: nothing but telling the end remains.
    pub(crate) fn over(&self) {
        self.lock().is_over = true;
    }

    /// Whether nothing but telling the end remains.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Adds a disk; its counters are shared with the returned handle.
    pub(crate) fn disk(&self, label: DiskLabel) -> Arc<DiskProgress> {
        let disk = Arc::new(DiskProgress { label, ..DiskProgress::default() });
        self.lock().disks.push(Arc::clone(&disk));
        disk
    }

    /// Forgets the disks, because the transfer begins anew.
    pub(crate) fn clear(&self) {
        self.lock().disks.clear();
    }

    /// The step under way and every disk so far.
    pub(crate) fn report(&self) -> (&'static str, Vec<DiskTransfer>) {
        let (step, disks) = {
            let inner = self.lock();
            (inner.step, inner.disks.clone())
        };
        let now = Instant::now();
        (step, disks.iter().map(|disk| disk.report(now)).collect())
    }

    /// Every disk so far.
    pub(crate) fn disks(&self) -> Vec<DiskTransfer> {
        self.report().1
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskLabel {
    /// UUID of the disk.
    pub(crate) uuid: String,
    /// Device in the guest.
    pub(crate) device: String,
    /// Name for people.
    pub(crate) label: String,
    /// Size in bytes.
    pub(crate) size: u64,
}

/// The progress of one disk. All counters are bytes.
#[derive(Debug, Default)]
pub(crate) struct DiskProgress {
    label: DiskLabel,
    read: AtomicU64,
    skipped: AtomicU64,
    written: AtomicU64,
    how: Mutex<(String, String)>,
    samples: Mutex<VecDeque<(Instant, u64)>>,
}

impl DiskProgress {
    /// How it is read, and why that way where it is not the best way.
    pub(crate) fn describe(&self, source: &str, reason: &str) {
        *self.how.lock().unwrap_or_else(PoisonError::into_inner) = (source.to_owned(), reason.to_owned());
    }

    /// Read from the host or the repository, in all.
    pub(crate) fn set_read(&self, bytes: u64) {
        self.read.store(bytes, Ordering::Relaxed);
    }

    /// Known without a read, in all.
    pub(crate) fn set_skipped(&self, bytes: u64) {
        self.skipped.store(bytes, Ordering::Relaxed);
    }

    /// Written to the remote or the host, in all.
    pub(crate) fn set_written(&self, bytes: u64) {
        self.written.store(bytes, Ordering::Relaxed);
    }

    fn report(&self, now: Instant) -> DiskTransfer {
        let read = self.read.load(Ordering::Relaxed);
        let (source, reason) = self.how.lock().unwrap_or_else(PoisonError::into_inner).clone();
        DiskTransfer {
            disk_uuid: self.label.uuid.clone(),
            device: self.label.device.clone(),
            label: self.label.label.clone(),
            source,
            reason,
            transfer: Some(Transfer {
                disk_bytes: self.label.size,
                read_bytes: read,
                skipped_bytes: self.skipped.load(Ordering::Relaxed),
                written_bytes: self.written.load(Ordering::Relaxed),
                expected_bytes: self.label.size,
            }),
            rate_bytes_per_second: self.rate(now, read),
        }
    }

    /// Bytes per second read since the oldest sample in the window.
    fn rate(&self, now: Instant, read: u64) -> u64 {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        while samples.len() > 1 && samples.front().is_some_and(|(time, _)| now.duration_since(*time) > WINDOW) {
            samples.pop_front();
        }
        let rate = samples.front().map_or(0, |(time, before)| {
            let millis = now.duration_since(*time).as_millis().max(1);
            let moved = u128::from(read.saturating_sub(*before));
            u64::try_from(moved * 1000 / millis).unwrap_or(u64::MAX)
        });
        samples.push_back((now, read));
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_last_seconds() {
        let progress = TaskProgress::default();
        let disk = progress.disk(DiskLabel { device: "xvda".into(), size: 100_000, ..DiskLabel::default() });
        disk.describe("nbd", "no reference");
        assert_eq!(progress.disks()[0].rate_bytes_per_second, 0);
        for second in 1..=10u64 {
            tokio::time::advance(Duration::from_secs(1)).await;
            disk.set_read(second * 1_000);
            assert_eq!(progress.disks()[0].rate_bytes_per_second, 1_000);
        }
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            progress.disks();
        }
        let report = &progress.disks()[0];
        assert_eq!((report.rate_bytes_per_second, report.source.as_str()), (0, "nbd"));
        assert_eq!(report.transfer.as_ref().unwrap().read_bytes, 10_000);
    }
}
