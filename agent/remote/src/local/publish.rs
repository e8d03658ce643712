//! Publishing a file: aside, fsync, no-replace rename, fsync of the folder.
//!
//! After a failed fsync the kernel may hold the lost pages for clean, so fsync is never asked twice of one file: the
//! attempt fails and the file is thrown away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::{Entered, Inner, TEMPORARY, sweep};
use crate::{Error, ObjectName, Operation};

/// Parts written by one call.
const PARTS_AT_ONCE: usize = 256;

impl Inner {
    pub(super) fn create(&self, name: &ObjectName, body: &[Bytes]) -> Result<(), Error> {
        let root = self.enter()?;
        let target = root.path(name.as_str());
        let taken = || Error::AlreadyExists { remote: self.name.clone(), name: name.clone() };
        let failed = |error| Error::io(&self.name, Operation::Create, name, error);
        // Spares the writing only: the rename below decides.
        if fs::symlink_metadata(&target).is_ok() {
            return Err(taken());
        }
        let folder = Path::new(name.as_str()).parent().unwrap_or(Path::new(""));
        self.make_durable_folder(&root, folder).map_err(failed)?;
        let aside = self.write_aside(&root, body).map_err(failed)?;
        match aside.publish(&target) {
            Ok(()) => sync_folder(&root.path(folder)).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken()),
            Err(error) => Err(failed(error)),
        }
    }

    fn write_aside(&self, root: &Entered, body: &[Bytes]) -> io::Result<Aside> {
        let folder = root.path(TEMPORARY);
        let path = folder.join(sweep::file_name(&self.owner));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = match options.open(&path) {
            // The first object, or somebody tidied up: the folder is part of the layout, not of anybody's data.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder)?;
                options.open(&path)?
            }
            opened => opened?,
        };
        let aside = Aside { path: Some(path) };
        write_all(&file, body)?;
        file.sync_all()?;
        Ok(aside)
    }

    /// Makes `folder` below the root and its parents, and their entries durable: once for each folder and process,
    /// whoever made it, since its maker may have died before its own fsync.
    fn make_durable_folder(&self, root: &Entered, folder: &Path) -> io::Result<()> {
        let known = |folder: &Path| self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(folder);
        let Some(parent) = folder.parent() else { return Ok(()) };
        if known(folder) && root.path(folder).is_dir() {
            return Ok(());
        }
        self.make_durable_folder(root, parent)?;
        match fs::create_dir(root.path(folder)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync_folder(&root.path(parent))?,
        }
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        Ok(())
    }
}

/// A file that nobody can see yet. Dropped unpublished, it is removed.
struct Aside {
    path: Option<PathBuf>,
}

impl Aside {
    fn publish(mut self, target: &Path) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        match rustix::fs::renameat_with(CWD, path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.path = None;
                Ok(())
            }
            // Not every file system (NFS above all) can rename without replacing; all of those have hard links. The
            // temporary name goes when `self` is dropped.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::hard_link(path, target),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "a temporary file stays until it is swept");
        }
    }
}

fn write_all(mut file: &File, body: &[Bytes]) -> io::Result<()> {
    for parts in body.chunks(PARTS_AT_ONCE) {
        let mut slices: Vec<IoSlice<'_>> =
            parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_link_way_publishes_without_replacing_too() {
        let folder = tempfile::tempdir().unwrap();
        let (aside, target) = (folder.path().join("aside"), folder.path().join("target"));
        fs::write(&aside, "new").unwrap();
        fs::hard_link(&aside, &target).unwrap();
        assert_eq!(fs::hard_link(&aside, &target).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(Aside { path: Some(aside.clone()) });
        assert!(!aside.exists());
        assert_eq!(fs::read(target).unwrap(), b"new");
    }

    #[test]
    fn more_parts_than_one_call_takes_are_all_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let body: Vec<Bytes> =
            (0..700_u32).map(|part| Bytes::from(part.to_le_bytes().repeat(part as usize % 5))).collect();
        write_all(&File::create(&path).unwrap(), &body).unwrap();
        assert_eq!(fs::read(path).unwrap(), body.concat());
    }
}
