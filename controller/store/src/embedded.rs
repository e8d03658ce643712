//! A store in one file, for one controller.
//!
//! The whole state is in memory; the file (redb) is its journal: each change is committed to it durably before it is
//! visible or acknowledged. One thread writes. The file is locked, so that no second process can use it.
//!
//! Layout, format 1: table `meta` (text → number): `format`, `revision`, `last_lease`; table `keys` (key → create
//! revision, mod revision, version, lease or 0, each as 8 bytes big-endian, then the value); table `leases` (id → time
//! to live in milliseconds). Leases begin anew with their full time when the file is opened.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::local::{Local, Submit, state_store_over_local};
use crate::state::{Delta, Entry, History, LeaseChange, State};
use crate::store::{Lease, LeaseId, Revision};
use crate::writer::{Command, Journal, Reply, Shared, Writer};

/// The format that this version writes.
const FORMAT: u64 = 1;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
/// The state is in memory; the file's own cache only serves writing.
const CACHE_BYTES: usize = 8 << 20;
/// How many commands may wait for the writer.
const QUEUE: usize = 256;

/// A store in one file. Clones are the same store; the file is let go by [`EmbeddedStore::close`], or some time after
/// the last clone is dropped.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    local: Local,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl EmbeddedStore {
    /// Opens the store in `path`, or makes one there, that only its owner may read. Its folder must exist. To be called
    /// inside a tokio runtime, whose clock its leases follow.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it open, [`Error::NewerFormat`], [`Error::Damaged`],
    /// [`Error::Storage`].
    pub async fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, History::default()).await
    }

    /// [`EmbeddedStore::open`], keeping this much history for watches.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    pub async fn open_with(path: &Path, history: History) -> Result<Self, Error> {
        let path = path.to_owned();
        let opening = tokio::task::spawn_blocking(move || {
            let journal = RedbJournal::open(&path)?;
            let state = journal.load(history)?;
            Ok((journal, state))
        });
        let (journal, state) =
            opening.await.map_err(|error| Error::Closed { reason: format!("opening it failed: {error}") })??;
        let shared = Shared::new(state);
        let path = journal.path.clone();
        let writer = Writer::new(journal, Arc::clone(&shared), Instant::now());
        let (sender, receiver) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("coffer-store".to_owned())
            .spawn(move || write(writer, receiver))
            .map_err(|error| storage("start the writer of", &path, error))?;
        Ok(Self { local: Local::new(shared, Arc::new(Queue(sender))), thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Forgets the history: watches and pages of earlier states have to begin anew.
    pub fn compact(&self) {
        self.local.compact();
    }

    /// Does what is queued, then closes the file; when this returns, another process can open it. Later calls give
    /// [`Error::Closed`].
    pub async fn close(&self) {
        self.local.close().await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(())))
        {
            tracing::error!("the store's writer ended by a panic; the file holds everything that was acknowledged");
        }
    }
}

state_store_over_local!(EmbeddedStore);

struct Request {
    command: Command,
    now: Instant,
    reply: oneshot::Sender<Result<Reply, Error>>,
}

/// The writer's thread. Ends when it is told to close, or nobody can ask any more.
fn write(mut writer: Writer<RedbJournal>, mut queue: mpsc::Receiver<Request>) {
    while let Some(Request { command, now, reply }) = queue.blocking_recv() {
        if matches!(command, Command::Close) {
            queue.close();
        }
        // Whoever asked may have gone; the command counts all the same.
        drop(reply.send(writer.execute(command, now)));
    }
}

struct Queue(mpsc::Sender<Request>);

#[async_trait]
impl Submit for Queue {
    async fn submit(&self, command: Command, now: Instant) -> Result<Reply, Error> {
        let (reply, answer) = oneshot::channel();
        if self.0.send(Request { command, now, reply }).await.is_err() {
            return Err(Error::Closed { reason: "its writer has ended".to_owned() });
        }
        answer.await.unwrap_or_else(|_| {
            Err(Error::Unknown { reason: "the store's writer ended before it answered".to_owned(), source: None })
        })
    }
}

/// The file.
struct RedbJournal {
    database: Database,
    path: PathBuf,
}

fn storage(action: &'static str, path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Storage { action, path: path.to_owned(), source: Arc::new(error) }
}

