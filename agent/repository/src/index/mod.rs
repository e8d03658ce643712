//! The index: where every blob stands. In memory for lookups, on the remote in portions.
//!
//! It is shared by all backups and readers of one open repository. A pack is known here as soon as it is durable; it
//! becomes known to others when [`Index::flush`] has written it to an index file, which every backup does before its
//! snapshot.

mod map;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};

use crate::format::{Fault, IndexFile, IndexWriter, IndexedPack};
use crate::objects::{BlobKey, Objects, blocking, ids, index_name, name};
use crate::prune::Marks;
use crate::{Error, IndexId, PackId, Permission, damage};

pub(crate) use map::{Doubts, IndexMap, Location, PackRecord, Trust};

/// Index files read at one time.
const PARALLEL_READS: usize = 4;
/// A pruning neighbour replaces index files under a reader; so often the reader starts over.
const TRIES: usize = 5;

#[derive(Debug)]
pub(crate) struct Index {
    objects: Arc<Objects>,
    map: RwLock<IndexMap>,
    /// Durable packs that no index file lists yet.
    pending: Mutex<Vec<IndexedPack>>,
    files: tokio::sync::Mutex<Files>,
    saved_at: Mutex<Instant>,
    interval: Duration,
}

/// The index files that the map was made from. Whoever holds the lock may read or write index files.
#[derive(Debug, Default)]
struct Files {
    loaded: HashSet<IndexId>,
    damaged: Vec<(IndexId, String)>,
    /// The map must be made anew.
    is_stale: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Index {
    pub(crate) fn new(objects: Arc<Objects>, interval: Duration) -> Self {
        let (map, pending, files) = (RwLock::default(), Mutex::default(), tokio::sync::Mutex::default());
        Self { objects, map, pending, files, saved_at: Mutex::new(Instant::now()), interval }
    }

    pub(crate) fn map(&self) -> RwLockReadGuard<'_, IndexMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &BlobKey) -> Option<Location> {
        self.map().get(key)
    }

    /// Notes a pack that is durable.
    pub(crate) fn add(&self, pack: IndexedPack) {
        let mut pending = lock(&self.pending);
        self.map.write().unwrap_or_else(PoisonError::into_inner).add(&pack);
        pending.push(pack);
    }

