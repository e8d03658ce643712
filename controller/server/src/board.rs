//! Progress of the tasks that agents hold: in memory, never in the store, merged into what is shown.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coffer_core::decide::TaskKey;
use coffer_core::record::Disk;

/// What agents said last. Bounded by what the store says they hold.
#[derive(Debug, Default)]
pub(crate) struct Board {
    held: Mutex<BTreeMap<TaskKey, Progress>>,
}

/// How far a task has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The epoch that this is about.
    pub(crate) epoch: u64,
    /// Each disk so far.
    pub(crate) disks: Vec<Disk>,
}

impl Board {
    fn held(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Progress>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn report(&self, task: TaskKey, progress: Progress) {
        self.held().insert(task, progress);
    }

    /// The disks of a task in an epoch, when its agent has reported any.
    pub(crate) fn disks(&self, task: &TaskKey, epoch: u64) -> Option<Vec<Disk>> {
        self.held()
            .get(task)
            .filter(|progress| progress.epoch == epoch && !progress.disks.is_empty())
            .map(|progress| progress.disks.clone())
    }

    /// Forgets all but these.
    pub(crate) fn retain(&self, live: impl Fn(&TaskKey) -> bool) {
        self.held().retain(|task, _| live(task));
    }
}
