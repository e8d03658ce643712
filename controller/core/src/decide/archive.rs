//! What becomes of runs that have ended: their tasks are folded into one record, old runs go.

use std::collections::BTreeMap;

use coffer_model::RunId;
use jiff::{SignedDuration, Timestamp};

use super::run_key;
use crate::change::Change;
use crate::record::{Plan, RunRecord};
use crate::state::{Entry, Key, State};

/// Most task keys that one change deletes.
const CHUNK: usize = 100;

/// Runs that ended long enough ago and whose tasks are not folded yet.
#[must_use]
pub fn to_fold(state: &State, now: Timestamp, after: SignedDuration) -> Vec<RunId> {
    let due = |run: &RunRecord| run.ended.is_some_and(|ended| now.duration_since(ended) >= after);
    let ended = state.runs.iter().filter(|(_, run)| !run.record.archived && due(&run.record));
    ended.map(|((run,), _)| run.clone()).collect()
}

/// Marks a run as folded; written together with its history record.
#[must_use]
pub fn mark_folded(state: &State, run: &RunId) -> Option<Change> {
    let found = state.run(run)?;
    let mut record = found.record.clone();
    record.ended?;
    record.archived = true;
    Some(Change::new().unchanged(run_key(run), found).put(Entry::Run((run.clone(),), record)))
}

/// Deletes the keys of tasks that are in their run's history record, some at a time.
#[must_use]
pub fn drop_folded(state: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    for ((run,), found) in &state.runs {
        if !found.record.archived {
            continue;
        }
        let tasks: Vec<Key> = state.tasks_of(run).map(|(name, _)| super::task_key(name)).collect();
        for chunk in tasks.chunks(CHUNK) {
            let mut change = Change::new().unchanged(run_key(run), found);
            for key in chunk {
                change = change.delete(key.clone());
            }
            changes.push(change);
        }
    }
    changes
}

/// Ended, folded runs beyond the newest `kept` of their job, or of their kind where they have none.
#[must_use]
pub fn to_forget(state: &State, kept: usize) -> Vec<(RunId, Change)> {
    let mut groups: BTreeMap<String, Vec<(Timestamp, &RunId)>> = BTreeMap::new();
    for ((run,), found) in &state.runs {
        if found.record.archived {
            groups.entry(group(&found.record.plan)).or_default().push((found.record.created, run));
        }
    }
    let mut forgotten = Vec::new();
    for mut runs in groups.into_values() {
        runs.sort();
        let surplus = runs.len().saturating_sub(kept);
        for (_, run) in runs.into_iter().take(surplus) {
            let Some(found) = state.run(run) else { continue };
            let mut change = Change::new().unchanged(run_key(run), found).delete(run_key(run));
            for ((restore,), asked) in &state.restores {
                if asked.record.run == *run {
                    change = change.delete(Key::Restore(*restore));
                }
            }
            forgotten.push((run.clone(), change));
        }
    }
    forgotten
}

fn group(plan: &Plan) -> String {
    match plan {
        Plan::Backup { job, .. } => format!("job {job}"),
        Plan::Restore { .. } => "restore".into(),
        Plan::Verify { .. } => "verify".into(),
        Plan::Export { .. } => "export".into(),
        Plan::Delete { .. } => "delete".into(),
        Plan::Scan { .. } => "scan".into(),
        Plan::Prune { .. } => "prune".into(),
    }
}
