//! Which waiting task goes to which agent, and what the others wait for.
//!
//! Tasks are looked at in the order in which they came, those to be recovered first. A task takes all its slots in one
//! transaction or none, so there is no deadlock. A task that needs little may go ahead of an older one that needs much,
//! but not for ever: what has waited for [`PATIENCE`] reserves what it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use coffer_model::{AgentId, TaskName};
use jiff::{SignedDuration, Timestamp};

use super::{Limit, TaskKey, end, holder, limits, places, put_lock, put_slot, put_task, run_key, step, task_key};
use crate::change::Change;
use crate::record::{LockRecord, LogLine, Operation, Problem, Severity, SlotRecord, Subject, TaskRecord};
use crate::slot::{Counter, SlotName};
use crate::state::{Key, State, Versioned};
use crate::task_state::{Event, Lease, Purpose, TaskState, Verdict};

/// How long a task waits before younger ones may not take the slots it needs any more.
pub const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// What the dispatcher should do now, and what waits for what.
#[derive(Debug, Default)]
pub struct Dispatch {
    /// Leases and refusals, in order; each stands alone.
    pub changes: Vec<(TaskKey, Change)>,
    /// What each other task waits for.
    pub waits: BTreeMap<TaskKey, Wait>,
}

/// What a task waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The instant of its next attempt.
    Until(Timestamp),
    /// A slot.
    Slot {
        /// Of what.
        counter: Counter,
        /// How many are in use.
        used: usize,
        /// How many there are.
        height: u32,
    },
    /// A slot that is free, but kept for an older task.
    Turn(Counter),
    /// The upkeep of its remote, which another task does.
    Remote(TaskName),
    /// An agent that has room.
    Room,
    /// An agent that reaches what it needs; none does.
    Agent {
        /// In words: `pool lab and remote nas`.
        places: String,
    },
    /// It was leased in this very moment.
    Nothing,
}

impl fmt::Display for Wait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(instant) => write!(formatter, "its next attempt at {}", instant.strftime("%F %T UTC")),
            Self::Slot { counter, used, height } => {
                write!(formatter, "a slot of {counter} ({used} of {height} in use)")
            }
            Self::Turn(counter) => {
                write!(formatter, "its turn: a slot of {counter} is kept for a task that waits longer")
            }
            Self::Remote(by) => write!(formatter, "{by}, which does the same on this remote"),
            Self::Room => formatter.write_str("an agent with room for one more task"),
            Self::Agent { places } => write!(formatter, "an agent that reaches {places}"),
            Self::Nothing => Ok(()),
        }
    }
}

/// Looks at every task that waits.
#[must_use]
pub fn dispatch(state: &State, now: Timestamp) -> Dispatch {
    let mut pass = Pass::new(state, now);
    let mut queue: Vec<(&TaskKey, &Versioned<TaskRecord>)> = state
        .open_tasks()
        .filter(|(_, task)| matches!(task.record.state, TaskState::Waiting { .. } | TaskState::Recovering { .. }))
        .collect();
    queue.sort_by_cached_key(|(name, task)| {
        let recovering = matches!(task.record.state, TaskState::Recovering { .. });
        (!recovering, state.run(&name.0).map(|run| run.record.created), name.0.clone(), task.record.index)
    });
    let mut result = Dispatch::default();
    for (name, task) in queue {
        match pass.look_at(name, task) {
            Ok(change) => result.changes.push((name.clone(), change)),
            Err(wait) => {
                result.waits.insert(name.clone(), wait);
            }
        }
    }
    result
}

/// What is spoken for, counting what this pass itself gives away.
struct Pass<'a> {
    state: &'a State,
    now: Timestamp,
    taken: BTreeMap<Counter, BTreeSet<u32>>,
    reserved: BTreeMap<Counter, usize>,
    load: BTreeMap<AgentId, u32>,
    locked: BTreeMap<Key, TaskName>,
}

impl<'a> Pass<'a> {
    fn new(state: &'a State, now: Timestamp) -> Self {
        let mut taken: BTreeMap<Counter, BTreeSet<u32>> = BTreeMap::new();
        for (dimension, id, number) in state.slots.keys() {
            taken.entry(Counter { dimension: *dimension, id: id.clone() }).or_default().insert(*number);
        }
        let mut load = BTreeMap::new();
        for (_, task) in state.open_tasks() {
            if let Some(lease) = task.record.state.lease() {
                *load.entry(lease.agent.clone()).or_default() += 1;
            }
        }
        Self { state, now, taken, reserved: BTreeMap::new(), load, locked: BTreeMap::new() }
    }

