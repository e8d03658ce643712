//! Counted limits: their dimensions, and the keys that stand for their units.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a limit counts within.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Virtual machines worked on at once in a job.
    Job,
    /// Tasks in a pool.
    Pool,
    /// Tasks on a remote.
    Remote,
}

impl fmt::Display for Dimension {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Job => "job",
            Self::Pool => "pool",
            Self::Remote => "remote",
        })
    }
}

impl FromStr for Dimension {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "job" => Ok(Self::Job),
            "pool" => Ok(Self::Pool),
            "remote" => Ok(Self::Remote),
            other => Err(format!("`{other}` is no dimension of a limit")),
        }
    }
}

/// What a limit belongs to, as `job nightly`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Counter {
    /// The dimension.
    pub dimension: Dimension,
    /// Id of the job, pool or remote.
    pub id: String,
}

impl fmt::Display for Counter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.dimension, self.id)
    }
}

/// One unit of a limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotName {
    /// Of what.
    pub counter: Counter,
    /// Which unit, from 0.
    pub number: u32,
}
