//! What the crate keeps to itself and parses all the same, without a pool or a remote: for the fuzz targets, and nobody
//! else.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::document::VmDocument;
use crate::stamps::{Stamp, intent_of_name};

/// A `vm.json` as the writer writes it.
pub fn document_again(bytes: &[u8]) -> Option<Vec<u8>> {
    VmDocument::decode(bytes, "fuzz").ok().map(|document| document.encode())
}

/// Everything that is made of a `vm.json`: what controllers are told, and what a restore would make.
///
/// # Errors
/// What a user would see: reason and message.
pub fn document(bytes: &[u8]) -> Result<(), String> {
    let document = VmDocument::decode(bytes, "fuzz").map_err(|trouble| trouble.to_string())?;
    let remote = "fuzz".parse().map_err(|error: coffer_model::IdError| error.to_string())?;
    document.restore_point(&remote, "fuzz");
    crate::restore::rehearse(&document);
    Ok(())
}

/// Looks for our marks on an object of a pool; true when it has some.
pub fn stamp(name: &str, other_config: &BTreeMap<String, String>) -> bool {
    Stamp::of(other_config, Uuid::nil()).is_some() || intent_of_name("fuzz", name).is_some()
}