    fn look_at(&mut self, name: &TaskKey, task: &Versioned<TaskRecord>) -> Result<Change, Wait> {
        let record = &task.record;
        let run = self.state.run(&name.0).ok_or(Wait::Nothing)?;
        let cancelled = run.record.cancel_requested;
        let purpose = match &record.state {
            TaskState::Recovering { purpose } => *purpose,
            // Cancelling ends it where nothing is left to undo; see `cancel`.
            TaskState::Waiting { .. } if cancelled && !record.has_open_intents() => return Err(Wait::Nothing),
            TaskState::Waiting { .. } if cancelled => Purpose::Cleanup { verdict: Verdict::Cancelled },
            TaskState::Waiting { not_before: Some(instant) } if *instant > self.now => {
                return Err(Wait::Until(*instant));
            }
            TaskState::Waiting { .. } => Purpose::Work,
            _ => return Err(Wait::Nothing),
        };
        let waiting = matches!(record.state, TaskState::Waiting { .. });
        let limits = limits(self.state, record);
        let slots = if waiting { self.find_slots(record, &limits)? } else { Vec::new() };
        if waiting && let Some(other) = self.locked_by_another(name, record) {
            return match &record.subject {
                Subject::Vm { .. } => self.refuse_busy(name, task, &other),
                Subject::Remote { .. } | Subject::Point { .. } => Err(Wait::Remote(other)),
            };
        }
        let agent = self.find_agent(record, purpose)?;
        self.lease(name, task, run, purpose, agent, &limits, slots)
    }

    /// One free unit of every limit, or what is missing. Units above a limit that was lowered count as used, and as
    /// many more below it stay empty: so the sum never exceeds it, whoever leases at the same moment.
    fn find_slots(&mut self, task: &TaskRecord, limits: &[Limit]) -> Result<Vec<SlotName>, Wait> {
        let mut found = Vec::new();
        let mut missing = None;
        for limit in limits {
            let none = BTreeSet::new();
            let taken = self.taken.get(&limit.counter).unwrap_or(&none);
            let over = taken.range(limit.height..).count();
            let usable = limit.height.saturating_sub(u32::try_from(over).unwrap_or(u32::MAX));
            let free: Vec<u32> = (0..usable).filter(|number| !taken.contains(number)).collect();
            let reserved = self.reserved.get(&limit.counter).copied().unwrap_or(0);
            match free.first() {
                None => {
                    missing.get_or_insert(Wait::Slot {
                        counter: limit.counter.clone(),
                        used: taken.len(),
                        height: limit.height,
                    });
                }
                Some(_) if free.len() <= reserved => {
                    missing.get_or_insert(Wait::Turn(limit.counter.clone()));
                }
                Some(number) => found.push(SlotName { counter: limit.counter.clone(), number: *number }),
            }
        }
        match missing {
            None => Ok(found),
            Some(wait) => {
                if self.now.duration_since(task.queued) > PATIENCE {
                    for limit in limits {
                        *self.reserved.entry(limit.counter.clone()).or_default() += 1;
                    }
                }
                Err(wait)
            }
        }
    }

    fn locked_by_another(&self, name: &TaskKey, task: &TaskRecord) -> Option<TaskName> {
        let (key, lock) = self.state.lock_of(task)?;
        let other = self.locked.get(&key).cloned().or_else(|| lock?.record.holder.clone())?;
        (other != holder(name)).then_some(other)
    }

    /// As the seed says: a second request for a machine that is being backed up fails gracefully, with a message.
    fn refuse_busy(&self, name: &TaskKey, task: &Versioned<TaskRecord>, other: &TaskName) -> Result<Change, Wait> {
        let mut record = task.record.clone();
        let by = self.state.run(&other.run).map_or_else(String::new, |run| match &run.record.plan {
            crate::record::Plan::Backup { job, .. } => format!(" of job {job}"),
            _ => String::new(),
        });
        record.problem = Some(Problem::lasting(
            "VM_BUSY",
            format!("{} is being backed up by run {}{by}", record.label, other.run),
            "give the schedules that share this machine times that lie further apart",
        ));
        let mut change = Change::new().unchanged(task_key(name), task);
        // It would be wrong to refuse it for a task that has just let go.
        if let Some((key, Some(lock))) = self.state.lock_of(&record)
            && lock.record.holder.as_ref() == Some(other)
        {
            change = change.unchanged(key, lock);
        } else {
            return Err(Wait::Nothing);
        }
        end(self.state, change, record, name, Verdict::Skipped, self.now).map_err(|_| Wait::Nothing)
    }

