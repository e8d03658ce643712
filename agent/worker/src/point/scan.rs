//! Reads which restore points are on a remote, and corrects the controllers' catalogue.

use coffer_model::RemoteId;
use coffer_model::names::Named;
use coffer_proto::v1::{RemoteSpec, RestorePoint, TaskSuccess};

use super::{committed, open};
use crate::backup::bad_request;
use crate::halt::{Halt, Outcome};
use crate::task::Task;

/// The task.
pub(crate) async fn scan(task: &Task, spec: &RemoteSpec) -> Outcome<TaskSuccess> {
    let work = async {
        let remote = task.places.remote(&RemoteId::from_name(&spec.remote).map_err(bad_request)?)?;
        let mut points: Vec<RestorePoint> = Vec::new();
        for (info, made_by) in committed(&remote, None).await? {
            task.not_cancelled()?;
            match open(&remote, info.id).await {
                Ok(found) if found.document.task == made_by => {
                    points.push(found.document.restore_point(&remote.id, &info.id.to_string()));
                }
                Ok(_) => task.journal.warn(format_args!(
                    "snapshot {} says that another task made it than its commit record: it is left out",
                    info.id
                )),
                // A point that cannot be read now may be readable later: the catalogue is not thinned out for that.
                Err(Halt::Failed(trouble)) if !trouble.is_retryable() => {
                    task.journal.warn(format_args!("snapshot {} is left out: {trouble}", info.id));
                }
                Err(halt) => return Err(halt),
            }
        }
        // What was not found in another folder is not gone.
        remote.repository.confirm().await?;
        let found = points.len();
        let corrected = task.journal.report_catalogue(&remote.id, points).await?;
        let message = format!(
            "{found} restore points on remote {}: {} were not known, {} known ones are gone",
            remote.id, corrected.added, corrected.removed
        );
        Ok(((), message.into()))
    };
    task.step("scan", Vec::new(), work).await?;
    Ok(TaskSuccess::default())
}
