//! Backs up one VM: the steps in their order.
//!
//! | step | written down before | undone by |
//! | --- | --- | --- |
//! | `preflight` | | |
//! | `snapshot` | intent `vm-snapshot`: its id is in the snapshot's name and stamps | [`sweep::undo_snapshot`] |
//! | `transfer`, `seal` | | nothing of it is visible; a prune collects it |
//! | `publish` | intent `publish`, then the controller's permission | [`publish::give_up`]: the commit record decides |
//! | `retention` | controllers hide the points first | |
//! | `remove-snapshot` | | it is the undoing, but for what the next delta needs |
//!
//! Whoever takes over after a crash first asks the commit record: a published point is finished, anything else is
//! undone and begun again.

mod facts;
pub(crate) mod leftovers;
mod preflight;
pub(crate) mod publish;
mod record;
mod retention;
mod snapshot;
mod source;
pub(crate) mod sweep;
mod transfer;

use std::sync::Arc;

use coffer_model::names::Named;
use coffer_model::{PoolId, RemoteId};
use coffer_proto::v1::{BackupSpec, RestorePoint, TaskSuccess};
use uuid::Uuid;

use crate::document::VmDocument;
use crate::halt::{Halt, Outcome, Trouble};
use crate::hypervisor::Hypervisor;
use crate::journal::Done;
use crate::point::{self, OpenPoint};
use crate::task::{OpenRemote, Task};
use preflight::Ready;
use publish::Published;
use record::Sealed;
use snapshot::Shot;

/// The intent of the step `snapshot`.
pub(crate) const VM_SNAPSHOT: &str = "vm-snapshot";
/// The intent of the step `publish`.
pub(crate) const PUBLISH: &str = "publish";

/// What is backed up, from where to where.
pub(crate) struct Subject {
    pub(crate) spec: BackupSpec,
    pub(crate) pool_id: PoolId,
    pub(crate) pool: Arc<dyn Hypervisor>,
    pub(crate) remote: OpenRemote,
    pub(crate) vm: Uuid,
}

impl Subject {
    fn find(task: &Task, spec: &BackupSpec) -> Outcome<Self> {
        let pool_id = PoolId::from_name(&spec.pool).map_err(bad_request)?;
        let [remote] = spec.remotes.as_slice() else {
            return Err(Trouble::new(
                "NOT_SUPPORTED",
                format!("a backup to {} remotes at once", spec.remotes.len()),
                "give the job exactly one remote",
            )
            .into());
        };
        let remote_id = RemoteId::from_name(remote).map_err(bad_request)?;
        Ok(Self {
            pool: task.places.pool(&pool_id)?,
            remote: task.places.remote(&remote_id)?,
            vm: point::vm_uuid(&spec.vm_uuid)?,
            pool_id,
            spec: spec.clone(),
        })
    }
}

/// A name in a request that is none.
pub(crate) fn bad_request(error: coffer_model::NameError) -> Halt {
    Trouble::new("BAD_REQUEST", error.explain(), "report this as a fault of the program").into()
}

/// Carries the backup out.
pub(crate) async fn back_up(task: &Task, spec: &BackupSpec) -> Outcome<TaskSuccess> {
    let subject = Subject::find(task, spec)?;
    match carry_out(task, &subject).await {
        // Whatever was missed first, a disk or a snapshot: when the VM itself is gone, that is what happened.
        Err(Halt::Failed(trouble)) if trouble.is_gone() => match subject.pool.machine(subject.vm).await {
            Ok(None) => Err(preflight::vm_gone(&subject).into()),
            _ => Err(trouble.into()),
        },
        result => result,
    }
}

