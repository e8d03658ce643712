//! The persisted form of a run. Key `run/{run}`.

use std::collections::BTreeSet;

use coffer_model::{JobId, PoolId, RemoteId, RestorePointId, RunId, ScheduleId, Selection, SrUuid, VmName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ExportFormat, Transfer};

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What is done; never changes, whatever becomes of the job.
    pub plan: Plan,
    /// Where it stands.
    pub state: RunState,
    /// Cancelling was asked for.
    pub cancel_requested: bool,
    /// Why it stands there, where that needs words. Set while it is planned: what could not be planned, so that it
    /// cannot end as if all were well.
    pub message: String,
    /// When it was created.
    pub created: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The run of which this one repeats the failed tasks.
    pub retry_of: Option<RunId>,
    /// Of a backup: only these of the selected virtual machines; empty means all.
    pub only: BTreeSet<VmName>,
    /// At the end: how many tasks ended how.
    pub counts: Counts,
    /// At the end: sums over the tasks.
    pub transfer: Transfer,
    /// Its tasks are in its history record.
    pub archived: bool,
}

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// Backs up virtual machines.
    Backup {
        /// For which job.
        job: JobId,
        /// For which schedule; none when it was started by hand.
        schedule: Option<ScheduleId>,
        /// Which virtual machines; resolved at the start.
        selection: Selection,
        /// Where to.
        remotes: Vec<RemoteId>,
        /// How often a task is tried.
        max_attempts: u32,
    },
    /// Makes a virtual machine out of a restore point.
    Restore {
        /// The restore point.
        point: RestorePointId,
        /// The pool of the new virtual machine.
        pool: PoolId,
        /// The storage repository for all disks.
        sr: SrUuid,
        /// Its name; empty: made from the old one.
        vm_label: String,
        /// Start it at the end.
        start: bool,
        /// Keep MAC addresses.
        keep_mac_addresses: bool,
    },
    /// Reads restore points back.
    Verify {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// Writes disks of a restore point to files.
    Export {
        /// Which.
        point: RestorePointId,
        /// Format of the files.
        format: ExportFormat,
        /// Folder on the agent's machine.
        folder: String,
        /// UUIDs or devices; empty means all.
        disks: Vec<String>,
    },
    /// Deletes restore points.
    Delete {
        /// Which.
        points: Vec<RestorePointId>,
        /// Also the last one of a virtual machine.
        allow_last: bool,
    },
    /// Reads which restore points are on a remote.
    Scan {
        /// Which.
        remote: RemoteId,
    },
    /// Frees space on a remote.
    Prune {
        /// Which.
        remote: RemoteId,
        /// Only say what would be done.
        dry_run: bool,
    },
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Its tasks are being written down, some at a time. A crash means nothing: any controller goes on at the cursor.
    Planning {
        /// How many tasks were written down.
        planned: u32,
    },
    /// All its tasks are written down. It ends when none of them is open.
    Active,
    /// Over.
    Ended {
        /// How.
        verdict: RunVerdict,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunVerdict {
    /// Every task succeeded, or there was nothing to do.
    Succeeded,
    /// Some tasks succeeded.
    Partial,
    /// No task succeeded.
    Failed,
    /// On request.
    Cancelled,
    /// Nothing was started.
    Skipped,
    /// Agents were lost and no other could go on.
    Interrupted,
}

/// How many tasks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// In all.
    pub total: u32,
    /// Not begun.
    pub waiting: u32,
    /// Being worked on.
    pub running: u32,
    /// Ended well.
    pub succeeded: u32,
    /// Failed, cancelled or interrupted.
    pub failed: u32,
}

impl RunRecord {
    /// A run that nothing was planned of.
    #[must_use]
    pub fn new(plan: Plan, now: Timestamp) -> Self {
        Self {
            plan,
            state: RunState::Planning { planned: 0 },
            cancel_requested: false,
            message: String::new(),
            created: now,
            ended: None,
            retry_of: None,
            only: BTreeSet::new(),
            counts: Counts::default(),
            transfer: Transfer::default(),
            archived: false,
        }
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn verdict(&self) -> Option<RunVerdict> {
        match self.state {
            RunState::Ended { verdict } => Some(verdict),
            RunState::Planning { .. } | RunState::Active => None,
        }
    }
}
