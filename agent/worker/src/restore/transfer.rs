//! Writes the disks, several at once.

use coffer_model::counted;
use coffer_xapi::Ref;
use coffer_xapi::records::Vdi;
use futures::stream::{StreamExt, TryStreamExt};

use super::Subject;
use super::plan::PlannedDisk;
use super::preflight::Ready;
use crate::halt::{Halt, Outcome};
use crate::journal::Done;
use crate::point::moving;
use crate::task::Task;

/// Disks of one VM that are written at once.
const DISKS_AT_ONCE: usize = 4;

/// The step.
pub(super) async fn transfer(task: &Task, subject: &Subject, ready: &Ready, disks: &[Ref<Vdi>]) -> Outcome<((), Done)> {
    task.progress.clear();
    let work: Vec<_> = ready.plan.disks.iter().zip(disks).map(|pair| one(task, subject, ready, pair)).collect();
    let written: Outcome<Vec<u64>> = futures::stream::iter(work).buffer_unordered(DISKS_AT_ONCE).try_collect().await;
    let read = written.map_err(|halt| ready.without_room(halt))?;
    let bytes = read.iter().sum();
    let message = counted(disks.len(), "disk");
    Ok(((), Done { message, read_bytes: bytes, written_bytes: bytes, ..Done::default() }))
}

async fn one(task: &Task, subject: &Subject, ready: &Ready, (disk, vdi): (&PlannedDisk, &Ref<Vdi>)) -> Outcome<u64> {
    let kept = &ready.point.document.disks[disk.index];
    let progress = moving::progress(task, kept, "repository");
    let label = format!("{} ({})", kept.device, kept.label);
    let source = ready.point.point.extents(&kept.path)?;
    let opening = subject.pool.write(vdi, &label, disk.size, &ready.contents[disk.index]);
    let mut sink = task.cancel.run_until_cancelled(opening).await.ok_or(Halt::Cancelled)??;
    moving::move_disk(task, &label, source, &mut *sink, &progress).await
}
