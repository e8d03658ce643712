//! Removes snapshots of ours that nobody needs: after a backup, before the next one, and after a crash.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use coffer_model::PoolId;
use coffer_model::names::Named;
use coffer_proto::v1::Intent;
use coffer_xapi::records::{Vdi, VmRecord};
use coffer_xapi::{FailureClass, Ref};
use futures::FutureExt;
use uuid::Uuid;

use super::leftovers::{Needs, Tidying, tidy};
use super::{Subject, VM_SNAPSHOT};
use crate::document::VmDocument;
use crate::halt::{Outcome, chain};
use crate::hypervisor::{Hypervisor, at_once, nothing_pending, snapshot_not_pending};
use crate::journal::Done;
use crate::point;
use crate::stamps::{Stamp, intent_of_name};
use crate::task::{Task, settled};

/// What was removed.
#[derive(Debug, Default)]
pub(super) struct Swept {
    vms: usize,
    disks: usize,
    bitmaps: usize,
}

impl Swept {
    pub(super) fn is_empty(&self) -> bool {
        self.vms + self.disks + self.bitmaps == 0
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} snapshots and {} of their disks, {} reduced to bitmaps", self.vms, self.disks, self.bitmaps)
    }
}

/// Removes what earlier backups of this VM left over. `newest` is the newest restore point on the task's remote.
pub(super) async fn tidy_up(task: &Task, subject: &Subject, newest: Option<&VmDocument>) -> Outcome<Swept> {
    let disks = newest.map_or(&[][..], |document| &document.disks);
    let references = disks.iter().filter_map(|disk| disk.reference);
    let needs = Needs {
        wanted: references.map(|reference| (reference.vdi, reference.kept)).collect(),
        known_remotes: BTreeSet::from([subject.remote.id.clone()]),
        only_intent: None,
    };
    sweep(task, &subject.pool, subject.vm, &needs).await
}

/// The step `remove-snapshot`: removes the snapshot of this backup, but for what the next delta needs.
pub(super) async fn remove_snapshot(task: &Task, subject: &Subject, document: &VmDocument) -> Outcome<Done> {
    snapshot_not_pending(&*subject.pool, subject.vm).await?;
    let swept = tidy_up(task, subject, Some(document)).await?;
    let open = task.journal.open_intents();
    let done = open.iter().filter(|intent| intent.kind == VM_SNAPSHOT).map(settled).collect();
    Ok(Done { settled: done, ..swept.to_string().into() })
}

/// Removes everything of a snapshot that was, or may have been, taken under an intent.
pub(super) async fn undo_snapshot(task: &Task, intent: &Intent) -> Outcome<()> {
    let pool = task.places.pool(&PoolId::from_name(&intent.pool).map_err(super::bad_request)?)?;
    let vm = point::vm_uuid(&intent.target)?;
    nothing_pending(&*pool, "VM.snapshot").await?;
    snapshot_not_pending(&*pool, vm).await?;
    let swept = sweep(task, &pool, vm, &Needs::nothing_of(&intent.id)).await?;
    task.journal.undone("snapshot", &format!("removed {swept}"), vec![settled(intent)]).await
}

/// Removes what is not needed: first snapshots of the VM, whose disks are stamped before they lose it, then disks.
async fn sweep(task: &Task, pool: &Arc<dyn Hypervisor>, vm: Uuid, needs: &Needs) -> Outcome<Swept> {
    let vm_ref = pool.find_vm(vm).await?;
    let mut swept = Swept::default();
    let found = pool.snapshots().await?;
    for doomed in tidy(&found, &task.site, vm, vm_ref.as_ref(), needs).destroy_vms {
        let Some((_, record)) = found.vms.iter().find(|(reference, _)| *reference == doomed) else { continue };
        let stamp = stamp_of(task, vm, record);
        for (_, vdi, disk) in pool.disks(&doomed).await? {
            let stamped = Stamp::of(&disk.other_config, disk.uuid).is_some_and(|known| known.intent == stamp.intent);
            if disk.is_a_snapshot && !stamped {
                pool.mark_disk(&vdi, &stamp.marks(Some(disk.uuid))).await?;
            }
        }
        pool.destroy_vm(&doomed).await?;
        swept.vms += 1;
    }
    let Tidying { destroy_disks, drop_data, .. } =
        tidy(&pool.snapshots().await?, &task.site, vm, vm_ref.as_ref(), needs);
    // All are tried, even when one fails: what is gone is gone.
    let reducing = drop_data.iter().map(|vdi| reduce(task, pool, vdi).boxed()).collect();
    for outcome in at_once(reducing).await {
        match outcome? {
            Reduced::ToBitmap => swept.bitmaps += 1,
            Reduced::ToNothing => swept.disks += 1,
        }
    }
    let destroying = destroy_disks.iter().map(|vdi| pool.destroy_disk(vdi)).collect();
    for outcome in at_once(destroying).await {
        outcome?;
        swept.disks += 1;
    }
    Ok(swept)
}

/// What became of a snapshot whose data is not needed.
enum Reduced {
    ToBitmap,
    ToNothing,
}

/// Keeps only the bitmap of a snapshot, or nothing where there is none.
async fn reduce(task: &Task, pool: &Arc<dyn Hypervisor>, vdi: &Ref<Vdi>) -> Outcome<Reduced> {
    match pool.drop_data(vdi).await {
        Ok(()) => Ok(Reduced::ToBitmap),
        Err(error) if error.class() == Some(FailureClass::Busy) || error.is_retryable() => Err(error.into()),
        Err(error) => {
            task.journal.warn(format_args!(
                "no bitmap can be kept of a snapshot, the next backup reads the whole disk: {}",
                chain(&error)
            ));
            pool.destroy_disk(vdi).await?;
            Ok(Reduced::ToNothing)
        }
    }
}

/// The stamp that the disks of a snapshot should bear, which itself may not be stamped yet.
fn stamp_of(task: &Task, vm: Uuid, record: &VmRecord) -> Stamp {
    Stamp::of(&record.other_config, record.uuid).filter(|stamp| stamp.site == task.site).unwrap_or_else(|| Stamp {
        site: task.site.clone(),
        intent: intent_of_name(&task.site, &record.name_label).unwrap_or_default().to_owned(),
        task: task.name.name(),
        vm: Some(vm),
        remotes: Vec::new(),
        complete: false,
    })
}
