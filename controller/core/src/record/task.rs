//! The persisted form of a task: what is to be done, where it stands, and all that a successor would have to know.
//!
//! Key `task/{run}/{task}`. Steps, intents and log lines are inside: one transaction then keeps them true together.

use coffer_model::{AgentId, JobId, PoolId, RemoteId, RestorePointId, ScheduleId, SrUuid, VmUuid};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::slot::SlotName;
use crate::task_state::TaskState;

/// Most log lines that a task keeps; the oldest go first, but for what [`TaskRecord::note`] says of it.
pub const LOG_LINES: usize = 200;
/// Most intents that a task may have open at once.
pub const OPEN_INTENTS: usize = 64;
/// Most steps that a task keeps.
pub const STEPS: usize = 200;
/// Most disks that a task keeps figures of.
pub const DISKS: usize = 256;

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its place in the order in which the run was planned, from 0.
    pub index: u32,
    /// What it works on.
    pub subject: Subject,
    /// The subject's name for people.
    pub label: String,
    /// What is to be done.
    pub work: Work,
    /// How often it is delivered at most, the first time included.
    pub max_attempts: u32,
    /// Deliveries so far.
    pub attempt: u32,
    /// Deliveries so far that were only to tidy up.
    pub cleanups: u32,
    /// Fencing token of the current delivery; only rises.
    pub epoch: u64,
    /// Where it stands.
    pub state: TaskState,
    /// Since when it waits, or waited last.
    pub queued: Timestamp,
    /// When it was first leased.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The agent that it was delivered to last.
    pub agent: Option<AgentId>,
    /// Number of the last operation recorded in this epoch, with a digest of its content.
    pub last_op: Operation,
    /// The operation that ended the last delivery, so that its repetition is answered alike.
    pub completed: Option<Completion>,
    /// Units of counted limits that it holds.
    pub slots: Vec<SlotName>,
    /// Permissions to publish that were given, newest last.
    pub grants: Vec<Grant>,
    /// Effects in a pool that are or may be there.
    pub intents: Vec<Intent>,
    /// Steps of all attempts, in order.
    pub steps: Vec<Step>,
    /// What was noteworthy, oldest first.
    pub log: Vec<LogLine>,
    /// What was moved, by disk.
    pub disks: Vec<Disk>,
    /// Restore points made.
    pub points: Vec<RestorePointId>,
    /// The virtual machine made by a restore.
    pub created_vm: Option<VmUuid>,
    /// Why it ended badly, or why the last attempt did.
    pub problem: Option<Problem>,
}

impl TaskRecord {
    /// A task that nobody has begun.
    #[must_use]
    pub fn new(index: u32, subject: Subject, label: String, work: Work, max_attempts: u32, now: Timestamp) -> Self {
        Self {
            index,
            subject,
            label,
            work,
            max_attempts,
            attempt: 0,
            cleanups: 0,
            epoch: 0,
            state: TaskState::Waiting { not_before: None },
            queued: now,
            started: None,
            ended: None,
            agent: None,
            last_op: Operation::default(),
            completed: None,
            slots: Vec::new(),
            grants: Vec::new(),
            intents: Vec::new(),
            steps: Vec::new(),
            log: Vec::new(),
            disks: Vec::new(),
            points: Vec::new(),
            created_vm: None,
            problem: None,
        }
    }

    /// Adds a line to the log, letting the oldest go when there are too many.
    pub fn note(&mut self, line: LogLine) {
        self.log.push(line);
        if self.log.len() > LOG_LINES {
            let surplus = self.log.len() - LOG_LINES;
            self.log.drain(..surplus);
        }
    }

    /// True when something that it did in a pool may still be there.
    #[must_use]
    pub fn has_open_intents(&self) -> bool {
        !self.intents.is_empty()
    }
}

/// What a task works on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A virtual machine of a pool.
    Vm {
        /// The pool.
        pool: PoolId,
        /// The virtual machine.
        vm: VmUuid,
    },
    /// A restore point.
    Point {
        /// The restore point.
        point: RestorePointId,
    },
    /// A remote.
    Remote {
        /// The remote.
        remote: RemoteId,
    },
}

impl std::fmt::Display for Subject {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vm { pool, vm } => write!(formatter, "pools/{pool}/vms/{vm}"),
            Self::Point { point } => write!(formatter, "restorePoints/{point}"),
            Self::Remote { remote } => write!(formatter, "remotes/{remote}"),
        }
    }
}

