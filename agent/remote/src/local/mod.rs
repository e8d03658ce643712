//! A remote in a local folder, or in one that the kernel has mounted.
//!
//! It owns the folder's durability: an object is written aside, fsynced, published without replacing, and its folder is
//! fsynced, before anybody is told that it exists. All blocking work happens on blocking threads.

mod publish;
mod root;
mod sweep;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Capabilities, Error, MAX_WHOLE_READ, ObjectInfo, ObjectName, Operation, Remote, Space};

use root::{Entered, Root};

pub use sweep::Swept;

/// Where files stand until they are published: on the same file system as all the rest.
const TEMPORARY: &str = "coffer/tmp";

/// A remote in a folder. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct LocalRemote {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: Root,
    name: String,
    /// Prefix of the temporary files of this process.
    owner: String,
    /// Folders below the root whose entries, up to the root, this process has made durable.
    durable: Mutex<HashSet<PathBuf>>,
}

impl LocalRemote {
    /// Opens the remote in the folder `root`, which must exist: a missing one is more likely an unmounted disk than a
    /// new remote. Writes nothing. From now on every operation works in this very folder or fails with
    /// [`Error::FolderMissing`] or [`Error::FolderReplaced`].
    ///
    /// # Errors
    /// When `root` is not a folder.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = root.into();
        blocking(move || {
            let name = format!("local {}", path.display());
            let root = Root::open(&name, path)?;
            let inner = Inner { name, root, owner: sweep::owner(), durable: Mutex::default() };
            Ok(Self { inner: Arc::new(inner) })
        })
        .await
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.inner.root.path()
    }

    /// Removes temporary files that nobody will publish: those of processes of this machine that are gone, and those of
    /// other machines older than `age`.
    ///
    /// # Errors
    /// Whatever the system reports; files removed until then stay removed.
    pub async fn sweep_temporary(&self, age: Duration) -> Result<Swept, Error> {
        let inner = self.inner.clone();
        blocking(move || inner.sweep(age)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.inner.clone();
        blocking(move || work(&inner)).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is being shut down drops blocking work; nobody is left to be answered.
            Err(_) => std::future::pending().await,
        },
    }
}

impl Inner {
    fn enter(&self) -> Result<Entered, Error> {
        self.root.enter(&self.name)
    }

    fn failed(&self, operation: Operation, name: &ObjectName, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::NotFound {
            return Error::NotFound { remote: self.name.clone(), name: name.clone() };
        }
        Error::io(&self.name, operation, name, source)
    }

    fn open_file(&self, operation: Operation, name: &ObjectName) -> Result<(File, u64), Error> {
        let root = self.enter()?;
        let open = || {
            let file = File::open(root.path(name.as_str()))?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            Ok((file, metadata.len()))
        };
        open().map_err(|error| self.failed(operation, name, error))
    }

    fn read(&self, name: &ObjectName) -> Result<Bytes, Error> {
        let (file, size) = self.open_file(Operation::Read, name)?;
        if size > MAX_WHOLE_READ {
            return Err(Error::TooLarge { remote: self.name.clone(), name: name.clone(), size, max: MAX_WHOLE_READ });
        }
        self.read_part(name, file, size, 0..size)
    }

    fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, Error> {
        let (file, size) = self.open_file(Operation::Read, name)?;
        self.read_part(name, file, size, range)
    }

    /// Reads `range` of a file of `size` bytes. What is allocated is bounded by the file's size, never by the request.
    fn read_part(&self, name: &ObjectName, mut file: File, size: u64, range: Range<u64>) -> Result<Bytes, Error> {
        let short =
            |size| Error::OutOfRange { remote: self.name.clone(), name: name.clone(), size, wanted: range.clone() };
        if range.start > range.end || range.end > size {
            return Err(short(size));
        }
        let wanted = range.end - range.start;
        let capacity = usize::try_from(wanted).map_err(|_| short(size))?;
        let mut bytes = Vec::with_capacity(capacity);
        file.seek(SeekFrom::Start(range.start))
            .and_then(|_| file.take(wanted).read_to_end(&mut bytes))
            .map_err(|error| self.failed(Operation::Read, name, error))?;
        if bytes.len() < capacity {
            return Err(short(range.start + bytes.len() as u64));
        }
        Ok(Bytes::from(bytes))
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectInfo, Error> {
        let (file, size) = self.open_file(Operation::Stat, name)?;
        let modified = file.metadata().and_then(|metadata| metadata.modified());
        let modified = modified.map_err(|error| self.failed(Operation::Stat, name, error))?;
        Ok(ObjectInfo { name: name.clone(), size, modified })
    }

    /// Walks the folder. What cannot have been published by a remote (other spellings, hidden files, links) is passed
    /// over.
    fn list(&self, prefix: &ObjectName) -> Result<Vec<ObjectInfo>, Error> {
        let root = self.enter()?;
        let mut found = Vec::new();
        let mut folders = vec![prefix.clone()];
        while let Some(folder) = folders.pop() {
            let failed = |error| Error::io(&self.name, Operation::List, &folder, error);
            let entries = match fs::read_dir(root.path(folder.as_str())) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let Some(name) = entry.file_name().to_str().and_then(|file| folder.join(file).ok()) else { continue };
                if name.as_str() == TEMPORARY {
                    continue;
                }
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    // Deleted since the folder was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(failed(error)),
                };
                if metadata.is_dir() {
                    folders.push(name);
                } else if metadata.is_file() {
                    let modified = metadata.modified().map_err(failed)?;
                    found.push(ObjectInfo { name, size: metadata.len(), modified });
                }
            }
        }
        found.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        Ok(found)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), Error> {
        let root = self.enter()?;
        let path = root.path(name.as_str());
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(&self.name, Operation::Delete, name, error)),
        }
        publish::sync_folder(path.parent().unwrap_or(&path))
            .map_err(|error| Error::io(&self.name, Operation::Delete, name, error))
    }

    fn space(&self) -> Result<Space, Error> {
        let stat = rustix::fs::statvfs(self.enter()?.path(""))
            .map_err(|error| Error::io(&self.name, Operation::Space, self.root.path().display(), error.into()))?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

#[async_trait]
impl Remote for LocalRemote {
    fn describe(&self) -> String {
        self.inner.name.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { create_exclusive: true, durable: true }
    }

    async fn create(&self, name: &ObjectName, body: Vec<Bytes>) -> Result<(), Error> {
        let name = name.clone();
        self.run(move |inner| inner.create(&name, &body)).await
    }

    async fn read(&self, name: &ObjectName) -> Result<Bytes, Error> {
        let name = name.clone();
        self.run(move |inner| inner.read(&name)).await
    }

    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, Error> {
        let name = name.clone();
        self.run(move |inner| inner.read_range(&name, range)).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectInfo, Error> {
        let name = name.clone();
        self.run(move |inner| inner.stat(&name)).await
    }

    async fn list(&self, prefix: &ObjectName) -> Result<Vec<ObjectInfo>, Error> {
        let prefix = prefix.clone();
        self.run(move |inner| inner.list(&prefix)).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), Error> {
        let name = name.clone();
        self.run(move |inner| inner.delete(&name)).await
    }

    async fn space(&self) -> Result<Option<Space>, Error> {
        self.run(|inner| inner.space().map(Some)).await
    }
}
