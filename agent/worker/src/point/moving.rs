//! Moves a disk out of a restore point.

use std::sync::Arc;

use async_trait::async_trait;
use coffer_extent::{Extent, ExtentError, ExtentSink, ExtentSource, Progress, copy};

use crate::document::DocumentDisk;
use crate::halt::Outcome;
use crate::progress::{DiskLabel, DiskProgress};
use crate::task::Task;

/// A new line of progress for a disk.
pub(crate) fn progress(task: &Task, disk: &DocumentDisk, source: &str) -> Arc<DiskProgress> {
    let label = DiskLabel {
        uuid: disk.uuid.to_string(),
        device: disk.device.clone(),
        label: disk.label.clone(),
        size: disk.size,
    };
    let progress = task.progress.disk(label);
    progress.describe(source, "");
    progress
}

/// Moves everything; returns the bytes that were read. Stops when the task is cancelled.
pub(crate) async fn move_disk(
    task: &Task,
    label: &str,
    mut source: Box<dyn ExtentSource>,
    sink: &mut dyn ExtentSink,
    progress: &DiskProgress,
) -> Outcome<u64> {
    let mut sink = Counted { sink, progress, data: 0, rest: 0 };
    let moved = copy(label, &mut source, &mut sink, &Progress::new(), &task.cancel).await?;
    Ok(moved.data)
}

/// Shows what has arrived.
struct Counted<'a> {
    sink: &'a mut dyn ExtentSink,
    progress: &'a DiskProgress,
    data: u64,
    rest: u64,
}

#[async_trait]
impl ExtentSink for Counted<'_> {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        let (len, is_data) = (extent.len(), matches!(extent, Extent::Data { .. }));
        self.sink.accept(extent).await?;
        if is_data {
            self.data += len;
            self.progress.set_read(self.data);
            self.progress.set_written(self.data);
        } else {
            self.rest += len;
            self.progress.set_skipped(self.rest);
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        self.sink.finish().await
    }
}
