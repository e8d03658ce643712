//! Ids: SHA-256 of content, one type for each kind of thing that has one.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Bytes of an id.
pub(crate) const ID_BYTES: usize = 32;

/// A string that is not the 64 hexadecimal digits of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id has 64 hexadecimal digits")]
pub struct InvalidId;

pub(crate) fn sha256(bytes: &[u8]) -> [u8; ID_BYTES] {
    Sha256::digest(bytes).into()
}

struct HexVisitor;

impl Visitor<'_> for HexVisitor {
    type Value = [u8; ID_BYTES];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 hexadecimal digits")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        parse(text).map_err(E::custom)
    }
}

fn parse(text: &str) -> Result<[u8; ID_BYTES], InvalidId> {
    let mut bytes = [0; ID_BYTES];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidId)?;
    Ok(bytes)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) [u8; ID_BYTES]);

        impl $name {
            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; ID_BYTES * 2];
                hex::encode_to_slice(self.0, &mut digits).expect("two digits for each byte");
                f.write_str(std::str::from_utf8(&digits).expect("hexadecimal digits are ASCII"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut digits = [0; ID_BYTES * 2];
                hex::encode_to_slice(self.0, &mut digits).expect("two digits for each byte");
                serializer.serialize_str(std::str::from_utf8(&digits).map_err(serde::ser::Error::custom)?)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(HexVisitor).map(Self).map_err(D::Error::custom)
            }
        }
    )+};
}

ids! {
    /// A blob: SHA-256 of its plain bytes.
    BlobId,
    /// A pack file: SHA-256 of the file.
    PackId,
    /// An index file: SHA-256 of the file.
    IndexId,
    /// A snapshot file: SHA-256 of the file.
    SnapshotId,
    /// A key file: SHA-256 of the file.
    KeyId,
    /// A lock file: SHA-256 of the file.
    LockId,
    /// The repository, random.
    RepositoryId,
}

impl BlobId {
    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256(bytes))
    }
}
