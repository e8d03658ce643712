//! Cancelling: the wish is written into the run; what waits ends at once, what is held is told by Sync.

use coffer_model::RunId;
use jiff::Timestamp;

use super::{TaskKey, run_key, work};
use crate::change::Change;
use crate::state::{Entry, State};
use crate::task_state::{Purpose, TaskState, Verdict};

/// Writes down that a run is to stop; nothing when it has ended or was asked before.
#[must_use]
pub fn request(state: &State, run: &RunId) -> Option<Change> {
    let found = state.run(run)?;
    if found.record.verdict().is_some() || found.record.cancel_requested {
        return None;
    }
    let mut record = found.record.clone();
    record.cancel_requested = true;
    Some(Change::new().unchanged(run_key(run), found).put(Entry::Run((run.clone(),), record)))
}

/// Ends the tasks of cancelled runs that nobody holds and that left nothing behind.
#[must_use]
pub fn sweep(state: &State, now: Timestamp) -> Vec<(TaskKey, Change)> {
    let mut changes = Vec::new();
    for (name, task) in state.open_tasks() {
        let cancelled = state.run(&name.0).is_some_and(|run| run.record.cancel_requested);
        let idle = match task.record.state {
            TaskState::Waiting { .. } => true,
            // Somebody has to find out what a grant has come to.
            TaskState::Recovering { purpose: Purpose::Recover | Purpose::Work } => task.record.grants.is_empty(),
            _ => false,
        };
        if cancelled
            && idle
            && !task.record.has_open_intents()
            && let Ok(change) = work::end_idle(state, name, task, Verdict::Cancelled, now)
        {
            changes.push((name.clone(), change));
        }
    }
    changes
}
