//! Ticks of schedules: each makes exactly one run, whoever looks, however often.

use std::time::Duration;

use coffer_model::schedule::{Cron, CronError, due};
use coffer_model::{JobId, RunId, ScheduleId};
use jiff::Timestamp;

use super::run_key;
use crate::change::Change;
use crate::record::{CursorRecord, JobRecord, Plan, RunRecord, RunState, RunVerdict, ScheduleRecord};
use crate::state::{Entry, Key, State, Versioned};

/// The run of a schedule's tick, or that ticks were passed over; nothing when none has come.
///
/// # Errors
/// When the rule cannot be read any more (it was checked when it was set).
pub fn fire(state: &State, job: &JobId, schedule: &ScheduleId, now: Timestamp) -> Result<Option<Change>, CronError> {
    let parts = (job.clone(), schedule.clone());
    let (Some(rule), Some(cursor), Some(of)) =
        (state.schedules.get(&parts), state.cursors.get(&parts), state.jobs.get(&(job.clone(),)))
    else {
        return Ok(None);
    };
    if rule.record.paused || of.record.job.paused {
        return Ok(None);
    }
    let cron = cron(&rule.record)?;
    let due = due(&cron, cursor.record.settled, now, Duration::from_secs(rule.record.catch_up_seconds));
    if due.cursor == cursor.record.settled {
        return Ok(None);
    }
    let mut moved = CursorRecord { settled: due.cursor, last: cursor.record.last };
    let mut change = Change::new()
        .unchanged(Key::Schedule(job.clone(), schedule.clone()), rule)
        .unchanged(Key::Cursor(job.clone(), schedule.clone()), cursor)
        .unchanged(Key::Job(job.clone()), of);
    if let Some(tick) = due.fire {
        moved.last = Some(tick.0);
        let run = RunId::of_tick(job, schedule, tick.0);
        change = change.absent(run_key(&run)).put(Entry::Run((run,), run_of(state, of, schedule, now)));
    }
    Ok(Some(change.put(Entry::Cursor(parts, moved))))
}

fn run_of(state: &State, job: &Versioned<JobRecord>, schedule: &ScheduleId, now: Timestamp) -> RunRecord {
    let job = &job.record.job;
    let plan = backup_plan(job, Some(schedule.clone()));
    let mut run = RunRecord::new(plan, now);
    if let Some(earlier) = unfinished(state, &job.id, schedule) {
        run.state = RunState::Ended { verdict: RunVerdict::Skipped };
        run.ended = Some(now);
        run.message = format!("nothing was started: run {earlier} of this schedule is not over yet");
        return run;
    }
    run
}

/// What a run of a job does.
#[must_use]
pub fn backup_plan(job: &coffer_model::Job, schedule: Option<ScheduleId>) -> Plan {
    Plan::Backup {
        job: job.id.clone(),
        schedule,
        selection: job.selection.clone(),
        remotes: job.remotes.clone(),
        max_attempts: job.max_attempts.get(),
    }
}

fn unfinished<'a>(state: &'a State, job: &JobId, schedule: &ScheduleId) -> Option<&'a RunId> {
    let ours = |run: &RunRecord| matches!(&run.plan, Plan::Backup { job: of, schedule: Some(by), .. } if of == job && by == schedule);
    state.runs.iter().find(|(_, run)| run.record.verdict().is_none() && ours(&run.record)).map(|((run,), _)| run)
}

/// The rule of a schedule, compiled.
///
/// # Errors
/// When it cannot be read.
pub fn cron(schedule: &ScheduleRecord) -> Result<Cron, CronError> {
    Cron::parse(&schedule.cron, &schedule.time_zone)
}
