//! Sessions of agents: how they begin, and what becomes of tasks when they end.

use coffer_model::AgentId;
use jiff::Timestamp;

use super::{TaskKey, end, end_or_tidy, lost, put_task, raise_epoch, step, task_key};
use crate::change::Change;
use crate::record::{AgentRecord, LogLine, ReachRecord, SessionRecord, Severity, TaskRecord};
use crate::state::{Entry, Key, State, Versioned};
use crate::task_state::{Event, IllegalMove, Lease, Purpose, TaskState, Verdict};

/// How often a task whose agent was lost while it might be publishing is delivered beyond its attempts: somebody has to
/// find out what is on the remote.
const EXTRA_FOR_COMMITTING: u32 = 2;

/// Begins a session of an agent; an earlier one ends with this.
pub fn register(state: &State, agent: &AgentId, facts: AgentRecord, session: SessionRecord) -> Change {
    let reach = ReachRecord { session: session.session.clone(), ..ReachRecord::default() };
    let key = (agent.clone(),);
    Change::new()
        .unchanged_or_absent(Key::Session(agent.clone()), state.sessions.get(&key))
        .put(Entry::Agent(key.clone(), facts))
        .put(Entry::Session(key.clone(), session))
        .put(Entry::Reach(key, reach))
}

/// What has to be done about tasks whose agents' sessions began or ended. `waited_out` says of a disconnected task
/// whether its agent has certainly stopped: this controller saw this very loss, told apart from earlier ones by the
/// revision that wrote the task, longer ago than the hard stop and a margin.
#[must_use]
pub fn watch(state: &State, now: Timestamp, waited_out: impl Fn(&TaskKey, u64) -> bool) -> Vec<(TaskKey, Change)> {
    let mut changes = Vec::new();
    for (name, task) in state.open_tasks() {
        let Some(lease) = task.record.state.lease() else { continue };
        let session = state.sessions.get(&(lease.agent.clone(),));
        let disconnected = matches!(task.record.state, TaskState::Disconnected { .. });
        let base = Change::new().unchanged(task_key(name), task);
        let change = match session {
            Some(session) if session.record.session == lease.session && !disconnected => continue,
            Some(session) => {
                // The session's value counts, not only its key: a new session may have overwritten the old one.
                let base = base.unchanged(Key::Session(lease.agent.clone()), session);
                if session.record.instance == lease.instance {
                    reconnect(base, name, task, session.record.session.clone(), now)
                } else {
                    take_over(state, base, name, task, lease, now)
                }
            }
            None => {
                let base = base.absent(Key::Session(lease.agent.clone()));
                if !disconnected {
                    disconnect(base, name, task, now)
                } else if waited_out(name, task.modified) {
                    take_over(state, base, name, task, lease, now)
                } else {
                    continue;
                }
            }
        };
        if let Ok(change) = change {
            changes.push((name.clone(), change));
        }
    }
    changes
}

fn disconnect(
    change: Change,
    name: &TaskKey,
    task: &Versioned<TaskRecord>,
    now: Timestamp,
) -> Result<Change, IllegalMove> {
    let mut record = task.record.clone();
    step(&mut record, Event::SessionLost)?;
    let agent = record.agent.as_ref().map_or_else(String::new, ToString::to_string);
    record.note(warning(now, format!("agent {agent} is not heard of any more; it may still be at work")));
    Ok(put_task(change, name, record))
}

fn reconnect(
    change: Change,
    name: &TaskKey,
    task: &Versioned<TaskRecord>,
    session: String,
    now: Timestamp,
) -> Result<Change, IllegalMove> {
    let mut record = task.record.clone();
    let was_lost = matches!(record.state, TaskState::Disconnected { .. });
    step(&mut record, Event::SessionBack { session })?;
    if was_lost {
        let agent = record.agent.as_ref().map_or_else(String::new, ToString::to_string);
        record.note(warning(now, format!("agent {agent} is back and goes on")));
    }
    Ok(put_task(change, name, record))
}

/// The agent has certainly stopped: its epoch ends here.
fn take_over(
    state: &State,
    change: Change,
    name: &TaskKey,
    task: &Versioned<TaskRecord>,
    lease: &Lease,
    now: Timestamp,
) -> Result<Change, IllegalMove> {
    let mut record = task.record.clone();
    let cancelled = state.run(&name.0).is_some_and(|run| run.record.cancel_requested);
    let committing =
        matches!(record.state, TaskState::Committing { .. } | TaskState::Disconnected { committing: true, .. });
    if let Purpose::Cleanup { verdict } = lease.purpose {
        return end_or_tidy(state, change, record, name, verdict, now);
    }
    let allowed = record.max_attempts + if committing { EXTRA_FOR_COMMITTING } else { 0 };
    if record.attempt >= allowed {
        record.problem = Some(lost(&record));
        let verdict = if cancelled { Verdict::Cancelled } else { Verdict::Interrupted };
        return end_or_tidy(state, change, record, name, verdict, now);
    }
    if cancelled && !record.has_open_intents() && !committing {
        return end(state, change, record, name, Verdict::Cancelled, now);
    }
    let agent = &lease.agent;
    record.note(warning(now, format!("agent {agent} was lost; the task is taken over")));
    step(&mut record, Event::TakenOver(Purpose::Recover))?;
    record.queued = now;
    let change = raise_epoch(state, change, &mut record, name);
    Ok(put_task(change, name, record))
}

/// Ends a task that no agent can be found for.
///
/// # Errors
/// When it cannot be ended from where it stands.
pub fn give_up(state: &State, name: &TaskKey, places: &str, now: Timestamp) -> Result<Change, IllegalMove> {
    let Some(task) = state.task(name) else { return Ok(Change::new()) };
    let change = Change::new().unchanged(task_key(name), task);
    let mut record = task.record.clone();
    let verdict = match &record.state {
        TaskState::Waiting { .. } => {
            record.problem = Some(crate::record::Problem::lasting(
                "NO_AGENT",
                format!("no agent reached {places}"),
                "look at `coffer pool list`, `coffer remote list` and `coffer agent list`: the message there says what \
                 is wrong",
            ));
            Verdict::Failed
        }
        TaskState::Recovering { purpose: Purpose::Cleanup { verdict } } => *verdict,
        _ => {
            record.problem = Some(lost(&record));
            Verdict::Interrupted
        }
    };
    end(state, change, record, name, verdict, now)
}

fn warning(time: Timestamp, message: String) -> LogLine {
    LogLine { time, severity: Severity::Warning, message }
}
