//! Writing.
#![allow(clippy::todo, unused_variables, missing_docs)]
use crate::*;
use async_trait::async_trait;
use bytes::Bytes;
use coffer_extent::{Extent, ExtentError, ExtentSink};
/// One backup: disks and files that become one snapshot.
#[derive(Debug)]
pub struct BackupSession {}
impl BackupSession {
    /// Disks may be written in parallel.
    pub async fn disk(&self, path: &str, size: u64, parent: Option<FileContent>) -> Result<DiskWriter, Error> {
        todo!()
    }
    pub async fn file(&self, path: &str, content: Bytes) -> Result<(), Error> {
        todo!()
    }
    pub async fn seal(self, meta: SnapshotMeta) -> Result<SealedPoint, Error> {
        todo!()
    }
}
/// Takes one disk.
#[derive(Debug)]
pub struct DiskWriter {}
#[derive(Debug, Clone)]
pub struct ClosedDisk {
    pub content: FileContent,
    pub stats: DiskStats,
}
impl DiskWriter {
    pub fn stats(&self) -> DiskStats {
        todo!()
    }
    pub async fn close(self) -> Result<ClosedDisk, Error> {
        todo!()
    }
}
#[async_trait]
impl ExtentSink for DiskWriter {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        todo!()
    }
    /// Waits until all chunks are hashed; `close` then gives the content.
    async fn finish(&mut self) -> Result<(), ExtentError> {
        todo!()
    }
}
/// Everything durable but the snapshot file, which `publish` writes.
#[derive(Debug)]
pub struct SealedPoint {}
impl SealedPoint {
    pub fn snapshot_id(&self) -> SnapshotId {
        todo!()
    }
    /// Writes the snapshot file. May be repeated.
    pub async fn publish(&self) -> Result<(), Error> {
        todo!()
    }
}
