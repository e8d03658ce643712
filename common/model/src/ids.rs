//! Typed ids. A bare `Uuid` or `String` never says what it names; these do, and only valid ones exist.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Most characters of a chosen id.
pub const SLUG_LENGTH: usize = 63;

/// A text is not an id of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the id of {kind}; expected {expected}")]
pub struct IdError {
    /// Of what.
    pub kind: &'static str,
    /// What was given, cut to 100 characters.
    pub text: String,
    /// What an id of that kind looks like.
    pub expected: &'static str,
}

impl IdError {
    fn new(kind: &'static str, text: &str, expected: &'static str) -> Self {
        Self { kind, text: text.chars().take(100).collect(), expected }
    }
}

const SLUG: &str = "1 to 63 of a-z, 0-9 and '-', beginning with a letter";
const UUID: &str = "a UUID in lower case, as 3e2a1c64-9d5b-4f0e-8a37-5b0c2d9e7f11";

fn is_slug(text: &str) -> bool {
    text.len() <= SLUG_LENGTH
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// UUIDs are names here, and names have one spelling: lower case with hyphens.
fn parse_uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    (uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text).then_some(uuid)
}

macro_rules! text_traits {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.as_str())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }
    };
}

macro_rules! slug_ids {
    ($($(#[$doc:meta])* $name:ident: $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_slug(text) { Ok(Self(text.into())) } else { Err(IdError::new($kind, text, SLUG)) }
            }
        }

        text_traits!($name);
    )*};
}

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident: $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// The id of this UUID.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_uuid(text).map(Self).ok_or_else(|| IdError::new($kind, text, UUID))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    )*};
}

slug_ids! {
    /// A pool, as the operator calls it.
    PoolId: "a pool";
    /// A remote, as the operator calls it.
    RemoteId: "a remote";
    /// A job, as the operator calls it.
    JobId: "a job";
    /// A schedule within its job.
    ScheduleId: "a schedule";
    /// An agent.
    AgentId: "an agent";
}

uuid_ids! {
    /// A task; also the name of its commit record on a remote. Version 7 where we make it.
    TaskId: "a task";
    /// A restore that was asked for.
    RestoreId: "a restore";
    /// A side effect in a pool, written down before it happens.
    IntentId: "an intent";
    /// A virtual machine in XAPI.
    VmUuid: "a virtual machine";
    /// A storage repository in XAPI.
    SrUuid: "a storage repository";
    /// A virtual disk in XAPI.
    VdiUuid: "a virtual disk";
    /// A host in XAPI.
    HostUuid: "a host";
}

/// A run: `{job}.{schedule}.{tick}` of a schedule's tick, so that a tick makes exactly one run, else a UUID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Arc<str>);

/// Layout of the tick in a run's id: UTC.
const TICK: &str = "%Y%m%dT%H%M%SZ";

impl RunId {
    /// The run of a tick. Parts of a second do not count; ticks have none.
    #[must_use]
    pub fn of_tick(job: &JobId, schedule: &ScheduleId, tick: Timestamp) -> Self {
        Self(format!("{job}.{schedule}.{}", tick.strftime(TICK)).into())
    }

    /// A run that was started by hand.
    #[must_use]
    pub fn by_hand(uuid: Uuid) -> Self {
        Self(uuid.hyphenated().to_string().into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The job, schedule and tick, if a tick started it.
    #[must_use]
    pub fn tick(&self) -> Option<(JobId, ScheduleId, Timestamp)> {
        let mut parts = self.0.splitn(3, '.');
        let job = parts.next()?.parse().ok()?;
        let schedule = parts.next()?.parse().ok()?;
        let tick = jiff::civil::DateTime::strptime(TICK, parts.next()?).ok()?;
        Some((job, schedule, tick.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()))
    }
}

impl FromStr for RunId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let id = Self(text.into());
        let same_again = |(job, schedule, tick)| Self::of_tick(&job, &schedule, tick) == id;
        if parse_uuid(text).is_some() || id.tick().is_some_and(same_again) {
            return Ok(id);
        }
        Err(IdError::new("a run", text, "a UUID in lower case, or JOB.SCHEDULE.TICK as nightly.daily.20260101T020000Z"))
    }
}

