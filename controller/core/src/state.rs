//! All that the store holds of the control plane, decoded, as of one revision.
//!
//! The keys, beneath [`LIVE`]:
//!
//! | key | value |
//! | --- | --- |
//! | `site`, `config` | this installation; the mark of the agents' configuration |
//! | `agent/{agent}`, `session/{agent}`, `reach/{agent}` | who, alive, what it reaches; `session` is attached to a lease |
//! | `pool/{pool}`, `pool-state/{pool}`, `vm/{pool}/{vm}`, `sr/{pool}/{sr}` | as set; as seen |
//! | `remote/{remote}`, `remote-state/{remote}` | as set; as seen |
//! | `job/{job}`, `schedule/{job}/{schedule}`, `cursor/{job}/{schedule}` | as set; how far it came |
//! | `run/{run}`, `task/{run}/{task}`, `open/{run}/{task}` | runs, tasks, the mark of a task that has not ended |
//! | `vm-lock/{pool}/{vm}`, `remote-lock/{remote}` | epoch and holder |
//! | `slot/{dimension}/{id}/{number}` | a unit of a limit, taken |
//! | `point/{point}`, `pin/{point}/{task}`, `restore/{restore}` | the catalogue |
//! | `leftover/{pool}/{intent}` | an effect that a task given up could not undo |
//!
//! Beside it lie `secret/…`, `history/…` and `request/…`, which are read when they are needed and never held.

use std::collections::BTreeMap;

use coffer_model::{
    AgentId, InventorySr, InventoryVm, JobId, PoolId, RemoteId, RestoreId, RestorePointId, RunId, ScheduleId, SrUuid,
    TaskId, VmUuid,
};

use crate::record::{
    AgentRecord, ConfigRecord, CursorRecord, JobRecord, LeftoverRecord, LockRecord, OpenRecord, PinRecord, PointRecord,
    PoolRecord, PoolStateRecord, ReachRecord, RecordError, RemoteRecord, RemoteStateRecord, RestoreRecord, RunRecord,
    ScheduleRecord, SessionRecord, SiteRecord, SlotRecord, TaskRecord, decode, encode,
};
use crate::slot::Dimension;

/// Prefix of everything that is ours.
pub const ROOT: &str = "/coffer/v1/";
/// Prefix of what a [`State`] holds.
pub const LIVE: &str = "/coffer/v1/live/";

/// A record with the revisions of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The revision that made the key.
    pub created: u64,
    /// The revision that wrote this value.
    pub modified: u64,
    /// The record.
    pub record: T,
}

/// A family of keys in the order of the key's parts.
pub type Table<K, T> = BTreeMap<K, Versioned<T>>;

