//! Temporary files: their names say who writes them, so that those nobody will finish can be told and removed.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Inner, TEMPORARY};
use crate::{Error, Operation};

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files left, since their writer may live.
    pub kept: u64,
}

/// `<machine>.<process id>`: who writes temporary files here.
pub(super) fn owner() -> String {
    format!("{}.{}", machine(), std::process::id())
}

/// A name that no other writer uses: `<machine>.<process id>.<random>`.
pub(super) fn file_name(owner: &str) -> String {
    format!("{owner}.{:016x}", rand::random::<u64>())
}

/// This machine, by its systemd id or else its host name.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).ok().filter(|id| !id.trim().is_empty());
    let id =
        read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/hostname")).unwrap_or_else(|| "unknown".to_owned());
    id.trim().chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).take(64).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Writer {
    Alive,
    Gone,
    Elsewhere,
}

fn writer(file_name: &str, machine: &str, is_alive: impl Fn(u32) -> bool) -> Writer {
    let mut parts = file_name.split('.');
    match (parts.next(), parts.next().and_then(|process| process.parse().ok())) {
        (Some(of), Some(process)) if of == machine => {
            if is_alive(process) {
                Writer::Alive
            } else {
                Writer::Gone
            }
        }
        _ => Writer::Elsewhere,
    }
}

impl Inner {
    pub(super) fn sweep(&self, age: Duration) -> Result<Swept, Error> {
        let failed = |error| Error::io(&self.name, Operation::Delete, TEMPORARY, error);
        let root = self.enter()?;
        let machine = machine();
        let is_alive = |process: u32| Path::new("/proc").join(process.to_string()).exists();
        let mut swept = Swept::default();
        let entries = match fs::read_dir(root.path(TEMPORARY)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let metadata = match entry.metadata() {
                Ok(metadata) if metadata.is_file() => metadata,
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let is_old = || {
                let modified = metadata.modified().ok();
                modified
                    .and_then(|modified| SystemTime::now().duration_since(modified).ok())
                    .is_some_and(|old| old > age)
            };
            let garbage = match writer(&entry.file_name().to_string_lossy(), &machine, is_alive) {
                Writer::Gone => true,
                // A process id is used again some day, hence age counts here as well.
                Writer::Alive => {
                    is_old() && entry.file_name().to_str().is_none_or(|name| !name.starts_with(&self.owner))
                }
                Writer::Elsewhere => is_old(),
            };
            if !garbage {
                swept.kept += 1;
                continue;
            }
            match fs::remove_file(entry.path()) {
                Ok(()) => {
                    swept.files += 1;
                    swept.bytes += metadata.len();
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writers_of_this_machine_can_be_known_to_be_gone() {
        let is_alive = |process| process == 7;
        assert_eq!(writer("here.7.00ff", "here", is_alive), Writer::Alive);
        assert_eq!(writer("here.8.00ff", "here", is_alive), Writer::Gone);
        assert_eq!(writer("there.8.00ff", "here", is_alive), Writer::Elsewhere);
        assert_eq!(writer("whatever", "here", is_alive), Writer::Elsewhere);
    }

    #[test]
    fn a_temporary_name_says_who_writes_it() {
        let name = file_name(&owner());
        assert_eq!(writer(&name, &machine(), |process| process == std::process::id()), Writer::Alive);
    }
}
