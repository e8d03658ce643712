//! Folds the tasks of ended runs into history records, forgets the oldest runs, and requests of the day before.

use std::time::Duration;

use coffer_core::decide::archive;
use coffer_core::record::TaskRecord;
use coffer_model::{RunId, TaskId};
use jiff::SignedDuration;
use tokio::time::Instant;

use super::Duty;
use crate::fault::Fault;
use crate::plane::{Effect, Plane};
use crate::{history, request};

/// How often remembered requests are looked through.
const REQUESTS_EVERY: Duration = Duration::from_secs(10 * 60);

#[derive(Default)]
pub(super) struct Archiver {
    requests_seen: Option<Instant>,
}

impl Duty for Archiver {
    const NAME: &'static str = "archiver";

    async fn round(&mut self, plane: &Plane) -> Result<(), Fault> {
        let after = SignedDuration::try_from(plane.timings.fold_after).unwrap_or(SignedDuration::MAX);
        for run in plane.read(|state| archive::to_fold(state, plane.now(), after)) {
            if plane.stop.is_cancelled() {
                return Ok(());
            }
            fold(plane, &run).await?;
        }
        for change in plane.read(archive::drop_folded) {
            plane.commit(change).await?;
        }
        let forgotten = plane.read(|state| {
            let mut forgotten = archive::to_forget(state, plane.limits.runs_kept);
            // Its tasks go first: without their run nothing would lead to them.
            forgotten.retain(|(run, _)| state.tasks_of(run).next().is_none());
            forgotten
        });
        for (run, change) in forgotten {
            let effect = Effect { change, ops: vec![history::delete(&run)], ..Effect::default() };
            if plane.commit(effect).await? {
                tracing::debug!(%run, "the run was forgotten");
            }
        }
        self.forget_requests(plane).await
    }
}

impl Archiver {
    async fn forget_requests(&mut self, plane: &Plane) -> Result<(), Fault> {
        if self.requests_seen.is_some_and(|seen| seen.elapsed() < REQUESTS_EVERY) {
            return Ok(());
        }
        loop {
            let ops = request::outdated(&*plane.store, plane.now()).await?;
            if ops.is_empty() || plane.stop.is_cancelled() {
                break;
            }
            plane.commit(Effect { ops, ..Effect::default() }).await?;
        }
        self.requests_seen = Some(Instant::now());
        Ok(())
    }
}

async fn fold(plane: &Plane, run: &RunId) -> Result<(), Fault> {
    let (tasks, change) = plane.read(|state| {
        let tasks: Vec<(TaskId, TaskRecord)> =
            state.tasks_of(run).map(|((_, id), task)| (*id, task.record.clone())).collect();
        (tasks, archive::mark_folded(state, run))
    });
    let Some(change) = change else { return Ok(()) };
    let (most, now) = (plane.limits.history_bytes, plane.now());
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| Fault::Broken {
        what: format!("the history of run {run}"),
        source,
    };
    let value = tokio::task::spawn_blocking(move || history::fold(&tasks, most, now))
        .await
        .map_err(|error| broken(error.into()))?
        .map_err(|error| broken(error.into()))?;
    plane.commit(Effect { change, ops: vec![history::put(run, value)], ..Effect::default() }).await?;
    Ok(())
}
