//! Takes the snapshot that is backed up, and stamps it.

use coffer_model::names::Named;
use coffer_proto::v1::Intent;
use coffer_xapi::Ref;
use coffer_xapi::records::{Vdi, VdiRecord, Vm};
use jiff::Timestamp;
use serde_json::json;

use super::preflight::Ready;
use super::{Subject, VM_SNAPSHOT};
use crate::halt::{Outcome, Trouble};
use crate::journal::Done;
use crate::stamps::{Stamp, snapshot_name};
use crate::task::Task;

/// A snapshot that has been taken.
pub(crate) struct Shot {
    pub(super) time: Timestamp,
    /// The snapshot of each disk that is backed up, in the order of [`Ready::included`].
    pub(super) disks: Vec<(Ref<Vdi>, VdiRecord)>,
}

/// What is written down before.
pub(super) fn intent(task: &Task, subject: &Subject) -> Intent {
    let mut intent = task.new_intent(VM_SNAPSHOT, &subject.pool_id.name(), &subject.vm.to_string(), &json!({}));
    intent.detail = json!({ "name": snapshot_name(&task.site, &intent.id) }).to_string();
    intent
}

/// The key of an intent's detail once the restore point made of the snapshot is published.
const PUBLISHED: &str = "published";

/// The same intent, from now on about a snapshot whose restore point is published: its disks may be references.
pub(super) fn of_published(mut intent: Intent) -> Intent {
    let mut detail: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&intent.detail).unwrap_or_default();
    detail.insert(PUBLISHED.to_owned(), true.into());
    intent.detail = serde_json::Value::Object(detail).to_string();
    intent
}

/// Whether an intent is about a snapshot whose restore point is published.
pub(super) fn is_of_published(intent: &Intent) -> bool {
    let detail: serde_json::Value = serde_json::from_str(&intent.detail).unwrap_or_default();
    intent.kind == VM_SNAPSHOT && detail.get(PUBLISHED).is_some()
}

/// The step.
pub(super) async fn take(task: &Task, subject: &Subject, ready: &Ready, intent: &str) -> Outcome<(Shot, Done)> {
    for (disk, storage) in ready.included() {
        if !storage.tracks_changes || disk.vdi.cbt_enabled {
            continue;
        }
        let label = &disk.vdi.name_label;
        match subject.pool.enable_tracking(&disk.vdi.reference).await {
            Ok(()) => task.journal.info(format_args!("changed blocks of disk {label} are tracked from now on")),
            Err(error) => task.journal.warn_error(&format!("changed blocks of disk {label} cannot be tracked"), &error),
        }
    }
    let name = snapshot_name(&task.site, intent);
    let vm = subject.pool.snapshot(&ready.machine.vm.reference, &name, &ready.ignored()).await?;
    let stamp = stamp(task, subject, intent);
    let record = subject.pool.vm(&vm).await?.ok_or_else(vanished)?;
    subject.pool.mark_vm(&vm, &stamp.marks(Some(record.uuid))).await?;
    let disks = find_disks(subject, ready, &vm).await?;
    for (vdi, disk) in &disks {
        subject.pool.mark_disk(vdi, &stamp.marks(Some(disk.uuid))).await?;
    }
    let time = record.snapshot_time.unwrap_or_else(Timestamp::now);
    let message = format!("snapshot {name} of {} disks", disks.len());
    Ok((Shot { time, disks }, message.into()))
}

fn stamp(task: &Task, subject: &Subject, intent: &str) -> Stamp {
    Stamp {
        site: task.site.clone(),
        intent: intent.to_owned(),
        task: task.name.name(),
        vm: Some(subject.vm),
        remotes: vec![subject.remote.id.clone()],
        complete: false,
    }
}

/// Finds the snapshot of each disk.
async fn find_disks(subject: &Subject, ready: &Ready, vm: &Ref<Vm>) -> Outcome<Vec<(Ref<Vdi>, VdiRecord)>> {
    let found = subject.pool.disks(vm).await?;
    let mut disks = Vec::new();
    for (disk, _) in ready.included() {
        let same = found.iter().find(|(vbd, _, vdi)| {
            vdi.snapshot_of.as_ref() == Some(&disk.vdi.reference) && vbd.userdevice == disk.vbd.userdevice
        });
        let (_, reference, record) = same.ok_or_else(|| {
            Trouble::new(
                "SNAPSHOT_INCOMPLETE",
                format!("the snapshot has no copy of disk {} ({})", disk.vdi.uuid, disk.vdi.name_label),
                "the disk may have been detached during the snapshot: try again",
            )
            .passing()
        })?;
        disks.push((reference.clone(), record.clone()));
    }
    Ok(disks)
}

fn vanished() -> Trouble {
    Trouble::new(
        "SNAPSHOT_GONE",
        "the snapshot was removed by somebody else while it was being backed up",
        "look who removes snapshots in this pool, then try again",
    )
    .passing()
}
