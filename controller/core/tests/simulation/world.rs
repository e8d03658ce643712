//! A control plane in miniature: the state, agents that may be wrong about what they hold, and controllers that decide
//! on what they read some changes ago.

use std::collections::{BTreeMap, BTreeSet};

use coffer_core::change::MOST;
use coffer_core::decide::work::{self, Backoff, Caller, Decided, Outcome, Refusal, Report};
use coffer_core::decide::{TaskKey, archive, cancel, dispatch, finish, plan, retention, session, tick};
use coffer_core::record::{
    AgentRecord, Intent, JobRecord, Operation, Plan, PointRecord, PointState, PoolRecord, PoolStateRecord, Problem,
    ReachRecord, RemoteRecord, RunRecord, SessionRecord, Subject, Work,
};
use coffer_core::task_state::{Purpose, TaskState, Verdict};
use coffer_core::{Change, Entry, Key, State};
use coffer_model::inventory::PowerState;
use coffer_model::{
    AgentId, InventoryVm, Job, JobId, PoolId, RemoteId, RestorePointId, RunId, Selection, TaskId, VmUuid,
};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::event::{End, Event, Where};
use crate::invariants;

pub(crate) const AGENTS: [&str; 2] = ["rack-1", "rack-2"];
pub(crate) const JOBS: [&str; 2] = ["nightly", "weekly"];
const VMS: u128 = 3;
/// How often a disconnected task has to be looked at before its agent has certainly stopped.
const PATIENCE: u32 = 2;

const VERIFY: fn(Vec<RestorePointId>) -> Plan = |points| Plan::Verify { points };
const DELETE: fn(Vec<RestorePointId>) -> Plan = |points| Plan::Delete { points, allow_last: false };

/// What an agent was once given, and believes that it holds.
#[derive(Clone, Debug)]
pub(crate) struct Belief {
    pub(crate) caller: Caller,
    seq: u64,
}

pub(crate) struct World {
    pub(crate) state: State,
    /// What slower controllers still see.
    past: Vec<State>,
    pub(crate) now: Timestamp,
    pub(crate) beliefs: Vec<Belief>,
    instances: BTreeMap<AgentId, u64>,
    lost: BTreeMap<TaskKey, (u64, u32)>,
    /// Which process was ever given a task in which epoch.
    given: BTreeMap<(TaskKey, u64), String>,
    counter: u64,
    /// Machines that have had a restore point, and may not be left without one.
    pub(crate) protected: BTreeSet<(VmUuid, RemoteId)>,
    /// How often what happened.
    pub(crate) seen: BTreeMap<&'static str, u32>,
}

