//! What agents record about the tasks they hold: steps, permission to publish, the end.
//!
//! Every operation carries the session, the task, its epoch and a number. What comes from another session or epoch is
//! refused; what comes again is answered again and not done again.

use coffer_model::{AgentId, RemoteId, RestorePointId, VmUuid};
use jiff::{SignedDuration, Timestamp};

use super::{TaskKey, end, end_or_tidy, free, put_task, run_key, step, task_key};
use crate::change::Change;
use crate::record::{
    Completion, DISKS, Disk, Grant, Intent, LogLine, OPEN_INTENTS, Operation, PointRecord, PointState, Problem,
    RunRecord, STEPS, SessionRecord, Severity, Step, StepState, Subject, TaskRecord, Work,
};
use crate::state::{Entry, Key, State, Versioned};
use crate::task_state::{Event, IllegalMove, Purpose, Verdict};

/// Who calls about what.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The session.
    pub session: String,
    /// The task.
    pub task: TaskKey,
    /// Its epoch.
    pub epoch: u64,
}

/// Why an agent's call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such session (any more).
    #[error("the session is over; register again")]
    UnknownSession,
    /// The task is not the caller's any more.
    #[error("task {task} is not held by this session with epoch {epoch}; drop it and touch nothing more of it")]
    Fenced {
        /// The task.
        task: String,
        /// The epoch that was shown.
        epoch: u64,
    },
    /// Operations are missing before this one.
    #[error("operation {got} of task {task} came before operation {expected}")]
    OutOfOrder {
        /// The task.
        task: String,
        /// The number that has to come next.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// The number was used for something else.
    #[error("operation {seq} of task {task} was something else before")]
    NumberReused {
        /// The task.
        task: String,
        /// The number.
        seq: u64,
    },
    /// The run is being cancelled, or the task was given up.
    #[error("task {task} was cancelled; undo, then complete it as cancelled")]
    Cancelled {
        /// The task.
        task: String,
    },
    /// Another snapshot was permitted in this epoch.
    #[error("task {task} may already publish snapshot {snapshot_id} on remote {remote}")]
    AlreadyGranted {
        /// The task.
        task: String,
        /// The remote.
        remote: RemoteId,
        /// The snapshot.
        snapshot_id: String,
    },
    /// What is reported does not belong to the task.
    #[error("{what}")]
    NotOfTask {
        /// What, in words.
        what: String,
    },
    /// Too much of something.
    #[error("task {task} has more than {most} {of}")]
    TooMany {
        /// The task.
        task: String,
        /// Of what.
        of: &'static str,
        /// The limit.
        most: usize,
    },
    /// The task cannot make this move.
    #[error(transparent)]
    Illegal(#[from] IllegalMove),
}

/// A call that may be answered: at once when it is a repetition, or when the change has taken place.
#[derive(Clone, Debug, PartialEq)]
pub enum Decided<T> {
    /// It was recorded before.
    Already(T),
    /// It is recorded by this change.
    Now(Change, T),
}

/// How a delivery ended, as the agent says.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Well.
    Success {
        /// Restore points made.
        points: Vec<(RestorePointId, PointRecord)>,
        /// The virtual machine made by a restore.
        created_vm: Option<VmUuid>,
        /// Of a verification: when.
        verified: Option<Timestamp>,
        /// Of a verification: what is wrong; empty when nothing.
        damage: String,
    },
    /// Badly.
    Failure(Problem),
    /// On request.
    Cancelled,
    /// Nothing was done on purpose.
    Skipped(Problem),
}

/// What an agent records along with an operation.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// New log lines.
    pub log: Vec<LogLine>,
    /// Each disk so far; empty: as before.
    pub disks: Vec<Disk>,
}

/// Waits between attempts.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Before the second attempt.
    pub first: SignedDuration,
    /// Longest.
    pub longest: SignedDuration,
}

impl Backoff {
    /// The wait after this many attempts: four times as long each time.
    #[must_use]
    pub fn after(&self, attempts: u32) -> SignedDuration {
        let factor = 4_i32.saturating_pow(attempts.saturating_sub(1).min(15));
        self.first.checked_mul(factor).map_or(self.longest, |wait| wait.min(self.longest))
    }
}

/// The session of that name.
///
/// # Errors
/// [`Refusal::UnknownSession`].
pub fn session_of<'a>(state: &'a State, session: &str) -> Result<(&'a AgentId, &'a Versioned<SessionRecord>), Refusal> {
    state
        .sessions
        .iter()
        .find(|(_, found)| found.record.session == session)
        .map(|((agent,), found)| (agent, found))
        .ok_or(Refusal::UnknownSession)
}

