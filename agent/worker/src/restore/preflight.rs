//! Before anything is made: can the restore point be read, is there room, which networks are there?

use coffer_extent::RangeSet;
use coffer_model::{ByteSize, counted};
use coffer_repository::{BlobId, FileContent, Repository};

use super::plan::{RestorePlan, Wish, plan};
use super::{Subject, open_point};
use crate::halt::{Halt, Outcome, Trouble};
use crate::hypervisor::Storage;
use crate::journal::Done;
use crate::point::OpenPoint;
use crate::task::Task;

/// What is known when the preflight is over.
pub(super) struct Ready {
    pub(super) point: OpenPoint,
    pub(super) storage: Storage,
    pub(super) plan: RestorePlan,
    /// What of each disk is not zero, in the order of the document.
    pub(super) contents: Vec<RangeSet>,
}

impl Ready {
    /// Names the storage repository where the pool found no room, which its error does not.
    pub(super) fn without_room(&self, halt: Halt) -> Halt {
        match halt {
            Halt::Failed(trouble) => trouble.on_storage(&self.storage.record.name_label).into(),
            halt => halt,
        }
    }
}

/// The step.
pub(super) async fn preflight(task: &Task, subject: &Subject) -> Outcome<(Ready, Done)> {
    let point = open_point(subject).await?;
    let storage = subject.pool.storage(subject.sr).await?.ok_or_else(|| {
        Trouble::new(
            "SR_GONE",
            format!("there is no storage repository {} in pool {}", subject.sr, subject.pool_id),
            "choose another storage repository",
        )
    })?;
    let mut contents = Vec::with_capacity(point.document.disks.len());
    for disk in &point.document.disks {
        contents.push(not_zero(&subject.remote.repository, &point.point.content(&disk.path)?));
    }
    let bytes: u64 = contents.iter().map(RangeSet::total).fold(0, u64::saturating_add);
    let sizes: u64 = point.document.disk_bytes();
    let needed = if is_thick(&storage.record.kind) { sizes } else { bytes };
    let record = &storage.record;
    let free = record.physical_size.saturating_sub(record.physical_utilisation);
    if record.physical_size > 0 && free < needed {
        return Err(Trouble::new(
            "SR_FULL",
            format!("the restore needs {} on {}, {} are free", ByteSize(needed), record.name_label, ByteSize(free)),
            "free space on the storage repository, or choose another one",
        )
        .into());
    }
    let networks = subject.pool.networks().await?;
    let wish = Wish { label: subject.spec.vm_label.clone(), keep_macs: subject.spec.keep_mac_addresses };
    let plan = plan(&point.document, &wish, &networks);
    for warning in &plan.warnings {
        task.journal.warn(warning);
    }
    let message = format!(
        "{} of {}: {}, {}, {} of them not zero, to {}",
        point.document.vm_label,
        point.document.time,
        counted(point.document.disks.len(), "disk"),
        ByteSize(sizes),
        ByteSize(bytes),
        record.name_label
    );
    Ok((Ready { point, storage, plan, contents }, message.into()))
}

/// What of a disk is not known to be zero, from its chunks' ids, without reading them.
fn not_zero(repository: &Repository, content: &FileContent) -> RangeSet {
    let (chunk, size) = (repository.chunk_bytes() as u64, content.size());
    if content.blobs().len() as u64 != size.div_ceil(chunk) {
        // Chunks of another size, made by another program: where each begins is not known here.
        return RangeSet::full(size);
    }
    let zeros = vec![0; repository.chunk_bytes()];
    let tail = usize::try_from(size % chunk).unwrap_or(0);
    let (zero, zero_tail) = (BlobId::of(&zeros), BlobId::of(&zeros[..tail]));
    let mut ranges = RangeSet::new();
    let mut start = 0;
    for blob in content.blobs() {
        let end = (start + chunk).min(size);
        let expected = if end - start == chunk { zero } else { zero_tail };
        if *blob != expected {
            ranges.insert(start..end);
        }
        start = end;
    }
    ranges
}

fn is_thick(kind: &str) -> bool {
    matches!(kind, "lvm" | "lvmoiscsi" | "lvmohba" | "lvmofcoe")
}
