//! The persisted forms of the catalogue: restore points (`point/{point}`), pins of those that are being read
//! (`pin/{point}/{task}`), restores that were asked for (`restore/{restore}`).

use coffer_model::{JobId, PoolId, RemoteId, RestorePointId, RunId, ScheduleId, SrUuid, TaskId, TaskName, VmUuid};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A complete restore point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointRecord {
    /// Listed, or on its way out.
    pub state: PointState,
    /// Where it is.
    pub remote: RemoteId,
    /// The virtual machine.
    pub vm: VmUuid,
    /// Its name at that instant.
    pub vm_label: String,
    /// The pool it was in.
    pub pool: Option<PoolId>,
    /// The instant of its snapshot.
    pub time: Timestamp,
    /// The job that made it.
    pub job: Option<JobId>,
    /// The schedule that made it; none when it was made by hand.
    pub schedule: Option<ScheduleId>,
    /// The run that made it.
    pub run: Option<RunId>,
    /// The task that made it: the name of its commit record.
    pub made_by: TaskId,
    /// Its disks, in order of device.
    pub disks: Vec<PointDisk>,
    /// Size of its disks, bytes.
    pub disk_bytes: u64,
    /// What it added to the remote, bytes.
    pub added_bytes: u64,
    /// Id of the snapshot in the repository.
    pub snapshot_id: String,
    /// When it was last read back.
    pub verified: Option<Timestamp>,
    /// What was found wrong then; empty when nothing.
    pub damage: String,
}

/// Listed, or on its way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointState {
    /// Shown, and may be restored.
    Listed,
    /// Hidden: it may be half deleted. If the one who deletes is lost, the next retention or scan of the remote goes
    /// on.
    Deleting {
        /// Who deletes it.
        by: TaskName,
    },
}

/// A disk in a restore point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    /// UUID of the VDI that it was read from.
    pub uuid: String,
    /// Device in the guest.
    pub device: String,
    /// Name for people.
    pub label: String,
    /// Size, bytes.
    pub size_bytes: u64,
    /// Path in the repository's snapshot.
    pub path: String,
}

/// Keeps a restore point from being deleted while a task reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// The task.
    pub holder: TaskName,
}

/// A restore, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// What is restored.
    pub point: RestorePointId,
    /// The pool of the new virtual machine.
    pub pool: PoolId,
    /// The storage repository for its disks.
    pub sr: SrUuid,
    /// Its name; empty: made from the old one.
    pub vm_label: String,
    /// Start it at the end.
    pub start: bool,
    /// Keep MAC addresses.
    pub keep_mac_addresses: bool,
    /// The run that does it.
    pub run: RunId,
    /// When it was asked for.
    pub created: Timestamp,
}
