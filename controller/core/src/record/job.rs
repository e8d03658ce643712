//! The persisted forms of jobs (`job/{job}`), their schedules (`schedule/{job}/{schedule}`), and how far a schedule has
//! come (`cursor/{job}/{schedule}`: apart, so that firing does not look like a change made by the operator).

use std::num::NonZeroU32;

use coffer_model::Job;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// What the operator set.
    pub job: Job,
    /// When it was created.
    pub created: Timestamp,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// Five cron fields.
    pub cron: String,
    /// IANA time zone.
    pub time_zone: String,
    /// How many restore points of each machine it keeps.
    pub retention: NonZeroU32,
    /// It does not fire.
    pub paused: bool,
    /// How late a missed tick may be made up for, seconds.
    pub catch_up_seconds: u64,
}

/// How far a schedule has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorRecord {
    /// Ticks up to this instant are settled.
    pub settled: Timestamp,
    /// The last tick that made a run.
    pub last: Option<Timestamp>,
}
