//! `JobService`: jobs; their schedules are in [`super::schedules`].

use std::collections::BTreeSet;
use std::sync::Arc;

use coffer_core::decide::tick::backup_plan;
use coffer_core::record::{CursorRecord, JobRecord, Plan, RunRecord};
use coffer_core::{Change, Entry, Key, State, Versioned};
use coffer_model::job::{DEFAULT_CONCURRENCY, DEFAULT_MAX_ATTEMPTS, DEFAULT_RETENTION, JobError, Mode, or_default};
use coffer_model::names::Named;
use coffer_model::{Job, JobId, PoolId, RemoteId, Selection, VmName};
use coffer_proto::v1;
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::pools::touch_config;
use super::{check_etag, mask, missing, schedules, start_run, unfinished};
use crate::convert::place::etag;
use crate::convert::{id_in, name_in, time_out};
use crate::fault::Fault;
use crate::page::{Order, page};
use crate::plane::{Effect, Plane};
use crate::request::{Known, look_up};

const FIELDS: [&str; 7] =
    ["display_name", "selection", "remotes", "concurrency", "manual_retention", "max_attempts", "paused"];
/// Most entries of a list in a selection.
const ENTRIES: usize = 2000;
/// Highest concurrency.
const CONCURRENCY: u32 = 1000;

#[derive(Debug, Clone)]
pub(crate) struct Jobs(pub(crate) Arc<Plane>);

fn names_in<T: Named + Ord>(field: &str, names: &[String]) -> Result<BTreeSet<T>, Fault> {
    if names.len() > ENTRIES {
        return Err(Fault::invalid(field, format!("must have at most {ENTRIES} entries")));
    }
    names.iter().map(|name| name_in(field, name)).collect()
}

fn tags_in(field: &str, tags: Vec<String>) -> Result<BTreeSet<String>, Fault> {
    if tags.len() > ENTRIES || tags.iter().any(|tag| tag.is_empty() || tag.len() > 512) {
        return Err(Fault::invalid(field, format!("must have at most {ENTRIES} tags of 1 to 512 bytes")));
    }
    Ok(tags.into_iter().collect())
}

fn selection_in(selection: Option<v1::Selection>) -> Result<Selection, Fault> {
    let selection = selection.unwrap_or_default();
    Ok(Selection {
        vms: names_in("job.selection.vms", &selection.vms)?,
        pools: names_in("job.selection.pools", &selection.pools)?,
        tags: tags_in("job.selection.tags", selection.tags)?,
        exclude_tags: tags_in("job.selection.exclude_tags", selection.exclude_tags)?,
        power_state: match selection.power_state.as_str() {
            "" => None,
            state => Some(state.parse().map_err(|error: coffer_model::inventory::PowerStateError| {
                Fault::invalid("job.selection.power_state", error.to_string())
            })?),
        },
    })
}

pub(crate) fn job_in(id: JobId, job: v1::Job) -> Result<Job, Fault> {
    let mode = match job.mode() {
        v1::job::Mode::Unspecified | v1::job::Mode::Delta => Mode::Delta,
    };
    if job.concurrency > CONCURRENCY {
        return Err(Fault::invalid("job.concurrency", format!("must be at most {CONCURRENCY}")));
    }
    let job = Job {
        id,
        display_name: job.display_name,
        selection: selection_in(job.selection)?,
        mode,
        remotes: names_in::<RemoteId>("job.remotes", &job.remotes)?.into_iter().collect(),
        concurrency: or_default(job.concurrency, DEFAULT_CONCURRENCY),
        manual_retention: or_default(job.manual_retention, DEFAULT_RETENTION),
        max_attempts: or_default(job.max_attempts, DEFAULT_MAX_ATTEMPTS),
        paused: job.paused,
    };
    check(&job)?;
    Ok(job)
}

fn check(job: &Job) -> Result<(), Fault> {
    job.check().map_err(|error| {
        let field = match error {
            JobError::DisplayName(_) => "job.display_name",
            JobError::EmptySelection | JobError::FilterWithoutPool => "job.selection",
            JobError::Remotes(_) => "job.remotes",
        };
        Fault::invalid(field, error.to_string())
    })
}

/// Requires that all that a job names exists.
fn require_places(state: &State, job: &Job, mut change: Change) -> Result<Change, Fault> {
    for remote in &job.remotes {
        let found = state.remotes.get(&(remote.clone(),));
        let found = found.ok_or_else(|| Fault::invalid("job.remotes", format!("{} does not exist", remote.name())))?;
        change = change.same(Key::Remote(remote.clone()), found);
    }
    let pools: BTreeSet<&PoolId> =
        job.selection.pools.iter().chain(job.selection.vms.iter().map(|vm| &vm.pool)).collect();
    for pool in pools {
        if !state.pools.contains_key(&(pool.clone(),)) {
            return Err(Fault::invalid("job.selection", format!("{} does not exist", pool.name())));
        }
    }
    Ok(touch_config(change).unchanged_or_absent(Key::Config(), state.configs.get(&())))
}

