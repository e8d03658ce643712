//! The end of a backup: everything durable, everything that is referenced there, then the snapshot.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

use super::tree::Folder;
use super::{BackupSession, Entry};
use crate::check::{loss_of, packs_on};
use crate::format::{BlobKind, Fault, Snapshot};
use crate::index::{PackRecord, Trust};
use crate::meta::{TAG, VM_TAG};
use crate::objects::{BlobKey, blocking, snapshot_name};
use crate::repository::{Inner, Repository};
use crate::{BlobId, Error, FileContent, PackId, SnapshotId, SnapshotMeta, prune};

/// A backup of which all is durable but the snapshot file.
#[derive(Debug)]
pub struct SealedPoint {
    repository: Repository,
    id: SnapshotId,
    tree: BlobId,
    file: Bytes,
    /// What it refers to.
    packs: Vec<PackId>,
}

impl SealedPoint {
    /// The snapshot that [`Self::publish`] makes: SHA-256 of its file, hence also the digest for the commit record.
    pub fn snapshot_id(&self) -> SnapshotId {
        self.id
    }

    /// The root of its files.
    pub fn tree(&self) -> BlobId {
        self.tree
    }

    /// Writes the snapshot file. May be repeated.
    ///
    /// # Errors
    /// [`Error::RepositoryGone`], [`Error::OtherRepository`]: nothing was written. [`Error::Remote`]; the snapshot then
    /// may be there or not. [`Error::PackMissing`] when so much time has passed since the seal that its data is about
    /// to be deleted: the point must then be given up.
    pub async fn publish(&self) -> Result<(), Error> {
        self.repository.confirm().await?;
        let objects = &self.repository.inner.objects;
        objects.publish_hashed(&snapshot_name(&self.id), self.file.clone()).await?;
        // A prune that did not see the snapshot may have marked its packs since the seal.
        prune::rescue(&*objects.remote, &self.packs).await
    }
}

impl BackupSession {
    /// Makes the backup durable and checks that everything it refers to is on the remote.
    ///
    /// # Errors
    /// [`Error::Misuse`] when a disk was not closed; [`Error::BlobMissing`], [`Error::PackMissing`] or
    /// [`Error::PackDamaged`] when data that it builds on is lost: that is noted, so that a backup that begins anew,
    /// and does not build on a parent, stores it again; [`Error::NotStored`], [`Error::Cancelled`], [`Error::Remote`].
    pub async fn seal(self, meta: SnapshotMeta) -> Result<SealedPoint, Error> {
        let shared = &self.shared;
        let inner = &shared.inner;
        let snapshot = snapshot_of(&meta)?;
        let mut root = Folder::default();
        let mut contents = Vec::new();
        for (path, entry) in std::mem::take(&mut *shared.files.lock().unwrap_or_else(PoisonError::into_inner)) {
            let Entry::Done(content) = entry else {
                return Err(Error::Misuse { path, what: "the disk was not closed", offset: 0 });
            };
            contents.push(content.clone());
            root.add(&path, content);
        }
        let mut trees = Vec::new();
        let tree = root.store(inner, &mut trees).await?;
        inner.pipeline.flush(shared.failures).await?;
        let packs = verify(inner, contents, trees).await?;
        shared.check()?;
        let plain = Snapshot { tree, ..snapshot }.encode().map_err(|fault| Error::damaged("a new snapshot", fault))?;
        let (id, file) = inner.objects.seal_unpacked(&plain);
        let repository = Repository { inner: inner.clone() };
        Ok(SealedPoint { repository, id: SnapshotId(id), tree, file, packs })
    }
}

/// Every blob is in an index that is on the remote now, and every pack is there with its size: what was reused may have
/// been pruned while the backup ran, by us or by a stock program, or lost.
async fn verify(inner: &Arc<Inner>, contents: Vec<FileContent>, trees: Vec<BlobId>) -> Result<Vec<PackId>, Error> {
    inner.index.refresh().await?;
    let keys = Arc::new((contents, trees));
    let located = locate(inner, &keys).await;
    if let Some((_, blob)) = located.missing {
        return Err(Error::BlobMissing { blob });
    }
    let of_trust = |trust| located.packs.iter().filter(move |pack| pack.trust == trust).map(|pack| pack.id);
    if let Some(pack) = of_trust(Trust::Damaged).next() {
        // Found so since this backup began.
        return Err(Error::damaged_pack(&pack, Fault::Malformed("it was found so while the backup ran")));
    }
    prune::rescue(&*inner.objects.remote, &of_trust(Trust::Marked).collect::<Vec<_>>()).await?;
    let on_remote = packs_on(inner).await?;
    let mut lost: Vec<Error> = located.packs.iter().filter_map(|pack| loss_of(pack, &on_remote)).collect();
    inner.note_damaged(lost.iter().filter_map(Error::lost_pack).collect()).await?;
    match lost.pop() {
        Some(error) => Err(error),
        None => Ok(located.packs.into_iter().map(|pack| pack.id).collect()),
    }
}

struct Located {
    packs: Vec<PackRecord>,
    missing: Option<BlobKey>,
}

async fn locate(inner: &Arc<Inner>, keys: &Arc<(Vec<FileContent>, Vec<BlobId>)>) -> Located {
    let (inner, keys) = (inner.clone(), keys.clone());
    blocking(move || {
        let map = inner.index.map();
        let (mut used, mut missing) = (vec![false; map.packs().len()], None);
        let data = keys.0.iter().flat_map(|content| content.blobs()).map(|id| (BlobKind::Data, *id));
        for key in data.chain(keys.1.iter().map(|id| (BlobKind::Tree, *id))) {
            match map.get(&key) {
                Some(found) => used[found.pack_number as usize] = true,
                None => missing = Some(key),
            }
        }
        let used = map.packs().iter().zip(used).filter(|(_, used)| *used);
        Located { packs: used.map(|(pack, _)| *pack).collect(), missing }
    })
    .await
}

fn snapshot_of(meta: &SnapshotMeta) -> Result<Snapshot, Error> {
    let mut tags = vec![TAG.to_owned(), format!("{VM_TAG}{}", meta.vm)];
    for tag in &meta.tags {
        if tag.is_empty() || tag.contains([',', '\n']) || tag.starts_with(VM_TAG) {
            return Err(Error::Invalid { value: tag.clone(), reason: "a tag holds no comma and is not `vm=`" });
        }
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    Ok(Snapshot {
        time: meta.time.to_string(),
        parent: meta.parent,
        tree: BlobId([0; 32]),
        paths: vec![path_of(meta.vm)],
        hostname: meta.vm_name.clone(),
        username: TAG.to_owned(),
        tags,
        program_version: concat!("coffer ", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

/// What stock programs group snapshots by, beside the host.
fn path_of(vm: Uuid) -> String {
    format!("/{vm}")
}
