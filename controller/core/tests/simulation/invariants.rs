//! What must be true after every single change. Names as in the architecture.

use std::collections::{BTreeMap, BTreeSet};

use coffer_core::State;
use coffer_core::record::{PointState, RunState, Subject};
use coffer_core::slot::{Counter, Dimension};
use coffer_core::task_state::TaskState;

use crate::world::World;

pub(crate) fn check(before: &State, world: &World) {
    let after = &world.state;
    invariant_2_one_live_task_per_machine(before, after);
    invariant_3_no_limit_is_exceeded(before, after);
    invariant_5_what_is_open_is_what_has_not_ended(after);
    invariant_6_no_effect_is_forgotten(before, after);
    invariant_7_the_last_restore_point_stays(world);
    invariant_7_what_is_read_is_not_deleted(before, after);
    assert_eq!(world.task_ids().collect::<BTreeSet<_>>().len(), after.tasks.len(), "a task in two runs");
}

fn invariant_2_one_live_task_per_machine(before: &State, after: &State) {
    let mut holders = BTreeMap::new();
    for (name, task) in &after.tasks {
        let Subject::Vm { pool, vm } = &task.record.subject else { continue };
        if !task.record.state.holds() {
            continue;
        }
        assert!(holders.insert((pool.clone(), *vm), name).is_none(), "two tasks on one machine: {name:?}");
        let lock = &after.vm_locks[&(pool.clone(), *vm)].record;
        let holder = lock.holder.as_ref().expect("a task holds its machine");
        assert_eq!((&holder.run, &holder.task), (&name.0, &name.1));
        assert_eq!(lock.epoch, task.record.epoch, "the newest epoch is the holder's");
    }
    for (machine, lock) in &after.vm_locks {
        assert_eq!(lock.record.holder.is_some(), holders.contains_key(machine), "nobody holds {machine:?}");
    }
    for (machine, lock) in &before.vm_locks {
        assert!(after.vm_locks[machine].record.epoch >= lock.record.epoch, "an epoch fell");
    }
    for (name, task) in &before.tasks {
        let Some(now) = after.tasks.get(name) else { continue };
        if let TaskState::Disconnected { lease, .. } = &task.record.state
            && now.record.state.lease().is_none()
        {
            let session = before.sessions.get(&(lease.agent.clone(),));
            let back = session.is_some_and(|session| session.record.instance == lease.instance);
            assert!(!back, "{name:?} was taken from an agent that is back");
        }
        assert!(now.record.epoch >= task.record.epoch, "an epoch fell");
        let (then_lease, now_lease) = (task.record.state.lease(), now.record.state.lease());
        if let (Some(then), Some(now_held)) = (then_lease, now_lease)
            && then.instance != now_held.instance
        {
            assert!(now.record.epoch > task.record.epoch, "another process in the same epoch");
        }
        for grant in &now.record.grants {
            let same = now.record.grants.iter().filter(|of| of.epoch == grant.epoch && of.remote == grant.remote);
            assert_eq!(same.count(), 1, "two snapshots may be published in one epoch");
        }
    }
}

fn invariant_3_no_limit_is_exceeded(before: &State, after: &State) {
    let used = |state: &State| {
        let mut used: BTreeMap<Counter, u32> = BTreeMap::new();
        for (dimension, id, _) in state.slots.keys() {
            *used.entry(Counter { dimension: *dimension, id: id.clone() }).or_default() += 1;
        }
        used
    };
    let (then, now) = (used(before), used(after));
    for (counter, count) in &now {
        let height = match counter.dimension {
            Dimension::Job => after.jobs[&(counter.id.parse().unwrap(),)].record.job.concurrency.get(),
            Dimension::Pool => after.pools[&(counter.id.parse().unwrap(),)].record.max_concurrent_tasks,
            Dimension::Remote => after.remotes[&(counter.id.parse().unwrap(),)].record.max_concurrent_tasks,
        };
        // A limit that was lowered is reached by draining.
        let allowed = height.max(then.get(counter).copied().unwrap_or(0));
        assert!(*count <= allowed, "{count} of {height} slots of {counter} are in use");
    }
    let mut held = BTreeSet::new();
    for (name, task) in &after.tasks {
        assert!(task.record.slots.is_empty() || task.record.state.holds(), "a slot of a task that does nothing");
        for slot in &task.record.slots {
            let key = (slot.counter.dimension, slot.counter.id.clone(), slot.number);
            let record = &after.slots.get(&key).expect("a task's slots exist").record;
            assert_eq!((&record.holder.run, &record.holder.task), (&name.0, &name.1));
            held.insert(key);
        }
        // What works takes a unit of its pool, or of its remote at least.
        assert!(!task.record.state.holds() || !task.record.slots.is_empty(), "work without a slot: {name:?}");
    }
    assert_eq!(held.len(), after.slots.len(), "a slot that nobody holds");
}

fn invariant_5_what_is_open_is_what_has_not_ended(after: &State) {
    for (name, task) in &after.tasks {
        assert_eq!(after.open.contains_key(name), task.record.state.verdict().is_none(), "{name:?}");
        assert_eq!(task.record.ended.is_some(), task.record.state.verdict().is_some(), "{name:?}");
    }
    for name in after.open.keys() {
        assert!(after.tasks.contains_key(name), "an open mark without its task");
        let run = &after.run(&name.0).expect("an open task has a run").record;
        assert!(!matches!(run.state, RunState::Ended { .. }), "a run ended before its tasks");
    }
    for (point, task) in after.pins.keys() {
        assert!(after.open.keys().any(|(_, open)| open == task), "a pin of {point} outlived its task");
    }
}

fn invariant_6_no_effect_is_forgotten(before: &State, after: &State) {
    let known = |state: &State| -> BTreeSet<String> {
        let open = state.tasks.values().flat_map(|task| task.record.intents.iter().map(|intent| intent.id.clone()));
        open.chain(state.leftovers.keys().map(|(_, id)| id.clone())).collect()
    };
    for task in after.tasks.values().filter(|task| task.record.state.verdict().is_some()) {
        assert!(task.record.intents.is_empty(), "a task ended with something to undo");
    }
    // Only an agent that records it as closed lets an intent go: then its task moved by one operation.
    for lost in known(before).difference(&known(after)) {
        let owner = before.tasks.iter().find(|(_, task)| task.record.intents.iter().any(|of| of.id == *lost));
        let (name, was) = owner.expect("leftovers move into tasks");
        let now = &after.tasks[name].record;
        assert_eq!(now.last_op.seq, was.record.last_op.seq + 1, "{lost} was forgotten");
    }
}

fn invariant_7_the_last_restore_point_stays(world: &World) {
    for (vm, remote) in &world.protected {
        let left = world.state.points.iter().any(|((id,), point)| {
            point.record.vm == *vm && id.remote == *remote && point.record.state == PointState::Listed
        });
        assert!(left, "{vm} has no restore point on {remote} any more");
    }
}

fn invariant_7_what_is_read_is_not_deleted(before: &State, after: &State) {
    for (id, task) in after.pins.keys() {
        let Some(was) = before.points.get(&(id.clone(),)) else { continue };
        if was.record.state == PointState::Listed && before.pins.contains_key(&(id.clone(), *task)) {
            let now = after.points.get(&(id.clone(),)).map(|point| &point.record.state);
            assert_eq!(now, Some(&PointState::Listed), "{id} was deleted while it is read");
        }
    }
}
