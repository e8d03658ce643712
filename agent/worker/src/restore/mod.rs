//! Makes a new VM out of a restore point: the steps in their order.
//!
//! | step | written down before | undone by |
//! | --- | --- | --- |
//! | `preflight` | | |
//! | `create-vm` | intent `restore-vm`: its id is in the stamps of the VM and of each disk, from birth | [`undo`] |
//! | `transfer` | | [`undo`] |
//! | `finish` | the VM is marked complete: from then on it is finished, not undone | |
//! | `start` | | |

mod create;
mod preflight;
mod transfer;

mod plan;

use std::sync::Arc;

use coffer_model::names::Named;
use coffer_model::{PoolId, RemoteId, SrUuid};
use coffer_proto::v1::{Intent, RestoreSpec, TaskSuccess};
use coffer_xapi::Ref;
use coffer_xapi::records::Vm;
use serde_json::json;
use uuid::Uuid;

use crate::backup::bad_request;
use crate::document::VmDocument;
use crate::halt::{Outcome, Trouble, chain};
use crate::hypervisor::{Creations, Hypervisor, at_once, nothing_pending};
use crate::journal::Done;
use crate::point;
use crate::stamps::{self, Stamp};
use crate::task::{OpenRemote, Task, settled};

/// The intent of the step `create-vm`.
const RESTORE_VM: &str = "restore-vm";
/// Operations that nobody may do while the disks are being written: their result would be half a machine.
const BLOCKED: [&str; 6] = ["start", "start_on", "snapshot", "clone", "copy", "export"];

/// Plans a restore and forgets it.
pub(crate) fn rehearse(document: &VmDocument) {
    for keep_macs in [false, true] {
        plan::plan(document, &plan::Wish { label: String::new(), keep_macs }, &[]);
    }
}

/// What is restored, from where to where.
struct Subject {
    spec: RestoreSpec,
    pool_id: PoolId,
    pool: Arc<dyn Hypervisor>,
    remote: OpenRemote,
    sr: Uuid,
}

impl Subject {
    fn find(task: &Task, spec: &RestoreSpec) -> Outcome<Self> {
        let pool_id = PoolId::from_name(&spec.pool).map_err(bad_request)?;
        let point = spec.point.clone().unwrap_or_default();
        let remote = RemoteId::from_name(&point.remote).map_err(bad_request)?;
        let sr: SrUuid = spec.sr_uuid.parse().map_err(|error: coffer_model::IdError| {
            Trouble::new("BAD_REQUEST", error.to_string(), "report this as a fault of the program")
        })?;
        Ok(Self {
            pool: task.places.pool(&pool_id)?,
            remote: task.places.remote(&remote)?,
            sr: sr.uuid(),
            pool_id,
            spec: spec.clone(),
        })
    }
}

/// A VM that has been made.
struct Made {
    vm: Ref<Vm>,
    uuid: Uuid,
    /// Its name when it is complete.
    label: String,
}

/// Carries the restore out.
pub(crate) async fn restore(task: &Task, spec: &RestoreSpec) -> Outcome<TaskSuccess> {
    let subject = Subject::find(task, spec)?;
    if let Some(made) = complete_one(task, &subject.pool, &subject.spec).await? {
        task.journal.info(format_args!("an earlier attempt completed VM {}; it is kept", made.uuid));
        return finish(task, &subject, made).await;
    }
    undo_all(task).await?;
    let ready = task.step("preflight", Vec::new(), preflight::preflight(task, &subject)).await?;
    let intent = task.new_intent(RESTORE_VM, &subject.pool_id.name(), &subject.sr.to_string(), &json!({}));
    let stamp = Stamp {
        site: task.site.clone(),
        intent: intent.id.clone(),
        task: task.name.name(),
        vm: None,
        remotes: Vec::new(),
        complete: false,
    };
    let (made, disks) = task.step("create-vm", vec![intent], create::create(task, &subject, &ready, &stamp)).await?;
    task.step("transfer", Vec::new(), transfer::transfer(task, &subject, &ready, &disks)).await?;
    // From here on the VM is finished, whatever happens.
    task.not_cancelled()?;
    let whole = Stamp { complete: true, ..stamp };
    subject.pool.mark_vm(&made.vm, &whole.marks(Some(made.uuid))).await?;
    finish(task, &subject, made).await
}

