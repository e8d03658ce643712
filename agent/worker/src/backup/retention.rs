//! Lets go of the restore points that the controller's retention plan names.

use coffer_model::counted;
use coffer_proto::v1::RestorePoint;

use super::Subject;
use crate::halt::Outcome;
use crate::journal::Done;
use crate::point;
use crate::task::Task;

/// The step.
pub(super) async fn apply(task: &Task, subject: &Subject, published: &RestorePoint) -> Outcome<Done> {
    let plan = task.journal.plan_retention(vec![published.clone()]).await?;
    for line in plan.explanation {
        task.journal.info(line);
    }
    let mut gone = Vec::new();
    for doomed in &plan.delete {
        point::delete::delete(task, doomed).await?;
        gone.push(doomed.point.clone());
    }
    let message = format!("{} deleted on remote {}", counted(gone.len(), "restore point"), subject.remote.id);
    if !gone.is_empty() {
        task.journal.report_deleted(gone).await?;
    }
    Ok(message.into())
}
