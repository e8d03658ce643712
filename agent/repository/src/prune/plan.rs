//! What a prune would do, and why: computed from the whole repository, changed nowhere.

use std::collections::{HashMap, HashSet};
use std::fmt;

use jiff::Timestamp;

use super::Marks;
use crate::format::PackedBlob;
use crate::index::Trust;
use crate::objects::{ids, name, pack_name};
use crate::repository::Repository;
use crate::walk::walk;
use crate::{Error, PackId, PruneOptions, SnapshotId};

/// What a prune would do. Show it ([`fmt::Display`]), then give it to [`Repository::prune`].
#[derive(Debug, Clone)]
pub struct PrunePlan {
    pub(super) options: PruneOptions,
    pub(super) made: Timestamp,
    /// Snapshots that were looked at.
    pub(super) snapshots: HashSet<SnapshotId>,
    /// Packs, with their bytes, that are written anew: the blobs that are needed.
    pub(super) repack: Vec<(PackId, u64, Vec<PackedBlob>)>,
    /// Packs that nothing needs and that are not marked yet.
    pub(super) mark: Vec<(PackId, u64)>,
    /// Packs that were marked long enough ago and still nothing needs.
    pub(super) delete: Vec<(PackId, u64)>,
    /// Packs that were marked and are needed after all.
    pub(super) rescue: Vec<PackId>,
    /// Packs that an index lists, that are not there, and that nothing needs.
    pub(super) missing: Vec<PackId>,
    /// Packs noted as damaged of which nothing is left.
    pub(super) forgotten: Vec<PackId>,
    pub(super) kept_packs: u64,
    pub(super) kept_bytes: u64,
    pub(super) waiting_packs: u64,
    pub(super) waiting_bytes: u64,
}

impl PrunePlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { repack, mark, delete, rescue, missing, forgotten, .. } = self;
        [repack.len(), mark.len(), delete.len(), rescue.len(), missing.len(), forgotten.len()] == [0; 6]
    }

    /// Bytes that executing the plan gives back at once.
    pub fn delete_bytes(&self) -> u64 {
        self.delete.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes that will be given back after the grace.
    pub fn mark_bytes(&self) -> u64 {
        self.mark.iter().map(|(_, bytes)| bytes).sum::<u64>()
            + self.repack.iter().map(|(_, bytes, _)| bytes).sum::<u64>()
    }

    /// Bytes that are written anew.
    pub fn repack_bytes(&self) -> u64 {
        self.repack.iter().flat_map(|(_, _, blobs)| blobs).map(|blob| u64::from(blob.length)).sum()
    }
}

impl fmt::Display for PrunePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { snapshots, kept_packs, kept_bytes, waiting_packs, waiting_bytes, repack, mark, delete, .. } = self;
        writeln!(f, "{} snapshots need {kept_packs} packs of {kept_bytes} bytes", snapshots.len())?;
        writeln!(f, "delete now:     {} packs, {} bytes", delete.len(), self.delete_bytes())?;
        writeln!(f, "write anew:     {} packs, {} bytes", repack.len(), self.repack_bytes())?;
        writeln!(f, "mark as unused: {} packs, {} bytes", mark.len() + repack.len(), self.mark_bytes())?;
        write!(f, "marked before:  {waiting_packs} packs, {waiting_bytes} bytes, wait for their time")
    }
}

#[derive(Debug, Default, Clone)]
struct Use {
    bytes: u64,
    blobs: Vec<PackedBlob>,
}

