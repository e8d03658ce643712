//! Snapshot files.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::{Fault, MAX_SMALL, decode_unpacked, encode_unpacked};
use crate::{BlobId, SnapshotId};

/// The content of a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub(crate) time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<SnapshotId>,
    pub(crate) tree: BlobId,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) paths: Vec<String>,
    #[serde(default)]
    pub(crate) hostname: String,
    #[serde(default)]
    pub(crate) username: String,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) program_version: String,
}

/// Go writes an empty list as `null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Snapshot {
    /// Reads the plain bytes of a snapshot file.
    ///
    /// # Errors
    /// [`Fault::Json`], [`Fault::Compression`] or [`Fault::Malformed`].
    pub fn parse(plain: &[u8]) -> Result<Self, Fault> {
        decode_unpacked(plain, MAX_SMALL, |reader: &mut dyn Read| {
            Ok(serde_json::from_reader(std::io::BufReader::new(reader))?)
        })
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, Fault> {
        encode_unpacked(&serde_json::to_vec(self)?).map_err(Fault::Compression)
    }
}
