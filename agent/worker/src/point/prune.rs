//! Frees the space of data that no restore point needs.

use coffer_model::RemoteId;
use coffer_model::names::Named;
use coffer_proto::v1::{PruneSpec, TaskSuccess};
use coffer_repository::{Permission, PruneOptions};

use crate::backup::bad_request;
use crate::halt::{Halt, Outcome};
use crate::journal::Done;
use crate::task::Task;

/// The task: the plan is shown before it is carried out.
pub(crate) async fn prune(task: &Task, spec: &PruneSpec) -> Outcome<TaskSuccess> {
    let remote = task.places.remote(&RemoteId::from_name(&spec.remote).map_err(bad_request)?)?;
    let plan = task
        .step("plan", Vec::new(), async {
            let authority = task.authority.clone();
            let permission = Permission::new(move || {
                let authority = authority.clone();
                Box::pin(async move { authority.full().await })
            });
            let planning = remote.repository.plan_prune(PruneOptions { permission, ..PruneOptions::default() });
            let plan = task.cancel.run_until_cancelled(planning).await.ok_or(Halt::Cancelled)??;
            for line in plan.to_string().lines() {
                task.journal.info(line);
            }
            let message = format!("{} bytes can be freed now", plan.delete_bytes());
            Ok((plan, message.into()))
        })
        .await?;
    if spec.dry_run {
        return Ok(TaskSuccess::default());
    }
    let work = async {
        let report = remote.repository.prune(plan).await?;
        let written_bytes = 0;
        Ok(((), Done { message: report.to_string(), written_bytes, ..Done::default() }))
    };
    task.step("prune", Vec::new(), work).await?;
    Ok(TaskSuccess::default())
}
