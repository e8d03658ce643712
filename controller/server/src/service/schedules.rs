//! The schedules of jobs, served as part of `JobService`.

use coffer_core::decide::tick::cron;
use coffer_core::record::{CursorRecord, ScheduleRecord};
use coffer_core::{Change, Entry, Key, State, Versioned};
use coffer_model::job::{DEFAULT_RETENTION, or_default};
use coffer_model::names::Named;
use coffer_model::schedule::{Cron, CronError, DEFAULT_CATCH_UP};
use coffer_model::{JobId, ScheduleId, ScheduleName};
use coffer_proto::v1;

use super::jobs::find as find_job;
use super::{check_etag, mask, missing};
use crate::convert::place::etag;
use crate::convert::{duration_in, duration_out, id_in, name_in, time_out};
use crate::fault::Fault;
use crate::page::{Order, page};
use crate::plane::{Effect, Plane};
use crate::request::{Known, look_up};

const FIELDS: [&str; 5] = ["cron", "time_zone", "retention", "paused", "catch_up_window"];
/// Most schedules of a job, so that they can be deleted with it.
const PER_JOB: usize = 40;
/// Longest window in which a missed tick is made up for.
const LONGEST_CATCH_UP: u64 = 31 * 24 * 60 * 60;

type Found = Versioned<ScheduleRecord>;

pub(super) fn of_job<'a>(state: &'a State, job: &JobId) -> impl Iterator<Item = (&'a ScheduleId, &'a Found)> + use<'a> {
    let job = job.clone();
    state.schedules.iter().filter(move |((of, _), _)| *of == job).map(|((_, schedule), found)| (schedule, found))
}

fn rule_in(rule: &str, zone: &str) -> Result<(), Fault> {
    if rule.len() > 200 {
        return Err(Fault::invalid("schedule.cron", "must have at most 200 bytes"));
    }
    Cron::parse(rule, zone).map(|_| ()).map_err(|error| {
        let field = match error {
            CronError::Zone { .. } => "schedule.time_zone",
            CronError::Rule { .. } | CronError::Never { .. } => "schedule.cron",
        };
        Fault::invalid(field, error.to_string())
    })
}

fn catch_up_in(window: Option<prost_types::Duration>) -> Result<u64, Fault> {
    let window = window.map(|window| duration_in("schedule.catch_up_window", window)).transpose()?.unwrap_or_default();
    match window.as_secs() {
        0 => Ok(DEFAULT_CATCH_UP.as_secs()),
        seconds if seconds <= LONGEST_CATCH_UP => Ok(seconds),
        _ => Err(Fault::invalid("schedule.catch_up_window", "must be at most 31 days")),
    }
}

fn zone_in(zone: String) -> String {
    if zone.is_empty() { "UTC".to_owned() } else { zone }
}

fn find<'a>(state: &'a State, name: &ScheduleName) -> Result<&'a Found, Fault> {
    state.schedules.get(&(name.job.clone(), name.schedule.clone())).ok_or_else(|| missing(name.name()))
}

fn schedule_out(state: &State, name: &ScheduleName, found: &Found) -> v1::Schedule {
    let cursor = state.cursors.get(&(name.job.clone(), name.schedule.clone()));
    let paused = found.record.paused || state.jobs.get(&(name.job.clone(),)).is_some_and(|job| job.record.job.paused);
    let next = cursor
        .filter(|_| !paused)
        .and_then(|cursor| cron(&found.record).ok().and_then(|cron| cron.next_tick(cursor.record.settled)));
    v1::Schedule {
        name: name.name(),
        cron: found.record.cron.clone(),
        time_zone: found.record.time_zone.clone(),
        retention: found.record.retention.get(),
        paused: found.record.paused,
        catch_up_window: Some(duration_out(std::time::Duration::from_secs(found.record.catch_up_seconds))),
        next_time: next.map(|tick| time_out(tick.0)),
        last_time: cursor.and_then(|cursor| cursor.record.last).map(time_out),
        etag: etag(found),
    }
}

fn look(plane: &Plane, name: &ScheduleName) -> Result<v1::Schedule, Fault> {
    plane.read(|state| find(state, name).map(|found| schedule_out(state, name, found)))
}

pub(super) fn get(plane: &Plane, name: &str) -> Result<v1::Schedule, Fault> {
    look(plane, &name_in("name", name)?)
}

pub(super) fn list(plane: &Plane, request: v1::ListSchedulesRequest) -> Result<v1::ListSchedulesResponse, Fault> {
    let job: Option<JobId> = if request.parent == "jobs/-" { None } else { Some(name_in("parent", &request.parent)?) };
    let all = plane.read(|state| {
        if let Some(job) = &job {
            find_job(state, job)?;
        }
        let wanted = state.schedules.iter().filter(|((of, _), _)| job.as_ref().is_none_or(|job| job == of));
        Ok::<_, Fault>(
            wanted
                .map(|((job, schedule), found)| {
                    let name = ScheduleName { job: job.clone(), schedule: schedule.clone() };
                    (format!("{job} {schedule}"), schedule_out(state, &name, found))
                })
                .collect(),
        )
    })?;
    let (schedules, next_page_token) = page(all, Order::Rising, request.page_size, &request.page_token)?;
    Ok(v1::ListSchedulesResponse { schedules, next_page_token })
}