macro_rules! families {
    ($( $(#[$doc:meta])* $field:ident: $variant:ident($($part:ident: $type:ty),*) at $name:literal => $record:ty; )*) => {
        /// All that the store holds of the control plane, as of one revision.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct State {
            /// The revision.
            pub revision: u64,
            $( $(#[$doc])* pub $field: Table<($($type,)*), $record>, )*
        }

        /// A key.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Key { $( $(#[$doc])* $variant($($type),*), )* }

        /// A key and what is to be written to it.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(clippy::large_enum_variant, reason = "changes keep entries in boxes, one each")]
        pub enum Entry { $( $(#[$doc])* $variant(($($type,)*), $record), )* }

        impl Key {
            /// The key as the store has it.
            #[must_use]
            pub fn path(&self) -> String {
                match self {
                    $( Self::$variant($($part),*) => {
                        #[allow(unused_mut, reason = "some keys have no parts")]
                        let mut path = format!("{LIVE}{}", $name);
                        $( path.push('/'); path.push_str(&$part.to_string()); )*
                        path
                    } )*
                }
            }

            /// Reads a key; `None` when it is none of ours.
            #[must_use]
            pub fn parse(path: &str) -> Option<Self> {
                let mut parts = path.strip_prefix(LIVE)?.split('/');
                let key = match parts.next()? {
                    $( $name => Self::$variant($(parts.next()?.parse::<$type>().ok()?),*), )*
                    _ => return None,
                };
                parts.next().is_none().then_some(key)
            }
        }

        impl Entry {
            /// Where it is written.
            #[must_use]
            pub fn key(&self) -> Key {
                match self { $( Self::$variant(($($part,)*), _) => Key::$variant($($part.clone()),*), )* }
            }

            /// What is written.
            #[must_use]
            pub fn encode(&self, wid: &str) -> Vec<u8> {
                match self { $( Self::$variant(_, record) => encode(record, wid), )* }
            }
        }

        impl State {
            /// Takes in that a key was written.
            ///
            /// # Errors
            /// When the key or the value is not what this version knows; the state is then unchanged.
            pub fn put(&mut self, path: &str, bytes: &[u8], created: u64, modified: u64) -> Result<(), RecordError> {
                let key = Key::parse(path).ok_or_else(|| RecordError::UnknownKey { key: path.to_owned() })?;
                match key {
                    $( Key::$variant($($part),*) => {
                        let record: $record = decode(path, bytes)?;
                        let parts = ($($part,)*);
                        if self.$field.get(&parts).is_none_or(|known| known.modified < modified) {
                            self.$field.insert(parts, Versioned { created, modified, record });
                        }
                    } )*
                }
                Ok(())
            }

            /// Takes in that a key was deleted by `revision`.
            pub fn delete(&mut self, path: &str, revision: u64) {
                let Some(key) = Key::parse(path) else { return };
                match key {
                    $( Key::$variant($($part),*) => {
                        let parts = ($($part,)*);
                        if self.$field.get(&parts).is_some_and(|known| known.modified < revision) {
                            self.$field.remove(&parts);
                        }
                    } )*
                }
            }

            /// The revisions of a key: creation and last change; zeros when it does not exist.
            #[must_use]
            pub fn revisions(&self, key: &Key) -> (u64, u64) {
                match key.clone() {
                    $( Key::$variant($($part),*) =>
                        self.$field.get(&($($part,)*)).map_or((0, 0), |found| (found.created, found.modified)), )*
                }
            }

            /// Every key.
            #[must_use]
            pub fn keys(&self) -> Vec<Key> {
                let mut keys = Vec::new();
                $( keys.extend(self.$field.keys().cloned().map(|($($part,)*)| Key::$variant($($part),*))); )*
                keys
            }
        }
    };
}

families! {
    /// This installation.
    sites: Site() at "site" => SiteRecord;
    /// The mark of the agents' configuration.
    configs: Config() at "config" => ConfigRecord;
    /// Agents that have registered.
    agents: Agent(agent: AgentId) at "agent" => AgentRecord;
    /// Agents that live.
    sessions: Session(agent: AgentId) at "session" => SessionRecord;
    /// What agents reach.
    reaches: Reach(agent: AgentId) at "reach" => ReachRecord;
    /// Pools, as set.
    pools: Pool(pool: PoolId) at "pool" => PoolRecord;
    /// Pools, as seen.
    pool_states: PoolState(pool: PoolId) at "pool-state" => PoolStateRecord;
    /// Virtual machines, as seen.
    vms: Vm(pool: PoolId, vm: VmUuid) at "vm" => InventoryVm;
    /// Storage repositories, as seen.
    srs: Sr(pool: PoolId, sr: SrUuid) at "sr" => InventorySr;
    /// Remotes, as set.
    remotes: Remote(remote: RemoteId) at "remote" => RemoteRecord;
    /// Remotes, as seen.
    remote_states: RemoteState(remote: RemoteId) at "remote-state" => RemoteStateRecord;
    /// Jobs.
    jobs: Job(job: JobId) at "job" => JobRecord;
    /// Schedules.
    schedules: Schedule(job: JobId, schedule: ScheduleId) at "schedule" => ScheduleRecord;
    /// How far schedules came.
    cursors: Cursor(job: JobId, schedule: ScheduleId) at "cursor" => CursorRecord;
    /// Runs.
    runs: Run(run: RunId) at "run" => RunRecord;
    /// Tasks.
    tasks: Task(run: RunId, task: TaskId) at "task" => TaskRecord;
    /// Marks of tasks that have not ended.
    open: Open(run: RunId, task: TaskId) at "open" => OpenRecord;
    /// Epoch and holder of virtual machines.
    vm_locks: VmLock(pool: PoolId, vm: VmUuid) at "vm-lock" => LockRecord;
    /// Epoch and holder of the upkeep of remotes.
    remote_locks: RemoteLock(remote: RemoteId) at "remote-lock" => LockRecord;
    /// Units of limits, taken.
    slots: Slot(dimension: Dimension, id: String, number: u32) at "slot" => SlotRecord;
    /// Restore points.
    points: Point(point: RestorePointId) at "point" => PointRecord;
    /// Restore points that are being read.
    pins: Pin(point: RestorePointId, task: TaskId) at "pin" => PinRecord;
    /// Restores that were asked for.
    restores: Restore(restore: RestoreId) at "restore" => RestoreRecord;
    /// Effects that could not be undone.
    leftovers: Leftover(pool: PoolId, intent: String) at "leftover" => LeftoverRecord;
}