impl RedbJournal {
    fn open(path: &Path) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(|error| storage("open", path, error))?;
        let metadata = file.metadata().map_err(|error| storage("open", path, error))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "others may read the store; run chmod 600 on it");
        }
        drop(file);
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = database.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: path.to_owned() },
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(what)) => {
                Error::Damaged { path: path.to_owned(), what }
            }
            redb::DatabaseError::Storage(redb::StorageError::Io(error))
                if error.kind() == std::io::ErrorKind::InvalidData =>
            {
                Error::Damaged { path: path.to_owned(), what: "it is not a store".to_owned() }
            }
            error => storage("open", path, error),
        })?;
        let journal = Self { database, path: path.to_owned() };
        if metadata.len() == 0 {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| storage("create", path, error))?;
        }
        journal.prepare()?;
        Ok(journal)
    }

    /// Makes the tables of a new file; refuses a file of another format.
    fn prepare(&self) -> Result<(), Error> {
        let attempt = || -> Result<Option<u64>, redb::Error> {
            let txn = self.database.begin_write()?;
            let is_new = txn.list_tables()?.next().is_none();
            let format = {
                let mut meta = txn.open_table(META)?;
                if is_new {
                    meta.insert("format", FORMAT)?;
                    meta.insert("revision", 0)?;
                    meta.insert("last_lease", 0)?;
                    txn.open_table(KEYS)?;
                    txn.open_table(LEASES)?;
                }
                meta.get("format")?.map(|format| format.value())
            };
            txn.commit()?;
            Ok(format)
        };
        match attempt().map_err(|error| storage("open", &self.path, error))? {
            Some(FORMAT) => Ok(()),
            Some(found) if found > FORMAT => Err(Error::NewerFormat { path: self.path.clone(), found, known: FORMAT }),
            other => Err(Error::Damaged {
                path: self.path.clone(),
                what: format!("its format is {other:?}, which never was"),
            }),
        }
    }

    /// Reads everything.
    fn load(&self, history: History) -> Result<State, Error> {
        let failed = |error: redb::Error| storage("read", &self.path, error);
        let damaged = |what: String| Error::Damaged { path: self.path.clone(), what };
        let (keys, leases, revision, last_lease) = self.tables().map_err(failed)?;
        let mut entries = BTreeMap::new();
        for (key, bytes) in keys {
            let entry = decode(&bytes).ok_or_else(|| damaged(format!("key {key:?} is cut short")))?;
            entries.insert(key, entry);
        }
        let leases =
            leases.into_iter().map(|(id, ttl)| Lease { id: LeaseId(id), ttl: Duration::from_millis(ttl) }).collect();
        let number = |name: &str, value: Option<u64>| value.ok_or_else(|| damaged(format!("{name} is missing")));
        let revision = Revision(number("revision", revision)?);
        State::restore(history, revision, entries, leases, number("last_lease", last_lease)?).map_err(damaged)
    }

    fn tables(&self) -> Result<Tables, redb::Error> {
        let txn = self.database.begin_read()?;
        let mut keys = Vec::new();
        for item in txn.open_table(KEYS)?.iter()? {
            let (key, value) = item?;
            keys.push((key.value().to_owned(), value.value().to_vec()));
        }
        let mut leases = Vec::new();
        for item in txn.open_table(LEASES)?.iter()? {
            let (id, ttl) = item?;
            leases.push((id.value(), ttl.value()));
        }
        let meta = txn.open_table(META)?;
        let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map(|number| number.value()));
        Ok((keys, leases, number("revision")?, number("last_lease")?))
    }

    fn write(&self, delta: &Delta) -> Result<redb::WriteTransaction, redb::Error> {
        // Durability is immediate by default: a commit that returns is on the disk.
        let txn = self.database.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            meta.insert("revision", delta.revision.0)?;
            if !delta.changes.is_empty() {
                let mut keys = txn.open_table(KEYS)?;
                for change in &delta.changes {
                    match &change.after {
                        Some(entry) => drop(keys.insert(change.key.as_str(), encode(entry).as_slice())?),
                        None => drop(keys.remove(change.key.as_str())?),
                    }
                }
            }
            match delta.lease {
                Some(LeaseChange::Granted(lease)) => {
                    let ttl = u64::try_from(lease.ttl.as_millis()).unwrap_or(u64::MAX);
                    txn.open_table(LEASES)?.insert(lease.id.0, ttl)?;
                    meta.insert("last_lease", lease.id.0)?;
                }
                Some(LeaseChange::Ended(lease)) => drop(txn.open_table(LEASES)?.remove(lease.0)?),
                None => {}
            }
        }
        Ok(txn)
    }
}

/// Keys, leases, revision, last lease.
type Tables = (Vec<(String, Vec<u8>)>, Vec<(u64, u64)>, Option<u64>, Option<u64>);

impl Journal for RedbJournal {
    fn commit(&mut self, delta: &Delta) -> Result<(), Error> {
        let txn = self.write(delta).map_err(|error| storage("write to", &self.path, error))?;
        txn.commit().map_err(|error| Error::Unknown {
            reason: format!("committing to {} failed", self.path.display()),
            source: Some(Arc::new(error)),
        })
    }
}

const HEADER: usize = 32;

fn encode(entry: &Entry) -> Vec<u8> {
    let lease = entry.lease.map_or(0, |lease| lease.0);
    let mut bytes = Vec::with_capacity(HEADER + entry.value.len());
    for number in [entry.create_revision.0, entry.mod_revision.0, entry.version, lease] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(&entry.value);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Entry> {
    let (header, value) = bytes.split_at_checked(HEADER)?;
    let mut numbers = header.chunks_exact(8).map(|chunk| chunk.try_into().map(u64::from_be_bytes).unwrap_or_default());
    let mut next = || numbers.next();
    Some(Entry {
        create_revision: Revision(next()?),
        mod_revision: Revision(next()?),
        version: next()?,
        lease: next().filter(|lease| *lease != 0).map(LeaseId),
        value: Bytes::copy_from_slice(value),
    })
}

#[cfg(test)]
mod tests;
