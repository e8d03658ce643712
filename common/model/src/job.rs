//! A job: what is backed up, how, and where to.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, RemoteId};
use crate::selection::Selection;

/// Most characters of a name for people.
pub const DISPLAY_NAME_LENGTH: usize = 200;

const fn number(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// How many machines of a job are worked on at once where the operator does not say.
pub const DEFAULT_CONCURRENCY: NonZeroU32 = number(2);
/// How many restore points are kept where the operator does not say.
pub const DEFAULT_RETENTION: NonZeroU32 = number(7);
/// How often a task is tried in all where the operator does not say.
pub const DEFAULT_MAX_ATTEMPTS: NonZeroU32 = number(3);

/// How a backup is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Only what changed since the last restore point on the remote is read and sent; every point is complete.
    #[default]
    Delta,
}

/// What to back up, how and where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Free text for people.
    pub display_name: String,
    /// Which machines.
    pub selection: Selection,
    /// How.
    pub mode: Mode,
    /// Where to; exactly one in this version.
    pub remotes: Vec<RemoteId>,
    /// How many machines are worked on at once.
    pub concurrency: NonZeroU32,
    /// How many restore points of each machine are kept of runs started by hand.
    pub manual_retention: NonZeroU32,
    /// How often a task that failed for a passing reason is tried in all.
    pub max_attempts: NonZeroU32,
    /// Schedules do not start it.
    pub paused: bool,
}

/// A job that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Its name for people is too long.
    #[error("display_name has {0} characters; at most {DISPLAY_NAME_LENGTH} are allowed")]
    DisplayName(usize),
    /// It selects nothing.
    #[error("selection is empty; name pools, virtual machines, or both")]
    EmptySelection,
    /// It filters the machines of no pool.
    #[error("selection has filters (tags, exclude_tags or power_state) but no pools; filters narrow down pools only")]
    FilterWithoutPool,
    /// It goes nowhere, or to several places.
    #[error("remotes has {0} entries; exactly one is supported in this version")]
    Remotes(usize),
}

impl Job {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The first thing that is wrong, naming the field.
    pub fn check(&self) -> Result<(), JobError> {
        let length = self.display_name.chars().count();
        if length > DISPLAY_NAME_LENGTH {
            return Err(JobError::DisplayName(length));
        }
        if self.selection.is_empty() {
            return Err(JobError::EmptySelection);
        }
        if self.selection.pools.is_empty() && self.selection.has_filters() {
            return Err(JobError::FilterWithoutPool);
        }
        if self.remotes.len() != 1 {
            return Err(JobError::Remotes(self.remotes.len()));
        }
        Ok(())
    }
}

/// The number that an operator gave, where 0 means the default.
#[must_use]
pub fn or_default(number: u32, default: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            id: "nightly".parse().unwrap(),
            display_name: String::new(),
            selection: Selection { pools: ["lab".parse().unwrap()].into(), ..Selection::default() },
            mode: Mode::Delta,
            remotes: vec!["nas".parse().unwrap()],
            concurrency: or_default(0, DEFAULT_CONCURRENCY),
            manual_retention: or_default(3, DEFAULT_RETENTION),
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            paused: false,
        }
    }

    #[test]
    fn zero_means_the_default() {
        assert_eq!((job().concurrency.get(), job().manual_retention.get()), (2, 3));
    }

    #[test]
    fn a_job_needs_machines_and_one_remote() {
        assert_eq!(job().check(), Ok(()));
        let nothing = Job { selection: Selection::default(), ..job() };
        assert_eq!(nothing.check(), Err(JobError::EmptySelection));
        let filter = Selection { tags: ["prod".to_owned()].into(), vms: [vm()].into(), ..Selection::default() };
        assert_eq!(Job { selection: filter, ..job() }.check(), Err(JobError::FilterWithoutPool));
        assert_eq!(Job { remotes: vec![], ..job() }.check(), Err(JobError::Remotes(0)));
        let long = Job { display_name: "é".repeat(201), ..job() };
        assert_eq!(long.check(), Err(JobError::DisplayName(201)));
        assert_eq!(Job { display_name: "é".repeat(200), ..job() }.check(), Ok(()));
    }

    fn vm() -> crate::names::VmName {
        "pools/lab/vms/3e2a1c64-9d5b-4f0e-8a37-5b0c2d9e7f11".parse().unwrap()
    }
}
