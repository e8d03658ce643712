//! Planning: what a run works on becomes tasks, some at a time, so that no transaction grows with the number of
//! machines.

use std::collections::BTreeSet;

use coffer_model::selection::{Absence, resolve};
use coffer_model::{PoolId, PoolInventory, RestorePointId, RunId, TaskId, TaskName};
use jiff::Timestamp;
use uuid::Uuid;

use super::{TaskKey, holder, put_task, run_key};
use crate::change::Change;
use crate::record::{OpenRecord, PinRecord, Plan, PointState, Problem, RunRecord, RunState, Subject, TaskRecord, Work};
use crate::state::{Entry, Key, LIVE, State};
use crate::task_state::{TaskState, Verdict};

/// Most tasks that one change plans.
pub const CHUNK: usize = 30;

/// The id of the task that works on a subject in a run: the same whoever plans it, and however often.
#[must_use]
pub fn task_id(run: &RunId, subject: &Subject) -> TaskId {
    const TASKS: Uuid = Uuid::from_u128(0x7c1f_3a52_9b0e_4d53_8a6d_2f64_c0ff_e201);
    TaskId::new(Uuid::new_v5(&TASKS, format!("{run} {subject}").as_bytes()))
}

/// The next tasks of a run that is being planned; nothing when it is not.
#[must_use]
pub fn expand(state: &State, run: &RunId, now: Timestamp) -> Option<Change> {
    let found = state.run(run)?;
    let RunState::Planning { planned } = found.record.state else { return None };
    let mut record = found.record.clone();
    let mut change = Change::new().unchanged(run_key(run), found);
    let Planned { tasks, incomplete } =
        if record.cancel_requested { Planned::default() } else { tasks(state, &record) };
    let mut rest =
        tasks.into_iter().filter(|planned| !state.tasks.contains_key(&(run.clone(), task_id(run, &planned.subject))));
    let mut count = planned;
    for planned in rest.by_ref().take(CHUNK) {
        let name = (run.clone(), task_id(run, &planned.subject));
        change = put_planned(state, change, &name, planned, count, now);
        count += 1;
    }
    record.state = if rest.next().is_some() { RunState::Planning { planned: count } } else { RunState::Active };
    record.message = incomplete;
    Some(change.put(Entry::Run((run.clone(),), record)))
}

/// What is to be done in a run.
#[derive(Default)]
struct Planned {
    tasks: Vec<PlannedTask>,
    /// What could not be planned, in words; empty when nothing.
    incomplete: String,
}

struct PlannedTask {
    subject: Subject,
    label: String,
    work: Work,
    max_attempts: u32,
    /// It cannot even begin.
    problem: Option<Problem>,
}

/// How often a task that is no backup is tried.
const ATTEMPTS: u32 = coffer_model::job::DEFAULT_MAX_ATTEMPTS.get();

fn tasks(state: &State, run: &RunRecord) -> Planned {
    let point = |id: &RestorePointId, work: Work| PlannedTask {
        subject: Subject::Point { point: id.clone() },
        label: state.points.get(&(id.clone(),)).map_or_else(
            || id.to_string(),
            |found| format!("{} of {}", found.record.vm_label, found.record.time.strftime("%F %T UTC")),
        ),
        work,
        max_attempts: ATTEMPTS,
        problem: None,
    };
    let on_remote = |remote: &coffer_model::RemoteId, work: Work| PlannedTask {
        subject: Subject::Remote { remote: remote.clone() },
        label: remote.to_string(),
        work,
        max_attempts: ATTEMPTS,
        problem: None,
    };
    let tasks = match &run.plan {
        Plan::Backup { .. } => return backups(state, run),
        Plan::Restore { point: id, pool, sr, vm_label, start, keep_mac_addresses } => vec![point(
            id,
            Work::Restore {
                remote: id.remote.clone(),
                pool: pool.clone(),
                sr: *sr,
                vm_label: vm_label.clone(),
                start: *start,
                keep_mac_addresses: *keep_mac_addresses,
            },
        )],
        Plan::Verify { points } => {
            points.iter().map(|id| point(id, Work::Verify { remote: id.remote.clone() })).collect()
        }
        Plan::Export { point: id, format, folder, disks } => vec![point(
            id,
            Work::Export { remote: id.remote.clone(), format: *format, folder: folder.clone(), disks: disks.clone() },
        )],
        Plan::Delete { points, .. } => {
            points.iter().map(|id| point(id, Work::Delete { remote: id.remote.clone() })).collect()
        }
        Plan::Scan { remote } => vec![on_remote(remote, Work::Scan)],
        Plan::Prune { remote, dry_run } => vec![on_remote(remote, Work::Prune { dry_run: *dry_run })],
    };
    Planned { tasks, incomplete: String::new() }
}

