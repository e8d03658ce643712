//! Commit records: whether a task's restore point exists is decided once, by whoever creates this small object first.
//!
//! The name does not depend on the epoch, so a paused zombie and its successor race for the same one. A record, once
//! published, is never changed or removed. One that does not read as a record (torn by a lost disk cache, or empty)
//! leaves the task *undecided*: ordinary writers then fail, and the recoverer decides under the next name of the same
//! task (`<task>.1.json`, `<task>.2.json`, ...), which is create-exclusive again, so that even two recoverers have one
//! verdict. Readers take the first record of the sequence that reads as one.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, ObjectInfo, ObjectName, Remote, read_if_present};

/// Folder of all commit records.
const FOLDER: &str = "coffer/commits";
/// The version of the record that this program writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// Torn records of one task before it is given up: each costs the loss of a disk cache at the wrong instant.
const MAX_TORN: u32 = 8;
/// No record is nearly as large.
const MAX_RECORD: u64 = 64 << 10;

/// Whether the restore point exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It does.
    Commit,
    /// It does not and never will: whatever the task left is garbage.
    Abort,
}

/// The content of a commit record, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// Version of this record: [`VERSION`].
    pub version: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// The VM that the task was about.
    pub vm: Uuid,
    /// The task.
    pub task: Uuid,
    /// Incarnation of the control plane that leased the task.
    pub incarnation: u64,
    /// Epoch of the VM under which the verdict was made.
    pub epoch: u64,
    /// Random, of this attempt to decide alone: tells an own record from a rival's after a lost answer.
    pub nonce: Uuid,
    /// The snapshot (a file name below `repository/snapshots/`, or of an XVA) that this makes a restore point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// SHA-256 of what the snapshot's file holds, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When, by the clock of the writer. For people; nothing is decided by it.
    pub decided_at: Timestamp,
}

impl CommitRecord {
    /// A record that makes `snapshot` a restore point.
    pub fn commit(vm: Uuid, task: Uuid, (incarnation, epoch): (u64, u64), snapshot: String, digest: String) -> Self {
        let abort = Self::abort(vm, task, (incarnation, epoch));
        Self { verdict: Verdict::Commit, snapshot: Some(snapshot), digest: Some(digest), ..abort }
    }

    /// A record that gives the task up.
    pub fn abort(vm: Uuid, task: Uuid, (incarnation, epoch): (u64, u64)) -> Self {
        Self {
            version: VERSION,
            verdict: Verdict::Abort,
            vm,
            task,
            incarnation,
            epoch,
            nonce: Uuid::new_v4(),
            snapshot: None,
            digest: None,
            decided_at: Timestamp::now(),
        }
    }
}

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// The holder of the lease: gives up where a torn record stands.
    Writer,
    /// The recoverer of a task whose holder is gone: may decide past torn records.
    Recoverer,
}

/// What came of an attempt to decide. In both cases the task is decided, and this is the record that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The given record was first.
    Won(CommitRecord),
    /// Another was.
    Lost(CommitRecord),
}

impl Decision {
    /// The record that counts.
    pub fn record(&self) -> &CommitRecord {
        match self {
            Self::Won(record) | Self::Lost(record) => record,
        }
    }
}

/// What stands on a remote about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing, or (`torn` > 0) only records that do not read as one.
    Undecided {
        /// How many torn records there are.
        torn: u32,
    },
    /// The verdict.
    Decided(CommitRecord),
}

/// Decides a task with `record`, unless it is decided already.
///
/// After an error the outcome may be open: deciding again with the same record (the same nonce) is safe and tells.
///
/// # Errors
/// [`Error::Undecided`] when the remote fails and cannot be read back; [`Error::Damaged`] when a torn record stands in
/// the way of a [`Decider::Writer`]; [`Error::UnknownVersion`].
pub async fn decide(remote: &dyn Remote, record: &CommitRecord, decider: Decider) -> Result<Decision, Error> {
    let mut body = serde_json::to_vec(record).expect("a record has only plain fields");
    body.push(b'\n');
    let body = Bytes::from(body);
    for attempt in 0..=MAX_TORN {
        let name = name(record.vm, record.task, attempt)?;
        let created = remote.create(&name, vec![body.clone()]).await;
        let failure = match created {
            Ok(()) => return Ok(Decision::Won(record.clone())),
            Err(Error::AlreadyExists { .. }) => None,
            Err(error) => Some(error),
        };
        match (read_record(remote, &name, record.vm, record.task).await, failure) {
            (Ok(Found::Record(found)), _) if found.nonce == record.nonce => return Ok(Decision::Won(found)),
            (Ok(Found::Record(found)), _) => return Ok(Decision::Lost(found)),
            (Ok(Found::Torn(_)), _) if decider == Decider::Recoverer => {}
            (Ok(Found::Torn(reason)), _) => return Err(Error::Damaged { remote: remote.describe(), name, reason }),
            (Ok(Found::Nothing), Some(error)) => return Err(error),
            (Ok(Found::Nothing), None) => {
                let reason = "it exists and cannot be found".to_owned();
                return Err(Error::Damaged { remote: remote.describe(), name, reason });
            }
            (Err(error @ Error::UnknownVersion { .. }), _) => return Err(error),
            (Err(_), Some(error)) | (Err(error), None) => {
                return Err(Error::Undecided { remote: remote.describe(), name, source: Box::new(error) });
            }
        }
    }
    let name = name(record.vm, record.task, MAX_TORN)?;
    Err(Error::Damaged { remote: remote.describe(), name, reason: "every record of the task is torn".to_owned() })
}

