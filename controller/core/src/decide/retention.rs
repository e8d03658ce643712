//! Retention of one virtual machine on the remotes of a task, after it published.
//!
//! The counting is the model's; here is what it counts over, and that what goes is hidden before anything is deleted.

use std::num::NonZeroU32;

use coffer_model::retention::{self, Label, Point, Policy, Verdict};
use coffer_model::{JobId, RestorePointId};
use jiff::Timestamp;

use super::work::{Caller, Refusal, check_held};
use super::{holder, places, task_key};
use crate::change::Change;
use crate::record::{PointRecord, PointState, Subject};
use crate::state::{Entry, Key, LIVE, State, Versioned};

/// Most restore points that one change hides; what is left goes next time.
const CHUNK: usize = 30;

/// What is to be deleted, and why each point stays or goes.
#[derive(Debug, PartialEq)]
pub struct Retention {
    /// Hides what goes; empty when all of it is hidden already.
    pub change: Change,
    /// Points to delete.
    pub delete: Vec<(RestorePointId, PointRecord)>,
    /// One line per point.
    pub explanation: Vec<String>,
}

/// Decides about all restore points of the task's virtual machine on its remotes. `published` are points that the task
/// has made but not completed: they count as the newest, and stay.
///
/// # Errors
/// When the task is not the caller's, or is no backup.
pub fn plan(
    state: &State,
    caller: &Caller,
    published: &[(RestorePointId, PointRecord)],
    now: Timestamp,
) -> Result<Retention, Refusal> {
    check_held(state, caller)?;
    let fenced = || Refusal::Fenced { task: caller.task.1.to_string(), epoch: caller.epoch };
    let task = state.task(&caller.task).ok_or_else(fenced)?;
    let Subject::Vm { vm, .. } = &task.record.subject else {
        return Err(Refusal::NotOfTask { what: format!("task {} keeps no restore points", caller.task.1) });
    };
    for (id, _) in published {
        if id.task != caller.task.1 || !task.record.grants.iter().any(|grant| grant.remote == id.remote) {
            return Err(Refusal::NotOfTask {
                what: format!("restore point {id} was not made by task {}, or was never permitted", caller.task.1),
            });
        }
    }
    let remotes = places(&task.record).remotes;
    let on_remotes =
        || state.points.iter().filter(|((id,), point)| point.record.vm == *vm && remotes.contains(&&id.remote));
    let known = on_remotes()
        .filter(|(_, point)| point.record.state == PointState::Listed)
        .map(|((id,), point)| (id, &point.record));
    let fresh =
        published.iter().map(|(id, point)| (id, point)).filter(|(id, _)| !state.points.contains_key(&((*id).clone(),)));
    let points: Vec<Point> = known
        .chain(fresh)
        .map(|(id, point)| Point {
            id: id.clone(),
            vm: point.vm,
            time: point.time,
            label: point.job.clone().map(|job| Label { job, schedule: point.schedule.clone() }),
            pinned: id.task == caller.task.1 || super::plan::pins(state, id).next().is_some(),
            damaged: !point.damage.is_empty(),
        })
        .collect();
    let decisions = retention::decide(&points, &policy(state, &points), now);
    let explanation = decisions.iter().map(ToString::to_string).collect();
    let mut change = Change::new().unchanged(task_key(&caller.task), task);
    // What somebody began to delete and did not finish goes along.
    let mut delete: Vec<(RestorePointId, PointRecord)> = on_remotes()
        .filter(|(_, point)| match &point.record.state {
            PointState::Listed => false,
            PointState::Deleting { by } => {
                *by == holder(&caller.task) || !state.open.contains_key(&(by.run.clone(), by.task))
            }
        })
        .map(|((id,), point)| (id.clone(), point.record.clone()))
        .collect();
    // Nobody may take away meanwhile what stays because of the others.
    for remote in &remotes {
        let keeper = decisions.iter().find(|decision| {
            let good = state.points.get(&(decision.id.clone(),)).is_some_and(|point| point.record.damage.is_empty());
            decision.verdict == Verdict::Keep && decision.id.remote == **remote && good
        });
        if let Some((id, found)) =
            keeper.and_then(|keeper| Some((&keeper.id, state.points.get(&(keeper.id.clone(),))?)))
        {
            change = change.unchanged(Key::Point(id.clone()), found);
        }
    }
    let goes = decisions.into_iter().filter(|decision| decision.verdict == Verdict::Delete);
    for decision in goes.take(CHUNK) {
        let id = decision.id;
        let Some(found) = state.points.get(&(id.clone(),)) else { continue };
        let mut record = found.record.clone();
        record.state = PointState::Deleting { by: holder(&caller.task) };
        change = change
            .unchanged(Key::Point(id.clone()), found)
            .none_under(format!("{LIVE}pin/{id}/"))
            .put(Entry::Point((id.clone(),), record.clone()));
        delete.push((id, record));
    }
    Ok(Retention { change, delete, explanation })
}

/// How many each rhythm keeps; a rhythm whose job or schedule is gone is not in it.
fn policy(state: &State, points: &[Point]) -> Policy {
    let count = |label: &Label| -> Option<NonZeroU32> {
        let job: &JobId = &label.job;
        match &label.schedule {
            Some(schedule) => state.schedules.get(&(job.clone(), schedule.clone())).map(|found| found.record.retention),
            None => state.jobs.get(&(job.clone(),)).map(|found| found.record.job.manual_retention),
        }
    };
    points
        .iter()
        .filter_map(|point| point.label.as_ref())
        .filter_map(|label| Some((label.clone(), count(label)?)))
        .collect()
}

/// A good restore point of the same virtual machine on the same remote that stays when `going` are deleted.
#[must_use]
pub fn keeper<'a>(
    state: &'a State,
    of: &RestorePointId,
    going: &[RestorePointId],
) -> Option<(&'a RestorePointId, &'a Versioned<PointRecord>)> {
    let vm = state.points.get(&(of.clone(),))?.record.vm;
    let stays = |id: &RestorePointId, point: &PointRecord| {
        id.remote == of.remote
            && point.vm == vm
            && point.state == PointState::Listed
            && point.damage.is_empty()
            && !going.contains(id)
    };
    state.points.iter().find(|((id,), point)| stays(id, &point.record)).map(|((id,), point)| (id, point))
}
