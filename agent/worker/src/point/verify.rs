//! Reads a restore point back: every byte is read, decrypted and compared with its hash.

use async_trait::async_trait;
use coffer_extent::{Extent, ExtentError, ExtentSink, ExtentSource};
use coffer_model::names::Named;
use coffer_model::{RemoteId, counted};
use coffer_proto::v1::{PointSpec, TaskSuccess};
use coffer_repository::SnapshotId;

use super::{OpenPoint, moving, open, snapshot_id};
use crate::backup::bad_request;
use crate::halt::{Halt, Outcome, chain};
use crate::journal::{Done, now};
use crate::task::{OpenRemote, Task};

/// Losses that a log names one by one.
const MOST_TOLD: usize = 20;

/// Takes everything and keeps nothing: reading it was the check.
struct Nothing;

#[async_trait]
impl ExtentSink for Nothing {
    async fn accept(&mut self, _: Extent) -> Result<(), ExtentError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        Ok(())
    }
}

/// The task. Damage is a result, not a failure.
pub(crate) async fn verify(task: &Task, spec: &PointSpec) -> Outcome<TaskSuccess> {
    let remote = task.places.remote(&RemoteId::from_name(&spec.remote).map_err(bad_request)?)?;
    let damage = task
        .step("verify", Vec::new(), async {
            match read_back(task, &remote, spec).await {
                Ok(read_bytes) => {
                    let message = format!("{read_bytes} bytes read, every hash is right");
                    Ok((String::new(), Done { message, read_bytes, ..Done::default() }))
                }
                Err(Halt::Failed(trouble)) if trouble.is_loss() => {
                    // What is missing in another folder is not damaged.
                    remote.repository.confirm().await?;
                    note_losses(task, &remote, snapshot_id(&spec.snapshot_id)?).await?;
                    Ok((trouble.to_string(), format!("damaged: {trouble}").into()))
                }
                Err(halt) => Err(halt),
            }
        })
        .await?;
    Ok(TaskSuccess { verified_time: Some(now()), damage, ..TaskSuccess::default() })
}

/// Finds out all that is lost of the point, so that the next backup stores it again.
async fn note_losses(task: &Task, remote: &OpenRemote, id: SnapshotId) -> Outcome<()> {
    task.journal.info("looking for everything that is lost of this restore point");
    let examining = remote.repository.examine(id);
    match task.cancel.run_until_cancelled(examining).await.ok_or(Halt::Cancelled)? {
        Ok(report) => {
            for error in report.errors.iter().take(MOST_TOLD) {
                task.journal.warn(chain(error));
            }
            let told = report.errors.len().saturating_sub(MOST_TOLD);
            let more = if told > 0 { format!(" (and {told} more)") } else { String::new() };
            task.journal.warn(format_args!(
                "damage in {} is noted on the remote{more}: the next backup reads the disks whole and stores again what it still finds",
                counted(report.errors.len(), "place")
            ));
            Ok(())
        }
        // The snapshot itself: nothing of it can be found.
        Err(error) if error.is_damage() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn read_back(task: &Task, remote: &OpenRemote, spec: &PointSpec) -> Outcome<u64> {
    let point: OpenPoint = open(remote, snapshot_id(&spec.snapshot_id)?).await?;
    task.progress.clear();
    let mut read = 0;
    for disk in &point.document.disks {
        let progress = moving::progress(task, disk, "repository");
        let source: Box<dyn ExtentSource> = point.point.extents(&disk.path)?;
        read += moving::move_disk(task, &disk.label, source, &mut Nothing, &progress).await?;
    }
    Ok(read)
}
