//! Leases tasks to agents, and gives up tasks that no agent can be found for.

use std::collections::BTreeMap;

use coffer_core::decide::dispatch::{Wait, dispatch};
use coffer_core::decide::{TaskKey, session};
use coffer_core::task_state::TaskState;
use tokio::time::Instant;

use super::Duty;
use crate::fault::Fault;
use crate::plane::Plane;

/// Remembers since when this controller has seen tasks without an agent that reaches what they need.
#[derive(Default)]
pub(super) struct Dispatcher {
    unserved: BTreeMap<TaskKey, Instant>,
}

impl Duty for Dispatcher {
    const NAME: &'static str = "dispatcher";

    async fn round(&mut self, plane: &Plane) -> Result<(), Fault> {
        let result = plane.read(|state| dispatch(state, plane.now()));
        for (task, change) in result.changes {
            if plane.stop.is_cancelled() {
                return Ok(());
            }
            if plane.commit(change).await? {
                tracing::debug!(run = %task.0, task = %task.1, "the task was given away or refused");
            }
        }
        self.give_up(plane, &result.waits).await
    }
}

impl Dispatcher {
    async fn give_up(&mut self, plane: &Plane, waits: &BTreeMap<TaskKey, Wait>) -> Result<(), Fault> {
        let lonely = |task: &TaskKey| matches!(waits.get(task), Some(Wait::Agent { .. }));
        self.unserved.retain(|task, _| lonely(task));
        let now = Instant::now();
        for (task, wait) in waits {
            let Wait::Agent { places } = wait else { continue };
            let since = *self.unserved.entry(task.clone()).or_insert(now);
            let change = plane.read(|state| {
                let waiting = matches!(state.task(task)?.record.state, TaskState::Waiting { .. });
                let patience = if waiting { plane.timings.unserved } else { plane.timings.unserved_recovery };
                let over = now.duration_since(since) >= patience;
                over.then(|| session::give_up(state, task, places, plane.now()))
            });
            let given_up = match change {
                None => false,
                Some(Ok(change)) => plane.commit(change).await?,
                Some(Err(moved)) => {
                    // It has moved on since it was seen waiting.
                    tracing::debug!(run = %task.0, task = %task.1, %moved, "the task is not given up");
                    false
                }
            };
            if given_up {
                tracing::warn!(run = %task.0, task = %task.1, places, "no agent reached what the task needs; given up");
            }
        }
        Ok(())
    }
}