fn job_out(found: &Versioned<JobRecord>) -> v1::Job {
    let job = &found.record.job;
    v1::Job {
        name: job.id.name(),
        display_name: job.display_name.clone(),
        selection: Some(v1::Selection {
            vms: job.selection.vms.iter().map(Named::name).collect(),
            pools: job.selection.pools.iter().map(Named::name).collect(),
            tags: job.selection.tags.iter().cloned().collect(),
            exclude_tags: job.selection.exclude_tags.iter().cloned().collect(),
            power_state: job.selection.power_state.map(|state| state.to_string()).unwrap_or_default(),
        }),
        mode: v1::job::Mode::Delta.into(),
        remotes: job.remotes.iter().map(Named::name).collect(),
        concurrency: job.concurrency.get(),
        manual_retention: job.manual_retention.get(),
        max_attempts: job.max_attempts.get(),
        paused: job.paused,
        create_time: Some(time_out(found.record.created)),
        etag: etag(found),
    }
}

pub(super) fn find<'a>(state: &'a State, id: &JobId) -> Result<&'a Versioned<JobRecord>, Fault> {
    state.jobs.get(&(id.clone(),)).ok_or_else(|| missing(id.name()))
}

impl Jobs {
    async fn create(&self, mut request: v1::CreateJobRequest) -> Result<v1::Job, Fault> {
        let id: JobId = id_in("job_id", &request.job_id)?;
        let fresh = match look_up(&self.0, "CreateJob", &request.request_id, &request).await? {
            Known::Done(made) => {
                let id = name_in("name", &made)?;
                return self.0.read(|state| find(state, &id).map(job_out));
            }
            Known::Fresh(fresh) => fresh,
        };
        let job = request.job.take().ok_or_else(|| Fault::invalid("job", "must be set"))?;
        let job = job_in(id.clone(), job)?;
        let done = self
            .0
            .mutate(|state, now| {
                if state.jobs.contains_key(&(id.clone(),)) {
                    return Err(Fault::AlreadyExists { name: id.name() });
                }
                let record = JobRecord { job: job.clone(), created: now };
                let change = require_places(state, &job, Change::new().absent(Key::Job(id.clone())))?
                    .put(Entry::Job((id.clone(),), record));
                Ok((fresh.remember(Effect::from(change), &id.name(), now), ()))
            })
            .await;
        fresh.settle(&self.0, done).await?;
        self.0.read(|state| find(state, &id).map(job_out))
    }

    async fn update(&self, request: v1::UpdateJobRequest) -> Result<v1::Job, Fault> {
        let shown = request.job.ok_or_else(|| Fault::invalid("job", "must be set"))?;
        let id: JobId = name_in("job.name", &shown.name)?;
        let fields = mask(request.update_mask, &FIELDS)?;
        let named = |field: &str| fields.iter().any(|named| named == field);
        if named("concurrency") && shown.concurrency > CONCURRENCY {
            return Err(Fault::invalid("job.concurrency", format!("must be at most {CONCURRENCY}")));
        }
        let selection = if named("selection") { Some(selection_in(shown.selection)?) } else { None };
        let remotes = if named("remotes") {
            Some(names_in::<RemoteId>("job.remotes", &shown.remotes)?.into_iter().collect::<Vec<_>>())
        } else {
            None
        };
        self.0
            .mutate(|state, now| {
                let found = find(state, &id)?;
                check_etag(&id.name(), &shown.etag, found)?;
                let mut record = found.record.clone();
                let resumed = named("paused") && record.job.paused && !shown.paused;
                let job = &mut record.job;
                if named("display_name") {
                    job.display_name.clone_from(&shown.display_name);
                }
                if let Some(selection) = &selection {
                    job.selection.clone_from(selection);
                }
                if let Some(remotes) = &remotes {
                    job.remotes.clone_from(remotes);
                }
                if named("concurrency") {
                    job.concurrency = or_default(shown.concurrency, DEFAULT_CONCURRENCY);
                }
                if named("manual_retention") {
                    job.manual_retention = or_default(shown.manual_retention, DEFAULT_RETENTION);
                }
                if named("max_attempts") {
                    job.max_attempts = or_default(shown.max_attempts, DEFAULT_MAX_ATTEMPTS);
                }
                if named("paused") {
                    job.paused = shown.paused;
                }
                check(job)?;
                let mut change = Change::new().unchanged(Key::Job(id.clone()), found);
                if selection.is_some() || remotes.is_some() {
                    change = require_places(state, job, change)?;
                }
                if resumed {
                    change = settle_all(state, &id, change, now);
                }
                Ok((change.put(Entry::Job((id.clone(),), record)), ()))
            })
            .await?;
        self.0.read(|state| find(state, &id).map(job_out))
    }

