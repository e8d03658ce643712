//! Reads a restore point back: every byte is read, decrypted and compared with its hash.

use async_trait::async_trait;
use coffer_extent::{Extent, ExtentError, ExtentSink, ExtentSource};
use coffer_model::RemoteId;
use coffer_model::names::Named;
use coffer_proto::v1::{PointSpec, TaskSuccess};

use super::{OpenPoint, moving, open, snapshot_id};
use crate::backup::bad_request;
use crate::halt::{Halt, Outcome};
use crate::journal::{Done, now};
use crate::task::{OpenRemote, Task};

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
                // What may pass says nothing about the data.
                Err(Halt::Failed(trouble)) if !trouble.is_retryable() && is_about_data(trouble.reason()) => {
                    // What is missing in another folder is not damaged.
                    remote.repository.confirm().await?;
                    Ok((trouble.to_string(), format!("damaged: {trouble}").into()))
                }
                Err(halt) => Err(halt),
            }
        })
        .await?;
    Ok(TaskSuccess { verified_time: Some(now()), damage, ..TaskSuccess::default() })
}

fn is_about_data(reason: &str) -> bool {
    matches!(reason, "REPOSITORY_DAMAGED" | "REMOTE_OBJECT_MISSING" | "REMOTE_DAMAGED" | "RESTORE_POINT_DAMAGED")
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
