//! The file `config`.

use serde::{Deserialize, Serialize};

use super::Fault;
use super::polynomial::Polynomial;
use crate::RepositoryId;

/// The file `config`, plain: JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    version: u32,
    id: RepositoryId,
    chunker_polynomial: Polynomial,
    /// Ours: bytes of a chunk of a disk. Other programs pass over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coffer_chunk_bytes: Option<usize>,
}

impl Config {
    pub(crate) fn new(chunk_bytes: usize) -> Self {
        let mut id = [0; 32];
        rand::fill(&mut id);
        Self {
            version: 2,
            id: RepositoryId(id),
            chunker_polynomial: Polynomial::random(),
            coffer_chunk_bytes: Some(chunk_bytes),
        }
    }

    /// Reads the JSON of a `config`.
    ///
    /// # Errors
    /// [`Fault::Json`]; [`Fault::Version`] for anything but version 2.
    pub fn parse(json: &[u8]) -> Result<Self, Fault> {
        let config: Self = serde_json::from_slice(json)?;
        if config.version != 2 {
            return Err(Fault::Version { found: config.version });
        }
        if !config.chunker_polynomial.is_irreducible() {
            return Err(Fault::Malformed("its chunker polynomial is not irreducible"));
        }
        Ok(config)
    }

    pub(crate) fn id(&self) -> RepositoryId {
        self.id
    }

    pub(crate) fn chunk_bytes(&self) -> Option<usize> {
        self.coffer_chunk_bytes
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a config has only plain fields")
    }
}
