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
    let id = snapshot_id(&spec.snapshot_id)?;
    let damage = task
        .step("verify", Vec::new(), async {
            match read_back(task, &remote, id).await {
                Ok(read) => {
                    if read.is_doubted {
                        examine(task, &remote, id).await?;
                    }
                    let message = format!("{} bytes read, every hash is right", read.bytes);
                    Ok((String::new(), Done { message, read_bytes: read.bytes, ..Done::default() }))
                }
                Err(Halt::Failed(trouble)) if trouble.is_loss() => {
                    // What is missing in another folder is not damaged.
                    remote.repository.confirm().await?;
                    examine(task, &remote, id).await?;
                    Ok((trouble.to_string(), format!("damaged: {trouble}").into()))
                }
                Err(halt) => Err(halt),
            }
        })
        .await?;
    Ok(TaskSuccess { verified_time: Some(now()), damage, ..TaskSuccess::default() })
}

/// Finds out which packs of the point are damaged, and which are whole again, so that the next backup knows what to
/// store again. That this fails takes nothing from what was found before.
async fn examine(task: &Task, remote: &OpenRemote, id: SnapshotId) -> Outcome<()> {
    task.journal.info("every pack of this restore point is read, to find all that is damaged");
    let examining = remote.repository.examine(id);
    let report = match task.cancel.run_until_cancelled(examining).await.ok_or(Halt::Cancelled)? {
        Ok(report) => report,
        Err(error) => {
            task.journal.warn_error("what is damaged could not be found out or noted", &error);
            return Ok(());
        }
    };
    for error in report.errors.iter().take(MOST_TOLD) {
        task.journal.warn(chain(error));
    }
    match report.errors.len() {
        0 => task.journal.info("no pack is damaged (any more)"),
        found => task.journal.warn(format_args!(
            "found damage in {}: the next backup reads the disks whole and stores again what it still finds",
            counted(found, "place")
        )),
    }
    Ok(())
}

/// What reading a point back showed.
struct ReadBack {
    bytes: u64,
    /// Every hash was right, but packs of it are noted as damaged.
    is_doubted: bool,
}

async fn read_back(task: &Task, remote: &OpenRemote, id: SnapshotId) -> Outcome<ReadBack> {
    let point: OpenPoint = open(remote, id).await?;
    task.progress.clear();
    let mut read = ReadBack { bytes: 0, is_doubted: false };
    for disk in &point.document.disks {
        let progress = moving::progress(task, disk, "repository");
        let source: Box<dyn ExtentSource> = point.point.extents(&disk.path)?;
        read.bytes += moving::move_disk(task, &disk.label, source, &mut Nothing, &progress).await?;
        read.is_doubted |= !remote.repository.is_sound(&point.point.content(&disk.path)?).await;
    }
    Ok(read)
}