impl Repository {
    /// Works out what a prune would do. Reads all trees; changes nothing.
    ///
    /// # Errors
    /// [`Error::PruneRefused`] when the repository is damaged: what looks unused may be all that is left of something.
    pub async fn plan_prune(&self, options: PruneOptions) -> Result<PrunePlan, Error> {
        let inner = &self.inner;
        let made = Timestamp::now();
        let refused = |found: String| Error::PruneRefused { found };
        self.confirm().await?;
        // Packs before indexes before snapshots: what a backup writes meanwhile is seen from its later end.
        let listed = inner.objects.remote.list(&name("data")).await?;
        let on_remote: HashMap<PackId, u64> = ids(&listed).map(|(id, info)| (id, info.size)).collect();
        if let Some((index, reason)) = inner.index.refresh().await?.into_iter().next() {
            return Err(refused(format!("index {index}: {reason}")));
        }
        let marks = Marks::load(&*inner.objects.remote).await?;
        let (marked, due) = (marks.marked(), marks.due(made));
        let snapshots = inner.list_snapshots().await?;
        if let Some((id, error)) = snapshots.damaged.first() {
            return Err(refused(format!("snapshot {id}: {}", crate::index::describe(error))));
        }
        let walked = walk(inner, &snapshots.readable).await?;
        if let Some((id, error)) = walked.problems.first() {
            return Err(refused(format!("snapshot {id}: {}", crate::index::describe(error))));
        }

        let mut uses = vec![Use::default(); walked.map.packs().len()];
        for (found, _) in walked.map.blobs().zip(&walked.used).filter(|(_, used)| **used) {
            if let Some(pack) = uses.get_mut(found.pack_number as usize) {
                pack.bytes += u64::from(found.blob.length);
                pack.blobs.push(found.blob);
            }
        }
        let mut plan = PrunePlan {
            made,
            snapshots: snapshots.readable.iter().map(|(id, _)| *id).collect(),
            repack: Vec::new(),
            mark: Vec::new(),
            delete: Vec::new(),
            rescue: Vec::new(),
            missing: Vec::new(),
            forgotten: Vec::new(),
            kept_packs: 0,
            kept_bytes: 0,
            waiting_packs: 0,
            waiting_bytes: 0,
            options,
        };
        // A pack that came after the list was made is not missing.
        let is_missing = async |pack: &PackId| match inner.objects.remote.stat(&pack_name(pack)).await {
            Ok(_) => Ok(false),
            Err(coffer_remote::Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(Error::from(error)),
        };
        let mut budget = plan.options.max_repack_bytes;
        let mut wasteful = Vec::new();
        for (pack, usage) in walked.map.packs().iter().zip(uses) {
            let exists = on_remote.contains_key(&pack.id);
            if !usage.blobs.is_empty() {
                if !exists && is_missing(&pack.id).await? {
                    return Err(refused(format!("pack {} is missing", pack.id)));
                }
                plan.kept_packs += 1;
                plan.kept_bytes += pack.size;
                // The header is no waste: a pack written anew has one too. A second copy of a blob is.
                #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits than a float has")]
                let waste = 1.0 - usage.bytes as f64 / pack.blob_bytes.max(1) as f64;
                if marked.contains(&pack.id) {
                    plan.rescue.push(pack.id);
                } else if waste >= plan.options.repack_waste && pack.trust > Trust::Damaged {
                    wasteful.push((pack.id, pack.size, usage));
                }
            } else if due.contains(&pack.id) {
                plan.delete.push((pack.id, pack.size));
            } else if marked.contains(&pack.id) {
                plan.waiting_packs += 1;
                plan.waiting_bytes += pack.size;
            } else if exists {
                plan.mark.push((pack.id, pack.size));
            } else if is_missing(&pack.id).await? {
                plan.missing.push(pack.id);
            }
        }
        // Those that give back most for the bytes written come first.
        wasteful.sort_by_key(|(_, size, usage)| usage.bytes.saturating_mul(1000) / (*size).max(1));
        for (id, size, usage) in wasteful {
            if usage.bytes <= budget {
                budget -= usage.bytes;
                plan.repack.push((id, size, usage.blobs));
            }
        }
        let damaged = walked.map.doubts().damaged.iter();
        let is_left = |pack: &PackId| walked.map.pack(pack).is_some() || on_remote.contains_key(pack);
        plan.forgotten = damaged.filter(|pack| !is_left(pack)).copied().collect();
        // What no index lists: left from a backup that was cut off, or of one that runs now and will have it listed in
        // time.
        for (id, size) in on_remote.into_iter().filter(|(id, _)| walked.map.pack(id).is_none()) {
            if due.contains(&id) {
                plan.delete.push((id, size));
            } else if marked.contains(&id) {
                plan.waiting_packs += 1;
                plan.waiting_bytes += size;
            } else {
                plan.mark.push((id, size));
            }
        }
        Ok(plan)
    }
}
