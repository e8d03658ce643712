//! Names of objects. A value of [`ObjectName`] cannot leave the root of its remote and is spelt the same everywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes.
const MAX_NAME: usize = 900;
/// Longest component, in bytes: what file systems allow.
const MAX_COMPONENT: usize = 255;

/// The name of an object, or of a folder of objects: components of `A-Z a-z 0-9 . _ -`, joined by `/`.
///
/// No component is empty, begins with a dot or ends with one, so neither `..` nor a hidden file can be named, and SMB
/// keeps the spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(String);

/// Why a string is not an [`ObjectName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot be the name of an object: {reason}")]
pub struct InvalidName {
    name: String,
    reason: &'static str,
}

impl ObjectName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`InvalidName`] with the reason.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        match fault(&name) {
            None => Ok(Self(name)),
            Some(reason) => Err(InvalidName { name: name.chars().take(MAX_COMPONENT).collect(), reason }),
        }
    }

    /// The object `below` inside this folder.
    ///
    /// # Errors
    /// [`InvalidName`] when `below` (or the whole) is not a name.
    pub fn join(&self, below: impl AsRef<str>) -> Result<Self, InvalidName> {
        Self::new(format!("{}/{}", self.0, below.as_ref()))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Whether this object lies below the folder `prefix`.
    pub fn is_below(&self, prefix: &ObjectName) -> bool {
        self.0.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn fault(name: &str) -> Option<&'static str> {
    if name.len() > MAX_NAME {
        return Some("it is too long");
    }
    name.split('/').find_map(|component| {
        if component.is_empty() {
            Some("a component is empty")
        } else if component.len() > MAX_COMPONENT {
            Some("a component is too long")
        } else if component.starts_with('.') || component.ends_with('.') {
            Some("a component begins or ends with a dot")
        } else if !component.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
            Some("only A-Z a-z 0-9 . _ - are allowed")
        } else {
            None
        }
    })
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectName {
    type Err = InvalidName;
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl TryFrom<String> for ObjectName {
    type Error = InvalidName;
    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_could_leave_the_root_or_hide_are_refused() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            "a/../b",
            "a/./b",
            ".git",
            "a/.b",
            "a.",
            "a b",
            "a\\b",
            "ä",
            "a\0",
        ] {
            assert!(ObjectName::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["config", "data/00/ab12", "coffer/commits/x/y.json", "A_b-c.1"] {
            assert_eq!(ObjectName::new(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        assert!(ObjectName::new("x".repeat(256)).is_err());
        assert!(ObjectName::new(vec!["x".repeat(200); 5].join("/")).is_err());
    }

    #[test]
    fn below_means_inside_the_folder_not_the_same_letters() {
        let folder = ObjectName::new("data").unwrap();
        assert!(ObjectName::new("data/x").unwrap().is_below(&folder));
        assert!(!ObjectName::new("data2/x").unwrap().is_below(&folder));
        assert!(!folder.is_below(&folder));
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_a_relative_path_of_normal_components(name in ".{0,40}") {
            if let Ok(name) = ObjectName::new(name) {
                let path = Path::new(name.as_str());
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(path.components().count(), name.as_str().split('/').count());
            }
        }
    }
}
