//! What the tests of the repository share: small repositories, disks and their models.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::sync::Arc;

use bytes::Bytes;
use coffer_extent::{Extent, ExtentSink, ExtentSource};
use coffer_remote::{MemoryRemote, ObjectName, Remote};
use coffer_repository::{
    BackupOptions, BackupSession, ClosedDisk, Error, FileContent, KeyCost, Point, Repository, RepositoryOptions,
    SnapshotId, SnapshotMeta,
};
use jiff::Timestamp;
use secrecy::SecretString;
use uuid::Uuid;

/// Bytes of a chunk in tests.
pub(crate) const CHUNK: usize = 64 << 10;

/// The document of every point that [`backup`] makes.
pub(crate) const VM: &[u8] = b"{\"version\":1}";

pub(crate) fn password() -> SecretString {
    SecretString::from("correct horse battery staple")
}

pub(crate) fn options() -> RepositoryOptions {
    RepositoryOptions { chunk_bytes: CHUNK, key_cost: KeyCost::Worthless, workers: 3, ..RepositoryOptions::default() }
}

pub(crate) async fn init(remote: Arc<dyn Remote>) -> Repository {
    Repository::init(remote, &password(), options()).await.unwrap()
}

pub(crate) async fn open(remote: Arc<dyn Remote>) -> Repository {
    Repository::open(remote, &password(), options()).await.unwrap()
}

pub(crate) fn meta(second: i64, parent: Option<SnapshotId>) -> SnapshotMeta {
    SnapshotMeta {
        time: Timestamp::from_second(1_700_000_000 + second).unwrap(),
        vm: Uuid::from_u128(7),
        vm_name: "web 1".to_owned(),
        tags: vec!["job=nightly".to_owned()],
        parent,
    }
}

/// Random bytes that come out the same for a seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut noise: Vec<u8> =
        std::iter::repeat_with(|| next().to_le_bytes()).take(bytes.div_ceil(8)).flatten().collect();
    noise.truncate(bytes);
    noise
}

/// The extents of `disk`: data in steps, zeros as zeros.
pub(crate) fn extents(disk: &[u8], step: usize) -> Vec<Extent> {
    let mut offset = 0;
    let pieces = disk.chunks(step).map(|piece| {
        let (start, len) = (offset, piece.len() as u64);
        offset += len;
        if piece.iter().all(|byte| *byte == 0) {
            Extent::Zero { offset: start, len }
        } else {
            Extent::Data { offset: start, bytes: Bytes::copy_from_slice(piece) }
        }
    });
    pieces.collect()
}

/// The extents of `disk` as a delta against `before`, compared in steps.
pub(crate) fn delta(before: &[u8], disk: &[u8], step: usize) -> Vec<Extent> {
    let unchanged = |extent: Extent| {
        let (start, end) = (usize::try_from(extent.offset()).unwrap(), usize::try_from(extent.end()).unwrap());
        if before.get(start..end) == Some(&disk[start..end]) {
            Extent::Unchanged { offset: extent.offset(), len: extent.len() }
        } else {
            extent
        }
    };
    extents(disk, step).into_iter().map(unchanged).collect()
}

pub(crate) async fn write_disk(
    session: &BackupSession,
    path: &str,
    size: usize,
    extents: Vec<Extent>,
    parent: Option<FileContent>,
) -> Result<ClosedDisk, Error> {
    let mut disk = session.disk(path, size as u64, parent).await?;
    for extent in extents {
        disk.accept(extent).await.map_err(inner)?;
    }
    disk.close().await
}

/// The error of the repository inside one of a disk transfer.
pub(crate) fn inner(error: coffer_extent::ExtentError) -> Error {
    let text = format!("{error:?}");
    match error.downcast_ref::<Error>() {
        Some(_) => Error::Invalid { value: text, reason: "an error of the disk" },
        None => panic!("not an error of the repository: {text}"),
    }
}

/// What can happen to an object on a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Absent,
    Cut,
    Empty,
    Flipped,
}

impl Loss {
    pub(crate) const ALL: &[Self] = &[Self::Absent, Self::Cut, Self::Empty, Self::Flipped];

    pub(crate) async fn happen(self, remote: &MemoryRemote, name: &ObjectName) {
        let mut bytes = remote.read(name).await.unwrap().to_vec();
        match self {
            Self::Absent => return remote.delete(name).await.unwrap(),
            Self::Cut => bytes.truncate(bytes.len() / 2),
            Self::Empty => bytes.clear(),
            Self::Flipped if bytes.is_empty() => {}
            Self::Flipped => {
                let place = bytes.len() / 3;
                bytes[place] ^= 0x10;
            }
        }
        remote.overwrite(name, Bytes::from(bytes));
    }
}

/// Backs one disk up, whole, and publishes.
pub(crate) async fn backup(repository: &Repository, second: i64, disk: &[u8]) -> Result<SnapshotId, Error> {
    let session = repository.begin_backup(BackupOptions::default()).await?;
    write_disk(&session, "disks/xvda.raw", disk.len(), extents(disk, CHUNK), None).await?;
    session.file("vm.json", Bytes::from_static(VM)).await?;
    let sealed = session.seal(meta(second, None)).await?;
    sealed.publish().await?;
    Ok(sealed.snapshot_id())
}

/// Reads a disk through the stream of extents.
pub(crate) async fn read_extents(point: &Point, path: &str) -> Result<Vec<u8>, coffer_extent::ExtentError> {
    read_all(point.extents(path).unwrap()).await
}

/// Reads a stream of extents to its end.
pub(crate) async fn read_all(source: Box<dyn ExtentSource>) -> Result<Vec<u8>, coffer_extent::ExtentError> {
    let mut source = coffer_extent::Validated::new(source, "a point");
    let mut disk = Vec::new();
    while let Some(extent) = source.next().await? {
        match extent {
            Extent::Data { bytes, .. } => disk.extend_from_slice(&bytes),
            Extent::Zero { len, .. } => disk.resize(disk.len() + usize::try_from(len).unwrap(), 0),
            Extent::Unchanged { .. } => panic!("a point has no unchanged ranges"),
        }
    }
    Ok(disk)
}

/// Reads a disk through random access, in steps that do not fit its chunks.
pub(crate) async fn read_blocks(point: &Point, path: &str) -> Vec<u8> {
    let reader = point.disk(path).unwrap();
    let size = reader.size();
    let (mut disk, step) = (Vec::new(), 100_000_u64);
    for offset in (0..size).step_by(100_000) {
        let len = usize::try_from(step.min(size - offset)).unwrap();
        disk.extend_from_slice(&reader.read_at(offset, len).await.unwrap());
    }
    disk
}
