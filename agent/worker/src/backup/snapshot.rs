//! Takes the snapshot that is backed up, and stamps it.

use coffer_model::counted;
use coffer_model::names::Named;
use coffer_proto::v1::Intent;
use coffer_xapi::Ref;
use coffer_xapi::records::{Vdi, VdiRecord, Vm};
use jiff::{SignedDuration, Timestamp};
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
    let taken = Timestamp::now();
    let snapshot = subject.pool.snapshot(&ready.machine.vm.reference, &name, &ready.ignored()).await;
    let vm = snapshot.map_err(|error| Trouble::from(error).on_storage(&ready.storage_labels()))?;
    let stamp = stamp(task, subject, intent);
    let record = subject.pool.vm(&vm).await?.ok_or_else(vanished)?;
    subject.pool.mark_vm(&vm, &stamp.marks(Some(record.uuid))).await?;
    let disks = find_disks(subject, ready, &vm).await?;
    for (vdi, disk) in &disks {
        subject.pool.mark_disk(vdi, &stamp.marks(Some(disk.uuid))).await?;
    }
    let parent = ready.parent.as_ref().map(|parent| parent.document.time);
    let time = point_time(taken, parent);
    if let Some(parent) = parent.filter(|parent| *parent >= taken) {
        task.journal.warn(format_args!(
            "the last restore point is of {parent}, which is yet to come: look at the clocks of the agents of this pool"
        ));
    }
    let message = format!("snapshot {name} of {}", counted(disks.len(), "disk"));
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

/// How far apart the clocks of two agents may be before the order of restore points follows them.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// When a restore point is of, in milliseconds: later than the one before it, whatever the clocks of two agents make of
/// it. Hosts are not asked: they tell whole seconds, in which several restore points fit. Pure.
fn point_time(taken: Timestamp, parent: Option<Timestamp>) -> Timestamp {
    let taken = whole_milliseconds(taken);
    match parent {
        Some(parent) if parent >= taken && parent.duration_since(taken) < SKEW => {
            whole_milliseconds(parent) + SignedDuration::from_millis(1)
        }
        _ => taken,
    }
}

fn whole_milliseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(millisecond).unwrap()
    }

    proptest! {
        #[test]
        fn restore_points_keep_their_order_though_clocks_differ_by_less_than_an_hour(
            parent in 0_i64..4_000_000_000_000, later in -3_599_999_i64..3_600_000, nanosecond in 0_i64..1_000_000,
        ) {
            let taken = at(parent + later) + SignedDuration::from_nanos(nanosecond);
            prop_assert!(point_time(taken, Some(at(parent))) > at(parent));
            prop_assert_eq!(point_time(taken, None), at(parent + later));
        }
    }

    #[test]
    fn a_restore_point_from_a_far_future_does_not_drag_others_there() {
        let now = at(1_800_000_000_000);
        assert_eq!(point_time(now, Some(now + SignedDuration::from_hours(24 * 365))), now);
    }
}
