//! The lock of stock programs, as far as we need it: nothing is deleted while one of them works, and none begins while we delete.
//!
//! Our own backups and restores take none: what makes them safe is said in [`crate::prune`].

use std::sync::Arc;

use coffer_remote::{ObjectName, Remote};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::format::{Fault, decode_unpacked, encode_unpacked};
use crate::index::describe;
use crate::objects::{Objects, ids, name};

/// Stock programs refresh their locks every 5 minutes and count one of this age as left behind.
const STALE: SignedDuration = SignedDuration::from_mins(30);

#[derive(Debug, Serialize, Deserialize)]
struct LockFile {
    time: Timestamp,
    #[serde(default)]
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    pid: u32,
}

/// The right to delete. Given back with [`Self::release`]; left behind by a crash, it counts for nothing after half an hour.
#[derive(Debug)]
pub(crate) struct ExclusiveLock {
    name: ObjectName,
}

impl ExclusiveLock {
    /// Takes the lock; `None` when somebody else has one.
    pub(crate) async fn take(objects: &Arc<Objects>) -> Result<Option<Self>, Error> {
        if is_held(objects, None).await? {
            return Ok(None);
        }
        let file = LockFile {
            time: Timestamp::now(),
            exclusive: true,
            hostname: "coffer".to_owned(),
            username: "coffer".to_owned(),
            pid: std::process::id(),
        };
        let json = serde_json::to_vec(&file).map_err(|error| Error::damaged("a new lock", error))?;
        let plain = encode_unpacked(&json).map_err(|error| Error::damaged("a new lock", Fault::Compression(error)))?;
        let (id, sealed) = objects.seal_unpacked(&plain);
        let lock = Self { name: name(&format!("locks/{}", hex::encode(id))) };
        objects.publish_unpacked(&lock.name, sealed).await?;
        // Of two that came at one time, both see the other, and both step back.
        match is_held(objects, Some(&lock.name)).await {
            Ok(false) => Ok(Some(lock)),
            Ok(true) => {
                lock.release(&*objects.remote).await?;
                Ok(None)
            }
            Err(error) => {
                // One that stays behind would keep everybody from deleting for half an hour.
                if let Err(left) = lock.release(&*objects.remote).await {
                    tracing::warn!(error = describe(&left), "a lock is left behind");
                }
                Err(error)
            }
        }
    }

    /// Gives the lock back.
    pub(crate) async fn release(self, remote: &dyn Remote) -> Result<(), Error> {
        Ok(remote.delete(&self.name).await?)
    }
}

async fn is_held(objects: &Arc<Objects>, ours: Option<&ObjectName>) -> Result<bool, Error> {
    let listed = objects.remote.list(&name("locks")).await?;
    for (id, info) in ids::<crate::KeyId>(&listed).filter(|(_, info)| Some(&info.name) != ours) {
        let parse = |plain: &[u8]| {
            decode_unpacked(plain, |reader| {
                Ok(serde_json::from_reader::<_, LockFile>(std::io::BufReader::new(reader))?)
            })
        };
        match objects.read_unpacked(&info.name, *id.as_bytes(), parse).await {
            Ok(file) if Timestamp::now().duration_since(file.time) > STALE => {
                tracing::info!(lock = %info.name, host = file.hostname, "an old lock is ignored");
            }
            Ok(file) => {
                tracing::info!(lock = %info.name, host = file.hostname, "somebody else works on the repository");
                return Ok(true);
            }
            Err(Error::Remote(coffer_remote::Error::NotFound { .. })) => {}
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(lock = %info.name, error = describe(&error), "a lock that cannot be read is heeded");
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
