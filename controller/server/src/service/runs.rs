//! `RunService`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use coffer_core::decide::{TaskKey, cancel, dispatch, finish};
use coffer_core::record::{Plan, RunRecord, Subject, TaskRecord};
use coffer_core::task_state::{TaskState, Verdict};
use coffer_core::{Change, Key, State, Versioned};
use coffer_model::names::Named;
use coffer_model::{JobId, RestorePointId, RunId, VmName};
use coffer_proto::v1;
use tonic::{Request, Response, Status};

use super::{follow, missing, start_run};
use crate::convert::name_in;
use crate::convert::report::task_in;
use crate::convert::run::{origin, run_out};
use crate::convert::task::task_out;
use crate::fault::Fault;
use crate::history;
use crate::page::{Order, by_time, page};
use crate::plane::Plane;

#[derive(Debug, Clone)]
pub(crate) struct Runs(pub(crate) Arc<Plane>);

/// A run as it stands, progress included.
pub(crate) fn shape(plane: &Plane, state: &State, id: &RunId, found: &Versioned<RunRecord>) -> v1::Run {
    let record = &found.record;
    if record.verdict().is_some() {
        return run_out(id, record, record.counts, record.transfer);
    }
    let live = |(key, task): (&TaskKey, &Versioned<TaskRecord>)| {
        let disks = plane.board.disks(key, task.record.epoch);
        disks.unwrap_or_else(|| task.record.disks.clone()).into_iter().map(|disk| disk.transfer).sum()
    };
    let transfer = state.tasks_of(id).map(live).sum();
    run_out(id, record, finish::counts(state, id), transfer)
}

pub(crate) fn find<'a>(state: &'a State, id: &RunId) -> Result<&'a Versioned<RunRecord>, Fault> {
    state.run(id).ok_or_else(|| missing(id.name()))
}

pub(crate) fn look(plane: &Plane, id: &RunId) -> Result<v1::Run, Fault> {
    plane.read(|state| find(state, id).map(|found| shape(plane, state, id, found)))
}

/// The tasks of a run that are in the store as such, shaped, by their place in the plan, each with its revision.
pub(crate) fn tasks(plane: &Plane, state: &State, run: &RunId) -> Vec<(u32, u64, v1::Task)> {
    let waiting = state
        .tasks_of(run)
        .any(|(_, task)| matches!(task.record.state, TaskState::Waiting { .. } | TaskState::Recovering { .. }));
    let waits = if waiting { dispatch::dispatch(state, plane.now()).waits } else { BTreeMap::new() };
    let mut tasks: Vec<_> = state
        .tasks_of(run)
        .map(|(key, task)| {
            let waits_for = waits.get(key).map(ToString::to_string).unwrap_or_default();
            let held = task.record.state.lease().is_some();
            let live = if held { plane.board.disks(key, task.record.epoch) } else { None };
            (task.record.index, task.modified, task_out(key, &task.record, waits_for, live))
        })
        .collect();
    tasks.sort_by_key(|(index, _, _)| *index);
    tasks
}

/// All tasks of a run, wherever they are.
pub(crate) async fn all_tasks(plane: &Plane, run: &RunId) -> Result<Vec<v1::Task>, Fault> {
    let archived = plane.read(|state| find(state, run).map(|found| found.record.archived))?;
    if archived {
        let tasks = history::read(&*plane.store, run).await?;
        return Ok(tasks.iter().map(|(key, task)| task_out(key, task, String::new(), None)).collect());
    }
    Ok(plane.read(|state| tasks(plane, state, run)).into_iter().map(|(_, _, task)| task).collect())
}

impl Runs {
    async fn retry(&self, request: v1::RetryRunRequest) -> Result<v1::Run, Fault> {
        let old: RunId = name_in("name", &request.name)?;
        let (archived, ended) =
            self.0.read(|state| find(state, &old).map(|run| (run.record.archived, run.record.verdict().is_some())))?;
        let refuse = |message: String, advice: &str| Fault::Precondition {
            reason: "NOTHING_TO_RETRY",
            message,
            advice: advice.into(),
        };
        if !ended {
            return Err(refuse(format!("{} has not ended", old.name()), "wait for its end, or cancel it"));
        }
        let records: Vec<TaskRecord> = if archived {
            history::read(&*self.0.store, &old).await?.into_iter().map(|(_, task)| task).collect()
        } else {
            self.0.read(|state| state.tasks_of(&old).map(|(_, task)| task.record.clone()).collect())
        };
        let failed: Vec<Subject> = records
            .into_iter()
            .filter(|task| task.state.verdict() != Some(Verdict::Succeeded))
            .map(|task| task.subject)
            .collect();
        if failed.is_empty() {
            return Err(refuse(format!("no task of {} failed", old.name()), "run the job again"));
        }
        let now = self.0.now();
        let run = start_run(&self.0, "RetryRun", &request.request_id, &request, |state, _| {
            let found = find(state, &old)?;
            let mut record = RunRecord::new(found.record.plan.clone(), now);
            record.retry_of = Some(old.clone());
            let change = narrow(state, &mut record, &failed)?;
            Ok((change.same(Key::Run(old.clone()), found), record))
        })
        .await?;
        look(&self.0, &run)
    }

