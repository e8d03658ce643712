//! The folder of a remote, told from any other that comes to stand at its path.
//!
//! A path names whatever is there at that instant: after an unmount the mount point, after a mount another disk. So the
//! folder is recognised by file system and inode at the beginning of every operation, and the operation then goes by
//! the folder that was recognised and not by the path: what is swapped in the middle changes nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use crate::{Error, Operation};

/// File system and inode.
type Identity = (u64, u64);

/// The folder that was opened.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    identity: Identity,
}

/// The folder, held for one operation.
#[derive(Debug)]
pub(super) struct Entered {
    held: OwnedFd,
}

impl Root {
    /// Notes which folder stands at `path`. `name` is the remote's, for errors.
    pub(super) fn open(name: &str, path: PathBuf) -> Result<Self, Error> {
        let (_, identity) = hold(name, &path)?;
        Ok(Self { path, identity })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Holds the folder for an operation, if it is still there.
    pub(super) fn enter(&self, name: &str) -> Result<Entered, Error> {
        let (held, identity) = hold(name, &self.path)?;
        if identity != self.identity {
            return Err(Error::FolderReplaced { remote: name.to_owned() });
        }
        Ok(Entered { held })
    }
}

impl Entered {
    /// A file or folder below; it leads through the held folder, whatever stands at the remote's path by now.
    pub(super) fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd())).join(below)
    }
}

fn hold(name: &str, path: &Path) -> Result<(OwnedFd, Identity), Error> {
    let held = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let held = held.map_err(io::Error::from).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::FolderMissing { remote: name.to_owned(), source }
        }
        _ => Error::io(name, Operation::Open, path.display(), source),
    })?;
    let stat = fstat(&held).map_err(|error| Error::io(name, Operation::Open, path.display(), error.into()))?;
    Ok((held, (stat.st_dev, stat.st_ino)))
}