async fn carry_out(task: &Task, subject: &Subject) -> Outcome<TaskSuccess> {
    match publish::look(task, subject).await? {
        Published::Point(point) => {
            task.journal.info(format_args!("an earlier attempt published restore point {}; it is kept", point.id));
            let published = point.document.restore_point(&subject.remote.id, &point.id.to_string());
            return finish(task, subject, &point.document, published).await;
        }
        Published::Never => return Err(publish::given_up(subject)),
        Published::NotYet => {}
    }
    undo_snapshots(task).await?;
    let mut ready = task.step("preflight", Vec::new(), preflight::preflight(task, subject)).await?;
    let intent = snapshot::intent(task, subject);
    let shot = task.step("snapshot", vec![intent.clone()], snapshot::take(task, subject, &ready, &intent.id)).await?;
    let sealed = loop {
        match move_and_seal(task, subject, &ready, &shot).await? {
            Some(sealed) => break sealed,
            None => ready.begin_anew(),
        }
    };
    let intent = publish::intent(task, subject, &sealed);
    let point: OpenPoint = task.step("publish", vec![intent], publish::publish(task, subject, sealed)).await?;
    let published = point.document.restore_point(&subject.remote.id, &point.id.to_string());
    finish(task, subject, &point.document, published).await
}

/// `None`: data that the backup was built on is lost, and it must begin anew, once.
async fn move_and_seal(task: &Task, subject: &Subject, ready: &Ready, shot: &Shot) -> Outcome<Option<Sealed>> {
    match task.step("transfer", Vec::new(), transfer::transfer(task, subject, ready, shot)).await? {
        Some(moved) => task.step("seal", Vec::new(), record::seal(task, subject, ready, shot, moved)).await,
        None => Ok(None),
    }
}

/// Undoes what is open of a backup that did not succeed, or whose attempts are over (`for_good`). When it turns out
/// that it was published after all, it is finished instead and that is the result.
pub(crate) async fn clean_up(task: &Task, spec: &BackupSpec, for_good: bool) -> Outcome<Option<TaskSuccess>> {
    let open = task.journal.open_intents();
    let publishing = open.iter().any(|intent| intent.kind == PUBLISH);
    if publishing || open.iter().any(snapshot::is_of_published) {
        let subject = Subject::find(task, spec)?;
        if publishing && for_good {
            // Without this, a predecessor that was only paused could still publish.
            publish::give_up(task, &subject).await?;
        }
        if let Published::Point(point) = publish::look(task, &subject).await? {
            let restore_point = point.document.restore_point(&subject.remote.id, &point.id.to_string());
            return finish(task, &subject, &point.document, restore_point).await.map(Some);
        }
    }
    undo_snapshots(task).await?;
    Ok(None)
}

async fn undo_snapshots(task: &Task) -> Outcome<()> {
    for intent in task.journal.open_intents() {
        if intent.kind == VM_SNAPSHOT {
            sweep::undo_snapshot(task, &intent).await?;
        }
    }
    Ok(())
}

/// What follows a publication. Nothing that goes wrong here makes a good backup a bad one.
async fn finish(
    task: &Task,
    subject: &Subject,
    document: &VmDocument,
    published: RestorePoint,
) -> Outcome<TaskSuccess> {
    let warn = |what: &str, outcome: Outcome<()>| match outcome {
        Err(Halt::Fenced) => Err(Halt::Fenced),
        Err(halt) => {
            task.journal.warn(format_args!("{what} failed, the restore point is good: {halt}"));
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    let kept = whatever_happens(task, "retention", retention::apply(task, subject, &published)).await;
    warn("retention", kept)?;
    let removed = whatever_happens(task, "remove-snapshot", sweep::remove_snapshot(task, subject, document)).await;
    warn("removing the snapshot", removed)?;
    Ok(TaskSuccess { restore_points: vec![published], ..TaskSuccess::default() })
}

/// A step that is carried out even when cancelling was asked for: the restore point exists, tidying up remains.
async fn whatever_happens(task: &Task, name: &'static str, work: impl Future<Output = Outcome<Done>>) -> Outcome<()> {
    task.journal.begin(name, Vec::new()).await?;
    match work.await {
        Ok(done) => task.journal.done(name, done).await,
        Err(Halt::Fenced) => Err(Halt::Fenced),
        Err(halt) => {
            task.journal.failed(name, &halt).await?;
            Err(halt)
        }
    }
}