pub(crate) fn pool() -> PoolId {
    "lab".parse().unwrap()
}
pub(crate) fn remote() -> RemoteId {
    "nas".parse().unwrap()
}
fn agent(number: usize) -> AgentId {
    AGENTS[number % AGENTS.len()].parse().unwrap()
}
fn job(number: usize) -> JobId {
    JOBS[number % JOBS.len()].parse().unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            past: Vec::new(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            beliefs: Vec::new(),
            instances: BTreeMap::new(),
            lost: BTreeMap::new(),
            given: BTreeMap::new(),
            counter: 0,
            protected: BTreeSet::new(),
            seen: BTreeMap::new(),
        };
        let limits = |most| (String::new(), most);
        let (display_name, max_concurrent_tasks) = limits(2);
        let mut change = Change::new()
            .put(Entry::Pool(
                (pool(),),
                PoolRecord {
                    display_name: display_name.clone(),
                    hosts: vec!["192.0.2.1".into()],
                    username: "root".into(),
                    fingerprint: String::new(),
                    max_concurrent_tasks,
                },
            ))
            .put(Entry::PoolState(
                (pool(),),
                PoolStateRecord { inventory_time: Some(world.now), ..PoolStateRecord::default() },
            ))
            .put(Entry::Remote(
                (remote(),),
                RemoteRecord {
                    display_name,
                    local_path: "/srv/nas".into(),
                    chunk_size_bytes: 0,
                    max_concurrent_tasks: 3,
                },
            ));
        for number in 1..=VMS {
            let vm = InventoryVm {
                uuid: VmUuid::new(Uuid::from_u128(number)),
                name_label: format!("vm-{number}"),
                power_state: PowerState::Running,
                tags: BTreeSet::new(),
                disks: Vec::new(),
                host: None,
            };
            change = change.put(Entry::Vm((pool(), vm.uuid), vm));
        }
        for number in 0..JOBS.len() {
            let record = Job {
                id: job(number),
                display_name: String::new(),
                selection: Selection { pools: [pool()].into(), ..Selection::default() },
                mode: coffer_model::job::Mode::Delta,
                remotes: vec![remote()],
                concurrency: coffer_model::job::DEFAULT_CONCURRENCY,
                manual_retention: 2.try_into().unwrap(),
                max_attempts: 2.try_into().unwrap(),
                paused: false,
            };
            change = change.put(Entry::Job((job(number),), JobRecord { job: record, created: world.now }));
        }
        assert!(world.commit(&change));
        world
    }

    /// Makes a change if it may be made, and looks whether all is still well.
    pub(crate) fn commit(&mut self, change: &Change) -> bool {
        assert!(change.guards.len() <= MOST, "{} guards: {change:?}", change.guards.len());
        assert!(change.writes.len() <= MOST, "{} writes: {change:?}", change.writes.len());
        let keys: BTreeSet<String> = change
            .writes
            .iter()
            .map(|write| match write {
                coffer_core::Write::Put(entry) => entry.key().path(),
                coffer_core::Write::Delete(key) => key.path(),
            })
            .collect();
        assert_eq!(keys.len(), change.writes.len(), "a key is written twice: {change:?}");
        let before = self.state.clone();
        self.counter += 1;
        let done = self.state.commit(change, &self.counter.to_string());
        if done {
            self.count(&before);
            invariants::check(&before, self);
            self.past.push(before);
            if self.past.len() > 6 {
                self.past.remove(0);
            }
        } else {
            self.note("a change was decided on what was no longer true");
            assert_eq!(before, self.state, "a change that was refused changed something");
        }
        done
    }

    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn count(&mut self, before: &State) {
        for (name, task) in self.state.tasks.clone() {
            let then = before.tasks.get(&name).map(|task| &task.record);
            if then == Some(&task.record) {
                continue;
            }
            let reason = task.record.problem.as_ref().map(|problem| problem.reason.as_str());
            match &task.record.state {
                TaskState::Recovering { purpose: Purpose::Recover } => self.note("a task was taken over"),
                TaskState::Recovering { purpose: Purpose::Cleanup { .. } } => self.note("a task had to be tidied up"),
                TaskState::Disconnected { committing: true, .. } => self.note("an agent was lost while it committed"),
                TaskState::Ended { verdict } => match (verdict, reason) {
                    (Verdict::Succeeded, _) => self.note("a task succeeded"),
                    (Verdict::Failed, Some("LAST_POINT")) => self.note("the last point was refused"),
                    (Verdict::Failed, Some("POINT_IN_USE")) => self.note("a point in use was refused"),
                    (Verdict::Failed, _) => self.note("a task failed"),
                    (Verdict::Skipped, Some("VM_BUSY")) => self.note("a busy machine was refused"),
                    (Verdict::Skipped, _) => self.note("a task was skipped"),
                    (Verdict::Cancelled, _) => self.note("a task was cancelled"),
                    (Verdict::Interrupted, _) => self.note("a task was interrupted"),
                },
                TaskState::Waiting { not_before: Some(_) } => self.note("a task is tried again"),
                TaskState::Running { .. }
                    if matches!(then.map(|task| &task.state), Some(TaskState::Disconnected { .. })) =>
                {
                    self.note("an agent came back in time");
                }
                _ => {}
            }
        }
        let deleting =
            |state: &State| state.points.values().filter(|point| point.record.state != PointState::Listed).count();
        if deleting(&self.state) > deleting(before) {
            self.note("a point was hidden to be deleted");
        }
        if self.state.points.len() < before.points.len() {
            self.note("a point was deleted");
        }
        if self.state.leftovers.len() > before.leftovers.len() {
            self.note("something was left behind");
        }
        if self.state.leftovers.len() < before.leftovers.len() {
            self.note("something left behind was taken on");
        }
        if self.state.tasks.len() < before.tasks.len() {
            self.note("a run was folded");
        }
    }

    /// What the controller that acts sees: the newest state, or an older one.
    fn view(&self, age: usize) -> State {
        let age = age.min(self.past.len());
        if age == 0 { self.state.clone() } else { self.past[self.past.len() - age].clone() }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Run { job: number } => self.start_run(*number),
            Event::Verify { point } => self.start_on_point(*point, VERIFY),
            Event::Delete { point } => self.start_on_point(*point, DELETE),
            Event::VerifyAndDelete { point } => {
                self.start_on_point(*point, VERIFY);
                self.start_on_point(*point, DELETE);
            }
            Event::DeleteTwice => {
                self.start_on_point(0, DELETE);
                self.start_on_point(1, DELETE);
            }
            Event::Limit { job, most } => self.set_limit(*job, *most),
            Event::Register { agent, fresh } => self.register(*agent, *fresh),
            Event::Expire { agent } => self.expire(*agent),
            Event::Cancel { run, age } => {
                let view = self.view(*age);
                let runs: Vec<RunId> = view.runs.keys().map(|(run,)| run.clone()).collect();
                if let Some(run) = pick(&runs, *run)
                    && let Some(change) = cancel::request(&view, run)
                {
                    self.commit(&change);
                }
            }
            Event::Duties { age, count } => self.duties(*age, *count),
            Event::Work { belief, what } => {
                if let Some(belief) = pick_index(self.beliefs.len(), *belief) {
                    self.work(belief, what);
                }
            }
            Event::Wait { seconds } => {
                self.now = self.now.checked_add(SignedDuration::from_secs(i64::from(*seconds))).unwrap();
            }
        }
    }

    fn start_run(&mut self, number: usize) {
        self.counter += 1;
        let id = RunId::by_hand(Uuid::from_u128(u128::from(self.counter)));
        let record = &self.state.jobs[&(job(number),)].record;
        let run = RunRecord::new(tick::backup_plan(&record.job, None), self.now);
        self.commit(&Change::new().put(Entry::Run((id,), run)));
    }

    fn start_on_point(&mut self, number: usize, plan: fn(Vec<RestorePointId>) -> Plan) {
        let points: Vec<RestorePointId> = self.state.points.keys().map(|(id,)| id.clone()).collect();
        if points.is_empty() {
            return;
        }
        self.counter += 1;
        let id = RunId::by_hand(Uuid::from_u128(u128::from(self.counter)));
        // Half of all points: whoever asks for that much must still be refused the last.
        let chosen = points.iter().enumerate().filter(|(at, _)| (at + number).is_multiple_of(2));
        let chosen: Vec<_> = chosen.map(|(_, id)| id.clone()).collect();
        if !chosen.is_empty() {
            let run = RunRecord::new(plan(chosen), self.now);
            self.commit(&Change::new().put(Entry::Run((id,), run)));
        }
    }

    fn set_limit(&mut self, number: usize, most: u32) {
        let key = (job(number),);
        let mut record = self.state.jobs[&key].record.clone();
        record.job.concurrency = most.max(1).try_into().unwrap();
        self.commit(&Change::new().put(Entry::Job(key, record)));
    }

    fn register(&mut self, number: usize, fresh: bool) {
        let agent = agent(number);
        let instance = self.instances.entry(agent.clone()).or_default();
        *instance += u64::from(fresh);
        self.counter += 1;
        let name = format!("{agent}/{}", self.counter);
        let facts = AgentRecord { version: "0".into(), hostname: "h".into(), capacity: 3, session_start: self.now };
        let record = SessionRecord {
            session: name.clone(),
            instance: instance.to_string(),
            boot_id: "boot".into(),
            lease: self.counter,
        };
        let change = session::register(&self.state, &agent, facts, record);
        assert!(self.commit(&change));
        let reach = ReachRecord { session: name, pools: [pool()].into(), remotes: [remote()].into(), draining: false };
        assert!(self.commit(&Change::new().put(Entry::Reach((agent,), reach))));
    }

    fn expire(&mut self, number: usize) {
        let key = Key::Session(agent(number));
        if self.state.revisions(&key) != (0, 0) {
            self.commit(&Change::new().delete(key));
        }
    }

    /// Some rounds of all loops of one controller, which sees what was true some changes ago.
    fn duties(&mut self, age: usize, count: usize) {
        for _ in 0..count {
            let view = self.view(age);
            let mut changes = Vec::new();
            let runs: Vec<RunId> = view.runs.keys().map(|(run,)| run.clone()).collect();
            changes.extend(runs.iter().filter_map(|run| plan::expand(&view, run, self.now)));
            changes.extend(cancel::sweep(&view, self.now).into_iter().map(|(_, change)| change));
            changes.extend(self.watch(&view));
            changes.extend(dispatch::dispatch(&view, self.now).changes.into_iter().map(|(_, change)| change));
            changes.extend(runs.iter().filter_map(|run| finish::finish(&view, run, self.now)));
            for run in archive::to_fold(&view, self.now, SignedDuration::from_hours(1)) {
                changes.extend(archive::mark_folded(&view, &run));
            }
            changes.extend(archive::drop_folded(&view));
            for change in changes {
                self.commit(&change);
            }
            self.deliver();
        }
    }

    fn watch(&mut self, view: &State) -> Vec<Change> {
        let lost: BTreeMap<TaskKey, (u64, u32)> = view
            .open_tasks()
            .filter(|(_, task)| matches!(task.record.state, TaskState::Disconnected { .. }))
            .map(|(name, task)| {
                let seen = self.lost.get(name).filter(|(of, _)| *of == task.modified).map_or(0, |(_, seen)| *seen);
                (name.clone(), (task.modified, seen + 1))
            })
            .collect();
        self.lost = lost;
        let waited = |name: &TaskKey, modified| {
            self.lost.get(name).is_some_and(|(of, seen)| *of == modified && *seen >= PATIENCE)
        };
        session::watch(view, self.now, waited).into_iter().map(|(_, change)| change).collect()
    }

    /// What Sync would tell agents.
    fn deliver(&mut self) {
        for (name, task) in self.state.open_tasks() {
            let Some(lease) = task.record.state.live_lease() else { continue };
            let caller = Caller { session: lease.session.clone(), task: name.clone(), epoch: task.record.epoch };
            let known = |belief: &&mut Belief| {
                belief.caller.session == caller.session
                    && belief.caller.task == caller.task
                    && belief.caller.epoch == caller.epoch
            };
            let epoch = (name.clone(), caller.epoch);
            let first = self.given.entry(epoch).or_insert_with(|| format!("{} {}", lease.agent, lease.instance));
            assert_eq!(*first, format!("{} {}", lease.agent, lease.instance), "two processes in one epoch");
            let seq = task.record.last_op.seq;
            match self.beliefs.iter_mut().find(known) {
                Some(belief) => belief.seq = belief.seq.max(seq),
                None => self.beliefs.push(Belief { caller, seq }),
            }
        }
    }

    /// True when the belief is right: the session lives and the task is held with this epoch.
    fn holds(&self, caller: &Caller) -> bool {
        let lives = self.state.sessions.values().any(|session| session.record.session == caller.session);
        lives
            && self.state.task(&caller.task).is_some_and(|task| {
                task.record.epoch == caller.epoch
                    && task.record.state.live_lease().is_some_and(|lease| lease.session == caller.session)
            })
    }

    fn work(&mut self, at: usize, what: &Where) {
        let belief = self.beliefs[at].clone();
        let holds = self.holds(&belief.caller);
        let operation = Operation { seq: belief.seq + 1, digest: self.counter };
        let decided = self.decide_work(&belief.caller, operation, what);
        if !holds {
            assert!(
                matches!(decided, Err(Refusal::Fenced { .. } | Refusal::UnknownSession)),
                "{belief:?} holds nothing, and yet {what:?} was answered {decided:?}"
            );
            self.note("a zombie was refused");
            return;
        }
        let Ok(Some(change)) = decided else { return };
        let protects = matches!(what, Where::End(End::Success));
        assert!(self.commit(&change));
        self.beliefs[at].seq = operation.seq;
        // What is repeated is answered, and changes nothing.
        if matches!(what, Where::Step | Where::Open(_) | Where::Close(_)) {
            let again = work::transition(&self.state, &belief.caller, operation, None, Vec::new(), Report::default());
            assert!(matches!(again, Ok(Decided::Already(_))), "{again:?}");
            let other = Operation { digest: operation.digest + 1, ..operation };
            let reused = work::transition(&self.state, &belief.caller, other, None, Vec::new(), Report::default());
            assert!(matches!(reused, Err(Refusal::NumberReused { .. })), "{reused:?}");
        }
        if protects {
            self.protect();
        }
    }

    /// From now on a machine with a good point may not be left without one.
    fn protect(&mut self) {
        for ((id,), point) in &self.state.points {
            if point.record.state == PointState::Listed && point.record.damage.is_empty() {
                self.protected.insert((point.record.vm, id.remote.clone()));
            }
        }
    }

    fn decide_work(&mut self, caller: &Caller, operation: Operation, what: &Where) -> Result<Option<Change>, Refusal> {
        let change = |decided: Decided<bool>| match decided {
            Decided::Now(change, _) => Some(change),
            Decided::Already(_) => None,
        };
        let intent = |number: u8| Intent {
            id: Uuid::from_u128(u128::from(number) + 1000 + caller.task.1.uuid().as_u128()).to_string(),
            kind: "vm-snapshot".into(),
            pool: pool(),
            target: "x".into(),
            detail: String::new(),
        };
        match what {
            Where::Step => {
                work::transition(&self.state, caller, operation, None, Vec::new(), Report::default()).map(change)
            }
            Where::Open(number) | Where::Close(number) => {
                let intents = vec![(intent(*number), matches!(what, Where::Close(_)))];
                work::transition(&self.state, caller, operation, None, intents, Report::default()).map(change)
            }
            Where::Grant { snapshot } => {
                let id = format!("{snapshot:064}");
                let cancelled = self.state.run(&caller.task.0).is_some_and(|run| run.record.cancel_requested);
                match work::request_commit(&self.state, caller, operation, remote(), id)? {
                    Decided::Now(change, _) => {
                        assert!(!cancelled, "a publication was permitted after cancelling");
                        Ok(Some(change))
                    }
                    Decided::Already(_) => Ok(None),
                }
            }
            Where::Retention { age } => {
                // Refused by what holds now, whatever a slow controller believes.
                work::check_held(&self.state, caller)?;
                let published = self.made_by(caller).into_iter().collect::<Vec<_>>();
                let Ok(plan) = retention::plan(&self.view(*age), caller, &published, self.now) else {
                    return Ok(None);
                };
                if !self.commit(&plan.change) {
                    assert!(*age > 0, "what was decided on is still so");
                    return Ok(None);
                }
                let gone: Vec<RestorePointId> = plan.delete.into_iter().map(|(id, _)| id).collect();
                // A slow controller may name what is gone or was given back meanwhile.
                match work::report_deleted(&self.state, caller, &gone) {
                    Ok(struck) => assert!(self.commit(&struck)),
                    Err(refused) => assert!(*age > 0, "{refused}"),
                }
                Ok(None)
            }
            Where::End(end) => {
                let outcome = match end {
                    End::Success => Outcome::Success {
                        points: self.made_by(caller).into_iter().collect(),
                        created_vm: None,
                        verified: Some(self.now),
                        damage: String::new(),
                    },
                    End::Passing | End::Lasting => Outcome::Failure(Problem {
                        reason: "X".into(),
                        message: "it failed".into(),
                        advice: String::new(),
                        retryable: matches!(end, End::Passing),
                    }),
                    End::Cancelled => Outcome::Cancelled,
                    End::Skipped => Outcome::Skipped(Problem::lasting("X", "nothing to do", "")),
                };
                let backoff = Backoff { first: SignedDuration::from_secs(1), longest: SignedDuration::from_secs(60) };
                let report = Report::default();
                work::complete(&self.state, caller, operation, outcome, report, backoff, self.now).map(change)
            }
        }
    }

    /// The point that the caller's task has published, if it was permitted.
    fn made_by(&self, caller: &Caller) -> Option<(RestorePointId, PointRecord)> {
        let task = &self.state.task(&caller.task)?.record;
        let (Work::Backup { job, schedule, .. }, Subject::Vm { vm, pool }) = (&task.work, &task.subject) else {
            return None;
        };
        task.grants.last()?;
        let id = RestorePointId { task: caller.task.1, remote: remote() };
        let point = PointRecord {
            state: PointState::Listed,
            remote: remote(),
            vm: *vm,
            vm_label: task.label.clone(),
            pool: Some(pool.clone()),
            time: task.started.unwrap_or(self.now),
            job: Some(job.clone()),
            schedule: schedule.clone(),
            run: Some(caller.task.0.clone()),
            made_by: caller.task.1,
            disks: Vec::new(),
            disk_bytes: 0,
            added_bytes: 0,
            snapshot_id: "0".repeat(64),
            verified: None,
            damage: String::new(),
        };
        Some((id, point))
    }

    /// The faults are over: agents live, controllers are up to date, everything that is asked of agents is done.
    pub(crate) fn heal(&mut self) {
        for number in 0..AGENTS.len() {
            self.register(number, true);
        }
        self.beliefs.clear();
        for _ in 0..60 {
            self.now = self.now.checked_add(SignedDuration::from_mins(20)).unwrap();
            self.duties(0, 2);
            for at in 0..self.beliefs.len() {
                self.finish_one(at);
            }
            if self.state.open.is_empty() && self.state.runs.values().all(|run| run.record.verdict().is_some()) {
                return;
            }
        }
        panic!("runs do not end: {:?}", self.state.open_tasks().collect::<Vec<_>>());
    }

    fn finish_one(&mut self, at: usize) {
        let belief = self.beliefs[at].clone();
        if !self.holds(&belief.caller) {
            return;
        }
        let task = self.state.task(&belief.caller.task).unwrap().record.clone();
        let open: Vec<Intent> = task.intents.clone();
        let tidy = task.state.lease().is_some_and(|lease| matches!(lease.purpose, Purpose::Cleanup { .. }));
        let cancelled = self.state.run(&belief.caller.task.0).unwrap().record.cancel_requested;
        self.beliefs[at].seq = task.last_op.seq;
        let operation = Operation { seq: task.last_op.seq + 1, digest: 0 };
        let closed = open.into_iter().map(|intent| (intent, true)).collect();
        let decided =
            work::transition(&self.state, &belief.caller, operation, None, closed, Report::default()).unwrap();
        let Decided::Now(change, _) = decided else { panic!("it is new") };
        assert!(self.commit(&change));
        self.beliefs[at].seq = operation.seq;
        if tidy || cancelled {
            self.work(at, &Where::End(End::Cancelled));
        } else {
            self.work(at, &Where::Grant { snapshot: 1 });
            self.work(at, &Where::Retention { age: 0 });
            self.work(at, &Where::End(End::Success));
        }
    }

    pub(crate) fn task_ids(&self) -> impl Iterator<Item = &TaskId> {
        self.state.tasks.keys().map(|(_, task)| task)
    }
}

fn pick<T>(list: &[T], number: usize) -> Option<&T> {
    pick_index(list.len(), number).map(|at| &list[at])
}

/// The newest are the most interesting.
fn pick_index(length: usize, number: usize) -> Option<usize> {
    (length > 0).then(|| length - 1 - number % length)
}