    async fn cancel(&self, name: &str) -> Result<v1::Run, Fault> {
        let id: RunId = name_in("name", name)?;
        self.0
            .mutate(|state, _| {
                find(state, &id)?;
                Ok((cancel::request(state, &id).unwrap_or_default(), ()))
            })
            .await?;
        look(&self.0, &id)
    }
}

/// Leaves only what failed in the plan of a repetition; a backup follows the job as it is now.
fn narrow(state: &State, run: &mut RunRecord, failed: &[Subject]) -> Result<Change, Fault> {
    let keep = |points: &mut Vec<RestorePointId>| {
        points.retain(|id| failed.contains(&Subject::Point { point: id.clone() }));
    };
    match &mut run.plan {
        Plan::Backup { job, .. } => {
            let found = super::jobs::find(state, job)?;
            let machines = failed.iter().filter_map(|subject| match subject {
                Subject::Vm { pool, vm } => Some(VmName { pool: pool.clone(), vm: *vm }),
                Subject::Point { .. } | Subject::Remote { .. } => None,
            });
            run.only = machines.collect();
            return Ok(Change::new().unchanged(Key::Job(job.clone()), found));
        }
        Plan::Verify { points } | Plan::Delete { points, .. } => keep(points),
        Plan::Restore { .. } | Plan::Export { .. } | Plan::Scan { .. } | Plan::Prune { .. } => {}
    }
    Ok(Change::new())
}

#[tonic::async_trait]
impl v1::run_service_server::RunService for Runs {
    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::Run>, Status> {
        let id = name_in("name", &request.into_inner().name)?;
        Ok(Response::new(look(&self.0, &id)?))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let request = request.into_inner();
        let job: Option<JobId> = if request.job.is_empty() { None } else { Some(name_in("job", &request.job)?) };
        let all = self.0.read(|state| {
            let wanted = state.runs.iter().filter(|(_, run)| {
                job.as_ref().is_none_or(|job| origin(&run.record.plan).0 == Some(job))
                    && !(request.active_only && run.record.verdict().is_some())
            });
            wanted.map(|((id,), run)| (by_time(run.record.created, id.as_str()), id.clone())).collect()
        });
        let (ids, next_page_token) = page(all, Order::Falling, request.page_size, &request.page_token)?;
        let runs =
            self.0.read(|state| ids.iter().filter_map(|id| Some(shape(&self.0, state, id, state.run(id)?))).collect());
        Ok(Response::new(v1::ListRunsResponse { runs, next_page_token }))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::Task>, Status> {
        let name = request.into_inner().name;
        let (run, _) = task_in(&name)?;
        let tasks = all_tasks(&self.0, &run).await?;
        let task = tasks.into_iter().find(|task| task.name == name);
        Ok(Response::new(task.ok_or_else(|| missing(name))?))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let request = request.into_inner();
        let run: RunId = name_in("parent", &request.parent)?;
        let tasks = all_tasks(&self.0, &run).await?;
        let all = tasks.into_iter().enumerate().map(|(place, task)| (format!("{place:010}"), task)).collect();
        let (tasks, next_page_token) = page(all, Order::Rising, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListTasksResponse { tasks, next_page_token }))
    }

    async fn cancel_run(&self, request: Request<v1::CancelRunRequest>) -> Result<Response<v1::Run>, Status> {
        Ok(Response::new(self.cancel(&request.into_inner().name).await?))
    }

    async fn retry_run(&self, request: Request<v1::RetryRunRequest>) -> Result<Response<v1::Run>, Status> {
        Ok(Response::new(self.retry(request.into_inner()).await?))
    }

    type FollowRunStream = Pin<Box<dyn futures::Stream<Item = Result<v1::FollowRunResponse, Status>> + Send + 'static>>;

    async fn follow_run(
        &self,
        request: Request<v1::FollowRunRequest>,
    ) -> Result<Response<Self::FollowRunStream>, Status> {
        Ok(Response::new(follow::follow(self.0.clone(), request.into_inner()).await?))
    }
}