pub(super) async fn create(plane: &Plane, mut request: v1::CreateScheduleRequest) -> Result<v1::Schedule, Fault> {
    let job: JobId = name_in("parent", &request.parent)?;
    let schedule: ScheduleId = id_in("schedule_id", &request.schedule_id)?;
    let fresh = match look_up(plane, "CreateSchedule", &request.request_id, &request).await? {
        Known::Done(made) => return look(plane, &name_in("name", &made)?),
        Known::Fresh(fresh) => fresh,
    };
    let shown = request.schedule.take().ok_or_else(|| Fault::invalid("schedule", "must be set"))?;
    let time_zone = zone_in(shown.time_zone);
    rule_in(&shown.cron, &time_zone)?;
    let record = ScheduleRecord {
        cron: shown.cron,
        time_zone,
        retention: or_default(shown.retention, DEFAULT_RETENTION),
        paused: shown.paused,
        catch_up_seconds: catch_up_in(shown.catch_up_window)?,
    };
    let name = ScheduleName { job: job.clone(), schedule: schedule.clone() };
    let parts = (job.clone(), schedule.clone());
    let done = plane
        .mutate(|state, now| {
            let found = find_job(state, &job)?;
            if state.schedules.contains_key(&parts) {
                return Err(Fault::AlreadyExists { name: name.name() });
            }
            if of_job(state, &job).count() >= PER_JOB {
                return Err(Fault::Precondition {
                    reason: "TOO_MANY_SCHEDULES",
                    message: format!("{} has {PER_JOB} schedules, the most that a job may have", job.name()),
                    advice: "delete one, or write several hours or days into one rule".into(),
                });
            }
            let change = Change::new()
                .unchanged(Key::Job(job.clone()), found)
                .absent(Key::Schedule(job.clone(), schedule.clone()))
                .put(Entry::Schedule(parts.clone(), record.clone()))
                .put(Entry::Cursor(parts.clone(), CursorRecord { settled: now, last: None }));
            Ok((fresh.remember(Effect::from(change), &name.name(), now), ()))
        })
        .await;
    fresh.settle(plane, done).await?;
    look(plane, &name)
}

pub(super) async fn update(plane: &Plane, request: v1::UpdateScheduleRequest) -> Result<v1::Schedule, Fault> {
    let shown = request.schedule.ok_or_else(|| Fault::invalid("schedule", "must be set"))?;
    let name: ScheduleName = name_in("schedule.name", &shown.name)?;
    let fields = mask(request.update_mask, &FIELDS)?;
    let named = |field: &str| fields.iter().any(|named| named == field);
    let catch_up = if named("catch_up_window") { Some(catch_up_in(shown.catch_up_window)?) } else { None };
    let parts = (name.job.clone(), name.schedule.clone());
    plane
        .mutate(|state, now| {
            let found = find(state, &name)?;
            check_etag(&name.name(), &shown.etag, found)?;
            let mut record = found.record.clone();
            if named("cron") {
                record.cron.clone_from(&shown.cron);
            }
            if named("time_zone") {
                record.time_zone = zone_in(shown.time_zone.clone());
            }
            if named("retention") {
                record.retention = or_default(shown.retention, DEFAULT_RETENTION);
            }
            if named("paused") {
                record.paused = shown.paused;
            }
            if let Some(seconds) = catch_up {
                record.catch_up_seconds = seconds;
            }
            rule_in(&record.cron, &record.time_zone)?;
            let mut change = Change::new().unchanged(Key::Schedule(name.job.clone(), name.schedule.clone()), found);
            // A new rule begins now; what fell due under the old one, or while paused, is not made up for.
            if named("cron") || named("time_zone") || named("paused") {
                let cursor = state.cursors.get(&parts);
                let last = cursor.and_then(|cursor| cursor.record.last);
                let settled = cursor.map_or(now, |cursor| cursor.record.settled.max(now));
                change = change
                    .unchanged_or_absent(Key::Cursor(name.job.clone(), name.schedule.clone()), cursor)
                    .put(Entry::Cursor(parts.clone(), CursorRecord { settled, last }));
            }
            Ok((change.put(Entry::Schedule(parts.clone(), record)), ()))
        })
        .await?;
    look(plane, &name)
}

pub(super) async fn delete(plane: &Plane, request: v1::DeleteScheduleRequest) -> Result<(), Fault> {
    let name: ScheduleName = name_in("name", &request.name)?;
    plane
        .mutate(|state, _| {
            let found = find(state, &name)?;
            check_etag(&name.name(), &request.etag, found)?;
            let key = Key::Schedule(name.job.clone(), name.schedule.clone());
            let change = Change::new()
                .unchanged(key.clone(), found)
                .delete(key)
                .delete(Key::Cursor(name.job.clone(), name.schedule.clone()));
            Ok((change, ()))
        })
        .await
}
