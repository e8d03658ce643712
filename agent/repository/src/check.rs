//! Check: is everything there that the snapshots need, and does it hold what it should?

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::format::{Fault, PackedBlob};
use crate::id::sha256;
use crate::index::{IndexMap, PackRecord, Trust};
use crate::objects::{blocking, ids, index_name, name, range_of};
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
    /// Checks the repository. Damage is in the report, and packs that are damaged are noted so that nothing new builds
    /// on them; interruption is safe.
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
        let on_remote = packs_on(inner).await?;
        report.packs = walked.map.packs().len() as u64;
        report.unindexed_packs = on_remote.keys().filter(|id| walked.map.pack(id).is_none()).count() as u64;
        let wanted = vec![true; walked.map.packs().len()];
        let lost = self.inspect(&walked.map, &on_remote, &wanted, level, &mut report).await?;
        if lost.contains(&true) || !report.damaged_snapshots.is_empty() {
            report.damaged_snapshots.extend(self.hit_by(&lost, &listed.readable, &walked.map).await?);
        }
        report.damaged_snapshots.sort_unstable();
        report.damaged_snapshots.dedup();
        Ok(report)
    }

    /// Reads every pack that a snapshot needs whole, and notes those that are damaged, so that the next backup stores
    /// again what is lost of them. For when reading the snapshot has shown damage: reading stops at the first.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the snapshot's own file is; [`Error::Remote`] when there is no such snapshot, or the
    /// remote fails.
    pub async fn examine(&self, id: SnapshotId) -> Result<CheckReport, Error> {
        let inner = &self.inner;
        self.confirm().await?;
        inner.index.refresh().await?;
        let snapshot = (id, inner.snapshot(id).await?);
        let mut report = CheckReport { snapshots: 1, ..CheckReport::default() };
        let walked = walk(inner, std::slice::from_ref(&snapshot)).await?;
        let mut wanted = vec![false; walked.map.packs().len()];
        for (found, _) in walked.map.blobs().zip(&walked.used).filter(|(_, used)| **used) {
            wanted[found.pack_number as usize] = true;
        }
        report.packs = wanted.iter().filter(|wanted| **wanted).count() as u64;
        // Packs name what is lost better than the walk; what is in no pack, only the walk has seen.
        let lost =
            self.inspect(&walked.map, &packs_on(inner).await?, &wanted, CheckLevel::ReadData, &mut report).await?;
        walked.problems.into_iter().filter(|(_, error)| error.lost_pack().is_none()).for_each(|(_, e)| report.note(e));
        if lost.contains(&true) || !report.errors.is_empty() {
            report.damaged_snapshots.push(id);
        }
        Ok(report)
    }

    /// Looks at the wanted packs, notes on the remote which are damaged and which are whole again, and says which are
    /// lost, by number.
    async fn inspect(
        &self,
        map: &IndexMap,
        on_remote: &HashMap<PackId, u64>,
        wanted: &[bool],
        level: CheckLevel,
        report: &mut CheckReport,
    ) -> Result<Vec<bool>, Error> {
        let mut lost = vec![false; map.packs().len()];
        let mut found = Vec::new();
        for (number, pack) in map.packs().iter().enumerate().filter(|(number, _)| wanted[*number]) {
            if let Some(error) = loss_of(pack, on_remote) {
                lost[number] = true;
                found.push(error);
            }
        }
        if level == CheckLevel::ReadData {
            let mut indexed: Vec<Vec<PackedBlob>> = vec![Vec::new(); map.packs().len()];
            for blob in map.blobs() {
                indexed[blob.pack_number as usize].push(blob.blob);
            }
            let whole = map.packs().iter().enumerate().filter(|(number, _)| wanted[*number] && !lost[*number]);
            let whole: Vec<_> =
                whole.map(|(number, pack)| (number, *pack, std::mem::take(&mut indexed[number]))).collect();
            let read = |(number, pack, indexed): (usize, PackRecord, _)| async move {
                Ok::<_, Error>((number, pack, read_pack(&self.inner, pack.id, pack.size, indexed).await?))
            };
            let mut sound = Vec::new();
            let mut reads = stream::iter(whole).map(read).buffer_unordered(PARALLEL_PACKS);
            while let Some((number, pack, error)) = reads.try_next().await? {
                report.read_bytes += pack.size;
                lost[number] = error.is_some();
                if error.is_none() && pack.trust == Trust::Damaged {
                    sound.push(pack.id);
                }
                found.extend(error);
            }
            self.inner.note_sound(sound).await?;
        }
        let lost_packs = map.packs().iter().zip(&lost).filter(|(_, lost)| **lost).map(|(pack, _)| pack.id);
        self.inner.note_damaged(lost_packs.collect()).await?;
        found.into_iter().for_each(|error| report.note(error));
        Ok(lost)
    }

    /// Snapshots that need one of the damaged packs, or are not whole.
    async fn hit_by(
        &self,
        damaged: &[bool],
        snapshots: &[(SnapshotId, Arc<crate::format::Snapshot>)],
        numbered: &IndexMap,
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

/// Every pack that is on the remote, with its size in bytes.
pub(crate) async fn packs_on(inner: &Inner) -> Result<HashMap<PackId, u64>, Error> {
    let listed = inner.objects.remote.list(&name("data")).await?;
    Ok(ids(&listed).map(|(id, info)| (id, info.size)).collect())
}

/// What a list of the packs on the remote says of one: that it is missing, or has not its size.
pub(crate) fn loss_of(pack: &PackRecord, on_remote: &HashMap<PackId, u64>) -> Option<Error> {
    match on_remote.get(&pack.id) {
        None => Some(Error::PackMissing { pack: pack.id }),
        Some(&found) if found != pack.size => {
            Some(Error::damaged_pack(&pack.id, Fault::Size { found, expected: pack.size }))
        }
        Some(_) => None,
    }
}

/// Reads a pack whole: its name, its header and each of its blobs must fit. Returns the damage.
async fn read_pack(inner: &Inner, pack: PackId, size: u64, indexed: Vec<PackedBlob>) -> Result<Option<Error>, Error> {
    if size > MAX_PACK {
        return Ok(Some(Error::damaged_pack(&pack, Fault::Malformed("it is larger than a pack can be"))));
    }
    let blobs = match inner.objects.read_header(&pack, size).await {
        Ok(blobs) => blobs,
        Err(error) if error.is_damage() => return Ok(Some(error)),
        Err(error) => return Err(error),
    };
    let bytes = match inner.objects.read_pack(&pack, 0..size).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_damage() => return Ok(Some(error)),
        Err(error) => return Err(error),
    };
    if let Some(wrong) = indexed.iter().find(|blob| !blobs.contains(blob)) {
        return Ok(Some(Error::damaged_blob(
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
                || Error::damaged_pack(&pack, Fault::Hash),
                |(blob, fault)| Error::damaged_blob(&pack, &blob, fault),
            ));
        }
        let mut blobs = blobs.iter();
        blobs.find_map(|blob| Some(Error::damaged_blob(&pack, &blob.id, check_blob(&objects, &bytes, blob).err()?)))
    })
    .await)
}

fn check_blob(objects: &crate::objects::Objects, pack: &[u8], blob: &PackedBlob) -> Result<(), Fault> {
    let range = range_of(blob);
    let sealed = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    let sealed = sealed.and_then(|(start, end)| pack.get(start..end)).ok_or(Fault::Cut)?;
    objects.open_blob(blob, sealed).map(drop)
}