struct Held<'a> {
    task: &'a Versioned<TaskRecord>,
    run: &'a Versioned<RunRecord>,
    change: Change,
}

fn held<'a>(state: &'a State, caller: &Caller) -> Result<Held<'a>, Refusal> {
    let (agent, session) = session_of(state, &caller.session)?;
    let fenced = || Refusal::Fenced { task: caller.task.1.to_string(), epoch: caller.epoch };
    let task = state.task(&caller.task).ok_or_else(fenced)?;
    let run = state.run(&caller.task.0).ok_or_else(fenced)?;
    let ours = task.record.state.live_lease().is_some_and(|lease| lease.session == caller.session);
    if !ours || task.record.epoch != caller.epoch {
        return Err(fenced());
    }
    let change = Change::new().unchanged(task_key(&caller.task), task).same(Key::Session(agent.clone()), session);
    Ok(Held { task, run, change })
}

/// True when the operation was recorded before.
fn is_repetition(task: &TaskRecord, name: &TaskKey, operation: Operation) -> Result<bool, Refusal> {
    let last = task.last_op;
    let shown = || name.1.to_string();
    match operation.seq {
        seq if seq == last.seq + 1 => Ok(false),
        seq if seq == last.seq && operation.digest == last.digest && seq > 0 => Ok(true),
        seq if seq == last.seq => Err(Refusal::NumberReused { task: shown(), seq }),
        seq if seq < last.seq && seq > 0 => Ok(true),
        seq => Err(Refusal::OutOfOrder { task: shown(), expected: last.seq + 1, got: seq }),
    }
}

/// Checks that the caller holds the task, without recording anything; tells whether it should stop.
///
/// # Errors
/// When it does not.
pub fn check_held(state: &State, caller: &Caller) -> Result<bool, Refusal> {
    held(state, caller).map(|held| held.run.record.cancel_requested)
}

/// Records a step, intents (`true`: closed), log lines. Answers whether cancelling was asked for.
///
/// # Errors
/// When the call is refused.
pub fn transition(
    state: &State,
    caller: &Caller,
    operation: Operation,
    new_step: Option<Step>,
    intents: Vec<(Intent, bool)>,
    report: Report,
) -> Result<Decided<bool>, Refusal> {
    let Held { task, run, change } = held(state, caller)?;
    let cancel = run.record.cancel_requested;
    if is_repetition(&task.record, &caller.task, operation)? {
        return Ok(Decided::Already(cancel));
    }
    let mut record = task.record.clone();
    step(&mut record, Event::Worked)?;
    record.last_op = operation;
    if let Some(new_step) = new_step {
        record_step(&mut record, new_step);
    }
    for (intent, closed) in intents {
        let known = record.intents.iter().position(|known| known.id == intent.id);
        match (known, closed) {
            (Some(at), true) => {
                record.intents.remove(at);
            }
            (Some(at), false) => record.intents[at] = intent,
            (None, true) => {}
            (None, false) if record.intents.len() >= OPEN_INTENTS => {
                return Err(Refusal::TooMany {
                    task: caller.task.1.to_string(),
                    of: "open intents",
                    most: OPEN_INTENTS,
                });
            }
            (None, false) => record.intents.push(intent),
        }
    }
    take_in(&mut record, report);
    Ok(Decided::Now(put_task(change, &caller.task, record), cancel))
}

fn record_step(task: &mut TaskRecord, mut new: Step) {
    new.attempt = task.attempt;
    let open = task
        .steps
        .iter_mut()
        .rev()
        .find(|known| known.name == new.name && known.attempt == new.attempt && known.state == StepState::Running);
    match open {
        Some(known) => {
            new.start = known.start.or(new.start);
            *known = new;
        }
        None => {
            if task.steps.len() >= STEPS {
                task.steps.remove(0);
            }
            task.steps.push(new);
        }
    }
}

fn take_in(task: &mut TaskRecord, report: Report) {
    for line in report.log {
        task.note(line);
    }
    if !report.disks.is_empty() {
        task.disks = report.disks;
        task.disks.truncate(DISKS);
    }
}

