//! Tasks.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::class;
use super::decode::date;

class!(
    /// Class `task`.
    Task, "task", TaskRecord
);

/// How far a task is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    /// Under way.
    Pending,
    /// Ended well.
    Success,
    /// Ended with an error.
    Failure,
    /// Being cancelled; XAPI declares it and never uses it.
    Cancelling,
    /// Ended by a cancellation.
    Cancelled,
    /// A state of a future version: waited out like one under way.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What is read of a `task`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TaskRecord {
    /// Identity.
    pub uuid: Uuid,
    /// `Async.VM.snapshot`, or what its creator wrote.
    pub name_label: String,
    /// What its creator wrote.
    pub name_description: String,
    /// How far.
    pub status: TaskStatus,
    /// 0 to 1; 1 also after a failure.
    pub progress: f64,
    /// The XML of a value, see [`crate::wire::parse_result`].
    pub result: String,
    /// Code and parameters of the failure.
    pub error_info: Vec<String>,
    /// When it was created.
    #[serde(deserialize_with = "date")]
    pub created: Option<jiff::Timestamp>,
    /// Free for clients.
    pub other_config: BTreeMap<String, String>,
}