text_traits!(RunId);

/// A restore point: the task that made it and the remote that it is on, as `{task}.{remote}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RestorePointId {
    /// The task that made it.
    pub task: TaskId,
    /// The remote that it is on.
    pub remote: RemoteId,
}

impl fmt::Display for RestorePointId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("{}.{}", self.task, self.remote))
    }
}

impl FromStr for RestorePointId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let parse = || {
            let (task, remote) = text.split_once('.')?;
            Some(Self { task: task.parse().ok()?, remote: remote.parse().ok()? })
        };
        parse().ok_or_else(|| IdError::new("a restore point", text, "UUID.REMOTE, as `coffer backup list` shows it"))
    }
}

impl TryFrom<String> for RestorePointId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<RestorePointId> for String {
    fn from(id: RestorePointId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_slugs_are_chosen_ids() {
        for good in ["a", "lab", "lab-2", "a0", "nightly--full-", &"x".repeat(63)] {
            assert_eq!(good.parse::<JobId>().unwrap().as_str(), good);
        }
        for bad in ["", "0a", "-a", "Lab", "la b", "lab/2", "a.b", "é", &"x".repeat(64)] {
            let error = bad.parse::<JobId>().unwrap_err().to_string();
            assert!(error.contains("the id of a job") && error.contains("beginning with a letter"), "{error}");
        }
    }

    #[test]
    fn a_uuid_has_one_spelling() {
        let text = "3e2a1c64-9d5b-4f0e-8a37-5b0c2d9e7f11";
        assert_eq!(text.parse::<VmUuid>().unwrap().to_string(), text);
        for bad in ["", "x", &text.to_uppercase(), &text.replace('-', ""), &format!("{{{text}}}")] {
            assert!(bad.parse::<VmUuid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_run_is_named_by_its_tick_or_by_a_uuid() {
        let id: RunId = "nightly.daily.20260101T020000Z".parse().unwrap();
        let (job, schedule, tick) = id.tick().unwrap();
        assert_eq!(
            (job.as_str(), schedule.as_str(), tick.to_string().as_str()),
            ("nightly", "daily", "2026-01-01T02:00:00Z")
        );
        let by_hand: RunId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(by_hand.tick(), None);
        for bad in [
            "",
            "nightly",
            "nightly.daily",
            "nightly.daily.20260101",
            "nightly.daily.20261301T020000Z",
            "a.b.c.20260101T020000Z",
            "a.b.20260101T020000Z.x",
            "../x",
        ] {
            assert!(bad.parse::<RunId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_id_is_read_back_as_it_was_shown_in_text_and_json(
            job in "[a-z][a-z0-9-]{0,62}", schedule in "[a-z][a-z0-9-]{0,62}", seconds in 0_i64..4_000_000_000, uuid: u128,
        ) {
            let (job, schedule): (JobId, ScheduleId) = (job.parse().unwrap(), schedule.parse().unwrap());
            let tick = Timestamp::from_second(seconds).unwrap();
            let run = RunId::of_tick(&job, &schedule, tick);
            prop_assert_eq!(run.as_str().parse::<RunId>().unwrap(), run.clone());
            prop_assert_eq!(run.tick(), Some((job.clone(), schedule, tick)));
            let remote: RemoteId = job.as_str().parse().unwrap();
            let point = RestorePointId { task: TaskId::new(Uuid::from_u128(uuid)), remote };
            prop_assert_eq!(point.to_string().parse::<RestorePointId>().unwrap(), point.clone());
            let json = serde_json::to_string(&(&run, &point, &job)).unwrap();
            prop_assert_eq!(serde_json::from_str::<(RunId, RestorePointId, JobId)>(&json).unwrap(), (run, point, job));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,80}") {
            drop((text.parse::<RunId>(), text.parse::<RestorePointId>(), text.parse::<VmUuid>(), text.parse::<PoolId>()));
        }
    }
}
