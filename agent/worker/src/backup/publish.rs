//! Makes a sealed snapshot a restore point: once, whoever else believes to hold the task.

use coffer_model::names::Named;
use coffer_proto::v1::Intent;
use coffer_remote::commit::{self, CommitRecord, Decider, State, Verdict};
use coffer_repository::SnapshotId;
use serde_json::json;

use super::record::Sealed;
use super::{PUBLISH, Subject, VM_SNAPSHOT, snapshot};
use crate::halt::{Halt, Outcome, Trouble};
use crate::journal::Done;
use crate::point::{self, OpenPoint};
use crate::task::{OpenRemote, Task, settled};

/// What is written down before.
pub(super) fn intent(task: &Task, subject: &Subject, sealed: &Sealed) -> Intent {
    let detail = json!({ "remote": subject.remote.id.name(), "snapshot": sealed.point.snapshot_id().to_string() });
    task.new_intent(PUBLISH, &subject.pool_id.name(), &subject.vm.to_string(), &detail)
}

/// The step: permission, snapshot file, commit record.
pub(super) async fn publish(task: &Task, subject: &Subject, sealed: Sealed) -> Outcome<(OpenPoint, Done)> {
    let id = sealed.point.snapshot_id();
    let incarnation = task.journal.request_commit(&subject.remote.id, &id.to_string()).await?;
    task.authority.full().await;
    sealed.point.publish().await?;
    let (vm, by) = (subject.vm, task.name.task.uuid());
    // The id of a snapshot is the SHA-256 of its file.
    let record = CommitRecord::commit(vm, by, (incarnation, task.epoch), id.to_string(), id.to_string());
    subject.remote.repository.confirm().await?;
    task.authority.full().await;
    let decision = commit::decide(&*subject.remote.remote, &record, decider(task)).await?;
    let winner = decision.record().clone();
    let settled = settle_against(task, &subject.remote, &winner).await?;
    let point = match (&winner.verdict, &winner.snapshot) {
        (Verdict::Commit, Some(snapshot)) => point::open(&subject.remote, point::snapshot_id(snapshot)?).await?,
        _ => return Err(given_up(subject)),
    };
    let message = format!("restore point {} of {}", point.id, point.document.time);
    Ok((point, Done { settled, ..message.into() }))
}

/// Only the first attempt can be sure that no predecessor left a torn record.
fn decider(task: &Task) -> Decider {
    if task.attempt > 1 { Decider::Recoverer } else { Decider::Writer }
}

/// What the remote says about this task.
pub(super) enum Published {
    /// Its restore point.
    Point(Box<OpenPoint>),
    /// There is none, and there will never be one.
    Never,
    /// There is none.
    NotYet,
}

/// Looks whether an attempt of this task has published; publications that this decides about are settled.
pub(super) async fn look(task: &Task, subject: &Subject) -> Outcome<Published> {
    // In another folder no record would say nothing.
    subject.remote.repository.confirm().await?;
    let state = commit::read(&*subject.remote.remote, subject.vm, task.name.task.uuid()).await?;
    let State::Decided(record) = state else { return Ok(Published::NotYet) };
    let (Verdict::Commit, Some(snapshot)) = (record.verdict, &record.snapshot) else {
        return Ok(Published::Never);
    };
    let point = point::open(&subject.remote, point::snapshot_id(snapshot)?).await?;
    let settled = settle_against(task, &subject.remote, &record).await?;
    if !settled.is_empty() {
        task.journal.intend(settled).await?;
    }
    Ok(Published::Point(Box::new(point)))
}

pub(super) fn given_up(subject: &Subject) -> Halt {
    Trouble::new(
        "GIVEN_UP",
        format!("this backup to remote {} was given up by whoever tidied up after it", subject.remote.id),
        "start a new run",
    )
    .into()
}

/// Gives the task up for good: unless the commit record says that there is a restore point after all, there will never
/// be one.
pub(super) async fn give_up(task: &Task, subject: &Subject) -> Outcome<()> {
    let abort = CommitRecord::abort(subject.vm, task.name.task.uuid(), (0, task.epoch));
    subject.remote.repository.confirm().await?;
    task.authority.full().await;
    let decision = commit::decide(&*subject.remote.remote, &abort, Decider::Recoverer).await?;
    let settled = settle_against(task, &subject.remote, decision.record()).await?;
    task.journal.intend(settled).await
}

/// Removes every prepared snapshot of this task that the verdict does not name. Returns the intents that are settled
/// with that.
async fn settle_against(task: &Task, remote: &OpenRemote, verdict: &CommitRecord) -> Outcome<Vec<Intent>> {
    let mut done = Vec::new();
    for intent in task.journal.open_intents() {
        if intent.kind != PUBLISH {
            continue;
        }
        let id = prepared(&intent)?;
        if verdict.snapshot.as_deref() != Some(id.to_string().as_str()) {
            task.authority.full().await;
            remote.repository.forget(id).await?;
        }
        done.push(settled(&intent));
    }
    if verdict.verdict == Verdict::Commit && !done.is_empty() {
        // What the snapshot needs now is finishing, whoever does it.
        let snapshots = task.journal.open_intents().into_iter().filter(|intent| intent.kind == VM_SNAPSHOT);
        done.extend(snapshots.map(snapshot::of_published));
    }
    Ok(done)
}

/// The snapshot that an intent is about.
fn prepared(intent: &Intent) -> Outcome<SnapshotId> {
    let detail: serde_json::Value = serde_json::from_str(&intent.detail).unwrap_or_default();
    point::snapshot_id(detail.get("snapshot").and_then(serde_json::Value::as_str).unwrap_or_default())
}
