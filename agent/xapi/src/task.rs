//! Tasks: the only truth about how a transfer or a long operation ended.

use std::collections::BTreeSet;
use std::time::Duration;

use coffer_runtime::retry::Policy;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::time::Instant;

use crate::events::ObjectState;
use crate::link::Repeat;
use crate::records::{Task, TaskRecord, TaskStatus};
use crate::wire::{Malformed, XmlValue, parse_result};
use crate::{Class, Client, Error, Failure, Ref};

/// With live events a task is asked directly this many times more seldom.
const TRUST_IN_EVENTS: u32 = 6;

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well, with this result.
    Succeeded(XmlValue),
    /// With an error.
    Failed(Failure),
    /// Somebody cancelled it.
    Cancelled,
    /// It vanished before its end was seen: it may have succeeded or failed.
    Unknown,
}

impl Outcome {
    /// The result, or the error that a caller reports.
    ///
    /// # Errors
    /// For everything but a success.
    pub fn into_result(self, label: &str) -> Result<XmlValue, Error> {
        match self {
            Self::Succeeded(value) => Ok(value),
            Self::Failed(failure) => Err(failure.into()),
            Self::Cancelled => Err(Error::TaskCancelled { label: label.to_owned() }),
            Self::Unknown => Err(Error::TaskVanished { label: label.to_owned() }),
        }
    }
}

fn is_over(status: TaskStatus) -> bool {
    match status {
        TaskStatus::Pending | TaskStatus::Cancelling | TaskStatus::Unknown => false,
        TaskStatus::Success | TaskStatus::Failure | TaskStatus::Cancelled => true,
    }
}

/// The outcome that a task's record shows; `None` while it is under way.
pub(crate) fn outcome_of(label: &str, task: &TaskRecord) -> Result<Option<Outcome>, Malformed> {
    Ok(match task.status {
        TaskStatus::Pending | TaskStatus::Cancelling | TaskStatus::Unknown => None,
        TaskStatus::Success => Some(Outcome::Succeeded(parse_result(&task.result)?)),
        TaskStatus::Cancelled => Some(Outcome::Cancelled),
        TaskStatus::Failure => Some(match task.error_info.split_first() {
            Some((code, _)) if code == "TASK_CANCELLED" => Outcome::Cancelled,
            Some((code, params)) => Outcome::Failed(Failure::new(label, code, params.to_vec())),
            None => {
                Outcome::Failed(Failure::new(label, "INTERNAL_ERROR", vec!["the task failed without a reason".into()]))
            }
        }),
    })
}

/// The object that a task returned.
pub(crate) fn task_value<C: Class>(method: &str, value: XmlValue) -> Result<Ref<C>, Error> {
    let reference = match &value {
        XmlValue::Text(text) => Ref::new(text),
        XmlValue::Void | XmlValue::Set(_) => None,
    };
    reference.ok_or_else(|| Error::Answer {
        what: method.to_owned(),
        source: Malformed::Shape("the task did not return an object"),
    })
}

impl Client {
    /// Creates a task to be given to a transfer, or to show work of ours on the pool.
    ///
    /// # Errors
    /// As any call.
    pub async fn task_create(&self, label: &str, description: &str) -> Result<Ref<Task>, Error> {
        // A task too many does no harm: the server removes it.
        self.call_as("task.create", vec![json!(label), json!(description)], Repeat::IfRefused).await
    }

