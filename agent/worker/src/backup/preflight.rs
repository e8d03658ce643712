//! Before anything is done: is the VM there, is there room, what is there to compare with, and is anything of ours left
//! over?

use std::collections::BTreeSet;

use coffer_model::{ByteSize, counted, is_excluded_disk};
use coffer_xapi::Ref;
use coffer_xapi::records::Vdi;
use uuid::Uuid;

use super::Subject;
use super::sweep;
use crate::halt::{Halt, Outcome, Trouble};
use crate::hypervisor::{Chain, Machine, MachineDisk, Storage};
use crate::journal::Done;
use crate::point::{self, OpenPoint};
use crate::task::Task;

/// Storage refuses chains longer than 30; the next snapshot makes up to two nodes.
const DEEPEST_CHAIN: usize = 28;
/// What must be free for a snapshot, bytes: metadata, and what the guest writes meanwhile.
const RESERVE: u64 = 64 << 20;

/// Why a backup begins anew.
pub(super) const LOST: &str = "data that was stored before is lost";

/// What is known when the preflight is over.
pub(crate) struct Ready {
    pub(super) machine: Machine,
    /// The storage of each disk of `machine.disks`; `None` for disks that are left out.
    pub(super) storages: Vec<Option<Storage>>,
    /// The newest restore point on the remote.
    pub(super) parent: Option<OpenPoint>,
    /// Why there is none to compare with.
    pub(super) no_parent: String,
    /// The backup began anew, since data that it was built on is lost.
    pub(super) is_anew: bool,
    pub(super) pool_uuid: Uuid,
}

impl Ready {
    /// The disks that are backed up, each with its storage.
    pub(super) fn included(&self) -> impl Iterator<Item = (&MachineDisk, &Storage)> {
        self.machine.disks.iter().zip(&self.storages).filter_map(|(disk, storage)| Some((disk, storage.as_ref()?)))
    }

    /// The disks that are left out.
    pub(super) fn excluded(&self) -> impl Iterator<Item = &MachineDisk> {
        self.machine.disks.iter().zip(&self.storages).filter(|(_, storage)| storage.is_none()).map(|(disk, _)| disk)
    }

    /// The storage repositories of its disks, for people.
    pub(super) fn storage_labels(&self) -> String {
        let labels: BTreeSet<_> = self.included().map(|(_, storage)| storage.record.name_label.as_str()).collect();
        labels.into_iter().collect::<Vec<_>>().join(" or ")
    }

    /// From now on everything is read, and what is lost is stored again.
    pub(super) fn begin_anew(&mut self) {
        self.parent = None;
        self.no_parent = LOST.to_owned();
        self.is_anew = true;
    }

    /// For the pool: disks that a snapshot leaves out.
    pub(super) fn ignored(&self) -> Vec<Ref<Vdi>> {
        self.excluded().map(|disk| disk.vdi.reference.clone()).collect()
    }
}

/// The step.
pub(super) async fn preflight(task: &Task, subject: &Subject) -> Outcome<(Ready, Done)> {
    let machine = subject.pool.machine(subject.vm).await?.ok_or_else(|| vm_gone(subject))?;
    let label = machine.vm.name_label.clone();
    if !machine.vm.is_plain_vm() {
        return Err(Trouble::new(
            "NOT_A_VM",
            format!("{label} ({}) is a template, a snapshot or a control domain", subject.vm),
            "choose virtual machines only",
        )
        .into());
    }
    let (parent, no_parent) = find_parent(task, subject).await?;
    let swept = sweep::tidy_up(task, subject, parent.as_ref().map(|parent| &parent.document)).await?;
    if !swept.is_empty() {
        task.journal.info(format_args!("leftovers of earlier backups were removed: {swept}"));
    }
    let mut storages = Vec::with_capacity(machine.disks.len());
    for disk in &machine.disks {
        storages.push(check_disk(task, subject, disk).await?);
    }
    let pool_uuid = subject.pool.pool_uuid().await?;
    let ready = Ready { machine, storages, parent, no_parent, is_anew: false, pool_uuid };
    let disks = ready.included().count();
    let bytes: u64 = ready.included().map(|(disk, _)| disk.vdi.virtual_size).fold(0, u64::saturating_add);
    let against = match &ready.parent {
        Some(parent) => format!("against the restore point of {}", parent.document.time),
        None => ready.no_parent.clone(),
    };
    let message = format!("{label}: {}, {}, {against}", counted(disks, "disk"), ByteSize(bytes));
    Ok((ready, message.into()))
}

/// The VM is not there (any more).
pub(super) fn vm_gone(subject: &Subject) -> Trouble {
    Trouble::new(
        "VM_GONE",
        format!("there is no virtual machine {} in pool {}", subject.vm, subject.pool_id),
        "take it out of the job, or restore it from its last restore point",
    )
}

