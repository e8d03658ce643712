//! Carrying out a plan. Each step may be the last: what follows is found again by the next run.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::marks::rescue_needed;
use super::{Marks, PrunePlan};
use crate::format::{Fault, IndexedPack, PackedBlob};
use crate::lock::while_locked;
use crate::objects::{blocking, ids, name, pack_name, range_of};
use crate::repository::{Inner, Repository};
use crate::walk::walk;
use crate::{Error, IndexId, PackId, SnapshotId};

/// What a prune did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Packs marked, to be deleted after the grace.
    pub marked_packs: u64,
    /// Packs written anew (they are among the marked).
    pub repacked_packs: u64,
    /// Packs deleted.
    pub deleted_packs: u64,
    /// Bytes given back.
    pub deleted_bytes: u64,
    /// Nothing was deleted, since somebody else works on the repository: a stock program holds its lock, or snapshots
    /// came meanwhile.
    pub postponed: bool,
}

impl fmt::Display for PruneReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { marked_packs, repacked_packs, deleted_packs, deleted_bytes, postponed } = self;
        write!(
            f,
            "deleted {deleted_packs} packs of {deleted_bytes} bytes, wrote {repacked_packs} anew, marked {marked_packs}"
        )?;
        if *postponed { write!(f, "; others were at work, so deleting waits for the next run") } else { Ok(()) }
    }
}

impl Repository {
    /// Carries out a plan.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a pack that is written anew cannot be read whole; [`Error::NotStored`];
    /// [`Error::Remote`]. What was done until then stays done.
    pub async fn prune(&self, plan: PrunePlan) -> Result<PruneReport, Error> {
        let inner = &self.inner;
        let mut report = PruneReport::default();
        self.confirm().await?;
        rescue_needed(&*inner.objects.remote, &plan.rescue).await?;
        repack(inner, &plan).await?;
        report.repacked_packs = plan.repack.len() as u64;
        let mark: Vec<PackId> =
            plan.mark.iter().map(|(id, _)| *id).chain(plan.repack.iter().map(|(id, _, _)| *id)).collect();
        let grace = SignedDuration::try_from(plan.options.grace).unwrap_or(SignedDuration::MAX);
        plan.options.permission.wait().await;
        Marks::add(&*inner.objects.remote, &mark, Timestamp::now(), grace).await?;
        report.marked_packs = mark.len() as u64;
        rescue_late(inner, &plan).await?;
        delete(inner, &plan, &mut report).await?;
        inner.note_sound(plan.forgotten).await?;
        inner.index.refresh().await?;
        Ok(report)
    }
}

/// A backup that looked at the marks before these were written, and was published after the plan was made, may need
/// packs of them. (One that is published from now on looks at the marks after.)
async fn rescue_late(inner: &Arc<Inner>, plan: &PrunePlan) -> Result<(), Error> {
    let mut late = inner.list_snapshots().await?.readable;
    late.retain(|(id, _)| !plan.snapshots.contains(id));
    if late.is_empty() {
        return Ok(());
    }
    inner.index.refresh().await?;
    let walked = walk(inner, &late).await?;
    let needed = walked.map.blobs().zip(&walked.used).filter(|(_, used)| **used).map(|(found, _)| found.pack);
    let needed: HashSet<PackId> = needed.filter(|pack| walked.map.doubts().marked.contains(pack)).collect();
    rescue_needed(&*inner.objects.remote, &needed.into_iter().collect::<Vec<_>>()).await
}

/// Stores the needed blobs of wasteful packs again, and makes them durable.
async fn repack(inner: &Arc<Inner>, plan: &PrunePlan) -> Result<(), Error> {
    if plan.repack.is_empty() {
        return Ok(());
    }
    let failures = inner.pipeline.failures();
    inner.index.mark(plan.repack.iter().map(|(id, _, _)| *id));
    for (pack, size, blobs) in &plan.repack {
        let end = blobs.iter().map(|blob| range_of(blob).end).max().unwrap_or(0).min(*size);
        let sealed = inner.objects.read_pack(pack, 0..end).await?;
        let (objects, pack, blobs) = (inner.objects.clone(), *pack, blobs.clone());
        let checked = blocking(move || {
            let check = |blob: PackedBlob| {
                let sealed = slice(&sealed, &blob).map_err(|fault| Error::damaged_blob(&pack, &blob.id, fault))?;
                objects.open_blob(&blob, &sealed).map_err(|fault| Error::damaged_blob(&pack, &blob.id, fault))?;
                Ok((blob, sealed))
            };
            blobs.into_iter().map(check).collect::<Result<Vec<_>, Error>>()
        });
        for (blob, sealed) in checked.await? {
            inner.pipeline.store_again((blob.kind, blob.id), &sealed, blob.uncompressed).await;
        }
    }
    inner.pipeline.flush(failures).await
}

fn slice(sealed: &Bytes, blob: &PackedBlob) -> Result<Bytes, Fault> {
    let range = range_of(blob);
    match (usize::try_from(range.start), usize::try_from(range.end)) {
        (Ok(start), Ok(end)) if end <= sealed.len() => Ok(sealed.slice(start..end)),
        _ => Err(Fault::Cut),
    }
}

/// The second phase: packs whose time has come, and missing ones, go from the index, then from the remote, then from
/// the marks.
async fn delete(inner: &Arc<Inner>, plan: &PrunePlan, report: &mut PruneReport) -> Result<(), Error> {
    if while_locked(&inner.objects, delete_locked(inner, plan, report)).await?.is_none() {
        report.postponed = true;
    }
    Ok(())
}

async fn delete_locked(inner: &Arc<Inner>, plan: &PrunePlan, report: &mut PruneReport) -> Result<(), Error> {
    let remote = &*inner.objects.remote;
    let listed = remote.list(&name("snapshots")).await?;
    if ids::<SnapshotId>(&listed).any(|(id, _)| !plan.snapshots.contains(&id)) {
        report.postponed = true;
        return Ok(());
    }
    let marks = Marks::load(remote).await?;
    let due = marks.due(plan.made);
    // What was rescued since the plan is no longer due.
    let delete: HashSet<PackId> = plan.delete.iter().map(|(id, _)| *id).filter(|id| due.contains(id)).collect();
    let missing = plan.missing.iter().copied();
    drop_from_index(inner, plan, &delete.iter().copied().chain(missing).collect()).await?;
    for (id, bytes) in plan.delete.iter().filter(|(id, _)| delete.contains(id)) {
        plan.options.permission.wait().await;
        remote.delete(&pack_name(id)).await?;
        report.deleted_packs += 1;
        report.deleted_bytes += bytes;
    }
    plan.options.permission.wait().await;
    marks.finish(remote, plan.made).await
}

/// Writes the index files that list these packs anew without them.
async fn drop_from_index(inner: &Arc<Inner>, plan: &PrunePlan, delete: &HashSet<PackId>) -> Result<(), Error> {
    if delete.is_empty() {
        return Ok(());
    }
    let listed = inner.objects.remote.list(&name("index")).await?;
    let (mut kept, mut old): (Vec<IndexedPack>, Vec<IndexId>) = (Vec::new(), Vec::new());
    for (id, _) in ids::<IndexId>(&listed) {
        let file = inner.index.read_file(&id).await?;
        let file = file.map_err(|found| Error::PruneRefused { found: format!("index {id}: {found}") })?;
        if file.packs.iter().any(|pack| delete.contains(&pack.id)) {
            kept.extend(file.packs.into_iter().filter(|pack| !delete.contains(&pack.id)));
            old.push(id);
        }
    }
    inner.index.replace(kept, &old, &plan.options.permission).await
}
