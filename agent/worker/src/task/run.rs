//! A task from its first step to its end: whatever happens in between, what is open is undone and the end is told.

use std::panic::AssertUnwindSafe;

use coffer_proto::v1::task_spec::Kind;
use coffer_proto::v1::{TaskCancelled, TaskSpec, TaskSuccess, complete_request};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Task;
use crate::halt::{Halt, Outcome, Trouble};
use crate::{backup, point, restore};

/// Works on a task and tells the controllers how it ended. With `cleanup_only` it only undoes what is open.
pub(crate) async fn carry_out(task: &Task, spec: &TaskSpec, cleanup_only: bool) {
    let result = if cleanup_only { Err(Halt::Cancelled) } else { guarded(perform(task, spec)).await };
    let result = match result {
        Err(Halt::Cancelled) if !cleanup_only && task.stopping.is_cancelled() => {
            tidied(task, spec, stopped().into(), cleanup_only).await
        }
        Err(halt) => tidied(task, spec, halt, cleanup_only).await,
        success => success,
    };
    let outcome = match result {
        Ok(success) => complete_request::Outcome::Success(success),
        Err(Halt::Fenced) => return,
        Err(Halt::Cancelled) => complete_request::Outcome::Cancelled(TaskCancelled {}),
        Err(Halt::Failed(trouble)) => complete_request::Outcome::Failure(trouble.to_problem()),
    };
    match task.journal.complete(outcome).await {
        Ok(will_retry) => tracing::info!(task = %task.name, will_retry, "task ended"),
        Err(halt) => tracing::warn!(task = %task.name, %halt, "the end of a task could not be told"),
    }
}

/// Why a task that nobody cancelled ends with the agent.
fn stopped() -> Trouble {
    Trouble::new("AGENT_STOPPED", "the agent was stopped", "nothing: another attempt is made when an agent is there")
        .passing()
}

/// Undoes what is open of a task that halted.
async fn tidied(task: &Task, spec: &TaskSpec, halt: Halt, cleanup_only: bool) -> Outcome<TaskSuccess> {
    let for_good = match &halt {
        Halt::Fenced => return Err(halt),
        Halt::Cancelled => true,
        Halt::Failed(trouble) => {
            tracing::info!(task = %task.name, reason = trouble.reason(), "a task failed: {trouble}");
            cleanup_only || !trouble.is_retryable()
        }
    };
    match guarded(clean_up(task, spec, for_good)).await {
        Ok(Some(success)) => Ok(success),
        Ok(None) => Err(halt),
        Err(Halt::Fenced) => Err(Halt::Fenced),
        Err(why) => {
            task.journal.warn(format_args!("could not tidy up, it will be tried again: {why}"));
            Err(halt)
        }
    }
}

/// A fault of this program ends the task, not the agent.
async fn guarded<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        Err(Trouble::new(
            "INTERNAL",
            "the agent failed inside; its log has the details",
            "report this with the log of the agent",
        )
        .into())
    })
}

/// The work of each kind, boxed: one place where the compiler sees that it may move between threads.
fn perform<'a>(task: &'a Task, spec: &'a TaskSpec) -> BoxFuture<'a, Outcome<TaskSuccess>> {
    match &spec.kind {
        Some(Kind::Backup(spec)) => backup::back_up(task, spec).boxed(),
        Some(Kind::Restore(spec)) => restore::restore(task, spec).boxed(),
        Some(Kind::Verify(spec)) => point::verify::verify(task, spec).boxed(),
        Some(Kind::Export(spec)) => point::export::export(task, spec).boxed(),
        Some(Kind::Delete(spec)) => point::delete::delete_one(task, spec).boxed(),
        Some(Kind::Scan(spec)) => point::scan::scan(task, spec).boxed(),
        Some(Kind::Prune(spec)) => point::prune::prune(task, spec).boxed(),
        None => futures::future::err(unknown_kind().into()).boxed(),
    }
}

fn unknown_kind() -> Trouble {
    Trouble::new(
        "NOT_SUPPORTED",
        "this agent does not know this kind of task",
        "use a version of the agent that is not older than that of the controller",
    )
}

/// Undoes what intents say. What turns out to be complete is the result after all.
fn clean_up<'a>(task: &'a Task, spec: &'a TaskSpec, for_good: bool) -> BoxFuture<'a, Outcome<Option<TaskSuccess>>> {
    if task.journal.open_intents().is_empty() {
        return futures::future::ok(None).boxed();
    }
    match &spec.kind {
        Some(Kind::Backup(spec)) => backup::clean_up(task, spec, for_good).boxed(),
        Some(Kind::Restore(spec)) => restore::clean_up(task, spec).boxed(),
        _ => futures::future::ok(None).boxed(),
    }
}
