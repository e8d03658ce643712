//! Check: is everything there that the snapshots need, and does it hold what it should?

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::format::{Fault, PackedBlob};
use crate::id::sha256;
use crate::objects::{blocking, damaged_blob, ids, index_name, name, pack_name, range_of};
use crate::repository::{Inner, Repository};
use crate::walk::{MAX_PROBLEMS, walk};
use crate::{CheckLevel, Error, PackId, SnapshotId};

/// Packs read at one time; each is in memory whole.
const PARALLEL_PACKS: usize = 2;
/// A pack that is larger is checked without being read whole: nobody writes such.
const MAX_PACK: u64 = 256 << 20;

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Damage, each naming its object; at most a thousand.
    pub errors: Vec<Error>,
    /// Snapshots that are not whole, or cannot be read.
    pub damaged_snapshots: Vec<SnapshotId>,
    /// Snapshots looked at, foreign ones too.
    pub snapshots: u64,
    /// Packs that an index lists.
    pub packs: u64,
    /// Packs that no index lists: left from backups that were cut off. No damage; prune collects them.
    pub unindexed_packs: u64,
    /// Bytes of packs that were read.
    pub read_bytes: u64,
}

impl CheckReport {
    /// Whether no damage was found.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.damaged_snapshots.is_empty()
    }

    fn note(&mut self, error: Error) {
        if self.errors.len() < MAX_PROBLEMS {
            self.errors.push(error);
        }
    }
}

impl Repository {
    /// Checks the repository. Damage is in the report; interruption is safe.
    ///
    /// # Errors
    /// [`Error::Remote`] when the remote itself fails.
    pub async fn check(&self, level: CheckLevel) -> Result<CheckReport, Error> {
        let inner = &self.inner;
        let mut report = CheckReport::default();
        self.confirm().await?;
        for (id, reason) in inner.index.refresh().await? {
            tracing::debug!(index = %id, reason, "damaged index");
            report.note(Error::damaged(index_name(&id), Fault::Malformed("it cannot be read")));
        }
        let listed = inner.list_snapshots().await?;
        report.snapshots = (listed.readable.len() + listed.damaged.len()) as u64;
        for (id, error) in listed.damaged {
            report.damaged_snapshots.push(id);
            report.note(error);
        }
        let walked = walk(inner, &listed.readable).await?;
        for (id, error) in walked.problems {
            report.damaged_snapshots.push(id);
            report.note(error);
        }
        let on_remote = inner.objects.remote.list(&name("data")).await?;
        let on_remote: HashMap<PackId, u64> = ids(&on_remote).map(|(id, info)| (id, info.size)).collect();
        report.packs = walked.map.packs().len() as u64;
        report.unindexed_packs = on_remote.keys().filter(|id| walked.map.pack(id).is_none()).count() as u64;

        let mut damaged_packs = vec![false; walked.map.packs().len()];
        for (pack, damaged) in walked.map.packs().iter().zip(&mut damaged_packs) {
            let error = match on_remote.get(&pack.id) {
                None => Error::PackMissing { pack: pack.id },
                Some(&found) if found != pack.size => {
                    Error::damaged(pack_name(&pack.id), Fault::Size { found, expected: pack.size })
                }
                Some(_) => continue,
            };
            *damaged = true;
            report.note(error);
        }
        if level == CheckLevel::ReadData {
            let whole = walked.map.packs().iter().enumerate().filter(|(number, _)| !damaged_packs[*number]);
            let mut indexed: Vec<Vec<PackedBlob>> = vec![Vec::new(); walked.map.packs().len()];
            for found in walked.map.blobs() {
                if let Some(blobs) = indexed.get_mut(found.pack_number as usize) {
                    blobs.push(found.blob);
                }
            }
            let read = |(number, id, size, indexed)| async move {
                Ok::<_, Error>((number, size, read_pack(inner, id, size, indexed).await?))
            };
            let wanted: Vec<_> = whole
                .map(|(number, pack)| (number, pack.id, pack.size, std::mem::take(&mut indexed[number])))
                .collect();
            let mut reads = stream::iter(wanted).map(read).buffer_unordered(PARALLEL_PACKS);
            while let Some((number, size, error)) = reads.try_next().await? {
                report.read_bytes += size;
                if let Some(error) = error {
                    damaged_packs[number] = true;
                    report.note(error);
                }
            }
        }
        if damaged_packs.contains(&true) || !report.damaged_snapshots.is_empty() {
            report.damaged_snapshots.extend(self.hit_by(&damaged_packs, &listed.readable, &walked.map).await?);
        }
        report.damaged_snapshots.sort_unstable();
        report.damaged_snapshots.dedup();
        Ok(report)
    }