/// Gives the right to publish. Answers the incarnation of the store.
///
/// # Errors
/// When the call is refused: after cancelling, to an old epoch, for something else than was granted.
pub fn request_commit(
    state: &State,
    caller: &Caller,
    operation: Operation,
    remote: RemoteId,
    snapshot_id: String,
) -> Result<Decided<u64>, Refusal> {
    let Held { task, run, change } = held(state, caller)?;
    let shown = || caller.task.1.to_string();
    let site = state.sites.get(&());
    let incarnation = site.map_or(1, |site| site.record.incarnation);
    if is_repetition(&task.record, &caller.task, operation)? {
        return Ok(Decided::Already(incarnation));
    }
    let given_up = task.record.state.lease().is_some_and(|lease| matches!(lease.purpose, Purpose::Cleanup { .. }));
    if run.record.cancel_requested || given_up {
        return Err(Refusal::Cancelled { task: shown() });
    }
    match &task.record.work {
        Work::Backup { remotes, .. } if remotes.contains(&remote) => {}
        _ => {
            return Err(Refusal::NotOfTask { what: format!("task {} publishes nothing on remote {remote}", shown()) });
        }
    }
    let granted = task.record.grants.iter().find(|grant| grant.remote == remote && grant.epoch == caller.epoch);
    if let Some(granted) = granted
        && granted.snapshot_id != snapshot_id
    {
        return Err(Refusal::AlreadyGranted { task: shown(), remote, snapshot_id: granted.snapshot_id.clone() });
    }
    let mut record = task.record.clone();
    step(&mut record, Event::Granted)?;
    record.last_op = operation;
    record.grants.retain(|grant| grant.remote != remote || grant.epoch != caller.epoch);
    record.grants.push(Grant { remote, snapshot_id, epoch: caller.epoch });
    let mut change = change.unchanged(run_key(&caller.task.0), run);
    if let Some(site) = site {
        change = change.unchanged(Key::Site(), site);
    }
    Ok(Decided::Now(put_task(change, &caller.task, record), incarnation))
}

/// Ends a delivery. Answers whether there will be another attempt.
///
/// # Errors
/// When the call is refused.
pub fn complete(
    state: &State,
    caller: &Caller,
    operation: Operation,
    outcome: Outcome,
    report: Report,
    backoff: Backoff,
    now: Timestamp,
) -> Result<Decided<bool>, Refusal> {
    if let Some(task) = state.task(&caller.task)
        && let Some(done) = task.record.completed
        && done.epoch == caller.epoch
        && done.operation == operation
    {
        session_of(state, &caller.session)?;
        return Ok(Decided::Already(done.will_retry));
    }
    let Held { task, run, mut change } = held(state, caller)?;
    let name = &caller.task;
    if is_repetition(&task.record, name, operation)? {
        return Err(Refusal::NumberReused { task: name.1.to_string(), seq: operation.seq });
    }
    let cancelled = run.record.cancel_requested;
    let mut record = task.record.clone();
    let given_up = match record.state.lease().map(|lease| lease.purpose) {
        Some(Purpose::Cleanup { verdict }) => Some(verdict),
        _ => None,
    };
    record.last_op = operation;
    take_in(&mut record, report);
    let mut completed = |record: &mut TaskRecord, will_retry| {
        record.completed = Some(Completion { epoch: caller.epoch, operation, will_retry });
    };
    if let Some(verdict) = given_up {
        // It was over before; only what is open counts now.
        completed(&mut record, false);
        return Ok(Decided::Now(end_or_tidy(state, change, record, name, verdict, now)?, false));
    }
    let verdict = match outcome {
        Outcome::Success { points, created_vm, verified, damage } => {
            change = succeed(state, change, &mut record, name, points, verified, &damage)?;
            record.created_vm = created_vm.or(record.created_vm);
            if damage.is_empty() {
                record.problem = None;
                Verdict::Succeeded
            } else {
                record.problem = Some(Problem::lasting(
                    "DAMAGED",
                    format!("{} is damaged: {damage}", record.label),
                    "back the virtual machine up and verify again: what it still has is stored anew; then look at the remote's disk (\"A damaged repository\" in docs/operations.md)",
                ));
                Verdict::Failed
            }
        }
        Outcome::Skipped(problem) => {
            record.problem = Some(problem);
            Verdict::Skipped
        }
        Outcome::Cancelled if cancelled => Verdict::Cancelled,
        Outcome::Cancelled => {
            // Nobody asked: the agent lets go, because it stops.
            let problem = Problem {
                reason: "AGENT_STOPPED".into(),
                message: format!("the agent stopped while it worked on {}", record.label),
                advice: "nothing: another attempt is made where one is left".into(),
                retryable: true,
            };
            return retry_or_end(
                state,
                change,
                record,
                name,
                problem,
                now,
                SignedDuration::ZERO,
                cancelled,
                &mut completed,
            );
        }
        Outcome::Failure(problem) => {
            let wait = backoff.after(record.attempt);
            return retry_or_end(state, change, record, name, problem, now, wait, cancelled, &mut completed);
        }
    };
    completed(&mut record, false);
    Ok(Decided::Now(end_or_tidy(state, change, record, name, verdict, now)?, false))
}

