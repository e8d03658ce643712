//! The decisions. Each is a function of the [`State`] as it was read, and of time where it says so; each returns
//! [`Change`]s that are refused by the store when what they were decided on is no longer true.

pub mod archive;
pub mod cancel;
pub mod dispatch;
pub mod finish;
pub mod identity;
pub mod plan;
pub mod retention;
pub mod session;
pub mod tick;
pub mod work;

use jiff::Timestamp;

use crate::change::Change;
use crate::record::{LeftoverRecord, LockRecord, Problem, Severity, SlotRecord, Subject, TaskRecord, Work};
use crate::record::{LogLine, RunRecord};
use crate::slot::{Counter, Dimension};
use crate::state::{Entry, Key, State, Versioned};
use crate::task_state::{Event, IllegalMove, Purpose, Verdict};
use coffer_model::{RemoteId, RunId, TaskId, TaskName};

/// The name of a task: its run, and its id.
pub type TaskKey = (RunId, TaskId);

/// How often a task that was given up is delivered once more to undo what is open.
pub const CLEANUPS: u32 = 3;

pub(crate) fn task_key(name: &TaskKey) -> Key {
    Key::Task(name.0.clone(), name.1)
}

pub(crate) fn run_key(run: &RunId) -> Key {
    Key::Run(run.clone())
}

pub(crate) fn holder(name: &TaskKey) -> TaskName {
    TaskName { run: name.0.clone(), task: name.1 }
}

impl State {
    /// A task.
    #[must_use]
    pub fn task(&self, name: &TaskKey) -> Option<&Versioned<TaskRecord>> {
        self.tasks.get(name)
    }

    /// A run.
    #[must_use]
    pub fn run(&self, run: &RunId) -> Option<&Versioned<RunRecord>> {
        self.runs.get(&(run.clone(),))
    }

    /// The tasks of a run, by id.
    pub fn tasks_of<'a>(
        &'a self,
        run: &RunId,
    ) -> impl Iterator<Item = (&'a TaskKey, &'a Versioned<TaskRecord>)> + use<'a> {
        let run = run.clone();
        self.tasks.range((run.clone(), TaskId::new(uuid::Uuid::nil()))..).take_while(move |((of, _), _)| *of == run)
    }

    /// Tasks that have not ended.
    pub fn open_tasks(&self) -> impl Iterator<Item = (&TaskKey, &Versioned<TaskRecord>)> {
        self.open.keys().filter_map(|name| self.tasks.get_key_value(name))
    }

    /// The lock that a task's work needs, with what is known of it; `None` when it needs none.
    pub(crate) fn lock_of(&self, task: &TaskRecord) -> Option<(Key, Option<&Versioned<LockRecord>>)> {
        match (&task.subject, &task.work) {
            (Subject::Vm { pool, vm }, _) => {
                let parts = (pool.clone(), *vm);
                Some((Key::VmLock(parts.0.clone(), parts.1), self.vm_locks.get(&parts)))
            }
            (Subject::Remote { remote }, _) => {
                Some((Key::RemoteLock(remote.clone()), self.remote_locks.get(&(remote.clone(),))))
            }
            (Subject::Point { .. }, _) => None,
        }
    }
}

pub(crate) fn put_lock(change: Change, key: &Key, record: LockRecord) -> Change {
    match key {
        Key::VmLock(pool, vm) => change.put(Entry::VmLock((pool.clone(), *vm), record)),
        Key::RemoteLock(remote) => change.put(Entry::RemoteLock((remote.clone(),), record)),
        _ => change,
    }
}

pub(crate) fn put_task(change: Change, name: &TaskKey, record: TaskRecord) -> Change {
    change.put(Entry::Task(name.clone(), record))
}

pub(crate) fn put_slot(change: Change, slot: &crate::slot::SlotName, of: &TaskKey) -> Change {
    change.put(Entry::Slot(SlotRecord::key_of(slot), SlotRecord { holder: holder(of) }))
}

/// Moves a task.
pub(crate) fn step(task: &mut TaskRecord, event: Event) -> Result<(), IllegalMove> {
    task.state = task.state.clone().after(event)?;
    Ok(())
}

/// Frees the slots and the lock of a task; adds the guards that this needs.
pub(crate) fn free(state: &State, mut change: Change, task: &mut TaskRecord, name: &TaskKey) -> Change {
    for slot in task.slots.drain(..) {
        let (dimension, id, number) = SlotRecord::key_of(&slot);
        change = change.delete(Key::Slot(dimension, id, number));
    }
    if let Some((key, Some(lock))) = state.lock_of(task)
        && lock.record.holder.as_ref() == Some(&holder(name))
    {
        change = change.unchanged(key.clone(), lock);
        change = put_lock(change, &key, LockRecord { epoch: lock.record.epoch, holder: None });
    }
    change
}

