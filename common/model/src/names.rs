//! Resource names of the API: `pools/{id}`, `pools/{id}/vms/{uuid}`, … read into typed ids and back.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{
    AgentId, IdError, JobId, PoolId, RemoteId, RestoreId, RestorePointId, RunId, ScheduleId, SrUuid, TaskId, VmUuid,
};

/// A text is not a resource name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It does not have the shape.
    #[error("{text:?} is not the name of {kind}; expected {expected}")]
    Shape {
        /// Of what.
        kind: &'static str,
        /// What was given, cut to 100 characters.
        text: String,
        /// The shape.
        expected: &'static str,
    },
    /// It has the shape, but an id in it is not valid.
    #[error("{text:?} is not the name of {kind}")]
    Id {
        /// Of what.
        kind: &'static str,
        /// What was given, cut to 100 characters.
        text: String,
        /// What is wrong.
        #[source]
        source: IdError,
    },
}

impl NameError {
    /// The message with its cause, in one line.
    #[must_use]
    pub fn explain(&self) -> String {
        match self {
            Self::Shape { .. } => self.to_string(),
            Self::Id { source, .. } => format!("{self}: {source}"),
        }
    }
}

/// Something that has a resource name.
pub trait Named: Sized {
    /// What it is, with its article.
    const KIND: &'static str;
    /// Shape of its name.
    const SHAPE: &'static str;

    /// The resource name.
    fn name(&self) -> String;

    /// Reads the ids out of a name; `None` when the shape is another.
    #[doc(hidden)]
    fn from_parts(parts: &[&str]) -> Option<Result<Self, IdError>>;

    /// Reads a resource name.
    ///
    /// # Errors
    /// [`NameError`], which says what is expected.
    fn from_name(text: &str) -> Result<Self, NameError> {
        let shown = || text.chars().take(100).collect();
        // One more than the longest shape has, so that what is too long does not fit any.
        let parts: Vec<&str> = text.splitn(6, '/').collect();
        match Self::from_parts(&parts) {
            Some(Ok(named)) => Ok(named),
            Some(Err(source)) => Err(NameError::Id { kind: Self::KIND, text: shown(), source }),
            None => Err(NameError::Shape { kind: Self::KIND, text: shown(), expected: Self::SHAPE }),
        }
    }
}

macro_rules! named_ids {
    ($($id:ident, $kind:literal, $collection:literal;)*) => {$(
        impl Named for $id {
            const KIND: &'static str = $kind;
            const SHAPE: &'static str = concat!($collection, "/{id}");

            fn name(&self) -> String {
                format!(concat!($collection, "/{}"), self)
            }

            fn from_parts(parts: &[&str]) -> Option<Result<Self, IdError>> {
                match parts {
                    [$collection, id] => Some(id.parse()),
                    _ => None,
                }
            }
        }
    )*};
}

named_ids! {
    PoolId, "a pool", "pools";
    RemoteId, "a remote", "remotes";
    JobId, "a job", "jobs";
    RunId, "a run", "runs";
    AgentId, "an agent", "agents";
    RestorePointId, "a restore point", "restorePoints";
    RestoreId, "a restore", "restores";
}

macro_rules! child_names {
    ($($(#[$doc:meta])* $name:ident { $parent:ident: $parent_type:ident in $parents:literal, $child:ident: $child_type:ident in $children:literal } $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            #[doc = concat!("The id after `", $parents, "/`.")]
            pub $parent: $parent_type,
            #[doc = concat!("The id after `", $children, "/`.")]
            pub $child: $child_type,
        }

        impl Named for $name {
            const KIND: &'static str = $kind;
            const SHAPE: &'static str =
                concat!($parents, "/{", stringify!($parent), "}/", $children, "/{", stringify!($child), "}");

            fn name(&self) -> String {
                format!(concat!($parents, "/{}/", $children, "/{}"), self.$parent, self.$child)
            }

            fn from_parts(parts: &[&str]) -> Option<Result<Self, IdError>> {
                match parts {
                    [$parents, parent, $children, child] => Some(
                        parent.parse().and_then(|$parent| child.parse().map(|$child| Self { $parent, $child })),
                    ),
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.name())
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::from_name(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::from_name(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.name()
            }
        }
    )*};
}

child_names! {
    /// A virtual machine in its pool: `pools/{pool}/vms/{vm}`.
    VmName { pool: PoolId in "pools", vm: VmUuid in "vms" } "a virtual machine";
    /// A storage repository in its pool: `pools/{pool}/srs/{sr}`.
    SrName { pool: PoolId in "pools", sr: SrUuid in "srs" } "a storage repository";
    /// A schedule of a job: `jobs/{job}/schedules/{schedule}`.
    ScheduleName { job: JobId in "jobs", schedule: ScheduleId in "schedules" } "a schedule";
    /// A task of a run: `runs/{run}/tasks/{task}`.
    TaskName { run: RunId in "runs", task: TaskId in "tasks" } "a task";
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "3e2a1c64-9d5b-4f0e-8a37-5b0c2d9e7f11";

    #[test]
    fn names_are_read_back_as_they_were_shown() {
        let vm = VmName { pool: "lab".parse().unwrap(), vm: UUID.parse().unwrap() };
        assert_eq!(vm.to_string(), format!("pools/lab/vms/{UUID}"));
        assert_eq!(VmName::from_name(&vm.name()), Ok(vm));
        assert_eq!(PoolId::from_name("pools/lab").unwrap().name(), "pools/lab");
        let task = format!("runs/nightly.daily.20260101T020000Z/tasks/{UUID}");
        assert_eq!(TaskName::from_name(&task).unwrap().name(), task);
        let point = format!("restorePoints/{UUID}.nas");
        assert_eq!(RestorePointId::from_name(&point).unwrap().name(), point);
    }

    #[test]
    fn what_is_no_name_is_told_what_is_expected() {
        let check = |text: &str| VmName::from_name(text).unwrap_err().explain();
        for bad in [
            "",
            "lab",
            "pools/lab",
            "pools/lab/srs/x",
            "/pools/lab/vms/x",
            "pools/lab/vms/x/y",
            "pools/lab/vms/x/y/z/a/b",
        ] {
            assert!(check(bad).contains("expected pools/{pool}/vms/{vm}"), "{}", check(bad));
        }
        assert!(check("pools/LAB/vms/x").contains("\"LAB\" is not the id of a pool"));
        assert!(check("pools/lab/vms/x").contains("\"x\" is not the id of a virtual machine; expected a UUID"));
        let long = check(&"x".repeat(100_000));
        assert!(long.len() < 300, "{} bytes", long.len());
    }
}
