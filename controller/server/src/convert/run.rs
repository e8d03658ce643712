//! Runs, as clients see them.

use coffer_core::record::{Counts, Plan, RunRecord, RunState, RunVerdict, Transfer};
use coffer_model::names::Named;
use coffer_model::{JobId, RunId, ScheduleId, ScheduleName};
use coffer_proto::v1;

use super::task::transfer_out;
use super::time_out;

/// A run; counts and sums as they are now.
pub(crate) fn run_out(id: &RunId, run: &RunRecord, counts: Counts, transfer: Transfer) -> v1::Run {
    let (job, schedule) = origin(&run.plan);
    v1::Run {
        name: id.name(),
        kind: kind(&run.plan).into(),
        job: job.map(Named::name).unwrap_or_default(),
        schedule: job.zip(schedule).map(|(job, schedule)| schedule_name(job, schedule)).unwrap_or_default(),
        state: state(&run.state).into(),
        message: run.message.clone(),
        create_time: Some(time_out(run.created)),
        end_time: run.ended.map(time_out),
        tasks: Some(v1::TaskCounts {
            total: counts.total,
            waiting: counts.waiting,
            running: counts.running,
            succeeded: counts.succeeded,
            failed: counts.failed,
        }),
        transfer: Some(transfer_out(transfer)),
        retry_of: run.retry_of.as_ref().map(Named::name).unwrap_or_default(),
        cancel_requested: run.cancel_requested,
    }
}

/// `jobs/{job}/schedules/{schedule}`.
pub(crate) fn schedule_name(job: &JobId, schedule: &ScheduleId) -> String {
    ScheduleName { job: job.clone(), schedule: schedule.clone() }.name()
}

/// The job and the schedule that a run belongs to.
pub(crate) fn origin(plan: &Plan) -> (Option<&JobId>, Option<&ScheduleId>) {
    match plan {
        Plan::Backup { job, schedule, .. } => (Some(job), schedule.as_ref()),
        _ => (None, None),
    }
}

fn kind(plan: &Plan) -> v1::run::Kind {
    use v1::run::Kind;
    match plan {
        Plan::Backup { .. } => Kind::Backup,
        Plan::Restore { .. } => Kind::Restore,
        Plan::Verify { .. } => Kind::Verify,
        Plan::Export { .. } => Kind::Export,
        Plan::Delete { .. } => Kind::Delete,
        Plan::Scan { .. } => Kind::Scan,
        Plan::Prune { .. } => Kind::Prune,
    }
}

fn state(state: &RunState) -> v1::run::State {
    use v1::run::State;
    match state {
        RunState::Planning { .. } => State::Planning,
        RunState::Active => State::Active,
        RunState::Ended { verdict } => match verdict {
            RunVerdict::Succeeded => State::Succeeded,
            RunVerdict::Partial => State::Partial,
            RunVerdict::Failed => State::Failed,
            RunVerdict::Cancelled => State::Cancelled,
            RunVerdict::Skipped => State::Skipped,
            RunVerdict::Interrupted => State::Interrupted,
        },
    }
}
