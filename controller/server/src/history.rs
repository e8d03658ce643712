//! History records: the tasks of an ended run, as one compressed value. Key `history/{run}`: zstd over JSON, one array
//! of `[task id, task]` in the order of the plan.

use coffer_core::decide::TaskKey;
use coffer_core::record::{LogLine, Severity, TaskRecord};
use coffer_model::{RunId, TaskId};
use coffer_store::{Op, PutLease, StateStore};
use jiff::Timestamp;

use crate::fault::Fault;

/// Most bytes that a record may unfold to; a bound against a damaged store.
const UNFOLDED: u64 = 512 * 1024 * 1024;
const LEVEL: i32 = 9;

fn key(run: &RunId) -> String {
    format!("{}history/{run}", coffer_core::state::ROOT)
}

/// Folds tasks into a value of at most `most` bytes. What does not fit loses its log first, then its steps and disks,
/// and says so.
pub(crate) fn fold(tasks: &[(TaskId, TaskRecord)], most: usize, now: Timestamp) -> Result<Vec<u8>, std::io::Error> {
    let mut tasks = tasks.to_vec();
    tasks.sort_by_key(|(_, task)| task.index);
    let full = pack(&tasks)?;
    if full.len() <= most {
        return Ok(full);
    }
    let note = |text: &str| LogLine { time: now, severity: Severity::Warning, message: text.to_owned() };
    for (_, task) in &mut tasks {
        task.log.retain(|line| line.severity == Severity::Error);
        let surplus = task.log.len().saturating_sub(5);
        task.log.drain(..surplus);
        task.log.push(note("the log was shortened: the history of this run is too large"));
    }
    let short = pack(&tasks)?;
    if short.len() <= most {
        return Ok(short);
    }
    for (_, task) in &mut tasks {
        task.steps.clear();
        task.disks.clear();
        task.log = vec![note("steps, disks and log were left out: the history of this run is too large")];
    }
    let bare = pack(&tasks)?;
    if bare.len() <= most {
        return Ok(bare);
    }
    // Some thousands of failed tasks may each have a long message.
    for (_, task) in &mut tasks {
        task.log.clear();
        if let Some(problem) = &mut task.problem {
            problem.message = problem.message.chars().take(120).collect();
            problem.advice.clear();
        }
    }
    pack(&tasks)
}

fn pack(tasks: &[(TaskId, TaskRecord)]) -> Result<Vec<u8>, std::io::Error> {
    zstd::encode_all(serde_json::to_vec(tasks)?.as_slice(), LEVEL)
}

/// Writes a record.
pub(crate) fn put(run: &RunId, value: Vec<u8>) -> Op {
    Op::Put { key: key(run), value: value.into(), lease: PutLease::None }
}

/// Deletes a record.
pub(crate) fn delete(run: &RunId) -> Op {
    Op::Delete { key: key(run) }
}

/// Reads a record.
pub(crate) async fn read(store: &dyn StateStore, run: &RunId) -> Result<Vec<(TaskKey, TaskRecord)>, Fault> {
    let key = key(run);
    let found = store.get(&key).await.map_err(Fault::Store)?;
    let found = found.ok_or_else(|| Fault::NotFound { name: format!("the history of runs/{run}") })?;
    let tasks = unfold(&found.value).map_err(|source| Fault::Broken { what: key, source: source.into() })?;
    Ok(tasks.into_iter().map(|(id, task)| ((run.clone(), id), task)).collect())
}

fn unfold(value: &[u8]) -> Result<Vec<(TaskId, TaskRecord)>, std::io::Error> {
    let plain = std::io::Read::take(zstd::Decoder::new(value)?, UNFOLDED);
    Ok(serde_json::from_reader(std::io::BufReader::new(plain))?)
}