/// What is to be done with the subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Back up the virtual machine.
    Backup {
        /// For which job.
        job: JobId,
        /// For which schedule of it; none when it was started by hand.
        schedule: Option<ScheduleId>,
        /// To which remotes.
        remotes: Vec<RemoteId>,
    },
    /// Make a virtual machine out of the restore point.
    Restore {
        /// The remote that it is on.
        remote: RemoteId,
        /// The pool of the new virtual machine.
        pool: PoolId,
        /// The storage repository for all disks.
        sr: SrUuid,
        /// Name of the new virtual machine; empty: made from the old one.
        vm_label: String,
        /// Start it at the end.
        start: bool,
        /// Keep MAC addresses.
        keep_mac_addresses: bool,
    },
    /// Read the restore point back.
    Verify {
        /// The remote that it is on.
        remote: RemoteId,
    },
    /// Write disks of the restore point to files.
    Export {
        /// The remote that it is on.
        remote: RemoteId,
        /// Format of the files.
        format: ExportFormat,
        /// Folder on the agent's machine.
        folder: String,
        /// UUIDs or devices; empty means all.
        disks: Vec<String>,
    },
    /// Delete the restore point.
    Delete {
        /// The remote that it is on.
        remote: RemoteId,
    },
    /// Read which restore points are on the remote.
    Scan,
    /// Free space on the remote.
    Prune {
        /// Only say what would be done.
        dry_run: bool,
    },
}

/// A file format of disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// The bytes of the disk.
    Raw,
    /// Dynamic VHD.
    Vhd,
    /// QCOW2, version 3.
    Qcow2,
}

/// An operation of an agent on a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Number within the epoch; 0 before the first.
    pub seq: u64,
    /// Digest of the content, to tell a repetition from something else under the same number.
    pub digest: u64,
}

/// The operation that ended a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The epoch that it ended.
    pub epoch: u64,
    /// The operation.
    pub operation: Operation,
    /// What was answered.
    pub will_retry: bool,
}

/// A permission to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// On which remote.
    pub remote: RemoteId,
    /// Which prepared snapshot.
    pub snapshot_id: String,
    /// To which epoch.
    pub epoch: u64,
}

/// An effect in a pool, written down before it happens. Closed ones are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// UUID, stamped into what is created.
    pub id: String,
    /// As `vm-snapshot`.
    pub kind: String,
    /// The pool.
    pub pool: PoolId,
    /// What it is done to: a UUID in XAPI.
    pub target: String,
    /// What an undo has to know.
    pub detail: String,
}

/// A named part of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// As `snapshot`.
    pub name: String,
    /// Where it stands.
    pub state: StepState,
    /// Begin.
    pub start: Option<Timestamp>,
    /// End.
    pub end: Option<Timestamp>,
    /// Result or reason.
    pub message: String,
    /// The attempt that it belongs to.
    pub attempt: u32,
    /// Read from the host or the repository, bytes.
    pub read_bytes: u64,
    /// Written to the remote or the host, bytes.
    pub written_bytes: u64,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Under way. A crash here: its intents are open; the next attempt finishes or undoes them.
    Running,
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Its effects were undone.
    Undone,
}

/// A line of a task's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub time: Timestamp,
    /// How serious.
    pub severity: Severity,
    /// In words.
    pub message: String,
}

/// How serious a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A choice, a result.
    Info,
    /// Something did not go as it should.
    Warning,
    /// The task, or a part of it, failed.
    Error,
}

/// Figures of one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// UUID of the VDI, or of the disk in the restore point.
    pub uuid: String,
    /// Device in the guest.
    pub device: String,
    /// Name for people.
    pub label: String,
    /// How it is read.
    pub source: String,
    /// Why it is read that way.
    pub reason: String,
    /// Sums.
    pub transfer: Transfer,
    /// Bytes per second over the last seconds.
    pub rate: u64,
}

/// Sums of what was moved, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Size as the guest sees it.
    pub disk: u64,
    /// Read.
    pub read: u64,
    /// Known without a read.
    pub skipped: u64,
    /// Written.
    pub written: u64,
    /// Estimated sum of `read + skipped` at the end; 0 when unknown.
    pub expected: u64,
}

impl std::ops::Add for Transfer {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            disk: self.disk.saturating_add(other.disk),
            read: self.read.saturating_add(other.read),
            skipped: self.skipped.saturating_add(other.skipped),
            written: self.written.saturating_add(other.written),
            expected: self.expected.saturating_add(other.expected),
        }
    }
}

impl std::iter::Sum for Transfer {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| sum + part)
    }
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Short and stable, in capitals.
    pub reason: String,
    /// What happened, naming the subject.
    pub message: String,
    /// What to do next.
    pub advice: String,
    /// The same thing may succeed later without a change.
    pub retryable: bool,
}

impl Problem {
    /// A problem that time alone does not mend.
    #[must_use]
    pub fn lasting(reason: &str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), advice: advice.into(), retryable: false }
    }
}
