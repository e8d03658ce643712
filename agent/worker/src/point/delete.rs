//! Deletes restore points. The data stays until a prune finds that nothing needs it.

use coffer_model::RemoteId;
use coffer_model::names::Named;
use coffer_proto::v1::{PointSpec, TaskSuccess};

use super::snapshot_id;
use crate::backup::bad_request;
use crate::halt::Outcome;
use crate::task::Task;

/// Removes one restore point from its remote. That it is gone already is no error. Its commit record stays: it keeps a
/// late writer from making the point again.
pub(crate) async fn delete(task: &Task, point: &PointSpec) -> Outcome<()> {
    let remote = task.places.remote(&RemoteId::from_name(&point.remote).map_err(bad_request)?)?;
    let id = snapshot_id(&point.snapshot_id)?;
    task.authority.full().await;
    // Asks first whether this is the repository: in another one nothing to delete would look like deleted.
    remote.repository.forget(id).await?;
    Ok(())
}

/// The task.
pub(crate) async fn delete_one(task: &Task, spec: &PointSpec) -> Outcome<TaskSuccess> {
    let work = async {
        delete(task, spec).await?;
        task.journal.report_deleted(vec![spec.point.clone()]).await?;
        Ok(((), format!("restore point {} is deleted", spec.snapshot_id).into()))
    };
    task.step("delete", Vec::new(), work).await?;
    Ok(TaskSuccess::default())
}