/// What stands on the remote about a task.
///
/// # Errors
/// Whatever the remote reports; [`Error::UnknownVersion`].
pub async fn read(remote: &dyn Remote, vm: Uuid, task: Uuid) -> Result<State, Error> {
    for attempt in 0..=MAX_TORN {
        match read_record(remote, &name(vm, task, attempt)?, vm, task).await? {
            Found::Record(record) => return Ok(State::Decided(record)),
            Found::Torn(reason) => tracing::warn!(%vm, %task, attempt, reason, "a commit record is torn"),
            Found::Nothing => return Ok(State::Undecided { torn: attempt }),
        }
    }
    Ok(State::Undecided { torn: MAX_TORN + 1 })
}

/// The verdicts on the remote: of all VMs, or of one. Undecided tasks are left out.
///
/// # Errors
/// Whatever the remote reports; [`Error::UnknownVersion`].
pub async fn list(remote: &dyn Remote, vm: Option<Uuid>) -> Result<Vec<CommitRecord>, Error> {
    let folder = ObjectName::new(FOLDER)?;
    let folder = match vm {
        Some(vm) => folder.join(vm.to_string())?,
        None => folder,
    };
    let mut tasks: Vec<(Uuid, Uuid)> = remote.list(&folder).await?.iter().filter_map(task_of).collect();
    tasks.sort_unstable();
    tasks.dedup();
    let mut records = Vec::with_capacity(tasks.len());
    for (vm, task) in tasks {
        if let State::Decided(record) = read(remote, vm, task).await? {
            records.push(record);
        }
    }
    Ok(records)
}

fn name(vm: Uuid, task: Uuid, attempt: u32) -> Result<ObjectName, Error> {
    let suffix = if attempt == 0 { String::new() } else { format!(".{attempt}") };
    Ok(ObjectName::new(format!("{FOLDER}/{vm}/{task}{suffix}.json"))?)
}

fn task_of(info: &ObjectInfo) -> Option<(Uuid, Uuid)> {
    let (vm, file) = info.name.as_str().strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
    let task = file.strip_suffix(".json")?.split('.').next()?;
    Some((vm.parse().ok()?, task.parse().ok()?))
}

enum Found {
    Nothing,
    Torn(String),
    Record(CommitRecord),
}

async fn read_record(remote: &dyn Remote, name: &ObjectName, vm: Uuid, task: Uuid) -> Result<Found, Error> {
    let Some(bytes) = read_if_present(remote, name).await? else { return Ok(Found::Nothing) };
    match parse(&bytes) {
        Ok(record) if (record.vm, record.task) == (vm, task) => Ok(Found::Record(record)),
        Ok(_) => Ok(Found::Torn("it is about another task than its name says".to_owned())),
        Err(Unread::Torn(reason)) => Ok(Found::Torn(reason)),
        Err(Unread::Version(found)) => {
            Err(Error::UnknownVersion { remote: remote.describe(), name: name.clone(), found, known: VERSION })
        }
    }
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// They are not one, or not a whole one.
    Torn(String),
    /// A newer program wrote them.
    Version(u32),
}

/// Reads the bytes of a record.
///
/// # Errors
/// See [`Unread`].
pub fn parse(bytes: &[u8]) -> Result<CommitRecord, Unread> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    if bytes.len() as u64 > MAX_RECORD {
        return Err(Unread::Torn("it is too long".to_owned()));
    }
    let torn = |error: serde_json::Error| Unread::Torn(error.to_string());
    match serde_json::from_slice::<Head>(bytes).map_err(torn)?.version {
        VERSION => serde_json::from_slice(bytes).map_err(torn),
        0 => Err(Unread::Torn("version 0".to_owned())),
        newer => Err(Unread::Version(newer)),
    }
}