    async fn delete(&self, request: v1::DeleteJobRequest) -> Result<(), Fault> {
        let id: JobId = name_in("name", &request.name)?;
        self.0
            .mutate(|state, _| {
                let found = find(state, &id)?;
                check_etag(&id.name(), &request.etag, found)?;
                if let Some(run) = unfinished(state, |plan| matches!(plan, Plan::Backup { job, .. } if *job == id)) {
                    return Err(Fault::Precondition {
                        reason: "JOB_RUNNING",
                        message: format!("{} is under way: {}", id.name(), run.name()),
                        advice: "wait for the run to end, or cancel it".into(),
                    });
                }
                let mut change = Change::new().unchanged(Key::Job(id.clone()), found).delete(Key::Job(id.clone()));
                for (schedule, _) in schedules::of_job(state, &id) {
                    change = change
                        .delete(Key::Schedule(id.clone(), schedule.clone()))
                        .delete(Key::Cursor(id.clone(), schedule.clone()));
                }
                Ok((change, ()))
            })
            .await
    }

    async fn run(&self, request: v1::RunJobRequest) -> Result<v1::Run, Fault> {
        let id: JobId = name_in("name", &request.name)?;
        let only: BTreeSet<VmName> = names_in("vms", &request.vms)?;
        let now = self.0.now();
        let run = start_run(&self.0, "RunJob", &request.request_id, &request, |state, _| {
            let found = find(state, &id)?;
            let mut record = RunRecord::new(backup_plan(&found.record.job, None), now);
            record.only.clone_from(&only);
            Ok((Change::new().unchanged(Key::Job(id.clone()), found), record))
        })
        .await?;
        super::runs::look(&self.0, &run)
    }
}

/// What fell due while a job was paused is not made up for.
fn settle_all(state: &State, job: &JobId, mut change: Change, now: Timestamp) -> Change {
    for (schedule, _) in schedules::of_job(state, job) {
        let parts = (job.clone(), schedule.clone());
        if let Some(cursor) = state.cursors.get(&parts) {
            let settled = cursor.record.settled.max(now);
            change = change
                .unchanged(Key::Cursor(job.clone(), schedule.clone()), cursor)
                .put(Entry::Cursor(parts, CursorRecord { settled, last: cursor.record.last }));
        }
    }
    change
}

#[tonic::async_trait]
impl v1::job_service_server::JobService for Jobs {
    async fn create_job(&self, request: Request<v1::CreateJobRequest>) -> Result<Response<v1::Job>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await?))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        let id = name_in("name", &request.into_inner().name)?;
        Ok(Response::new(self.0.read(|state| find(state, &id).map(job_out))?))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let all = self.0.read(|state| state.jobs.iter().map(|((id,), job)| (id.to_string(), job_out(job))).collect());
        let (jobs, next_page_token) = page(all, Order::Rising, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListJobsResponse { jobs, next_page_token }))
    }

    async fn update_job(&self, request: Request<v1::UpdateJobRequest>) -> Result<Response<v1::Job>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn delete_job(&self, request: Request<v1::DeleteJobRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.delete(request.into_inner()).await?))
    }

    async fn run_job(&self, request: Request<v1::RunJobRequest>) -> Result<Response<v1::Run>, Status> {
        Ok(Response::new(self.run(request.into_inner()).await?))
    }

    async fn create_schedule(
        &self,
        request: Request<v1::CreateScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        Ok(Response::new(schedules::create(&self.0, request.into_inner()).await?))
    }

    async fn get_schedule(&self, request: Request<v1::GetScheduleRequest>) -> Result<Response<v1::Schedule>, Status> {
        Ok(Response::new(schedules::get(&self.0, &request.into_inner().name)?))
    }

    async fn list_schedules(
        &self,
        request: Request<v1::ListSchedulesRequest>,
    ) -> Result<Response<v1::ListSchedulesResponse>, Status> {
        Ok(Response::new(schedules::list(&self.0, request.into_inner())?))
    }

    async fn update_schedule(
        &self,
        request: Request<v1::UpdateScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        Ok(Response::new(schedules::update(&self.0, request.into_inner()).await?))
    }

    async fn delete_schedule(&self, request: Request<v1::DeleteScheduleRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(schedules::delete(&self.0, request.into_inner()).await?))
    }
}