/// The newest restore point on the remote that can be read, or why there is none.
async fn find_parent(task: &Task, subject: &Subject) -> Outcome<(Option<OpenPoint>, String)> {
    let points = point::committed(&subject.remote, Some(subject.vm)).await?;
    let Some((newest, _)) = points.into_iter().max_by_key(|(point, _)| (point.time, point.id)) else {
        return Ok((None, format!("first restore point on remote {}", subject.remote.id)));
    };
    match point::open(&subject.remote, newest.id).await {
        Ok(parent) => Ok((Some(parent), String::new())),
        // What cannot be read is no reason not to make a new backup, on the contrary.
        Err(Halt::Failed(trouble)) if !trouble.is_retryable() => {
            task.journal.warn(format_args!("the last restore point cannot be compared with: {trouble}"));
            Ok((None, format!("restore point {} cannot be read", newest.id)))
        }
        Err(halt) => Err(halt),
    }
}

/// The storage of a disk that is to be backed up, once it is clear that a snapshot of it can be taken.
async fn check_disk(task: &Task, subject: &Subject, disk: &MachineDisk) -> Outcome<Option<Storage>> {
    let label = &disk.vdi.name_label;
    if is_excluded_disk(label) {
        task.journal.info(format_args!("disk {} ({label}) is left out, as its name asks", disk.vdi.uuid));
        return Ok(None);
    }
    let Some(sr) = &disk.vdi.sr else {
        return Err(Trouble::new(
            "DISK_GONE",
            format!("disk {} ({label}) has no storage repository", disk.vdi.uuid),
            "look at the storage of this virtual machine",
        )
        .passing()
        .into());
    };
    let storage = subject.pool.storage_of(sr).await?;
    let chain = subject.pool.chain(sr, disk.vdi.uuid).await?;
    judge(disk.vdi.virtual_size, disk.vdi.physical_utilisation, label, &storage, chain)?;
    Ok(Some(storage))
}

/// Whether a storage repository has room for another snapshot of a disk. Pure.
fn judge(size: u64, used: u64, label: &str, storage: &Storage, chain: Chain) -> Result<(), Trouble> {
    let sr = &storage.record;
    if chain.depth >= DEEPEST_CHAIN {
        return Err(Trouble::new(
            "SNAPSHOT_CHAIN_TOO_LONG",
            format!(
                "disk {label} on {} has a chain of {} snapshots, {} of which wait to be coalesced",
                sr.name_label, chain.depth, chain.uncoalesced
            ),
            "remove old snapshots, and give the storage time to coalesce them; backups go on when the chain is shorter",
        )
        .passing());
    }
    if sr.physical_size == 0 {
        return Ok(());
    }
    let free = sr.physical_size.saturating_sub(sr.physical_utilisation);
    let reserve = RESERVE.min(sr.physical_size / 20);
    // A snapshot on thick storage gives the disk its full size again.
    let needed = if is_thick(&sr.kind) { size.saturating_sub(used).max(reserve) } else { reserve };
    if free < needed {
        return Err(Trouble::new(
            "SR_FULL",
            format!(
                "a snapshot of disk {label} needs {} on {}, {} are free",
                ByteSize(needed),
                sr.name_label,
                ByteSize(free)
            ),
            "free space on the storage repository; removed snapshots give theirs back only after garbage collection",
        )
        .passing());
    }
    Ok(())
}

/// Storage that gives every disk its full size.
fn is_thick(kind: &str) -> bool {
    matches!(kind, "lvm" | "lvmoiscsi" | "lvmohba" | "lvmofcoe")
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_xapi::records::SrRecord;

    const GIB: u64 = 1 << 30;

    fn check(kind: &str, (size, used): (u64, u64), (total, taken): (u64, u64), depth: usize) -> &'static str {
        let record =
            SrRecord { kind: kind.into(), physical_size: total, physical_utilisation: taken, ..SrRecord::default() };
        let storage = Storage { reference: Ref::new("OpaqueRef:sr").unwrap(), record, tracks_changes: true };
        let verdict = judge(size, used, "disk", &storage, Chain { depth, uncoalesced: 0 });
        verdict.err().map_or("", |trouble| trouble.reason())
    }

    #[test]
    fn storage_without_room_is_refused_before_a_snapshot_is_taken() {
        assert_eq!(check("ext", (GIB, GIB), (10 * GIB, 9 * GIB), 2), "");
        assert_eq!(check("ext", (GIB, GIB), (10 * GIB, 10 * GIB), 2), "SR_FULL");
        assert_eq!(check("lvm", (4 * GIB, 4 * GIB), (10 * GIB, 9 * GIB), 2), "");
        assert_eq!(check("lvm", (4 * GIB, GIB), (10 * GIB, 9 * GIB), 2), "SR_FULL");
        assert_eq!(check("ext", (GIB, GIB), (0, 0), 2), "");
        assert_eq!(check("ext", (GIB, GIB), (10 * GIB, GIB), 28), "SNAPSHOT_CHAIN_TOO_LONG");
    }
}
