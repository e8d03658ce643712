//! An open repository.
#![allow(clippy::todo, unused_variables, missing_docs)]
use crate::*;
use coffer_remote::Remote;
use secrecy::SecretString;
use std::sync::Arc;
/// An open repository. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Repository {}
impl Repository {
    pub async fn init(
        remote: Arc<dyn Remote>,
        password: &SecretString,
        options: RepositoryOptions,
    ) -> Result<Self, Error> {
        todo!()
    }
    pub async fn open(
        remote: Arc<dyn Remote>,
        password: &SecretString,
        options: RepositoryOptions,
    ) -> Result<Self, Error> {
        todo!()
    }
    /// Opens, or makes it when there is none.
    pub async fn open_or_init(
        remote: Arc<dyn Remote>,
        password: &SecretString,
        options: RepositoryOptions,
    ) -> Result<Self, Error> {
        todo!()
    }
    pub fn id(&self) -> RepositoryId {
        todo!()
    }
    pub fn chunk_bytes(&self) -> usize {
        todo!()
    }
    pub async fn add_password(&self, password: &SecretString) -> Result<KeyId, Error> {
        todo!()
    }
    pub async fn begin_backup(&self, options: BackupOptions) -> Result<BackupSession, Error> {
        todo!()
    }
    /// Snapshots of ours, oldest first.
    pub async fn points(&self) -> Result<Vec<PointInfo>, Error> {
        todo!()
    }
    pub async fn point(&self, id: SnapshotId) -> Result<Point, Error> {
        todo!()
    }
    /// Removes a snapshot (idempotent). Its data goes with a later prune.
    pub async fn forget(&self, id: SnapshotId) -> Result<(), Error> {
        todo!()
    }
    pub async fn plan_prune(&self, options: PruneOptions) -> Result<PrunePlan, Error> {
        todo!()
    }
    pub async fn prune(&self, plan: PrunePlan) -> Result<PruneReport, Error> {
        todo!()
    }
    pub async fn check(&self, level: CheckLevel) -> Result<CheckReport, Error> {
        todo!()
    }
}
