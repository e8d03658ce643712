//! Passwords in the store, sealed, under a prefix of their own that nothing mirrors: read only to answer an agent's
//! Sync.

use std::path::Path;

use coffer_core::record::{decode, encode};
use coffer_model::{PoolId, RemoteId};
use coffer_store::{Op, PutLease, Revision, StateStore, Txn};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::fault::Fault;
use crate::sealing::{Sealed, Sealer};

/// What a password belongs to.
#[derive(Clone, Debug)]
pub(crate) enum Owner<'a> {
    Pool(&'a PoolId),
    Remote(&'a RemoteId),
}

fn prefix() -> String {
    format!("{}secret/", coffer_core::state::ROOT)
}

/// Which key the passwords are sealed with.
fn marker() -> String {
    format!("{}sealing-key", coffer_core::state::ROOT)
}

impl Owner<'_> {
    fn key(&self) -> String {
        match self {
            Self::Pool(pool) => format!("{}pool/{pool}", prefix()),
            Self::Remote(remote) => format!("{}remote/{remote}", prefix()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct SecretRecord {
    password: Sealed,
}

#[derive(Serialize, Deserialize)]
struct MarkerRecord {
    key: String,
}

fn put_sealed(sealer: &Sealer, key: String, password: &SecretString) -> Op {
    let record = SecretRecord { password: sealer.seal(&key, password) };
    Op::Put { key, value: encode(&record, "").into(), lease: PutLease::None }
}

/// Writes a password.
pub(crate) fn put(sealer: &Sealer, owner: &Owner<'_>, password: &SecretString) -> Op {
    put_sealed(sealer, owner.key(), password)
}

/// Deletes a password.
pub(crate) fn delete(owner: &Owner<'_>) -> Op {
    Op::Delete { key: owner.key() }
}

/// Reads a password; empty when there is none.
pub(crate) async fn get(store: &dyn StateStore, sealer: &Sealer, owner: &Owner<'_>) -> Result<SecretString, Fault> {
    let key = owner.key();
    let Some(found) = store.get(&key).await.map_err(Fault::Store)? else { return Ok(SecretString::default()) };
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| Fault::Broken { what: key.clone(), source };
    // The cause is not told: it could quote what it failed on.
    let record: SecretRecord = decode(&key, &found.value).map_err(|_| broken("the value is not valid".into()))?;
    sealer.open(&key, &record.password).map_err(|error| broken(error.into()))
}

/// The sealer for a store: with the keys in `path`, which are made when neither the file nor a password is there.
/// Passwords that are sealed with another key than the first are sealed anew. `forget`: the key is lost, and all
/// passwords with it.
pub(crate) async fn sealer(store: &dyn StateStore, path: &Path, forget: bool) -> Result<Sealer, Error> {
    let failed = |source| Error::Store { doing: "looking at sealed passwords", source };
    if forget {
        forget_all(store).await.map_err(failed)?;
    }
    loop {
        let found = store.get(&marker()).await.map_err(failed)?;
        let marked = found.as_ref().map(|found| decode::<MarkerRecord>(&found.key, &found.value)).transpose()?;
        match (Sealer::load(path)?, marked) {
            (None, Some(marked)) => return Err(Error::SealingKeyMissing { path: path.to_owned(), key: marked.key }),
            (None, None) => Sealer::create(path)?,
            (Some(sealer), Some(marked)) if sealer.name() == marked.key => return Ok(sealer),
            (Some(sealer), Some(marked)) if !sealer.knows(&marked.key) => {
                return Err(Error::SealingKeyMissing { path: path.to_owned(), key: marked.key });
            }
            (Some(sealer), _) => {
                seal_anew(store, &sealer).await?;
                let value = encode(&MarkerRecord { key: sealer.name().to_owned() }, "");
                let since = found.map_or(Revision::ZERO, |found| found.mod_revision);
                let mark = Op::Put { key: marker(), value: value.into(), lease: PutLease::None };
                let mut txn = Txn::new().if_mod(marker(), since);
                txn.then.push(mark);
                // Whoever was faster, or whatever became of it: it is looked at again.
                match store.txn(txn).await {
                    Ok(_) => {}
                    Err(error) if error.is_unknown() => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
    }
}

/// Seals with the first key what another one sealed.
async fn seal_anew(store: &dyn StateStore, sealer: &Sealer) -> Result<(), Error> {
    let failed = |source| Error::Store { doing: "sealing passwords anew", source };
    let (entries, _) = coffer_store::list(store, &prefix()).await.map_err(failed)?;
    for entry in entries {
        let record: SecretRecord = decode(&entry.key, &entry.value)?;
        if record.password.key == sealer.name() {
            continue;
        }
        let unopened = |_| Error::Unsealed { key: entry.key.clone() };
        let password = sealer.open(&entry.key, &record.password).map_err(unopened)?;
        let mut txn = Txn::new().if_mod(entry.key.clone(), entry.mod_revision);
        txn.then.push(put_sealed(sealer, entry.key.clone(), &password));
        // One that changed meanwhile was sealed by a controller that knows this key or will be.
        store.txn(txn).await.map_err(failed)?;
    }
    Ok(())
}

async fn forget_all(store: &dyn StateStore) -> Result<(), coffer_store::Error> {
    let (entries, _) = coffer_store::list(store, &prefix()).await?;
    for key in entries.into_iter().map(|entry| entry.key).chain([marker()]) {
        let mut txn = Txn::new();
        txn.then.push(Op::Delete { key });
        store.txn(txn).await?;
    }
    Ok(())
}
