//! The way of a chunk to the remote: hash → known? → compress → encrypt → pack → remote → index.
//!
//! One per open repository, shared by all its backups, so that memory is bounded whatever runs: at most `workers`
//! chunks are worked on (a permit each) and `packs_in_memory` packs exist (a buffer each). Whoever brings a chunk waits
//! for both.
//!
//! A chunk is *claimed* from the moment it is found to be new until its pack is durable; whoever brings the same chunk
//! meanwhile counts it as known. If the pack is then not stored, all backups of that time fail: each compares
//! [`Pipeline::failure`] with what it saw when it began.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use coffer_extent::{Buffer, BufferPool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::format::{BlobKind, IndexedBlob, IndexedPack, OVERHEAD, PackedBlob, encode_pack_header, header_bytes};
use crate::id::sha256;
use crate::index::Index;
use crate::objects::{BlobKey, Objects, SealedBlob, blocking, pack_name};
use crate::options::PACK_TARGET;
use crate::{BlobId, Error, PackId};

/// Blobs of one pack: bounds its header, hence the room for it.
const MAX_BLOBS: usize = 4096;
/// Bytes that an entry of the header takes at most.
const ENTRY: usize = 41;

#[derive(Debug)]
pub(crate) struct Pipeline {
    objects: Arc<Objects>,
    index: Arc<Index>,
    workers: Arc<Semaphore>,
    buffers: BufferPool,
    data: tokio::sync::Mutex<OpenPack>,
    trees: tokio::sync::Mutex<OpenPack>,
    claims: Mutex<HashSet<BlobKey>>,
    uploads: watch::Sender<Uploads>,
    failures: Mutex<(u64, Option<Arc<Error>>)>,
}

/// Numbers of the uploads under way.
#[derive(Debug, Default)]
struct Uploads {
    next: u64,
    under_way: BTreeSet<u64>,
}

/// A pack that is being filled.
#[derive(Debug, Default)]
struct OpenPack {
    buffer: Option<Buffer>,
    used: usize,
    blobs: Vec<PackedBlob>,
    claims: Vec<Claim>,
}

/// What became of a blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) id: BlobId,
    /// Bytes it takes in a pack, if it is new.
    pub(crate) new_bytes: Option<u64>,
}

enum Prepared {
    Known,
    New(SealedBlob, Claim),
}

