//! Passwords in the store, under a prefix of their own that nothing mirrors: read only to answer an agent's Sync.

use coffer_core::record::{decode, encode};
use coffer_model::{PoolId, RemoteId};
use coffer_store::{Op, PutLease, StateStore};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::fault::Fault;

/// What a password belongs to.
#[derive(Clone, Debug)]
pub(crate) enum Owner<'a> {
    Pool(&'a PoolId),
    Remote(&'a RemoteId),
}

impl Owner<'_> {
    fn key(&self) -> String {
        let root = coffer_core::state::ROOT;
        match self {
            Self::Pool(pool) => format!("{root}secret/pool/{pool}"),
            Self::Remote(remote) => format!("{root}secret/remote/{remote}"),
        }
    }
}

/// The persisted form; has no `Debug`.
#[derive(Serialize, Deserialize)]
struct SecretRecord {
    password: String,
}

/// Writes a password.
pub(crate) fn put(owner: &Owner<'_>, password: &SecretString) -> Op {
    let mut record = SecretRecord { password: password.expose_secret().to_owned() };
    let value = encode(&record, "");
    record.password.zeroize();
    Op::Put { key: owner.key(), value: value.into(), lease: PutLease::None }
}

/// Deletes a password.
pub(crate) fn delete(owner: &Owner<'_>) -> Op {
    Op::Delete { key: owner.key() }
}

/// Reads a password; empty when there is none.
pub(crate) async fn get(store: &dyn StateStore, owner: &Owner<'_>) -> Result<SecretString, Fault> {
    let key = owner.key();
    let Some(found) = store.get(&key).await.map_err(Fault::Store)? else { return Ok(SecretString::default()) };
    // The cause is not told: it could quote what it failed on.
    let broken = |_| Fault::Broken { what: key.clone(), source: "the value is not valid".into() };
    let record: SecretRecord = decode(&key, &found.value).map_err(broken)?;
    Ok(record.password.into())
}