    fn find_agent(&self, task: &TaskRecord, purpose: Purpose) -> Result<(AgentId, &'a str, &'a str, u64), Wait> {
        let mut places = places(task);
        if matches!(purpose, Purpose::Cleanup { .. }) && places.pool.is_some() {
            // What is to be undone lies in the pool; a remote that is away must not keep it there.
            places.remotes.clear();
        }
        let mut reached = false;
        let mut best: Option<(u64, (AgentId, &'a str, &'a str, u64))> = None;
        for ((agent,), session) in &self.state.sessions {
            let Some(reach) = self.state.reaches.get(&(agent.clone(),)) else { continue };
            let reach = &reach.record;
            if reach.session != session.record.session
                || reach.draining
                || places.pool.is_some_and(|pool| !reach.pools.contains(pool))
                || places.remotes.iter().any(|remote| !reach.remotes.contains(*remote))
            {
                continue;
            }
            reached = true;
            let capacity = self.state.agents.get(&(agent.clone(),)).map_or(0, |known| known.record.capacity);
            let load = self.load.get(agent).copied().unwrap_or(0);
            if load >= capacity {
                continue;
            }
            let filled = u64::from(load) * 1_000_000 / u64::from(capacity);
            if best.as_ref().is_none_or(|(least, _)| filled < *least) {
                best =
                    Some((filled, (agent.clone(), &session.record.session, &session.record.instance, session.created)));
            }
        }
        match best {
            Some((_, found)) => Ok(found),
            None if reached => Err(Wait::Room),
            None => {
                let words: Vec<String> = places
                    .pool
                    .iter()
                    .map(|pool| format!("pool {pool}"))
                    .chain(places.remotes.iter().map(|remote| format!("remote {remote}")))
                    .collect();
                Err(Wait::Agent { places: words.join(" and ") })
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one transaction")]
    fn lease(
        &mut self,
        name: &TaskKey,
        task: &Versioned<TaskRecord>,
        run: &Versioned<crate::record::RunRecord>,
        purpose: Purpose,
        (agent, session, instance, session_created): (AgentId, &str, &str, u64),
        limits: &[Limit],
        slots: Vec<SlotName>,
    ) -> Result<Change, Wait> {
        let mut record = task.record.clone();
        let waiting = matches!(record.state, TaskState::Waiting { .. });
        let mut change = Change::new().unchanged(task_key(name), task).unchanged(run_key(&name.0), run);
        change.guards.push(crate::change::Guard::Same(Key::Session(agent.clone()), session_created));
        if let Some(site) = self.state.sites.get(&()) {
            change = change.unchanged(Key::Site(), site);
        }
        if waiting {
            for limit in limits {
                change.guards.push(match limit.modified {
                    Some(modified) => crate::change::Guard::Unchanged(limit.key.clone(), modified),
                    None => crate::change::Guard::Absent(limit.key.clone()),
                });
            }
            for slot in &slots {
                let (dimension, id, number) = SlotRecord::key_of(slot);
                change = put_slot(change.absent(Key::Slot(dimension, id, number)), slot, name);
            }
            match self.state.lock_of(&record) {
                Some((key, lock)) => {
                    record.epoch = lock.map_or(0, |lock| lock.record.epoch).max(record.epoch) + 1;
                    change = change.unchanged_or_absent(key.clone(), lock);
                    change = put_lock(change, &key, LockRecord { epoch: record.epoch, holder: Some(holder(name)) });
                    self.locked.insert(key, holder(name));
                }
                None => record.epoch += 1,
            }
            record.slots = slots;
            change = self.adopt_leftovers(change, &mut record);
        }
        for slot in &record.slots {
            self.taken.entry(slot.counter.clone()).or_default().insert(slot.number);
        }
        *self.load.entry(agent.clone()).or_default() += 1;
        match purpose {
            Purpose::Cleanup { .. } => record.cleanups += 1,
            Purpose::Work | Purpose::Recover => record.attempt += 1,
        }
        if record.attempt > 1 || matches!(purpose, Purpose::Cleanup { .. }) {
            record.note(LogLine {
                time: self.now,
                severity: Severity::Info,
                message: match purpose {
                    Purpose::Work => format!("attempt {} begins on agent {agent}", record.attempt),
                    Purpose::Recover => {
                        format!("attempt {} begins on agent {agent}, after an agent was lost", record.attempt)
                    }
                    Purpose::Cleanup { .. } => format!("agent {agent} tidies up after the last attempt"),
                },
            });
        }
        record.last_op = Operation::default();
        record.started.get_or_insert(self.now);
        record.agent = Some(agent.clone());
        let lease = Lease { agent, session: session.to_owned(), instance: instance.to_owned(), purpose };
        step(&mut record, Event::Leased(lease)).map_err(|_| Wait::Nothing)?;
        Ok(put_task(change, name, record))
    }

    fn adopt_leftovers(&self, mut change: Change, record: &mut TaskRecord) -> Change {
        let ours = self.state.leftovers.iter().filter(|(_, left)| left.record.subject == record.subject);
        for ((pool, id), left) in ours.take(crate::record::OPEN_INTENTS.saturating_sub(record.intents.len())) {
            let key = Key::Leftover(pool.clone(), id.clone());
            change = change.unchanged(key.clone(), left).delete(key);
            if record.intents.iter().all(|known| known.id != left.record.intent.id) {
                record.intents.push(left.record.intent.clone());
            }
        }
        change
    }
}
