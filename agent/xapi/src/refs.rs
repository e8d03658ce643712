//! References to XAPI objects, one type per class, so that a disk is never passed where a VM belongs.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What XAPI writes for "no object".
pub(crate) const NULL: &str = "OpaqueRef:NULL";

/// A class of XAPI objects: `VM`, `VDI`, …
pub trait Class: Send + Sync + 'static {
    /// The class as method names spell it: `VM.get_record`. Events carry it in lower case.
    const NAME: &'static str;
    /// The fields of a record that this client reads.
    type Record: DeserializeOwned + Clone + fmt::Debug + PartialEq + Send + Sync + 'static;
}

/// A reference to one object of class `C`, never the null reference.
pub struct Ref<C> {
    opaque: Box<str>,
    class: PhantomData<fn() -> C>,
}

impl<C> Ref<C> {
    /// A reference from XAPI's text; `None` for the null reference, the empty string and what cannot be a reference.
    #[must_use]
    pub fn new(opaque: &str) -> Option<Self> {
        let plausible = opaque != NULL
            && (1..=256).contains(&opaque.len())
            && opaque.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"'));
        plausible.then(|| Self { opaque: opaque.into(), class: PhantomData })
    }

    /// The text that XAPI knows it by, `OpaqueRef:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.opaque
    }
}

impl<C> Clone for Ref<C> {
    fn clone(&self) -> Self {
        Self { opaque: self.opaque.clone(), class: PhantomData }
    }
}

impl<C> PartialEq for Ref<C> {
    fn eq(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }
}

impl<C> Eq for Ref<C> {}

impl<C> PartialOrd for Ref<C> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<C> Ord for Ref<C> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.opaque.cmp(&other.opaque)
    }
}

impl<C> Hash for Ref<C> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.opaque.hash(state);
    }
}

impl<C> fmt::Display for Ref<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.opaque)
    }
}

impl<C> fmt::Debug for Ref<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.opaque)
    }
}

impl<C> Serialize for Ref<C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.opaque)
    }
}

impl<'de, C> Deserialize<'de> for Ref<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| D::Error::custom("not a reference to an object"))
    }
}

/// The text of a reference that may be absent.
pub(crate) fn or_null<C>(reference: Option<&Ref<C>>) -> &str {
    reference.map_or(NULL, Ref::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_reference_and_nonsense_are_no_reference() {
        for text in [NULL, "", "Opaque Ref", "<value>", &"x".repeat(300)] {
            assert!(Ref::<()>::new(text).is_none(), "{text:?} was accepted");
        }
        assert_eq!(Ref::<()>::new("OpaqueRef:1").unwrap().as_str(), "OpaqueRef:1");
    }
}