/// The right to store a blob. Lasts until dropped: when the blob is in the index, or will never be.
#[derive(Debug)]
struct Claim {
    pipeline: Arc<Pipeline>,
    key: BlobKey,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.pipeline.claims).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pipeline {
    pub(crate) fn new(
        objects: Arc<Objects>,
        index: Arc<Index>,
        workers: usize,
        packs: usize,
        chunk_bytes: usize,
    ) -> Self {
        let pack_bytes = PACK_TARGET + chunk_bytes + OVERHEAD + MAX_BLOBS * ENTRY + OVERHEAD + 4;
        Self {
            objects,
            index,
            workers: Arc::new(Semaphore::new(workers.max(1))),
            buffers: BufferPool::new(pack_bytes * packs.max(2), pack_bytes),
            data: tokio::sync::Mutex::default(),
            trees: tokio::sync::Mutex::default(),
            claims: Mutex::default(),
            uploads: watch::Sender::default(),
            failures: Mutex::default(),
        }
    }

    /// Waits for the right to bring a chunk.
    pub(crate) async fn permit(&self) -> OwnedSemaphorePermit {
        self.workers.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// How many packs were lost so far. A backup that sees this number grow is lost too.
    pub(crate) fn failures(&self) -> u64 {
        lock(&self.failures).0
    }

    /// Fails when a pack was lost since [`Self::failures`] returned `before`.
    pub(crate) fn fail_since(&self, before: u64) -> Result<(), Error> {
        match &*lock(&self.failures) {
            (count, Some(source)) if *count != before => Err(Error::NotStored { source: source.clone() }),
            _ => Ok(()),
        }
    }

    /// Stores a blob unless it is known. `permit` is held until the blob is in a pack's memory.
    ///
    /// Not to be cancelled half-way, so callers run it as a task of its own.
    pub(crate) async fn store(
        self: Arc<Self>,
        kind: BlobKind,
        plain: Bytes,
        permit: OwnedSemaphorePermit,
    ) -> Result<Stored, Error> {
        let pipeline = self.clone();
        let (id, plain_bytes, prepared) = blocking(move || {
            let id = BlobId::of(&plain);
            let prepared = match pipeline.claim((kind, id)) {
                None => Prepared::Known,
                Some(claim) => Prepared::New(pipeline.objects.seal_blob(&plain), claim),
            };
            (id, plain.len(), prepared)
        })
        .await;
        let Prepared::New(sealed, claim) = prepared else { return Ok(Stored { id, new_bytes: None }) };
        debug_assert!(plain_bytes < u32::MAX as usize);
        let new_bytes = Some(sealed.bytes().len() as u64);
        self.add(claim, sealed.bytes(), sealed.uncompressed).await;
        drop(permit);
        Ok(Stored { id, new_bytes })
    }

    /// Stores a sealed blob unless it is known; for blobs that were sealed elsewhere (trees, repacked ones).
    pub(crate) async fn store_sealed(
        self: &Arc<Self>,
        key: BlobKey,
        sealed: &[u8],
        uncompressed: Option<u32>,
    ) -> Stored {
        let Some(claim) = self.claim(key) else { return Stored { id: key.1, new_bytes: None } };
        self.add(claim, sealed, uncompressed).await;
        Stored { id: key.1, new_bytes: Some(sealed.len() as u64) }
    }

    /// Stores a sealed blob although the index knows it: in a pack that will be removed.
    pub(crate) async fn store_again(self: &Arc<Self>, key: BlobKey, sealed: &[u8], uncompressed: Option<u32>) {
        if lock(&self.claims).insert(key) {
            self.add(Claim { pipeline: self.clone(), key }, sealed, uncompressed).await;
        }
    }

    fn claim(self: &Arc<Self>, key: BlobKey) -> Option<Claim> {
        let mut claims = lock(&self.claims);
        // A claim ends after its blob is in the index: under this lock nobody can miss both.
        if claims.contains(&key) || self.index.map().is_reusable(&key) {
            return None;
        }
        claims.insert(key);
        Some(Claim { pipeline: self.clone(), key })
    }

    /// Puts a sealed blob into the open pack of its kind; sends the pack off when it is full.
    async fn add(self: &Arc<Self>, claim: Claim, sealed: &[u8], uncompressed: Option<u32>) {
        let (kind, id) = claim.key;
        let mut open = match kind {
            BlobKind::Data => self.data.lock().await,
            BlobKind::Tree => self.trees.lock().await,
        };
        let room = self.buffers.buffer_bytes() - MAX_BLOBS * ENTRY - OVERHEAD - 4;
        let Ok(length) = u32::try_from(sealed.len()) else {
            // 4 GiB in one blob: no caller makes such a thing, and no pack can hold it.
            return self
                .fail(Error::damaged(format!("new blob {id}"), crate::format::Fault::Malformed("it is too large")));
        };
        let mut packed = PackedBlob { id, kind, offset: 0, length, uncompressed };
        if sealed.len() > room {
            // The tree of a huge disk: a pack of its own.
            let mut whole = Vec::with_capacity(sealed.len() + ENTRY + OVERHEAD + 4);
            whole.extend_from_slice(sealed);
            drop(open);
            return self.upload(Body::Own(whole), vec![packed], vec![claim]);
        }
        if open.used + sealed.len() > room {
            self.close(&mut open);
        }
        if open.buffer.is_none() {
            open.buffer = Some(self.buffers.take().await);
        }
        let used = open.used;
        if let Some(place) = open.buffer.as_mut().and_then(|buffer| buffer.get_mut(used..used + sealed.len())) {
            place.copy_from_slice(sealed);
        }
        packed.offset = u32::try_from(used).expect("a pack's buffer is far below 4 GiB");
        open.used += sealed.len();
        open.blobs.push(packed);
        open.claims.push(claim);
        if open.used >= PACK_TARGET || open.blobs.len() >= MAX_BLOBS {
            self.close(&mut open);
        }
    }

    fn close(self: &Arc<Self>, open: &mut OpenPack) {
        let OpenPack { buffer, used, blobs, claims } = std::mem::take(open);
        if let Some(buffer) = buffer {
            self.upload(Body::Pooled(buffer, used), blobs, claims);
        }
    }

    /// Sends a pack off. Runs to its end whoever gives up waiting, so that claims mean what they say.
    fn upload(self: &Arc<Self>, body: Body, blobs: Vec<PackedBlob>, claims: Vec<Claim>) {
        let mut number = 0;
        self.uploads.send_modify(|uploads| {
            number = uploads.next;
            uploads.next += 1;
            uploads.under_way.insert(number);
        });
        let pipeline = self.clone();
        tokio::spawn(async move {
            match pipeline.upload_now(body, blobs).await {
                Ok(pack) => pipeline.index.add(pack),
                Err(error) => pipeline.fail(error),
            }
            drop(claims);
            pipeline.uploads.send_modify(|uploads| {
                uploads.under_way.remove(&number);
            });
            if pipeline.index.is_due()
                && let Err(error) = pipeline.index.flush().await
            {
                tracing::warn!(error = crate::index::describe(&error), "the index could not be saved yet");
            }
        });
    }

    async fn upload_now(self: &Arc<Self>, body: Body, blobs: Vec<PackedBlob>) -> Result<IndexedPack, Error> {
        let objects = self.objects.clone();
        let (id, bytes, blobs) = blocking(move || {
            let header = objects.key().seal(&encode_pack_header(&blobs));
            let bytes = body.finish(&header);
            (PackId(sha256(&bytes)), bytes, blobs)
        })
        .await;
        debug_assert_eq!(
            bytes.len(),
            blobs.iter().map(|blob| blob.length as usize).sum::<usize>() + header_bytes(&blobs)
        );
        self.objects.publish_hashed(&pack_name(&id), bytes).await?;
        Ok(IndexedPack { id, blobs: blobs.into_iter().map(IndexedBlob).collect() })
    }

    fn fail(&self, error: Error) {
        let mut failures = lock(&self.failures);
        failures.0 += 1;
        failures.1 = Some(Arc::new(error));
    }

    /// Sends the open packs off and waits until all that were sent until now have arrived, or not.
    async fn settle(self: &Arc<Self>) {
        self.close(&mut *self.data.lock().await);
        self.close(&mut *self.trees.lock().await);
        let mut uploads = self.uploads.subscribe();
        let next = uploads.borrow().next;
        let settled = uploads.wait_for(|uploads| uploads.under_way.first().is_none_or(|first| *first >= next)).await;
        drop(settled.map(|_| ()));
    }

    /// Makes everything brought until now durable and known to others. Fails when a pack was lost since `before`.
    pub(crate) async fn flush(self: &Arc<Self>, before: u64) -> Result<(), Error> {
        self.settle().await;
        self.fail_since(before)?;
        self.index.flush().await
    }
}

/// The sealed blobs of a pack, with room for the header behind.
enum Body {
    Pooled(Buffer, usize),
    Own(Vec<u8>),
}

impl Body {
    fn finish(self, header: &[u8]) -> Bytes {
        let length = u32::try_from(header.len()).expect("a header has at most 4096 entries");
        match self {
            Self::Pooled(mut buffer, used) => {
                let (head, end) = (used + header.len(), used + header.len() + 4);
                buffer[used..head].copy_from_slice(header);
                buffer[head..end].copy_from_slice(&length.to_le_bytes());
                buffer.freeze(end)
            }
            Self::Own(mut whole) => {
                whole.extend_from_slice(header);
                whole.extend_from_slice(&length.to_le_bytes());
                whole.into()
            }
        }
    }
}
