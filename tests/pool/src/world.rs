//! The pool's shared state: database, storage, hosts, sessions, tasks, faults, counters.
//!
//! Locks are held for the time of a few lookups, never across an await. What a call does lives in `ops`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use pool_disks::nbd::NbdServer;
use pool_disks::{Disk, SrStore};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{Config, Profile};
use crate::control::GuestBehaviour;
use crate::counters::Tally;
use crate::db::Db;
use crate::faults::Faults;
use crate::gc::Garbage;
use crate::session::Sessions;
use crate::tasks::Tasks;
use crate::tls::Identity;
use crate::value::{Failure, NULL, Outcome};

/// One host's running side; its records are in the database.
pub(crate) struct Host {
    pub(crate) number: usize,
    pub(crate) reference: String,
    pub(crate) address: String,
    pub(crate) port: AtomicU16,
    pub(crate) nbd_port: AtomicU16,
    pub(crate) up: AtomicBool,
    pub(crate) identity: RwLock<Identity>,
    pub(crate) nbd: OnceLock<NbdServer>,
    /// The tasks that hold its listeners.
    pub(crate) listening: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Cancelled to reset every connection of the host; replaced when it comes back.
    pub(crate) alive: Mutex<CancellationToken>,
}

impl Host {
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.load(Ordering::SeqCst)
    }

    pub(crate) fn nbd_port(&self) -> u16 {
        self.nbd_port.load(Ordering::SeqCst)
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends with the host's present life.
    pub(crate) fn life(&self) -> CancellationToken {
        lock(&self.alive).clone()
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("number", &self.number).field("address", &self.address).finish_non_exhaustive()
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) folder: PathBuf,
    pub(crate) hosts: Vec<Host>,
    pub(crate) sessions: Sessions,
    pub(crate) tasks: Tasks,
    pub(crate) faults: Faults,
    pub(crate) tally: Arc<Tally>,
    /// Behaviour by VM's UUID, and by what stands at the start of the boot disk, so that copies behave alike.
    pub(crate) guests: Mutex<HashMap<String, GuestBehaviour>>,
    /// SRs whose garbage collection is due.
    pub(crate) garbage: Garbage,
    /// One VM operation of the snapshot family at a time.
    pub(crate) vm_locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// VM.snapshot and friends take the SR one disk at a time.
    pub(crate) sr_locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while the state is written.
    pub(crate) saving: Mutex<()>,
    /// The program stops.
    pub(crate) stop: CancellationToken,
    stores: Mutex<HashMap<String, Arc<SrStore>>>,
    db: Mutex<Db>,
    changes: watch::Sender<u64>,
    /// The last change that is in the state folder.
    saved: watch::Sender<u64>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A mutex's content, also after a panic elsewhere.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(config: Config, folder: PathBuf, hosts: Vec<Host>, db: Db) -> Self {
        Self {
            config,
            folder,
            hosts,
            sessions: Sessions::default(),
            tasks: Tasks::default(),
            faults: Faults::default(),
            tally: Arc::default(),
            guests: Mutex::default(),
            garbage: Garbage::default(),
            vm_locks: Mutex::default(),
            sr_locks: Mutex::default(),
            saving: Mutex::default(),
            stop: CancellationToken::new(),
            stores: Mutex::default(),
            db: Mutex::new(db),
            changes: watch::Sender::new(0),
            saved: watch::Sender::new(0),
        }
    }

    /// Looks at the database.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Db) -> R) -> R {
        look(&lock(&self.db))
    }

    /// Changes the database; whoever waits for events is told.
    pub(crate) fn write<R>(&self, change: impl FnOnce(&mut Db) -> R) -> R {
        let mut db = lock(&self.db);
        let before = db.generations();
        let answer = change(&mut db);
        let after = db.generations();
        drop(db);
        if before != after {
            self.changes.send_modify(|n| *n += 1);
        }
        answer
    }

    /// Changes whenever the database does.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until everything that is true now would survive the death of the program, so that no client is told
    /// what a restart forgets. Nothing to wait for when the state goes with the program.
    pub(crate) async fn durable(&self) {
        if self.config.state.is_none() {
            return;
        }
        let wanted = *self.changes.borrow();
        let mut saved = self.saved.subscribe();
        tokio::select! {
            _ = saved.wait_for(|saved| *saved >= wanted) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// The changes up to this one are in the state folder.
    pub(crate) fn is_saved(&self, change: u64) {
        self.saved.send_replace(change);
    }

    pub(crate) fn profile(&self) -> Profile {
        self.config.profile
    }

    /// Waits as long as a real host would, scaled.
    pub(crate) async fn latency(&self, real: Duration) {
        let scaled = self.config.scaled(real);
        if !scaled.is_zero() {
            tokio::time::sleep(scaled).await;
        }
    }

    /// The pool record.
    pub(crate) fn pool(&self) -> String {
        self.read(|db| db.references("pool").pop().unwrap_or_else(|| NULL.to_owned()))
    }

    /// The coordinator.
    pub(crate) fn coordinator(&self) -> &Host {
        let master = self.read(|db| db.rows("pool").next().map(|(pool, _)| db.text("pool", pool, "master")));
        let found = master.and_then(|m| self.hosts.iter().find(|h| h.reference == m));
        found.or(self.hosts.first()).expect("a pool has at least one host")
    }

    pub(crate) fn host(&self, reference: &str) -> Option<&Host> {
        self.hosts.iter().find(|h| h.reference == reference)
    }

    /// Puts an SR's storage under its reference.
    pub(crate) fn add_store(&self, sr: &str, store: Arc<SrStore>) {
        lock(&self.stores).insert(sr.to_owned(), store);
    }

    pub(crate) fn drop_store(&self, sr: &str) {
        lock(&self.stores).remove(sr);
    }

    /// An SR's storage.
    pub(crate) fn store(&self, sr: &str) -> Outcome<Arc<SrStore>> {
        lock(&self.stores).get(sr).cloned().ok_or_else(|| Failure::new("SR_NOT_ATTACHED", &[sr]))
    }

    /// A VDI's disk: its storage and its id there.
    pub(crate) fn disk(&self, vdi: &str) -> Outcome<Disk> {
        let (sr, uuid) = self
            .read(|db| -> Outcome<_> { Ok((db.field("VDI", vdi, "SR")?.as_str().to_owned(), db.uuid("VDI", vdi))) })?;
        Ok(self.store(&sr)?.disk(uuid_of(&uuid)?)?)
    }

    /// Locks a VM against other snapshots of it.
    pub(crate) fn vm_lock(&self, vm: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(lock(&self.vm_locks).entry(vm.to_owned()).or_default())
    }

    /// Locks an SR against other storage operations that real drivers serialise.
    pub(crate) fn sr_lock(&self, sr: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(lock(&self.sr_locks).entry(sr.to_owned()).or_default())
    }

    /// Names under which a test may mean an SR.
    pub(crate) fn sr_names(&self, sr: &str) -> Vec<String> {
        self.read(|db| vec![sr.to_owned(), db.uuid("SR", sr), db.text("SR", sr, "name_label")])
    }

    /// Fails when the SR is made to be full.
    pub(crate) fn needs_room(&self, sr: &str) -> Outcome<()> {
        if self.faults.sr_full(&self.sr_names(sr)) {
            return Err(pool_disks::XapiFailure::backend(44, "There is insufficient space").into());
        }
        Ok(())
    }
}

/// A UUID of the database as storage knows it.
pub(crate) fn uuid_of(text: &str) -> Outcome<Uuid> {
    Uuid::parse_str(text).map_err(|e| Failure::internal(format!("{text} is no UUID: {e}")))
}

/// Runs blocking storage work off the runtime's threads.
pub(crate) async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Outcome<R> + Send + 'static) -> Outcome<R> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Failure::internal(e)))
}