fn backups(state: &State, run: &RunRecord) -> Planned {
    let Plan::Backup { job, schedule, selection, remotes, max_attempts } = &run.plan else { return Planned::default() };
    let pools: BTreeSet<&PoolId> = selection.pools.iter().chain(selection.vms.iter().map(|vm| &vm.pool)).collect();
    let inventories: Vec<PoolInventory> = pools.into_iter().filter_map(|pool| inventory(state, pool)).collect();
    let resolution = resolve(selection, &inventories).only(&run.only);
    let work = Work::Backup { job: job.clone(), schedule: schedule.clone(), remotes: remotes.clone() };
    let task = |subject: Subject, label: String, problem: Option<Problem>| PlannedTask {
        subject,
        label,
        work: work.clone(),
        max_attempts: *max_attempts,
        problem,
    };
    let mut tasks: Vec<PlannedTask> = resolution
        .vms
        .into_iter()
        .map(|(name, vm)| task(Subject::Vm { pool: name.pool, vm: name.vm }, vm.name_label, None))
        .collect();
    for (name, absence) in resolution.missing {
        let problem = match absence {
            Absence::Gone => Problem::lasting("VM_GONE", format!("{absence}: {name}"), "take it out of the job"),
            Absence::PoolUnknown => Problem::lasting(
                "POOL_UNKNOWN",
                format!("{absence}: {name}"),
                "look at `coffer pool list`: the pool has to be connected once before its machines are known",
            ),
            Absence::NotSelected => {
                Problem::lasting("VM_NOT_SELECTED", format!("{absence}: {name}"), "change the job's selection")
            }
        };
        tasks.push(task(Subject::Vm { pool: name.pool, vm: name.vm }, name.vm.to_string(), Some(problem)));
    }
    let unknown: Vec<String> = resolution.unknown_pools.iter().map(ToString::to_string).collect();
    let incomplete = if unknown.is_empty() {
        String::new()
    } else {
        format!("no agent has reported pool {} yet, so its machines are not known", unknown.join(", "))
    };
    Planned { tasks, incomplete }
}

/// A pool as agents last saw it; `None` when none has.
#[must_use]
pub fn inventory(state: &State, pool: &PoolId) -> Option<PoolInventory> {
    state.pool_states.get(&(pool.clone(),))?.record.inventory_time?;
    let of_pool = |of: &PoolId| of == pool;
    let vms = state.vms.range((pool.clone(), coffer_model::VmUuid::new(Uuid::nil()))..);
    let srs = state.srs.range((pool.clone(), coffer_model::SrUuid::new(Uuid::nil()))..);
    Some(PoolInventory {
        pool: pool.clone(),
        vms: vms.take_while(|((of, _), _)| of_pool(of)).map(|(_, vm)| vm.record.clone()).collect(),
        srs: srs.take_while(|((of, _), _)| of_pool(of)).map(|(_, sr)| sr.record.clone()).collect(),
    })
}

fn put_planned(
    state: &State,
    mut change: Change,
    name: &TaskKey,
    planned: PlannedTask,
    index: u32,
    now: Timestamp,
) -> Change {
    let mut task = TaskRecord::new(index, planned.subject, planned.label, planned.work, planned.max_attempts, now);
    task.problem = planned.problem;
    if let (None, Subject::Point { point }) = (&task.problem, &task.subject) {
        let point = point.clone();
        let plan = state.run(&name.0).map(|run| &run.record.plan);
        match claim(state, change, &point, plan, holder(name)) {
            Ok(claimed) => change = claimed,
            Err(refused) => {
                let (unclaimed, problem) = *refused;
                change = unclaimed;
                task.problem = Some(problem);
            }
        }
    }
    if task.problem.is_some() {
        task.state = TaskState::Ended { verdict: Verdict::Failed };
        task.ended = Some(now);
    } else {
        change = change.put(Entry::Open(name.clone(), OpenRecord {}));
    }
    put_task(change.absent(super::task_key(name)), name, task)
}

/// Pins a restore point that is to be read; hides one that is to be deleted.
fn claim(
    state: &State,
    change: Change,
    id: &RestorePointId,
    plan: Option<&Plan>,
    by: TaskName,
) -> Result<Change, Box<(Change, Problem)>> {
    let key = (id.clone(),);
    let deletion = match plan {
        Some(Plan::Delete { points, allow_last }) => Some((points, *allow_last)),
        _ => None,
    };
    let found = state.points.get(&key);
    let Some(found) = found.filter(|found| found.record.state == PointState::Listed || deletion.is_some()) else {
        let what = format!("restore point {id} is not there any more");
        return Err(Box::new((
            change,
            Problem::lasting("POINT_GONE", what, "choose another one: `coffer backup list`"),
        )));
    };
    let Some((going, allow_last)) = deletion else {
        let pin = Entry::Pin((id.clone(), by.task), PinRecord { holder: by });
        return Ok(change.unchanged(Key::Point(id.clone()), found).put(pin));
    };
    if let Some(pin) = pins(state, id).next() {
        let what = format!("restore point {id} is being read by {pin}");
        return Err(Box::new((
            change,
            Problem::lasting("POINT_IN_USE", what, "wait for that run to end, or cancel it"),
        )));
    }
    let mut change = change;
    if !allow_last {
        match super::retention::keeper(state, id, going) {
            Some((keeper, kept)) => change = change.unchanged(Key::Point(keeper.clone()), kept),
            None if found.record.state == PointState::Listed => {
                let what = format!("restore point {id} is the last good one of {}", found.record.vm_label);
                return Err(Box::new((
                    change,
                    Problem::lasting("LAST_POINT", what, "ask for it explicitly: `--allow-last`"),
                )));
            }
            None => {}
        }
    }
    let mut point = found.record.clone();
    point.state = PointState::Deleting { by };
    Ok(change
        .unchanged(Key::Point(id.clone()), found)
        .none_under(format!("{LIVE}pin/{id}/"))
        .put(Entry::Point(key, point)))
}

/// The tasks that are reading a restore point.
pub fn pins<'a>(state: &'a State, id: &RestorePointId) -> impl Iterator<Item = &'a TaskName> + use<'a> {
    let id = id.clone();
    state
        .pins
        .range((id.clone(), TaskId::new(Uuid::nil()))..)
        .take_while(move |((of, _), _)| *of == id)
        .map(|(_, pin)| &pin.record.holder)
}