#[expect(clippy::too_many_arguments, reason = "the parts of one decision, used twice")]
fn retry_or_end(
    state: &State,
    change: Change,
    mut record: TaskRecord,
    name: &TaskKey,
    problem: Problem,
    now: Timestamp,
    wait: SignedDuration,
    cancelled: bool,
    completed: &mut dyn FnMut(&mut TaskRecord, bool),
) -> Result<Decided<bool>, Refusal> {
    let retry = problem.retryable && !cancelled && record.attempt < record.max_attempts;
    record.note(LogLine { time: now, severity: Severity::Error, message: problem.message.clone() });
    record.problem = Some(problem);
    completed(&mut record, retry);
    if !retry {
        let verdict = if cancelled { Verdict::Cancelled } else { Verdict::Failed };
        return Ok(Decided::Now(end_or_tidy(state, change, record, name, verdict, now)?, false));
    }
    let not_before = now.checked_add(wait).unwrap_or(now);
    step(&mut record, Event::Retry { not_before })?;
    record.queued = now;
    let change = free(state, change, &mut record, name);
    Ok(Decided::Now(put_task(change, name, record), true))
}

/// Puts what a task made into the catalogue.
fn succeed(
    state: &State,
    mut change: Change,
    record: &mut TaskRecord,
    name: &TaskKey,
    points: Vec<(RestorePointId, PointRecord)>,
    verified: Option<Timestamp>,
    damage: &str,
) -> Result<Change, Refusal> {
    let foreign = |id: &RestorePointId| Refusal::NotOfTask {
        what: format!("restore point {id} was not made by task {}, or was never permitted", name.1),
    };
    for (id, point) in points {
        let permitted = record.grants.iter().any(|grant| grant.remote == id.remote);
        if id.task != name.1 || !permitted {
            return Err(foreign(&id));
        }
        if !record.points.contains(&id) {
            record.points.push(id.clone());
        }
        change = change.put(Entry::Point((id,), point));
    }
    let Subject::Point { point: id } = &record.subject else { return Ok(change) };
    let found = state.points.get(&(id.clone(),));
    match &record.work {
        Work::Verify { .. } => {
            if let Some(found) = found {
                let mut point = found.record.clone();
                point.verified = verified.or(point.verified);
                damage.clone_into(&mut point.damage);
                change = change.unchanged(Key::Point(id.clone()), found).put(Entry::Point((id.clone(),), point));
            }
        }
        Work::Delete { .. } => change = change.delete(Key::Point(id.clone())),
        _ => {}
    }
    Ok(change)
}

/// Strikes restore points out of the catalogue that an agent has deleted.
///
/// # Errors
/// When the call is refused, or a point was not given to the task to delete.
pub fn report_deleted(state: &State, caller: &Caller, points: &[RestorePointId]) -> Result<Change, Refusal> {
    let Held { change, task, .. } = held(state, caller)?;
    let mut change = change;
    for id in points {
        // What is not there any more was reported before.
        let Some(found) = state.points.get(&(id.clone(),)) else { continue };
        let marked = matches!(&found.record.state, PointState::Deleting { .. });
        let own_remote = super::places(&task.record).remotes.contains(&&found.record.remote);
        if !marked || !own_remote {
            return Err(Refusal::NotOfTask {
                what: format!("restore point {id} was not given to task {} to delete", caller.task.1),
            });
        }
        change = change.unchanged(Key::Point(id.clone()), found).delete(Key::Point(id.clone()));
    }
    Ok(change)
}

/// Ends a task that only waited, or whose last holder left nothing. See [`super::cancel`].
pub(super) fn end_idle(
    state: &State,
    name: &TaskKey,
    task: &Versioned<TaskRecord>,
    verdict: Verdict,
    now: Timestamp,
) -> Result<Change, IllegalMove> {
    end(state, Change::new().unchanged(task_key(name), task), task.record.clone(), name, verdict, now)
}
