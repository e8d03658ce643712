//! Gathers what the choice of a disk's source depends on.

use coffer_xapi::Ref;
use coffer_xapi::records::{Vdi, VdiRecord};

use super::Subject;
use super::leftovers::{BITMAP_ONLY, Keep};
use super::preflight::Ready;
use super::source::{DiskFacts, FoundReference, ParentDisk};
use crate::document::DocumentDisk;
use crate::halt::{Outcome, chain};
use crate::hypervisor::{MachineDisk, Storage};
use crate::stamps::Stamp;
use crate::task::Task;

/// Types of storage whose disks are VHD chains.
const VHD_CHAINS: [&str; 9] = ["ext", "xfs", "file", "nfs", "smb", "lvm", "lvmoiscsi", "lvmohba", "lvmofcoe"];

/// What is known of a disk and its snapshot.
pub(super) async fn gather(
    task: &Task,
    subject: &Subject,
    ready: &Ready,
    (disk, storage): (&MachineDisk, &Storage),
    (snapshot, record): (&Ref<Vdi>, &VdiRecord),
) -> Outcome<DiskFacts> {
    let no_nbd = match subject.pool.offers_nbd(snapshot).await {
        Ok(true) => None,
        Ok(false) => Some("no network of the pool offers NBD".to_owned()),
        Err(error) => Some(format!("NBD cannot be asked for: {}", chain(&error))),
    };
    let no_tracking = if !storage.tracks_changes {
        Some(format!("storage of type {} does not track changed blocks", storage.record.kind))
    } else if !record.cbt_enabled {
        Some("changed blocks of this disk are not tracked".to_owned())
    } else {
        None
    };
    let in_parent =
        ready.parent.as_ref().and_then(|parent| parent.document.disks.iter().find(|known| known.uuid == disk.vdi.uuid));
    let parent = in_parent.map(|known| ParentDisk {
        size: known.size,
        reference: known.reference.map(|reference| (reference.vdi, reference.kept)),
    });
    let no_parent = match &ready.parent {
        Some(_) if in_parent.is_none() => "the disk is not in the last restore point".to_owned(),
        _ => ready.no_parent.clone(),
    };
    let found = match in_parent {
        Some(known) => find_reference(task, subject, disk, known).await?,
        None => None,
    };
    let vhd_chains = VHD_CHAINS.contains(&storage.record.kind.as_str());
    Ok(DiskFacts { size: record.virtual_size, no_nbd, no_tracking, vhd_chains, parent, no_parent, found })
}

/// Looks for the snapshot that the last restore point was read from. A document is only a claim: the pool decides.
async fn find_reference(
    task: &Task,
    subject: &Subject,
    disk: &MachineDisk,
    known: &DocumentDisk,
) -> Outcome<Option<FoundReference>> {
    let Some(reference) = known.reference else { return Ok(None) };
    let Some((vdi, record)) = subject.pool.disk(reference.vdi).await? else { return Ok(None) };
    let ours = Stamp::of(&record.other_config, record.uuid)
        .is_some_and(|stamp| stamp.site == task.site && stamp.vm == Some(subject.vm));
    let is_ours = ours && record.is_a_snapshot && record.snapshot_of.as_ref() == Some(&disk.vdi.reference);
    let bitmap_only = record.kind == BITMAP_ONLY;
    let tracked = record.cbt_enabled && (bitmap_only || reference.kept == Keep::Bitmap);
    Ok(Some(FoundReference { vdi, bitmap_only, tracked, is_ours }))
}
