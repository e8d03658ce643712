//! Tasks: their records, progress, end and cancellation.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::value::{Failure, Outcome, Record, Value};
use crate::wire::xmlrpc;
use crate::world::{World, lock};

/// Completed tasks that are kept.
const KEPT: usize = 200;

/// The running side of tasks.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    live: Mutex<HashMap<String, Live>>,
}

#[derive(Debug, Default)]
struct Live {
    cancel: CancellationToken,
    /// `task.destroy` came before the end.
    doomed: bool,
}

impl World {
    /// A pending task.
    pub(crate) fn create_task(&self, label: &str, description: &str, host: &str, cancellable: bool) -> String {
        let allowed = if cancellable { vec!["cancel"] } else { vec![] };
        let record = Record::from([
            ("name_label".to_owned(), Value::str(label)),
            ("name_description".to_owned(), Value::str(description)),
            ("created".to_owned(), Value::now()),
            ("resident_on".to_owned(), Value::str(host)),
            ("allowed_operations".to_owned(), Value::set(allowed)),
        ]);
        let reference = self.write(|db| db.create("task", record));
        lock(&self.tasks.live).insert(reference.clone(), Live::default());
        self.prune_tasks();
        reference
    }

    /// Cancelled when the task is to stop.
    pub(crate) fn task_token(&self, task: &str) -> CancellationToken {
        lock(&self.tasks.live).get(task).map(|live| live.cancel.clone()).unwrap_or_default()
    }

    /// Whether the task waits for an end.
    pub(crate) fn task_pending(&self, task: &str) -> bool {
        self.read(|db| db.text("task", task, "status") == "pending")
    }

    pub(crate) fn task_progress(&self, task: &str, part: f64) {
        self.write(|db| db.set("task", task, "progress", Value::Float(part.clamp(0.0, 1.0))));
    }

    /// Ends a task; a second end changes nothing.
    pub(crate) fn finish_task(&self, task: &str, outcome: &Outcome) {
        if !self.task_pending(task) {
            return;
        }
        let status = match outcome {
            Ok(_) => "success",
            Err(failure) if failure.code == "TASK_CANCELLED" => "cancelled",
            Err(_) => "failure",
        };
        self.write(|db| {
            match outcome {
                Ok(Value::Void) => {}
                Ok(value) => db.set("task", task, "result", Value::str(xmlrpc::value_text(value))),
                Err(failure) => db.set("task", task, "error_info", Value::set(failure.list())),
            }
            db.set("task", task, "progress", Value::Float(1.0));
            db.set("task", task, "finished", Value::now());
            db.set("task", task, "allowed_operations", Value::set(Vec::<String>::new()));
            db.set("task", task, "status", Value::str(status));
        });
        let doomed = lock(&self.tasks.live).remove(task).is_some_and(|live| live.doomed);
        if doomed {
            self.write(|db| db.delete("task", task));
        }
    }

    /// `task.destroy`: at once when it has ended, else when it ends.
    pub(crate) fn destroy_task(&self, task: &str) {
        if self.task_pending(task)
            && let Some(live) = lock(&self.tasks.live).get_mut(task)
        {
            live.doomed = true;
            return;
        }
        lock(&self.tasks.live).remove(task);
        self.write(|db| db.delete("task", task));
    }

    /// `task.cancel`.
    pub(crate) fn cancel_task(&self, task: &str) -> Outcome {
        let allowed = self.read(|db| db.list("task", task, "allowed_operations"));
        if !allowed.iter().any(|op| op == "cancel") {
            return Err(Failure::new("OPERATION_NOT_ALLOWED", &["This task cannot be cancelled"]));
        }
        self.write(|db| db.put("task", task, "current_operations", task, "cancel"));
        self.task_token(task).cancel();
        Ok(Value::Void)
    }

    /// A restart: pending tasks of a host (of all, when none is named) are deleted, and what they were doing forgotten.
    pub(crate) fn forget_tasks(&self, host: Option<&str>) {
        let gone: Vec<String> = self.read(|db| {
            db.rows("task")
                .filter(|(_, task)| task.get("status").is_some_and(|s| s.as_str() == "pending"))
                .filter(|(_, task)| host.is_none_or(|h| task.get("resident_on").is_some_and(|r| r.as_str() == h)))
                .map(|(reference, _)| reference.to_owned())
                .collect()
        });
        for task in &gone {
            if let Some(live) = lock(&self.tasks.live).remove(task) {
                live.cancel.cancel();
            }
        }
        self.write(|db| {
            gone.iter().for_each(|task| db.delete("task", task));
            for class in ["VM", "VDI", "VBD", "VIF", "SR", "pool", "host"] {
                for object in db.references(class) {
                    for task in
                        db.field(class, &object, "current_operations").map(Value::as_map).unwrap_or_default().keys()
                    {
                        if host.is_none() || gone.contains(task) {
                            db.take(class, &object, "current_operations", task);
                        }
                    }
                }
            }
        });
    }

    fn prune_tasks(&self) {
        let too_old = self.config.scaled(Duration::from_secs(65 * 60)).max(Duration::from_secs(60));
        let now = jiff::Timestamp::now();
        self.write(|db| {
            let mut ended: Vec<_> = db
                .rows("task")
                .filter(|(_, t)| t.get("status").is_some_and(|s| s.as_str() != "pending"))
                .filter_map(|(r, t)| match t.get("finished") {
                    Some(Value::Time(at)) => Some((*at, r.to_owned())),
                    _ => None,
                })
                .collect();
            ended.sort();
            let surplus = ended.len().saturating_sub(KEPT);
            for (at, task) in ended.iter().enumerate().filter_map(|(i, e)| {
                let age = Duration::try_from(now.duration_since(e.0)).unwrap_or_default();
                (i < surplus || age > too_old).then_some(e)
            }) {
                tracing::debug!(%at, task, "a completed task is forgotten");
                db.delete("task", task);
            }
        });
    }
}
