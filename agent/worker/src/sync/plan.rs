//! What to do about the difference between the tasks that are held and those that should be held. Pure.

use std::collections::{BTreeMap, BTreeSet};

use coffer_proto::v1::Assignment;

/// A task that is held, as far as the decision needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldEpoch {
    /// The epoch it is held under.
    pub(crate) epoch: u64,
    /// True once it was told to stop.
    pub(crate) cancelling: bool,
    /// True once its work is over and nothing but telling the end remains.
    pub(crate) over: bool,
}

/// A task and the epoch it was held under.
pub(crate) type TaskEpoch = (String, u64);

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Let go of a task at once, touching nothing more of it.
    Drop(String),
    /// Begin work.
    Start(Box<Assignment>),
    /// Stop transferring, undo, complete as cancelled.
    Cancel(String),
}

/// Compares what is held with what should be held. Drops come first, so that a task that comes back under a new epoch
/// has no old worker left.
///
/// A task whose end is being told is left alone when it is not named any more: most likely the controllers know the end
/// already, and their reply is under way. Its worker touches nothing any more.
///
/// `ended` are tasks that were completed while the question was under way: an answer that still names one is outdated.
pub(crate) fn reconcile(
    held: &BTreeMap<String, HeldEpoch>,
    ended: &BTreeSet<TaskEpoch>,
    desired: Vec<Assignment>,
) -> Vec<Action> {
    let wanted: BTreeMap<&str, u64> = desired.iter().map(|task| (task.task.as_str(), task.epoch)).collect();
    let mut actions: Vec<Action> = held
        .iter()
        .filter(|(task, held)| match wanted.get(task.as_str()) {
            Some(epoch) => *epoch != held.epoch,
            None => !held.over,
        })
        .map(|(task, _)| Action::Drop(task.clone()))
        .collect();
    let mut seen = BTreeSet::new();
    for task in desired {
        if !seen.insert(task.task.clone()) {
            continue;
        }
        match held.get(&task.task) {
            Some(current) if current.epoch == task.epoch => {
                if (task.cancel || task.cleanup_only) && !current.cancelling {
                    actions.push(Action::Cancel(task.task));
                }
            }
            // Without a specification it is one that the question named and that has ended meanwhile.
            _ if task.spec.is_none() || ended.contains(&(task.task.clone(), task.epoch)) => {}
            _ => actions.push(Action::Start(Box::new(task))),
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_proto::v1::TaskSpec;
    use proptest::prelude::*;

    fn assignment(task: &str, epoch: u64) -> Assignment {
        Assignment { task: task.to_owned(), epoch, spec: Some(TaskSpec::default()), ..Assignment::default() }
    }

    fn held(tasks: &[(&str, u64)]) -> BTreeMap<String, HeldEpoch> {
        tasks
            .iter()
            .map(|&(task, epoch)| (task.to_owned(), HeldEpoch { epoch, cancelling: false, over: false }))
            .collect()
    }

    #[test]
    fn a_task_under_a_newer_epoch_replaces_the_old_worker() {
        let actions = reconcile(&held(&[("t", 1)]), &BTreeSet::new(), vec![assignment("t", 2)]);
        assert_eq!(actions, [Action::Drop("t".into()), Action::Start(Box::new(assignment("t", 2)))]);
    }

    #[test]
    fn what_is_not_named_any_more_is_dropped() {
        assert_eq!(reconcile(&held(&[("t", 1)]), &BTreeSet::new(), vec![]), [Action::Drop("t".into())]);
    }

    #[test]
    fn whoever_tells_the_end_may_finish_unless_a_newer_epoch_is_wanted() {
        let over = BTreeMap::from([("t".to_owned(), HeldEpoch { epoch: 1, cancelling: false, over: true })]);
        assert_eq!(reconcile(&over, &BTreeSet::new(), vec![]), []);
        let newer = reconcile(&over, &BTreeSet::new(), vec![assignment("t", 2)]);
        assert_eq!(newer, [Action::Drop("t".into()), Action::Start(Box::new(assignment("t", 2)))]);
    }

    #[test]
    fn a_completed_task_in_an_outdated_answer_is_not_begun_again() {
        let ended = BTreeSet::from([("t".to_owned(), 1)]);
        assert_eq!(reconcile(&held(&[]), &ended, vec![assignment("t", 1)]), []);
        assert_eq!(reconcile(&held(&[]), &ended, vec![assignment("t", 2)]).len(), 1);
        let named = Assignment { spec: None, ..assignment("u", 1) };
        assert_eq!(reconcile(&held(&[]), &BTreeSet::new(), vec![named]), []);
    }

    #[test]
    fn cancelling_is_told_once() {
        let cancelled = Assignment { cancel: true, spec: None, ..assignment("t", 1) };
        let mut tasks = held(&[("t", 1)]);
        assert_eq!(reconcile(&tasks, &BTreeSet::new(), vec![cancelled.clone()]), [Action::Cancel("t".into())]);
        tasks.insert("t".into(), HeldEpoch { epoch: 1, cancelling: true, over: false });
        assert_eq!(reconcile(&tasks, &BTreeSet::new(), vec![cancelled]), []);
    }

    fn any_tasks() -> impl Strategy<Value = Vec<(u8, u64)>> {
        prop::collection::vec((0u8..6, 1u64..4), 0..8)
    }

    proptest! {
        #[test]
        fn afterwards_exactly_what_is_desired_is_held(now in any_tasks(), then in any_tasks()) {
            let mut tasks: BTreeMap<String, u64> =
                now.iter().map(|&(task, epoch)| (task.to_string(), epoch)).collect();
            let held = |epoch| HeldEpoch { epoch, cancelling: false, over: false };
            let before = tasks.iter().map(|(task, &epoch)| (task.clone(), held(epoch))).collect();
            let desired: BTreeMap<u8, u64> = then.into_iter().collect();
            let answer = desired.iter().map(|(task, &epoch)| assignment(&task.to_string(), epoch)).collect();
            for action in reconcile(&before, &BTreeSet::new(), answer) {
                match action {
                    Action::Drop(task) => prop_assert!(tasks.remove(&task).is_some()),
                    Action::Start(task) => prop_assert!(tasks.insert(task.task, task.epoch).is_none()),
                    Action::Cancel(_) => prop_assert!(false, "nothing is to be cancelled"),
                }
            }
            prop_assert_eq!(tasks, desired.into_iter().map(|(task, epoch)| (task.to_string(), epoch)).collect());
        }
    }
}
