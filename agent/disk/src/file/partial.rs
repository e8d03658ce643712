//! A file that appears under its name complete and durable, or not at all.

use crate::Error;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, open, renameat_with};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `NAME.partial`, locked against a second writer. Dropping it removes the file; a crash leaves it, and the next
/// writer of the same name starts it anew.
#[derive(Debug)]
pub(super) struct PartialFile {
    file: Arc<File>,
    target: PathBuf,
    partial: PathBuf,
    published: bool,
}

impl PartialFile {
    pub(super) async fn create(target: &Path) -> Result<PartialFile, Error> {
        let target = target.to_owned();
        blocking(move || {
            let mut name = OsString::from(&target);
            name.push(".partial");
            let partial = PathBuf::from(name);
            let file = loop {
                if target.try_exists().map_err(failed("look for", &target))? {
                    return Err(failed("create", &target)(io::ErrorKind::AlreadyExists.into()));
                }
                if let Some(file) = open_locked(&partial)? {
                    break file;
                }
            };
            file.set_len(0).map_err(failed("empty", &partial))?;
            Ok(PartialFile { file: Arc::new(file), target, partial, published: false })
        })
        .await
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) async fn set_len(&self, len: u64) -> Result<(), Error> {
        let (file, path) = (self.file.clone(), self.partial.clone());
        blocking(move || file.set_len(len).map_err(failed("extend", &path))).await
    }

    /// Writes all parts, each at its offset. Once started this goes on even if the caller gives up.
    pub(super) async fn write<B: AsRef<[u8]> + Send + 'static>(&self, parts: Vec<(u64, B)>) -> Result<(), Error> {
        let (file, path) = (self.file.clone(), self.partial.clone());
        blocking(move || {
            let written = parts.iter().try_for_each(|(offset, part)| file.write_all_at(part.as_ref(), *offset));
            written.map_err(failed("write", &path))
        })
        .await
    }

    /// Makes the file durable and gives it its name.
    pub(super) async fn publish(&mut self) -> Result<(), Error> {
        let (file, partial, target) = (self.file.clone(), self.partial.clone(), self.target.clone());
        blocking(move || {
            file.sync_all().map_err(failed("make durable", &partial))?;
            rename_to_free_name(&partial, &target).map_err(failed("publish", &target))?;
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("make durable the folder", folder))
        })
        .await?;
        self.published = true;
        Ok(())
    }
}

/// Opens and locks the file of this name. `None` when the name belongs to another file by the time the lock is ours:
/// another writer has published or removed in between, and what we hold must not be touched.
fn open_locked(partial: &Path) -> Result<Option<File>, Error> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(partial, flags, Mode::from_raw_mode(0o666)).map_err(io::Error::from);
    let file = File::from(file.map_err(failed("create", partial))?);
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::FileBusy { path: partial.to_owned() }),
        Err(error) => return Err(failed("lock", partial)(error.into())),
    }
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let held = identity(file.metadata().map_err(failed("inspect", partial))?);
    match std::fs::symlink_metadata(partial) {
        Ok(metadata) => Ok((identity(metadata) == held).then_some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("inspect", partial)(error)),
    }
}

/// Never replaces what has the name already. File systems that cannot do that in one step (some network ones) get a
/// hard link, which cannot replace either.
fn rename_to_free_name(partial: &Path, target: &Path) -> io::Result<()> {
    match renameat_with(CWD, partial, CWD, target, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(partial, target)?;
            std::fs::remove_file(partial)
        }
        result => Ok(result?),
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = std::fs::remove_file(&self.partial)
        {
            tracing::warn!(file = %self.partial.display(), %error, "an unfinished file could not be removed");
        }
    }
}

/// Makes an I/O error one about a file.
pub(super) fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File { operation, path: path.to_owned(), source }
}

/// Runs a closure that blocks on a thread where that hurts nobody.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work that has begun is never cancelled; work that has not is cancelled with its runtime.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Follows a disk that is being written in order.
#[derive(Debug)]
pub(super) struct Order {
    position: u64,
    size: u64,
}

impl Order {
    pub(super) fn new(size: u64) -> Order {
        Order { position: 0, size }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Checks that an extent continues the last one.
    pub(super) fn advance(&mut self, extent: &coffer_extent::Extent) -> Result<(), coffer_extent::StreamError> {
        use coffer_extent::StreamError;
        let (offset, len, size) = (extent.offset(), extent.len(), self.size);
        if offset != self.position {
            return Err(StreamError::OutOfOrder { expected: self.position, found: offset });
        }
        if extent.end() > size {
            return Err(StreamError::BeyondEnd { offset, len, size });
        }
        self.position = extent.end();
        Ok(())
    }

    /// Checks that the disk is complete.
    pub(super) fn complete(&self) -> Result<(), coffer_extent::StreamError> {
        if self.position == self.size {
            return Ok(());
        }
        Err(coffer_extent::StreamError::Short { end: self.position, size: self.size })
    }
}
