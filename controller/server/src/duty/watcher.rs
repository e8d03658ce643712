//! Watches sessions: when the store ended one with its lease, the agent's tasks are disconnected, and taken over once
//! the agent has certainly stopped. That is counted from when this controller saw the loss, by its own clock; a
//! controller that restarts counts anew.

use std::collections::BTreeMap;

use coffer_core::decide::{TaskKey, session};
use coffer_core::task_state::TaskState;
use tokio::time::Instant;

use super::Duty;
use crate::fault::Fault;
use crate::plane::Plane;

/// Remembers since when it has seen tasks disconnected, each as which revision wrote it: an agent that came back and
/// was lost once more is waited for anew.
#[derive(Default)]
pub(super) struct Watcher {
    lost: BTreeMap<TaskKey, (u64, Instant)>,
}

impl Duty for Watcher {
    const NAME: &'static str = "session watcher";

    async fn round(&mut self, plane: &Plane) -> Result<(), Fault> {
        let patience = plane.timings.takeover_after();
        let changes = plane.read(|state| {
            let now = Instant::now();
            let lost: BTreeMap<TaskKey, (u64, Instant)> = state
                .open_tasks()
                .filter(|(_, task)| matches!(task.record.state, TaskState::Disconnected { .. }))
                .map(|(name, task)| {
                    let known = self.lost.get(name).filter(|(of, _)| *of == task.modified);
                    (name.clone(), known.copied().unwrap_or((task.modified, now)))
                })
                .collect();
            self.lost = lost;
            session::watch(state, plane.now(), |task, modified| {
                let since = self.lost.get(task).filter(|(of, _)| *of == modified);
                since.is_some_and(|(_, since)| now.duration_since(*since) >= patience)
            })
        });
        for (task, change) in changes {
            if plane.commit(change).await? {
                tracing::info!(run = %task.0, task = %task.1, "the session of the task's agent ended or began anew");
            }
        }
        Ok(())
    }
}
