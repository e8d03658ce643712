//! The folder of an agent: its id, and the lock that makes it the only process with that id.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::Path;

use coffer_model::AgentId;

use crate::Error;

/// A locked state folder; another process gets in when this is dropped or its process is gone.
#[derive(Debug)]
pub(crate) struct StateDir {
    agent_id: AgentId,
    _lock: File,
}

impl StateDir {
    /// Makes the folder where there is none, locks it, and reads the agent's id or gives it one.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::StateDir { path, source }
        };
        fs::create_dir_all(path).map_err(failed(path))?;
        let lock_path = path.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(Error::StateDir { path: lock_path, source }),
        }
        let id_path = path.join("agent-id");
        let text = match fs::read_to_string(&id_path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let id = new_agent_id(&hostname());
                write_aside(path, &id_path, &id).map_err(failed(&id_path))?;
                id
            }
            Err(source) => return Err(Error::StateDir { path: id_path, source }),
        };
        let agent_id = text.parse().map_err(|source| Error::AgentId { path: id_path, source })?;
        Ok(Self { agent_id, _lock: lock })
    }

    /// The agent's id: the same at every start with this folder.
    pub(crate) fn agent_id(&self) -> &AgentId {
        &self.agent_id
    }
}

/// Name of this machine, as the kernel knows it.
pub(crate) fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// The machine's name, so that people recognise it, and a random part, so that clones of a machine differ.
fn new_agent_id(hostname: &str) -> String {
    let mut id: String = hostname
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(40)
        .collect();
    id = id.trim_matches('-').to_owned();
    if !id.starts_with(|first: char| first.is_ascii_lowercase()) {
        id = format!("agent-{id}").trim_end_matches('-').to_owned();
    }
    let random = uuid::Uuid::new_v4().simple().to_string();
    id.push('-');
    id.extend(random.chars().take(8));
    id
}

/// A file that is either not there or complete, whenever the machine stops.
fn write_aside(folder: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_the_same_and_a_second_process_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        let first = StateDir::open(&path).unwrap();
        let id = first.agent_id().clone();
        assert!(matches!(StateDir::open(&path), Err(Error::Locked { .. })));
        drop(first);
        assert_eq!(*StateDir::open(&path).unwrap().agent_id(), id);
    }

    #[test]
    fn an_id_file_of_something_else_is_refused_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("agent-id"), "Not An Id\n").unwrap();
        assert!(matches!(StateDir::open(folder.path()), Err(Error::AgentId { .. })));
        assert_eq!(fs::read_to_string(folder.path().join("agent-id")).unwrap(), "Not An Id\n");
    }

    #[test]
    fn every_host_name_makes_an_agent_id() {
        for name in ["", "---", "Backup_01.example.org", "é", "42", &"x".repeat(300)] {
            let id = new_agent_id(name);
            assert!(id.parse::<AgentId>().is_ok(), "{name:?} gave {id:?}");
        }
    }
}