    /// Snapshots that need one of the damaged packs, or are not whole.
    async fn hit_by(
        &self,
        damaged: &[bool],
        snapshots: &[(SnapshotId, Arc<crate::format::Snapshot>)],
        numbered: &crate::index::IndexMap,
    ) -> Result<Vec<SnapshotId>, Error> {
        let mut hit = Vec::new();
        for snapshot in snapshots {
            let walked = walk(&self.inner, std::slice::from_ref(snapshot)).await?;
            let needs = walked.map.blobs().zip(&walked.used).filter(|(_, used)| **used);
            let mut numbers = needs.filter_map(|(found, _)| numbered.get(&(found.blob.kind, found.blob.id)));
            if !walked.problems.is_empty()
                || numbers.any(|found| damaged.get(found.pack_number as usize) == Some(&true))
            {
                hit.push(snapshot.0);
            }
        }
        Ok(hit)
    }
}

/// Reads a pack whole: its name, its header and each of its blobs must fit. Returns the damage.
async fn read_pack(inner: &Inner, pack: PackId, size: u64, indexed: Vec<PackedBlob>) -> Result<Option<Error>, Error> {
    if size > MAX_PACK {
        return Ok(Some(Error::damaged(pack_name(&pack), Fault::Malformed("it is larger than a pack can be"))));
    }
    let blobs = match inner.objects.read_header(&pack, size).await {
        Ok(blobs) => blobs,
        Err(error @ (Error::Damaged { .. } | Error::PackMissing { .. })) => return Ok(Some(error)),
        Err(error) => return Err(error),
    };
    let bytes = match inner.objects.read_pack(&pack, 0..size).await {
        Ok(bytes) => bytes,
        Err(error @ Error::PackMissing { .. }) => return Ok(Some(error)),
        Err(error) => return Err(error),
    };
    if let Some(wrong) = indexed.iter().find(|blob| !blobs.contains(blob)) {
        return Ok(Some(damaged_blob(
            &pack,
            &wrong.id,
            Fault::Malformed("the index gives it another place than the pack"),
        )));
    }
    let objects = inner.objects.clone();
    Ok(blocking(move || {
        if sha256(&bytes) != *pack.as_bytes() {
            // Which blobs are hit says more than that the file is.
            let hit =
                blobs.iter().find_map(|blob| check_blob(&objects, &bytes, blob).err().map(|fault| (blob.id, fault)));
            return Some(hit.map_or_else(
                || Error::damaged(pack_name(&pack), Fault::Hash),
                |(blob, fault)| damaged_blob(&pack, &blob, fault),
            ));
        }
        let mut blobs = blobs.iter();
        blobs.find_map(|blob| Some(damaged_blob(&pack, &blob.id, check_blob(&objects, &bytes, blob).err()?)))
    })
    .await)
}

fn check_blob(objects: &crate::objects::Objects, pack: &[u8], blob: &PackedBlob) -> Result<(), Fault> {
    let range = range_of(blob);
    let sealed = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    let sealed = sealed.and_then(|(start, end)| pack.get(start..end)).ok_or(Fault::Cut)?;
    objects.open_blob(blob, sealed).map(drop)
}
