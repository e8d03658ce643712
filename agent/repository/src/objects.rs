//! The objects of a repository on its remote: names, sealing, checking. Knows nothing of what they mean together.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coffer_remote::{ObjectInfo, ObjectName, Remote};

use crate::format::{
    BlobKind, Codec, Fault, IV_BYTES, MasterKey, OVERHEAD, PackedBlob, header_bytes, parse_pack_header,
};
use crate::id::sha256;
use crate::options::Compression;
use crate::{BlobId, Error, IndexId, PackId, SnapshotId};

/// Folder of the repository on its remote: what a stock program is pointed at.
const ROOT: &str = "repository";
/// The most that a pack's header may take: 16 MiB, some 400 000 blobs.
const MAX_HEADER: u32 = 16 << 20;
/// The largest piece of a file that is opened: other programs cut at 8 MiB at the latest.
const MAX_DATA: u32 = 64 << 20;
/// The largest tree that is opened whole.
const MAX_TREE: u32 = 1 << 30;

/// Names an object or folder of the repository. The parts are constants and hexadecimal ids: always valid.
pub(crate) fn name(below: &str) -> ObjectName {
    ObjectName::new(format!("{ROOT}/{below}")).expect("constants and hexadecimal digits are valid names")
}

pub(crate) fn pack_name(pack: &PackId) -> ObjectName {
    let digits = pack.to_string();
    name(&format!("data/{}/{digits}", digits.get(..2).unwrap_or_default()))
}

pub(crate) fn index_name(index: &IndexId) -> ObjectName {
    name(&format!("index/{index}"))
}

pub(crate) fn snapshot_name(snapshot: &SnapshotId) -> ObjectName {
    name(&format!("snapshots/{snapshot}"))
}

/// The ids of listed objects. Files with other names are somebody else's and passed over.
pub(crate) fn ids<Id: std::str::FromStr>(listed: &[ObjectInfo]) -> impl Iterator<Item = (Id, &ObjectInfo)> {
    listed.iter().filter_map(|info| Some((info.name.file_name().parse().ok()?, info)))
}

/// Runs work on a blocking thread; a panic there goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

/// The result of a task; a panic there goes on here.
pub(crate) async fn joined<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is being shut down drops tasks; nobody is left to be answered.
            Err(_) => std::future::pending().await,
        },
    }
}

/// A repository's remote and keys, and the tools to work on blobs.
pub(crate) struct Objects {
    pub(crate) remote: Arc<dyn Remote>,
    key: MasterKey,
    compression: Compression,
    tools: Mutex<Vec<Tool>>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// What one thread needs to seal or open blobs; used again, since fresh memory and fresh contexts cost more than the
/// work.
struct Tool {
    codec: Codec,
    room: Vec<u8>,
}

/// A sealed blob in a tool's memory.
pub(crate) struct SealedBlob {
    objects: Arc<Objects>,
    tool: Option<Tool>,
    length: usize,
    pub(crate) uncompressed: Option<u32>,
}

impl SealedBlob {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.tool.as_ref().and_then(|tool| tool.room.get(..self.length)).unwrap_or_default()
    }
}

impl Drop for SealedBlob {
    fn drop(&mut self) {
        if let Some(tool) = self.tool.take() {
            self.objects.put_back(tool);
        }
    }
}

impl Objects {
    pub(crate) fn new(remote: Arc<dyn Remote>, key: MasterKey, compression: Compression) -> Self {
        Self { remote, key, compression, tools: Mutex::default() }
    }

    fn tool(&self, room: usize) -> Tool {
        let used = self.tools.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut tool = used.unwrap_or_else(|| Tool {
            codec: Codec::new(self.compression)
                .expect("zstd has a context for levels 1 and 3 unless memory is exhausted"),
            room: Vec::new(),
        });
        if tool.room.len() < room {
            tool.room.resize(room, 0);
        }
        tool
    }

