//! One backup: disks and small files that become one snapshot.
//!
//! Order of what reaches the remote: packs, then index files, then the snapshot file. A backup that stops anywhere
//! leaves packs (found again by the next one if an index lists them, else collected by prune) and nothing that is
//! listed.

mod disk;
mod seal;
mod tree;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coffer_remote::ObjectName;
use futures::future::try_join_all;

pub use disk::{ClosedDisk, DiskWriter};
pub use seal::SealedPoint;

use crate::format::BlobKind;
use crate::repository::Inner;
use crate::{BackupOptions, Error, FileContent};

/// One backup. Dropped before [`Self::seal`], it leaves nothing that is listed.
#[derive(Debug)]
pub struct BackupSession {
    shared: Arc<Shared>,
}

/// What the session and its disks share.
#[derive(Debug)]
struct Shared {
    inner: Arc<Inner>,
    options: BackupOptions,
    /// Packs lost before this session began.
    failures: u64,
    files: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug)]
enum Entry {
    Writing,
    Done(FileContent),
}

impl BackupSession {
    pub(crate) fn new(inner: Arc<Inner>, options: BackupOptions) -> Self {
        let failures = inner.pipeline.failures();
        Self { shared: Arc::new(Shared { inner, options, failures, files: Mutex::default() }) }
    }

    /// Begins a disk of `size` bytes at `path`, e.g. `disks/xvda-….raw`. Disks may be written in parallel.
    ///
    /// `parent` is the disk's content in the point that `Unchanged` extents refer to. Its size may differ.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a path that cannot be stored or was used before.
    pub async fn disk(&self, path: &str, size: u64, parent: Option<FileContent>) -> Result<DiskWriter, Error> {
        self.shared.reserve(path)?;
        DiskWriter::new(self.shared.clone(), path.to_owned(), size, parent)
    }

    /// Stores a small file at `path`, e.g. `vm.json`.
    ///
    /// # Errors
    /// [`Error::Invalid`] as for [`Self::disk`]; [`Error::NotStored`] and [`Error::Cancelled`].
    pub async fn file(&self, path: &str, content: Bytes) -> Result<(), Error> {
        self.shared.reserve(path)?;
        self.shared.check()?;
        let pipeline = &self.shared.inner.pipeline;
        let pieces = (0..content.len()).step_by(self.shared.inner.chunk_bytes);
        let store = pieces.map(|start| {
            let piece = content.slice(start..content.len().min(start + self.shared.inner.chunk_bytes));
            async move {
                let permit = pipeline.permit().await;
                super::objects::joined(tokio::spawn(pipeline.clone().store(BlobKind::Data, piece, permit))).await
            }
        });
        let blobs = try_join_all(store).await?.into_iter().map(|stored| stored.id).collect();
        self.shared.done(path, FileContent::new(content.len() as u64, blobs));
        Ok(())
    }
}

impl Shared {
    fn reserve(&self, path: &str) -> Result<(), Error> {
        let invalid = |reason| Error::Invalid { value: path.to_owned(), reason };
        ObjectName::new(path).map_err(|_| invalid("a path holds letters, digits, dots, dashes and underscores"))?;
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
        if files.contains_key(path) {
            return Err(invalid("the backup has a file of this name"));
        }
        if files.keys().any(|other| inside(other, path) || inside(path, other)) {
            return Err(invalid("a file and a folder have the same name"));
        }
        files.insert(path.to_owned(), Entry::Writing);
        Ok(())
    }

    fn done(&self, path: &str, content: FileContent) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(path.to_owned(), Entry::Done(content));
    }

    /// Whether going on makes sense.
    fn check(&self) -> Result<(), Error> {
        if self.options.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.inner.pipeline.fail_since(self.failures)
    }
}