/// The steps behind the point of no return; each may be repeated.
async fn finish(task: &Task, subject: &Subject, made: Made) -> Outcome<TaskSuccess> {
    task.journal.begin("finish", Vec::new()).await?;
    let finished = async {
        subject.pool.set_vm(&made.vm, "name_label", json!(made.label)).await?;
        for operation in BLOCKED {
            subject.pool.unblock(&made.vm, operation).await?;
        }
        for (_, vdi, disk) in subject.pool.disks(&made.vm).await? {
            if stamps::may_be_ours("", &disk.other_config) {
                subject.pool.unmark_disk(&vdi, &stamps::KEYS).await?;
            }
        }
        subject.pool.unmark_vm(&made.vm, &stamps::OPEN_KEYS).await?;
        Ok(())
    };
    if let Err(halt) = finished.await {
        task.journal.failed("finish", &halt).await?;
        return Err(halt);
    }
    let open = task.journal.open_intents();
    let settled = open.iter().filter(|intent| intent.kind == RESTORE_VM).map(settled).collect();
    let message = format!("{} ({}) is complete", made.label, made.uuid);
    task.journal.done("finish", Done { settled, ..message.into() }).await?;
    if subject.spec.start {
        start(task, subject, &made).await?;
    }
    Ok(TaskSuccess { created_vm_uuid: made.uuid.to_string(), ..TaskSuccess::default() })
}

/// Switches the VM on. That it does not start does not make the restore a failed one.
async fn start(task: &Task, subject: &Subject, made: &Made) -> Outcome<()> {
    task.journal.begin("start", Vec::new()).await?;
    match subject.pool.start(&made.vm).await {
        Ok(()) => task.journal.done("start", format!("{} is started", made.label).into()).await,
        Err(error) => {
            task.journal.warn(format_args!("{} is restored but did not start: {}", made.label, chain(&error)));
            task.journal.failed("start", &Trouble::from(error).into()).await
        }
    }
}

/// Undoes what is open. A VM that turns out to be complete is the result after all.
pub(crate) async fn clean_up(task: &Task, spec: &RestoreSpec) -> Outcome<Option<TaskSuccess>> {
    let subject = Subject::find(task, spec)?;
    if let Some(made) = complete_one(task, &subject.pool, spec).await? {
        return finish(task, &subject, made).await.map(Some);
    }
    undo_all(task).await?;
    Ok(None)
}

/// The VM that an attempt of this task completed.
async fn complete_one(task: &Task, pool: &Arc<dyn Hypervisor>, spec: &RestoreSpec) -> Outcome<Option<Made>> {
    if task.attempt == 1 && task.journal.open_intents().is_empty() {
        return Ok(None);
    }
    for (vm, record) in pool.creations(None).await?.vms {
        if stamps::was_completed_by(&record.other_config, record.uuid, &task.site, &task.name.name()) {
            // Without a wish the name that it bears is the one, but for what it begins with while it is made.
            let label = if spec.vm_label.is_empty() { record.name_label.clone() } else { spec.vm_label.clone() };
            let label = label.strip_prefix(create::PREFIX).unwrap_or(&label).to_owned();
            return Ok(Some(Made { vm, uuid: record.uuid, label }));
        }
    }
    Ok(None)
}

async fn undo_all(task: &Task) -> Outcome<()> {
    for intent in task.journal.open_intents() {
        if intent.kind == RESTORE_VM {
            undo(task, &intent).await?;
        }
    }
    Ok(())
}

/// Destroys exactly what was made under an intent.
async fn undo(task: &Task, intent: &Intent) -> Outcome<()> {
    let pool = task.places.pool(&PoolId::from_name(&intent.pool).map_err(bad_request)?)?;
    let is_ours = |stamp: Option<Stamp>| {
        stamp.is_some_and(|stamp| stamp.site == task.site && stamp.intent == intent.id && !stamp.complete)
    };
    // In the order in which they are made: whoever made the VM makes no disk for it any more.
    nothing_pending(&*pool, "VM.create").await?;
    nothing_pending(&*pool, "VDI.create").await?;
    let Creations { vms, vdis } = pool.creations(None).await?;
    let (mut machines, mut disks) = (0, 0);
    for (vm, record) in vms {
        if is_ours(Stamp::of(&record.other_config, record.uuid)) {
            pool.destroy_vm(&vm).await?;
            machines += 1;
        }
    }
    let doomed: Vec<_> =
        vdis.into_iter().filter(|(_, record)| is_ours(Stamp::of(&record.other_config, record.uuid))).collect();
    let destroying = doomed.iter().map(|(vdi, _)| pool.destroy_disk(vdi)).collect();
    for outcome in at_once(destroying).await {
        outcome?;
        disks += 1;
    }
    let message = format!("removed {machines} VMs and {disks} disks");
    task.journal.undone("create-vm", &message, vec![settled(intent)]).await
}

/// Opens the restore point that is asked for.
async fn open_point(subject: &Subject) -> Outcome<point::OpenPoint> {
    let spec = subject.spec.point.clone().unwrap_or_default();
    point::open(&subject.remote, point::snapshot_id(&spec.snapshot_id)?).await
}