    /// Lets nothing new refer to these packs either, until the next [`Self::refresh`], which knows what is marked on
    /// the remote.
    pub(crate) fn mark(&self, packs: impl IntoIterator<Item = PackId>) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let mut doubts = map.doubts().clone();
        doubts.marked.extend(packs);
        map.set_doubts(doubts);
    }

    /// Takes in what others wrote and lets go of what they removed. Returns the index files that cannot be read: data
    /// that only they list is not found.
    pub(crate) async fn refresh(&self) -> Result<Vec<(IndexId, String)>, Error> {
        let mut files = self.files.lock().await;
        // Before the index files, so that of several copies of a blob the one that stays is taken.
        let remote = &*self.objects.remote;
        let doubts = Doubts { marked: Marks::load(remote).await?.marked(), damaged: damage::load(remote).await? };
        {
            let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
            if map.doubts().damaged != doubts.damaged {
                // Other copies of their blobs count now: the map is made anew.
                files.is_stale = true;
            }
            map.set_doubts(doubts);
        }
        for attempt in 1.. {
            match self.refresh_once(&mut files).await {
                Err(Error::Remote(coffer_remote::Error::NotFound { .. })) if attempt < TRIES => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        Ok(files.damaged.clone())
    }

    async fn refresh_once(&self, files: &mut Files) -> Result<(), Error> {
        let listed = self.objects.remote.list(&name("index")).await?;
        let listed: HashSet<IndexId> = ids(&listed).map(|(id, _)| id).collect();
        let known: HashSet<IndexId> =
            files.loaded.iter().chain(files.damaged.iter().map(|(id, _)| id)).copied().collect();
        // When something was removed, what it listed may be gone.
        if known.is_subset(&listed) && !files.is_stale {
            self.load(files, listed.difference(&known).copied(), None).await
        } else {
            let mut fresh = Files::default();
            let mut map = IndexMap::doubting(self.map().doubts().clone());
            self.load(&mut fresh, listed.into_iter(), Some(&mut map)).await?;
            let pending = lock(&self.pending);
            pending.iter().for_each(|pack| map.add(pack));
            map.shrink();
            *self.map.write().unwrap_or_else(PoisonError::into_inner) = map;
            *files = fresh;
            Ok(())
        }
    }

    async fn load(
        &self,
        files: &mut Files,
        wanted: impl Iterator<Item = IndexId>,
        mut into: Option<&mut IndexMap>,
    ) -> Result<(), Error> {
        let read = |id| async move { Ok::<_, Error>((id, self.read_file(&id).await?)) };
        let mut reads = stream::iter(wanted).map(read).buffer_unordered(PARALLEL_READS);
        while let Some((id, file)) = reads.try_next().await? {
            match (file, into.as_deref_mut()) {
                (Ok(file), Some(map)) => file.packs.iter().for_each(|pack| map.add(pack)),
                (Ok(file), None) => {
                    let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
                    file.packs.iter().for_each(|pack| map.add(pack));
                }
                (Err(reason), _) => {
                    tracing::warn!(index = %id, reason, "an index file is damaged: look at the remote with `restic check`");
                    files.damaged.push((id, reason));
                    continue;
                }
            }
            files.loaded.insert(id);
        }
        Ok(())
    }

    /// The content of an index file, or what is wrong with it.
    pub(crate) async fn read_file(&self, id: &IndexId) -> Result<Result<IndexFile, String>, Error> {
        match self.objects.read_unpacked(&index_name(id), *id.as_bytes(), IndexFile::parse).await {
            Ok(file) => Ok(Ok(file)),
            Err(Error::Damaged { source, .. }) => Ok(Err(describe(&source))),
            Err(Error::Remote(coffer_remote::Error::TooLarge { .. })) => Ok(Err("it is too large".to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Whether it is time to write what is pending.
    pub(crate) fn is_due(&self) -> bool {
        let blobs: usize = lock(&self.pending).iter().map(|pack| pack.blobs.len()).sum();
        blobs >= crate::format::MAX_INDEX_BLOBS || (blobs > 0 && lock(&self.saved_at).elapsed() >= self.interval)
    }

    /// Writes every pack that is durable to index files. When it returns, so are those that others were writing.
    pub(crate) async fn flush(&self) -> Result<(), Error> {
        let mut files = self.files.lock().await;
        *lock(&self.saved_at) = Instant::now();
        loop {
            let portion = {
                let pending = lock(&self.pending);
                let mut writer = IndexWriter::default();
                let full = pending.iter().find_map(|pack| writer.add(pack.clone()));
                full.or_else(|| writer.finish())
            };
            let Some(file) = portion else { return Ok(()) };
            let packs = file.packs.len();
            let id = self.write(file).await?;
            // Only removed now: whoever drops this future loses nothing.
            lock(&self.pending).drain(..packs);
            files.loaded.insert(id);
        }
    }

    async fn write(&self, file: IndexFile) -> Result<IndexId, Error> {
        let objects = self.objects.clone();
        let sealed = blocking(move || Ok(objects.seal_unpacked(&file.encode()?))).await;
        let (id, sealed) = sealed.map_err(|fault: Fault| Error::damaged("a new index file", fault))?;
        let id = IndexId(id);
        self.objects.publish_hashed(&index_name(&id), sealed).await?;
        Ok(id)
    }

    /// Replaces index files: writes `packs`, then removes `old`. Interrupted, both stay, which hurts nothing.
    pub(crate) async fn replace(
        &self,
        packs: Vec<IndexedPack>,
        old: &[IndexId],
        permission: &Permission,
    ) -> Result<(), Error> {
        // Nobody in this process reads or writes index files meanwhile; the next refresh finds that some are gone.
        let _files = self.files.lock().await;
        let mut writer = IndexWriter::default();
        let mut full: Vec<IndexFile> = packs.into_iter().filter_map(|pack| writer.add(pack)).collect();
        full.extend(writer.finish());
        let mut written = HashSet::new();
        for file in full {
            written.insert(self.write(file).await?);
        }
        for id in old.iter().filter(|id| !written.contains(id)) {
            permission.wait().await;
            self.objects.remote.delete(&index_name(id)).await?;
        }
        Ok(())
    }
}

/// A fault with all its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
