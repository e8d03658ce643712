//! What is persisted: one record per key, as JSON, in an envelope with the number of its layout and the id of its
//! write.
//!
//! ```json
//! {"schema":1,"wid":"0192...","body":{...}}
//! ```
//!
//! Fields may be added (with `#[serde(default)]`); their meaning never changes; a new meaning gets a new name. A reader
//! that meets a higher `schema` refuses it rather than guess. The keys are listed in [`crate::state`].

mod agent;
mod catalogue;
mod job;
mod place;
mod run;
mod task;

pub use agent::{AgentRecord, ReachRecord, SessionRecord};
pub use catalogue::{PinRecord, PointDisk, PointRecord, PointState, RestoreRecord};
pub use job::{CursorRecord, JobRecord, ScheduleRecord};
pub use place::{
    ConfigRecord, HostFacts, PoolFacts, PoolRecord, PoolStateRecord, RemoteRecord, RemoteStateRecord, SiteRecord,
};
pub use run::{Counts, Plan, RunRecord, RunState, RunVerdict};
pub use task::{
    Completion, DISKS, Disk, ExportFormat, Grant, Intent, LOG_LINES, LogLine, OPEN_INTENTS, Operation, Problem, STEPS,
    Severity, Step, StepState, Subject, TaskRecord, Transfer, Work,
};

use coffer_model::TaskName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::slot::SlotName;

/// The layout that this version writes, and the highest that it reads.
pub const SCHEMA: u32 = 1;

/// Who holds something that only one task may hold, and the fencing token of it. Outlives its holders: the token may
/// never fall.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// Fencing token of the last delivery.
    pub epoch: u64,
    /// The task that holds it.
    pub holder: Option<TaskName>,
}

/// A unit of a limit, taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// By whom.
    pub holder: TaskName,
}

/// Marks a task that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRecord {}

/// An effect in a pool that its task could not undo before it was given up. The next task with the same subject is told
/// to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverRecord {
    /// What the task worked on.
    pub subject: Subject,
    /// What is or may be there.
    pub intent: Intent,
}

/// A value in the store that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is not what this version writes.
    #[error("the store's value at `{key}` is not valid; restore the store from its last good copy")]
    Malformed {
        /// Where.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A newer version wrote it.
    #[error(
        "the store's value at `{key}` has layout {found}, this version reads up to {SCHEMA}; run the newer version"
    )]
    TooNew {
        /// Where.
        key: String,
        /// Its layout.
        found: u32,
    },
    /// It stands where nothing of ours stands.
    #[error("the store has a key `{key}` that this version does not know")]
    UnknownKey {
        /// Where.
        key: String,
    },
}

#[derive(Serialize)]
struct Out<'a, T> {
    schema: u32,
    wid: &'a str,
    body: &'a T,
}

#[derive(Deserialize)]
struct Head {
    schema: u32,
    #[serde(default)]
    wid: String,
}

#[derive(Deserialize)]
struct In<T> {
    body: T,
}

/// The bytes of a record.
#[must_use]
pub fn encode<T: Serialize>(record: &T, wid: &str) -> Vec<u8> {
    serde_json::to_vec(&Out { schema: SCHEMA, wid, body: record })
        .expect("records have string keys and no failing parts")
}

/// The record in `bytes`.
///
/// # Errors
/// [`RecordError`] when it is malformed or of a newer layout.
pub fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, RecordError> {
    let malformed = |source| RecordError::Malformed { key: key.to_owned(), source };
    let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
    if head.schema > SCHEMA {
        return Err(RecordError::TooNew { key: key.to_owned(), found: head.schema });
    }
    serde_json::from_slice::<In<T>>(bytes).map(|value| value.body).map_err(malformed)
}

/// The id of the write that made `bytes`; none when they are no record.
#[must_use]
pub fn write_id(bytes: &[u8]) -> Option<String> {
    serde_json::from_slice::<Head>(bytes).ok().map(|head| head.wid)
}

impl SlotRecord {
    /// The slot's key parts.
    #[must_use]
    pub fn key_of(slot: &SlotName) -> (crate::slot::Dimension, String, u32) {
        (slot.counter.dimension, slot.counter.id.clone(), slot.number)
    }
}