    fn put_back(&self, tool: Tool) {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner).push(tool);
    }

    pub(crate) fn key(&self) -> &MasterKey {
        &self.key
    }

    /// Compresses (where it helps) and seals a blob. CPU work: for a blocking thread.
    pub(crate) fn seal_blob(self: &Arc<Self>, plain: &[u8]) -> SealedBlob {
        let mut tool = self.tool(plain.len() + OVERHEAD);
        let (codec, room) = (&mut tool.codec, &mut tool.room);
        let packed = codec.compress(plain, &mut room[IV_BYTES..]);
        let (length, uncompressed) = match packed {
            Some(packed) => (packed + OVERHEAD, u32::try_from(plain.len()).ok()),
            None => {
                room[IV_BYTES..IV_BYTES + plain.len()].copy_from_slice(plain);
                (plain.len() + OVERHEAD, None)
            }
        };
        self.key.seal_in_place(&mut room[..length]);
        SealedBlob { objects: self.clone(), tool: Some(tool), length, uncompressed }
    }

    /// Opens a sealed blob into `room`, which has its plain length, and checks its hash. For a blocking thread.
    pub(crate) fn open_blob_into(&self, blob: &PackedBlob, sealed: &[u8], room: &mut [u8]) -> Result<(), Fault> {
        let mut tool = self.tool(sealed.len());
        let opened = self.open_with(&mut tool, blob, sealed, room);
        self.put_back(tool);
        opened
    }

    /// Opens a sealed blob and checks its hash. For a blocking thread.
    pub(crate) fn open_blob(&self, blob: &PackedBlob, sealed: &[u8]) -> Result<Vec<u8>, Fault> {
        let limit = match blob.kind {
            BlobKind::Data => MAX_DATA,
            BlobKind::Tree => MAX_TREE,
        };
        let length = blob.plain_bytes();
        if length > limit {
            return Err(Fault::Malformed("it says that it is larger than any blob"));
        }
        let mut room = vec![0; length as usize];
        self.open_blob_into(blob, sealed, &mut room)?;
        Ok(room)
    }

    fn open_with(&self, tool: &mut Tool, blob: &PackedBlob, sealed: &[u8], room: &mut [u8]) -> Result<(), Fault> {
        if blob.uncompressed.is_some() {
            let Tool { codec, room: scratch } = tool;
            let packed = scratch.get_mut(..sealed.len().saturating_sub(OVERHEAD)).ok_or(Fault::Cut)?;
            self.key.open_into(sealed, packed)?;
            codec.decompress(packed, room)?;
        } else {
            self.key.open_into(sealed, room)?;
        }
        if sha256(room) == *blob.id.as_bytes() { Ok(()) } else { Err(Fault::Hash) }
    }

    /// Opens a sealed tree as it is: still compressed when `blob` says so. The caller checks the hash while reading.
    pub(crate) fn open_raw(&self, sealed: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut sealed = sealed.to_vec();
        self.key.open_in_place(&mut sealed).map(|plain| plain.to_vec())
    }

    /// Reads a range of a pack. A pack that is missing or too short is named as such.
    pub(crate) async fn read_pack(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes, Error> {
        match self.remote.read_range(&pack_name(pack), range).await {
            Ok(bytes) => Ok(bytes),
            Err(coffer_remote::Error::NotFound { .. }) => Err(Error::PackMissing { pack: *pack }),
            Err(coffer_remote::Error::OutOfRange { size, wanted, .. }) => {
                Err(Error::damaged_pack(pack, Fault::Short { found: size, needed: wanted.end }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one whole blob, checked.
    pub(crate) async fn read_blob(self: &Arc<Self>, pack: &PackId, blob: PackedBlob) -> Result<Bytes, Error> {
        let sealed = self.read_pack(pack, range_of(&blob)).await?;
        let (objects, pack) = (self.clone(), *pack);
        blocking(move || {
            let opened =
                objects.open_blob(&blob, &sealed).map_err(|fault| Error::damaged_blob(&pack, &blob.id, fault))?;
            Ok(Bytes::from(opened))
        })
        .await
    }

    /// Reads the header of a pack of `size` bytes: which blobs it holds, checked against its size.
    pub(crate) async fn read_header(self: &Arc<Self>, pack: &PackId, size: u64) -> Result<Vec<PackedBlob>, Error> {
        let damaged = |fault| Error::damaged_pack(pack, fault);
        let tail_start = size.checked_sub(4).ok_or_else(|| damaged(Fault::Cut))?;
        let tail = self.read_pack(pack, tail_start..size).await?;
        let length = u32::from_le_bytes(tail.as_ref().try_into().map_err(|_| damaged(Fault::Cut))?);
        let start = tail_start.checked_sub(u64::from(length)).filter(|_| length <= MAX_HEADER);
        let start = start.ok_or_else(|| damaged(Fault::Malformed("its header is longer than it can be")))?;
        let mut sealed = self.read_pack(pack, start..tail_start).await?.to_vec();
        let blobs =
            self.key.open_in_place(&mut sealed).and_then(|header| parse_pack_header(header)).map_err(damaged)?;
        let expected = blobs.iter().map(|blob| u64::from(blob.length)).sum::<u64>() + header_bytes(&blobs) as u64;
        if expected == size { Ok(blobs) } else { Err(damaged(Fault::Size { found: size, expected })) }
    }

    /// Reads and opens a file whose name is the hash of its bytes.
    pub(crate) async fn read_unpacked<T: Send + 'static>(
        self: &Arc<Self>,
        name: &ObjectName,
        id: [u8; 32],
        parse: impl FnOnce(&[u8]) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let sealed = self.remote.read(name).await?;
        let objects = self.clone();
        let parsed = blocking(move || {
            if sha256(&sealed) != id {
                return Err(Fault::Hash);
            }
            let mut sealed = sealed.to_vec();
            parse(objects.key.open_in_place(&mut sealed)?)
        });
        parsed.await.map_err(|fault| Error::damaged(name, fault))
    }

    /// Seals a file; its id is its hash.
    pub(crate) fn seal_unpacked(&self, plain: &[u8]) -> ([u8; 32], Bytes) {
        let sealed = self.key.seal(plain);
        (sha256(&sealed), Bytes::from(sealed))
    }

    /// Publishes an object under a name that is the hash of its bytes: whoever was first published the same.
    pub(crate) async fn publish_hashed(&self, name: &ObjectName, sealed: Bytes) -> Result<(), Error> {
        match self.remote.create(name, vec![sealed]).await {
            Ok(()) | Err(coffer_remote::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

pub(crate) fn range_of(blob: &PackedBlob) -> Range<u64> {
    u64::from(blob.offset)..u64::from(blob.offset) + u64::from(blob.length)
}

/// A blob by what names it.
pub(crate) type BlobKey = (BlobKind, BlobId);
