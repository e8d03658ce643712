//! The end of a run: when none of its tasks is open, and how it is called.

use coffer_model::RunId;
use jiff::Timestamp;

use super::run_key;
use crate::change::Change;
use crate::record::{Counts, RunState, RunVerdict, Transfer};
use crate::state::{Entry, LIVE, State};
use crate::task_state::{TaskState, Verdict};

/// How many tasks of a run are in which state now.
#[must_use]
pub fn counts(state: &State, run: &RunId) -> Counts {
    let mut counts = Counts::default();
    for (_, task) in state.tasks_of(run) {
        counts.total += 1;
        match task.record.state {
            TaskState::Waiting { .. } => counts.waiting += 1,
            TaskState::Ended { verdict: Verdict::Succeeded } => counts.succeeded += 1,
            TaskState::Ended { verdict: Verdict::Skipped } => {}
            TaskState::Ended { .. } => counts.failed += 1,
            _ => counts.running += 1,
        }
    }
    counts
}

/// What the tasks of a run moved so far.
#[must_use]
pub fn transfer(state: &State, run: &RunId) -> Transfer {
    state.tasks_of(run).flat_map(|(_, task)| task.record.disks.iter().map(|disk| disk.transfer)).sum()
}

/// Ends a run whose tasks have all ended; nothing when it is not so.
#[must_use]
pub fn finish(state: &State, run: &RunId, now: Timestamp) -> Option<Change> {
    let found = state.run(run)?;
    if found.record.state != RunState::Active
        || state
            .open
            .range((run.clone(), coffer_model::TaskId::new(uuid::Uuid::nil()))..)
            .next()
            .is_some_and(|((of, _), _)| of == run)
    {
        return None;
    }
    let verdicts: Vec<Verdict> = state.tasks_of(run).filter_map(|(_, task)| task.record.state.verdict()).collect();
    let mut record = found.record.clone();
    let (verdict, message) = verdict(&verdicts, record.cancel_requested, !record.message.is_empty());
    record.state = RunState::Ended { verdict };
    if record.message.is_empty() {
        record.message = message;
    }
    record.ended = Some(now);
    record.counts = counts(state, run);
    record.transfer = transfer(state, run);
    Some(
        Change::new()
            .unchanged(run_key(run), found)
            .none_under(format!("{LIVE}open/{run}/"))
            .put(Entry::Run((run.clone(),), record)),
    )
}

/// How a run is called whose tasks ended so; `incomplete`: not everything could be planned.
fn verdict(tasks: &[Verdict], cancelled: bool, incomplete: bool) -> (RunVerdict, String) {
    let count = |of: Verdict| tasks.iter().filter(|verdict| **verdict == of).count();
    let (total, succeeded, skipped) = (tasks.len(), count(Verdict::Succeeded), count(Verdict::Skipped));
    let (interrupted, stopped) = (count(Verdict::Interrupted), count(Verdict::Cancelled));
    if cancelled && (stopped > 0 || total == 0) {
        return (RunVerdict::Cancelled, format!("cancelled; {succeeded} of {total} tasks had succeeded before"));
    }
    if total == 0 && incomplete {
        return (RunVerdict::Failed, String::new());
    }
    if total == 0 {
        return (RunVerdict::Succeeded, "there was nothing to do".into());
    }
    if succeeded == total && !incomplete {
        return (RunVerdict::Succeeded, String::new());
    }
    if succeeded > 0 {
        return (RunVerdict::Partial, format!("{succeeded} of {total} tasks succeeded"));
    }
    if skipped == total {
        return (RunVerdict::Skipped, "nothing was started; the tasks say why".into());
    }
    if interrupted > 0 && interrupted + skipped == total {
        return (RunVerdict::Interrupted, "agents were lost and no other could go on".into());
    }
    (RunVerdict::Failed, format!("none of {total} tasks succeeded"))
}