/// Ends a task: frees what it holds, strikes it from the open ones, hands what could not be undone to a later task.
/// Writes the task.
pub(crate) fn end(
    state: &State,
    change: Change,
    mut task: TaskRecord,
    name: &TaskKey,
    verdict: Verdict,
    now: Timestamp,
) -> Result<Change, IllegalMove> {
    step(&mut task, Event::Ended(verdict))?;
    task.ended = Some(now);
    let mut change = free(state, change, &mut task, name);
    change = change.delete(Key::Open(name.0.clone(), name.1));
    if let Subject::Point { point } = &task.subject {
        change = change.delete(Key::Pin(point.clone(), name.1));
    }
    for intent in std::mem::take(&mut task.intents) {
        task.note(LogLine {
            time: now,
            severity: Severity::Error,
            message: format!(
                "{} on {} could not be undone; the next task on {} will try again",
                intent.kind, intent.target, task.subject
            ),
        });
        change = change.put(Entry::Leftover(
            (intent.pool.clone(), intent.id.clone()),
            LeftoverRecord { subject: task.subject.clone(), intent },
        ));
    }
    Ok(put_task(change, name, task))
}

/// Ends a task with a verdict, or has what it left undone first. Writes the task.
pub(crate) fn end_or_tidy(
    state: &State,
    change: Change,
    mut task: TaskRecord,
    name: &TaskKey,
    verdict: Verdict,
    now: Timestamp,
) -> Result<Change, IllegalMove> {
    if task.has_open_intents() && task.cleanups < CLEANUPS {
        step(&mut task, Event::TakenOver(Purpose::Cleanup { verdict }))?;
        task.queued = now;
        let change = raise_epoch(state, change, &mut task, name);
        return Ok(put_task(change, name, task));
    }
    end(state, change, task, name, verdict, now)
}

/// Gives a task that keeps its lock a new epoch, so that whoever held it is refused from now on.
pub(crate) fn raise_epoch(state: &State, change: Change, task: &mut TaskRecord, name: &TaskKey) -> Change {
    task.last_op = crate::record::Operation::default();
    match state.lock_of(task) {
        Some((key, Some(lock))) if lock.record.holder.as_ref() == Some(&holder(name)) => {
            task.epoch = lock.record.epoch + 1;
            let change = change.unchanged(key.clone(), lock);
            put_lock(change, &key, LockRecord { epoch: task.epoch, holder: Some(holder(name)) })
        }
        _ => {
            task.epoch += 1;
            change
        }
    }
}

/// What a task has to reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places<'a> {
    /// The pool.
    pub pool: Option<&'a coffer_model::PoolId>,
    /// The remotes.
    pub remotes: Vec<&'a RemoteId>,
}

/// What a task has to reach.
#[must_use]
pub fn places(task: &TaskRecord) -> Places<'_> {
    let pool_of_subject = match &task.subject {
        Subject::Vm { pool, .. } => Some(pool),
        Subject::Point { .. } | Subject::Remote { .. } => None,
    };
    match &task.work {
        Work::Backup { remotes, .. } => Places { pool: pool_of_subject, remotes: remotes.iter().collect() },
        Work::Restore { remote, pool, .. } => Places { pool: Some(pool), remotes: vec![remote] },
        Work::Verify { remote } | Work::Export { remote, .. } | Work::Delete { remote } => {
            Places { pool: None, remotes: vec![remote] }
        }
        Work::Scan | Work::Prune { .. } => Places {
            pool: None,
            remotes: match &task.subject {
                Subject::Remote { remote } => vec![remote],
                Subject::Vm { .. } | Subject::Point { .. } => Vec::new(),
            },
        },
    }
}

/// The limits that a task counts against, each with its height and the key whose change would change it.
pub(crate) fn limits(state: &State, task: &TaskRecord) -> Vec<Limit> {
    let mut limits = Vec::new();
    if let Work::Backup { job, .. } = &task.work {
        let found = state.jobs.get(&(job.clone(),));
        limits.push(Limit {
            counter: Counter { dimension: Dimension::Job, id: job.to_string() },
            height: found.map_or(coffer_model::job::DEFAULT_CONCURRENCY, |job| job.record.job.concurrency).get(),
            key: Key::Job(job.clone()),
            modified: found.map(|job| job.modified),
        });
    }
    let places = places(task);
    if let Some((pool, found)) = places.pool.and_then(|pool| Some((pool, state.pools.get(&(pool.clone(),))?)))
        && found.record.max_concurrent_tasks > 0
    {
        limits.push(Limit {
            counter: Counter { dimension: Dimension::Pool, id: pool.to_string() },
            height: found.record.max_concurrent_tasks,
            key: Key::Pool(pool.clone()),
            modified: Some(found.modified),
        });
    }
    for remote in places.remotes {
        if let Some(found) = state.remotes.get(&(remote.clone(),))
            && found.record.max_concurrent_tasks > 0
        {
            limits.push(Limit {
                counter: Counter { dimension: Dimension::Remote, id: remote.to_string() },
                height: found.record.max_concurrent_tasks,
                key: Key::Remote(remote.clone()),
                modified: Some(found.modified),
            });
        }
    }
    limits
}

/// A counted limit as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) counter: Counter,
    pub(crate) height: u32,
    pub(crate) key: Key,
    pub(crate) modified: Option<u64>,
}

pub(crate) fn lost(task: &TaskRecord) -> Problem {
    let agent = task.agent.as_ref().map_or_else(|| "its agent".to_owned(), |agent| format!("agent {agent}"));
    Problem::lasting(
        "AGENT_LOST",
        format!(
            "{agent} was lost while it worked on {} (attempt {} of {})",
            task.label, task.attempt, task.max_attempts
        ),
        "look at the agent's log and machine; the next run tries again",
    )
}