    /// Waits until a task ends, by events where they are followed, else (and also, more seldom) by asking. A pool that
    /// is away meanwhile is waited for.
    ///
    /// # Errors
    /// [`Error::TaskTimeout`] after `limit`, and errors of asking that will not go away. How the task ended is no error
    /// here: see [`Outcome`].
    pub async fn task_outcome(&self, task: &Ref<Task>, label: &str, limit: Duration) -> Result<Outcome, Error> {
        let begin = Instant::now();
        let period = self.timeouts().task_poll;
        let mut pauses = Policy { initial: period / 16, max: period, jitter: 0.2, give_up_after: None, attempts: None }
            .delays(rand::random());
        let mut watch = self.events().map(|events| events.object::<Task>(task));
        loop {
            // Asking comes first: what events show may be older than the task.
            match self.task_record(task).await {
                Ok(Some(record)) => {
                    if let Some(outcome) = self.read_outcome(label, &record).await? {
                        return Ok(outcome);
                    }
                }
                Ok(None) => return Ok(Outcome::Unknown),
                Err(error) if error.is_retryable() => tracing::debug!(label, %error, "a task cannot be asked"),
                Err(error) => return Err(error),
            }
            let left = limit.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(Error::TaskTimeout { label: label.to_owned(), after: limit });
            }
            if let Some(followed) = watch.as_mut().filter(|watch| watch.is_live()) {
                let ended = followed.wait_for(|state| match state {
                    ObjectState::Present(task) => is_over(task.status),
                    ObjectState::Gone => true,
                    ObjectState::Unseen => false,
                });
                let seen = tokio::time::timeout(left.min(period * TRUST_IN_EVENTS), ended).await;
                if let Ok(Ok(ObjectState::Present(record))) = &seen
                    && let Some(outcome) = self.read_outcome(label, record).await?
                {
                    return Ok(outcome);
                }
                if let Ok(Ok(ObjectState::Gone) | Err(_)) = seen {
                    // Asked once more, it must be gone too; if not, the events are not to be trusted about it.
                    watch = None;
                }
            } else {
                tokio::time::sleep(left.min(pauses.next().unwrap_or(period))).await;
            }
        }
    }

    async fn read_outcome(&self, label: &str, record: &TaskRecord) -> Result<Option<Outcome>, Error> {
        let outcome = outcome_of(label, record)
            .map_err(|source| Error::Answer { what: format!("the task '{label}'"), source })?;
        Ok(match outcome {
            Some(Outcome::Failed(failure)) => Some(Outcome::Failed(self.without_session(failure).await?)),
            outcome => outcome,
        })
    }

    /// A task's failure may quote the session that it ran in.
    pub(crate) async fn without_session(&self, failure: Failure) -> Result<Failure, Error> {
        Ok(failure.without(self.session().await?.secret.expose_secret()))
    }

    /// How far a task is, from 0 to 1, as events last said; `None` when they do not know it.
    #[must_use]
    pub fn task_progress(&self, task: &Ref<Task>) -> Option<f64> {
        let events = self.events()?;
        let tables = events.tables();
        tables.get::<Task>(task).map(|record| record.progress)
    }

    /// Sets the progress of a task of ours.
    ///
    /// # Errors
    /// As any call.
    pub async fn task_set_progress(&self, task: &Ref<Task>, progress: f64) -> Result<(), Error> {
        self.call("task.set_progress", vec![json!(task), json!(progress)], Repeat::Safe).await.map(drop)
    }

    /// Asks for a task to be cancelled; it ends at its next check point.
    ///
    /// # Errors
    /// As any call; `OPERATION_NOT_ALLOWED` when it cannot be cancelled.
    pub async fn task_cancel(&self, task: &Ref<Task>) -> Result<(), Error> {
        self.call("task.cancel", vec![json!(task)], Repeat::Safe).await.map(drop)
    }

    /// Removes a task; one under way disappears when it ends. That it is gone already is no error.
    ///
    /// # Errors
    /// As any call.
    pub async fn task_destroy(&self, task: &Ref<Task>) -> Result<(), Error> {
        match self.call("task.destroy", vec![json!(task)], Repeat::Safe).await {
            Err(error) if error.is("HANDLE_INVALID") => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Removes a task whose outcome is known; the server would do it later.
    pub(crate) async fn discard_task(&self, task: &Ref<Task>) {
        if let Err(error) = self.task_destroy(task).await {
            tracing::debug!(%task, %error, "a finished task is left to the server");
        }
    }

    /// The operations of a kind (`VM.snapshot`) that are under way, whoever began them.
    ///
    /// # Errors
    /// As any call.
    pub async fn operations_under_way(&self, method: &str) -> Result<BTreeSet<Ref<Task>>, Error> {
        let pending = self.records_where::<Task>("field \"status\" = \"pending\"").await?;
        let label = format!("Async.{method}");
        Ok(pending.into_iter().filter(|(_, task)| task.name_label == label).map(|(task, _)| task).collect())
    }

    /// The record of a task; `None` when it is gone.
    pub(crate) async fn task_record(&self, task: &Ref<Task>) -> Result<Option<TaskRecord>, Error> {
        match self.record::<Task>(task).await {
            Ok(record) => Ok(Some(record.fields)),
            Err(error) if error.is("HANDLE_INVALID") => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(status: TaskStatus, result: &str, error_info: &[&str]) -> TaskRecord {
        TaskRecord {
            status,
            result: result.to_owned(),
            error_info: error_info.iter().map(|&text| text.to_owned()).collect(),
            ..TaskRecord::default()
        }
    }

    #[test]
    fn only_a_task_that_says_success_succeeded() {
        let outcome = |record| outcome_of("x", &record).unwrap();
        assert_eq!(outcome(task(TaskStatus::Pending, "", &[])), None);
        assert_eq!(outcome(task(TaskStatus::Unknown, "", &[])), None);
        assert_eq!(outcome(task(TaskStatus::Success, "", &[])), Some(Outcome::Succeeded(XmlValue::Void)));
        assert_eq!(outcome(task(TaskStatus::Cancelled, "", &[])), Some(Outcome::Cancelled));
        assert_eq!(outcome(task(TaskStatus::Failure, "", &["TASK_CANCELLED", "t"])), Some(Outcome::Cancelled));
        for info in [&["VDI_IO_ERROR", "x"][..], &[]] {
            assert!(matches!(outcome(task(TaskStatus::Failure, "", info)), Some(Outcome::Failed(_))));
        }
        assert!(outcome_of("x", &task(TaskStatus::Success, "<value>", &[])).is_err());
    }
}
